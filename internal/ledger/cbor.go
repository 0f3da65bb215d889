package ledger

import (
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// The major types of RFC 8949 that the format uses.
const (
	majorUint  = 0
	majorNeg   = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorOther = 7
	cborTrue   = 0xf5
)

// appendHead writes a data item's head in its shortest form.
func appendHead(b []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(b, m|byte(n))
	case n <= math.MaxUint8:
		return append(b, m|24, byte(n))
	case n <= math.MaxUint16:
		return append(b, m|25, byte(n>>8), byte(n))
	case n <= math.MaxUint32:
		return append(b, m|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, m|27, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// appendText writes a text string; what is not UTF-8 becomes U+FFFD, because
// an event must be written whatever a client sent.
func appendText(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

// appendTextMap writes a map in the order of the encoded keys (core
// deterministic): shorter keys first, then byte by byte.
func appendTextMap(b []byte, m map[string]string) []byte {
	clean := make(map[string]string, len(m))
	keys := make([]string, 0, len(m))
	for k, v := range m {
		k = strings.ToValidUTF8(k, "\ufffd")
		if w, twice := clean[k]; !twice {
			keys = append(keys, k)
		} else if w > v {
			continue // two broken keys fell together: keep one, always the same
		}
		clean[k] = v
	}
	slices.SortFunc(keys, compareKeys)
	b = appendHead(b, majorMap, uint64(len(keys)))
	for _, k := range keys {
		b = appendText(appendText(b, k), clean[k])
	}
	return b
}

func compareKeys(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// decoder reads the subset of CBOR that the format uses, strictly: definite
// lengths, shortest heads. The first error sticks, and everything after it
// reads as zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = corrupt("an event is not in the form that the format prescribes")
	}
	d.b = nil
}

func (d *decoder) head() (major byte, n uint64) {
	if len(d.b) == 0 {
		d.fail()
		return 0, 0
	}
	major, info := d.b[0]>>5, d.b[0]&31
	d.b = d.b[1:]
	if info < 24 {
		return major, uint64(info)
	}
	if info > 27 || major == majorOther { // no indefinite lengths, no floats
		d.fail()
		return 0, 0
	}
	size := 1 << (info - 24)
	if len(d.b) < size {
		d.fail()
		return 0, 0
	}
	for _, c := range d.b[:size] {
		n = n<<8 | uint64(c)
	}
	d.b = d.b[size:]
	if least := [...]uint64{24, 1 << 8, 1 << 16, 1 << 32}[info-24]; n < least {
		d.fail() // not the shortest form
		return 0, 0
	}
	return major, n
}

// expect reads a head of one major type.
func (d *decoder) expect(major byte) uint64 {
	m, n := d.head()
	if m != major {
		d.fail()
		return 0
	}
	return n
}

// count reads the head of an array or map whose items take at least one byte.
func (d *decoder) count(major byte) int {
	n := d.expect(major)
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint() uint64  { return d.expect(majorUint) }
func (d *decoder) bytes() []byte { return d.take(d.expect(majorBytes)) }

func (d *decoder) text() string {
	v := d.take(d.expect(majorText))
	if !utf8.Valid(v) {
		d.fail()
	}
	return string(v)
}

func (d *decoder) bool() bool {
	if len(d.b) == 0 || d.b[0] != cborTrue { // false is never written
		d.fail()
		return false
	}
	d.b = d.b[1:]
	return true
}

func (d *decoder) texts(limit int) []string {
	n := d.count(majorArray)
	if n > limit {
		d.fail()
		return nil
	}
	var out []string
	for range n {
		out = append(out, d.text())
	}
	return out
}

func (d *decoder) textMap(limit int) map[string]string {
	n := d.count(majorMap)
	if n > limit {
		d.fail()
		return nil
	}
	out := make(map[string]string, n)
	last := ""
	for i := range n {
		k := d.text()
		if i > 0 && compareKeys(last, k) >= 0 {
			d.fail()
			return nil
		}
		last, out[k] = k, d.text()
	}
	return out
}

// skip reads one item of any kind that a later format may hold.
func (d *decoder) skip(depth int) {
	if depth == 0 {
		d.fail()
		return
	}
	major, n := d.head()
	switch major {
	case majorBytes, majorText:
		d.take(n)
	case majorMap, majorArray:
		if n > uint64(len(d.b)) {
			d.fail()
			return
		}
		if major == majorMap {
			n *= 2
		}
		for i := uint64(0); i < n && d.err == nil; i++ {
			d.skip(depth - 1)
		}
	case majorUint, majorNeg:
	case majorOther:
		if n < 20 || n > 22 { // false, true, null
			d.fail()
		}
	default:
		d.fail()
	}
}
