package policy

import (
	"unicode/utf8"

	"bulwark.example/internal/fault"
)

// checkText bounds a file before Cedar's parser sees it. That parser, like what
// comes after it, recurses over brackets, `if`, `!` and the links of chains, and
// the stack of a goroutine that overflows takes the process along; the type
// checker takes quadratic time over chains of `has`. Counting bytes of code in a
// statement bounds them all.
func checkText(src *Source) error {
	if len(src.Text) > MaxSource {
		return fault.New(fault.TooLarge, src.Name+": a file of policies is larger than 64 KiB")
	}
	if !utf8.ValidString(src.Text) {
		return at(src.Name, 1, "the text is not UTF-8")
	}
	sc := scanner{text: src.Text, line: 1}
	for sc.pos < len(sc.text) {
		if reason := sc.step(); reason != "" {
			return at(src.Name, sc.line, reason)
		}
	}
	return nil
}

// scanner knows of Cedar no more than strings, comments, brackets.
type scanner struct {
	text  string
	pos   int
	line  int
	code  int // bytes in this statement
	depth int // of brackets
	dots  int // in a row: the parser takes quadratic memory over `has a.b.c`
}

// step reads one string, comment or character; the answer is what is wrong.
func (s *scanner) step() (reason string) {
	c := s.text[s.pos]
	s.pos++
	switch c {
	case '\n':
		s.line++
		return ""
	case ' ', '\t', '\r':
		return ""
	case '"':
		return s.literal()
	case '/':
		if s.pos < len(s.text) && s.text[s.pos] == '/' {
			for s.pos < len(s.text) && s.text[s.pos] != '\n' {
				s.pos++
			}
			return ""
		}
	case '.':
		if s.dots++; s.dots > maxPath {
			return "a path has more than 8 attributes"
		}
	case '(', '[', '{':
		if s.depth++; s.depth > MaxDepth {
			return "brackets are nested more than 64 deep"
		}
	case ')', ']', '}':
		s.depth--
	case ';':
		s.code, s.depth = 0, 0
	}
	if c != '.' && c != '_' && !isLetterOrDigit(c) {
		s.dots = 0
	}
	if s.code++; s.code > MaxStatement {
		return "a policy is longer than 8 KiB without its strings; write several"
	}
	return ""
}

// maxPath bounds the attributes in a row.
const maxPath = 8

func isLetterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// literal skips a string after its first quote.
func (s *scanner) literal() (reason string) {
	start := s.pos
	for ; s.pos < len(s.text) && s.text[s.pos] != '"'; s.pos++ {
		switch s.text[s.pos] {
		case '\\':
			s.pos++
		case '\n':
			s.line++
		}
	}
	if s.pos-start > MaxLiteral {
		return "a string is longer than 2 KiB"
	}
	s.pos++
	s.code += 2 // so that a list of strings has its weight
	return ""
}
