package main

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// drive is a graph after docs/models/drive, of independent units: each has 300
// people, 33 groups that hold groups, 265 folders on 4 levels and 3,600 documents.
// All ids have 36 bytes. It answers questions itself, by the plainest walk that is
// right: the oracle.
type drive struct {
	units  []*driveUnit
	tuples int
	lists  []listing // of each unit's lister
}

const (
	people   = 300
	groups   = 33
	folders  = 265
	docs     = 3600
	inFolder = 1000 // documents below folder 1, whose one viewer is the lister
	unitSize = 11060
)

// Who is who among the people of a unit. The others have grants here and there.
const (
	ordinary = 280 // below: random grants
	lister   = 280
	outsider = 281 // to 289: members of groups that nothing is shared with
	nested   = 290 // to 299: members of one group each
)

// level is what a grant is worth. Each includes those below.
type level uint8

const (
	viewer level = iota + 1
	commenter
	editor
	owner
)

var levels = []string{"", "viewer", "commenter", "editor", "owner"}

type driveUnit struct {
	users, groups, folders, docs []string
	folderParent                 []int
	docParent                    []int
	members                      [groups][]int     // by tuples
	belongs                      [groups][5]uint64 // by nesting too, a bit for each person
	subgroups                    [groups][]int
	folderGrants, docGrants      [][]driveGrant
	shared                       []int // documents below folders that a group with subgroups is granted
	noDownload, noSharing        []bool
}

// driveGrant is one tuple that shares something.
type driveGrant struct {
	level level
	user  int // -1: the group
	group int
}

