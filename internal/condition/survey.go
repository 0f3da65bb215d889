package condition

import (
	"slices"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
)

// maxNesting bounds how deep lists, maps, loops may stand in each other: CEL's
// type checker takes seconds and gigabytes for 250 brackets.
const maxNesting = 16

// survey is a parsed expression with what its tree contains.
type survey struct {
	*cel.Ast
	variables []string // read, and not bound by a loop; with repetitions
	loops     bool
	builds    bool // lists or maps in its loops
	messages  bool // protobuf messages are made
	nesting   int  // of lists, maps, loops
}

// scope is the variables that the loops around an expression bind.
type scope struct {
	outer *scope
	names [3]string
}

func (s *scope) binds(name string) bool {
	for ; s != nil; s = s.outer {
		if slices.Contains(s.names[:], name) {
			return true
		}
	}
	return false
}

// walk visits a tree. The parser bounds how deep it is.
func (s *survey) walk(e celast.Expr, in *scope, depth int) {
	switch e.Kind() {
	case celast.ListKind, celast.MapKind, celast.StructKind, celast.ComprehensionKind:
		depth++
		s.nesting = max(s.nesting, depth)
		s.builds = s.builds || in != nil && e.Kind() != celast.ComprehensionKind
	}
	each := func(in *scope, list ...celast.Expr) {
		for _, e := range list {
			s.walk(e, in, depth)
		}
	}
	switch e.Kind() {
	case celast.IdentKind:
		if name := e.AsIdent(); !in.binds(name) {
			s.variables = append(s.variables, name)
		}
	case celast.SelectKind:
		each(in, e.AsSelect().Operand())
	case celast.CallKind:
		call := e.AsCall()
		each(in, call.Args()...)
		if call.IsMemberFunction() {
			each(in, call.Target())
		}
	case celast.ListKind:
		each(in, e.AsList().Elements()...)
	case celast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			each(in, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
	case celast.StructKind:
		s.messages = true
		for _, field := range e.AsStruct().Fields() {
			each(in, field.AsStructField().Value())
		}
	case celast.ComprehensionKind:
		s.loops = true
		loop := e.AsComprehension()
		inner := &scope{in, [3]string{loop.IterVar(), loop.IterVar2(), loop.AccuVar()}}
		each(in, loop.IterRange())
		each(inner, loop.AccuInit(), loop.LoopCondition(), loop.LoopStep(), loop.Result())
	}
}