// uuid returns an id of 36 bytes.
func uuid(rng *rand.Rand) string {
	var b [16]byte
	for i := range b {
		b[i] = byte(rng.UintN(256))
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func newDrive(units int, seed uint64) *drive {
	d := &drive{}
	rng := rand.New(rand.NewPCG(seed, 11))
	for range units {
		d.units = append(d.units, newDriveUnit(rng))
	}
	d.each(func(_, _, _ string) { d.tuples++ })
	for i := range d.units {
		d.lists = append(d.lists, d.listed(i))
	}
	return d
}

func newDriveUnit(rng *rand.Rand) *driveUnit {
	u := &driveUnit{noDownload: make([]bool, docs), noSharing: make([]bool, docs)}
	ids := func(typ string, n int) (out []string) {
		for range n {
			out = append(out, typ+":"+uuid(rng))
		}
		return out
	}
	u.users, u.groups, u.folders, u.docs = ids("user", people), ids("group", groups), ids("folder", folders), ids("document", docs)
	for g := range 30 {
		for range 30 {
			if p := rng.IntN(ordinary); !slices.Contains(u.members[g], p) {
				u.members[g] = append(u.members[g], p)
			}
		}
		u.members[g] = append(u.members[g], nested+g%10)
		if g > 0 {
			u.subgroups[(g-1)/3] = append(u.subgroups[(g-1)/3], g)
		}
	}
	for p := outsider; p < nested; p++ {
		u.members[30+p%3] = append(u.members[30+p%3], p)
	}
	u.subgroups[30] = []int{31}
	u.subgroups[31] = []int{32}
	for g := groups - 1; g >= 0; g-- { // subgroups have higher numbers
		for _, p := range u.members[g] {
			u.belongs[g][p/64] |= 1 << (p % 64)
		}
		for _, sub := range u.subgroups[g] {
			for i, word := range u.belongs[sub] {
				u.belongs[g][i] |= word
			}
		}
	}
	u.folderGrants, u.docGrants = make([][]driveGrant, folders), make([][]driveGrant, docs)
	for f := range folders {
		u.folderParent = append(u.folderParent, (f-1)/6)
		for range 6 {
			u.folderGrants[f] = grant(u.folderGrants[f], driveGrant{[]level{viewer, viewer, commenter, editor}[rng.IntN(4)], rng.IntN(ordinary), 0})
		}
		if f%9 == 0 && f > 0 {
			u.folderGrants[f] = grant(u.folderGrants[f], driveGrant{viewer, -1, f % 30})
		}
	}
	u.folderParent[0] = -1
	u.folderGrants[1] = grant(u.folderGrants[1], driveGrant{viewer, lister, 0})
	for i := range docs {
		f := rng.IntN(folders)
		for u.below(f, 1) != (i < inFolder) {
			f = rng.IntN(folders)
		}
		u.docParent = append(u.docParent, f)
		u.docGrants[i] = grant(u.docGrants[i], driveGrant{owner, rng.IntN(ordinary), 0})
		if i%4 == 0 {
			u.docGrants[i] = grant(u.docGrants[i], driveGrant{viewer, rng.IntN(ordinary), 0})
		}
		u.noDownload[i], u.noSharing[i] = i%50 == 7, i%50 == 8
		for at := f; at >= 0; at = u.folderParent[at] {
			if slices.ContainsFunc(u.folderGrants[at], func(g driveGrant) bool { return g.user < 0 && len(u.subgroups[g.group]) > 0 }) {
				u.shared = append(u.shared, i)
				break
			}
		}
	}
	return u
}

func grant(list []driveGrant, g driveGrant) []driveGrant {
	if slices.Contains(list, g) {
		return list
	}
	return append(list, g)
}

// below reports whether the folder is in the other, or is it.
func (u *driveUnit) below(f, top int) bool {
	for ; f >= 0; f = u.folderParent[f] {
		if f == top {
			return true
		}
	}
	return false
}

// each names every tuple.
func (d *drive) each(do func(object, relation, user string)) {
	for _, u := range d.units {
		for g := range groups {
			for _, p := range u.members[g] {
				do(u.groups[g], "member", u.users[p])
			}
			for _, sub := range u.subgroups[g] {
				do(u.groups[g], "member", u.groups[sub]+"#member")
			}
		}
		share := func(object string, list []driveGrant) {
			for _, g := range list {
				if g.user < 0 {
					do(object, levels[g.level], u.groups[g.group]+"#member")
				} else {
					do(object, levels[g.level], u.users[g.user])
				}
			}
		}
		for f := range folders {
			if f > 0 {
				do(u.folders[f], "parent", u.folders[u.folderParent[f]])
			}
			share(u.folders[f], u.folderGrants[f])
		}
		for i := range docs {
			do(u.docs[i], "parent", u.folders[u.docParent[i]])
			share(u.docs[i], u.docGrants[i])
			if u.noDownload[i] {
				do(u.docs[i], "download_blocked", "user:*")
			}
			if u.noSharing[i] {
				do(u.docs[i], "sharing_locked", "user:*")
			}
		}
	}
}

// asks are the relations of a document that are asked, with the level each needs.
var asks = []struct {
	name string
	need level
}{{"can_view", viewer}, {"viewer", viewer}, {"can_download", viewer}, {"can_comment", commenter}, {"commenter", commenter},
	{"can_edit", editor}, {"editor", editor}, {"can_share", editor}, {"can_delete", owner}}

// holds is the oracle: what the person may on the document, by which way.
func (u *driveUnit) holds(doc, person, ask int) bool {
	best := level(0)
	take := func(list []driveGrant, inherited bool) {
		for _, g := range list {
			if g.user == person || g.user < 0 && u.belongs[g.group][person/64]>>(person%64)&1 == 1 {
				l := g.level
				if inherited {
					l = min(l, editor) // an owner owns one thing only
				}
				best = max(best, l)
			}
		}
	}
	take(u.docGrants[doc], false)
	for f := u.docParent[doc]; f >= 0; f = u.folderParent[f] {
		take(u.folderGrants[f], true)
	}
	switch asks[ask].name {
	case "can_download":
		return best >= editor || best >= viewer && !u.noDownload[doc]
	case "can_share":
		return best == owner || best >= editor && !u.noSharing[doc]
	}
	return best >= asks[ask].need
}

// question is one of four kinds, and what the oracle says.
type question struct {
	unit, doc, person uint16
	ask               uint8
	kind              kind
	want              bool
}

type kind uint8

const (
	direct kind = iota
	inherited
	groupNested
	denied
)

var kinds = []string{"direct", "inherited", "group-nested", "denied"}

func (d *drive) strings(q question) (object, relation, user string) {
	u := d.units[q.unit]
	return u.docs[q.doc], asks[q.ask].name, u.users[q.person]
}

// questions returns up to n different ones, the four kinds in turn, in an order
// by chance.
func (d *drive) questions(n int, seed uint64) []question {
	rng := rand.New(rand.NewPCG(seed, 12))
	seen := make(map[question]struct{}, n)
	out := make([]question, 0, n)
	for len(out) < n {
		four := make([]question, 0, 4)
		for k := direct; k <= denied; k++ {
			for tries := 0; tries < 2000; tries++ {
				q, ok := d.draw(rng, k)
				if _, was := seen[q]; ok && !was {
					seen[q] = struct{}{}
					four = append(four, q)
					break
				}
			}
		}
		if len(four) < 4 {
			break // one kind has no more to ask
		}
		out = append(out, four...)
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// draw makes a question of the kind; false if the draw was none.
func (d *drive) draw(rng *rand.Rand, k kind) (question, bool) {
	unit := rng.IntN(len(d.units))
	u := d.units[unit]
	doc, person, ask := rng.IntN(docs), 0, rng.IntN(len(asks))
	switch k {
	case direct:
		g := u.docGrants[doc][rng.IntN(len(u.docGrants[doc]))]
		if g.level < asks[ask].need {
			return question{}, false
		}
		person = g.user
	case inherited:
		at := u.docParent[doc]
		for range rng.IntN(4) {
			if u.folderParent[at] >= 0 {
				at = u.folderParent[at]
			}
		}
		g := u.folderGrants[at][rng.IntN(len(u.folderGrants[at]))]
		if g.user < 0 || g.level < asks[ask].need || u.names(doc, g.user) {
			return question{}, false
		}
		person = g.user
	case groupNested:
		doc = u.shared[rng.IntN(len(u.shared))]
		person = rng.IntN(people)
		if rng.IntN(2) == 0 {
			person = nested + rng.IntN(10)
		}
		if asks[ask].need != viewer || u.names(doc, person) || !u.onlyNested(doc, person) {
			return question{}, false
		}
	case denied:
		person = rng.IntN(ordinary)
		if rng.IntN(2) == 0 {
			person = outsider + rng.IntN(nested-outsider)
		}
	}
	q := question{uint16(unit), uint16(doc), uint16(person), uint8(ask), k, u.holds(doc, person, ask)}
	return q, q.want == (k != denied)
}

// names reports whether a tuple of the document names the person.
func (u *driveUnit) names(doc, person int) bool {
	return slices.ContainsFunc(u.docGrants[doc], func(g driveGrant) bool { return g.user == person })
}

// onlyNested: no folder above names the person, and of the groups that one names,
// the person is in one by another group only.
func (u *driveUnit) onlyNested(doc, person int) bool {
	found := false
	for f := u.docParent[doc]; f >= 0; f = u.folderParent[f] {
		for _, g := range u.folderGrants[f] {
			if g.user == person || g.user < 0 && slices.Contains(u.members[g.group], person) {
				return false
			}
			found = found || g.user < 0 && u.belongs[g.group][person/64]>>(person%64)&1 == 1
		}
	}
	return found
}

// listing is what the oracle says of a list.
type listing struct {
	user string
	want []string // sorted
}

func (d *drive) listed(unit int) listing {
	u := d.units[unit]
	l := listing{user: u.users[lister]}
	for i := range docs {
		if u.holds(i, lister, 0) {
			l.want = append(l.want, u.docs[i])
		}
	}
	slices.Sort(l.want)
	return l
}

// split cuts "type:id".
func split(object string) (typ, id string) {
	typ, id, _ = strings.Cut(object, ":")
	return typ, id
}

func (d *drive) String() string {
	return fmt.Sprintf("%d tuples (%d units)", d.tuples, len(d.units))
}
