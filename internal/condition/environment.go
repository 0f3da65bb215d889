package condition

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"regexp/syntax"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/overloads"
	celtypes "cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// environment is what all conditions share: CEL's standard library with
// OpenFGA's addresses. The cost model is that of the releases which OpenFGA
// evaluates with, so that equal conditions reach [MaxCost] equally.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.CostModelVersion(0),
		cel.EagerlyValidateDeclarations(true),
		cel.Function("in_cidr", cel.MemberOverload("ipaddr_in_cidr",
			[]*cel.Type{cel.ObjectType(ipaddressName), cel.StringType}, cel.BoolType,
			cel.BinaryBinding(inCIDR))),
		cel.Function("ipaddress", cel.Overload("string_to_ipaddress",
			[]*cel.Type{cel.StringType}, ipaddressType,
			cel.UnaryBinding(toAddress))),
	)
})

// maxNodes bounds what an expression builds in its loops, in CEL's units. Loops
// can put a value into lists of lists so often, at hardly any cost, that one
// comparison of the result visits millions of elements.
const maxNodes = 4 * MaxValues

// maxIterations bounds the loops of one evaluation together: as many as a value
// can have elements.
const maxIterations = MaxValues

// ended is a context that has ended.
var ended = sync.OnceValue(func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
})

// options are those of a program. What some work costs depends on the values,
// and CEL charges it when it is done: regular expressions are bounded before they
// run; iterations, and what they build, as they come.
func (s *survey) options() []cel.ProgramOption {
	out := []cel.ProgramOption{
		cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost),
		cel.CostLimit(MaxCost),
		cel.CustomDecoratorV2(boundMatches),
		cel.OptimizeRegex(constantMatch(overloads.Matches), constantMatch(overloads.MatchesString)),
	}
	if s.loops {
		out = append(out, cel.InterruptCheckFrequency(maxIterations))
	}
	if s.builds {
		size := celtypes.NewSizeCalculator(celtypes.SizeCalculatorMaxDepth(2*maxDepth), celtypes.SizeCalculatorMaxTraversal(maxNodes))
		out = append(out, cel.MemoryTracking(celtypes.MemoryTrackerSizeCalculator(size)), cel.MemoryLimit(maxNodes))
	}
	return out
}

// activation gives a program its values, in place of a map made for each
// evaluation.
type activation struct {
	names  []string
	values []ref.Val
}

func (a *activation) ResolveName(name string) (any, bool) {
	for i, n := range a.names {
		if n == name {
			return a.values[i], true
		}
	}
	return nil, false
}

func (a *activation) Parent() cel.Activation { return nil }

// maxSteps bounds the program of a regular expression: "a{1000}" is one of a
// thousand steps, each of which may run for each byte of the text.
const maxSteps = 10_000

var errPattern = fmt.Errorf("a regular expression of more than %d steps", maxSteps)

// compilePattern compiles a regular expression of bounded size.
func compilePattern(pattern string) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if steps(tree) > maxSteps {
		return nil, errPattern
	}
	return regexp.Compile(pattern)
}

// steps estimates how many steps a pattern compiles to, within a factor of two,
// without unfolding its repetitions. It stops counting beyond the limit.
func steps(re *syntax.Regexp) int {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpRepeat:
		return max(re.Min, re.Max, 1) * steps(re.Sub[0])
	}
	n := 2
	for _, sub := range re.Sub {
		if n += steps(sub); n > maxSteps {
			break
		}
	}
	return n
}

// match runs a regular expression unless the run alone costs more than the
// limit: the error then only stands in for the one that CEL ends the evaluation
// with when it charges the call.
func match(text, pattern string, compiled *regexp.Regexp) ref.Val {
	if (utf8.RuneCountInString(text)+1)*utf8.RuneCountInString(pattern) > 40*MaxCost { // 0.1 of the one, 0.25 of the other
		return celtypes.NewErr("the text is too long for a regular expression")
	}
	if compiled == nil {
		var err error
		if compiled, err = compilePattern(pattern); err != nil {
			return celtypes.WrapErr(err)
		}
	}
	return celtypes.Bool(compiled.MatchString(text))
}

// boundMatches takes over the calls of matches.
func boundMatches(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok || call.Function() != overloads.Matches {
		return i, nil
	}
	return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
		if len(args) == 2 {
			text, ok := args[0].(celtypes.String)
			if pattern, ok2 := args[1].(celtypes.String); ok && ok2 {
				return match(string(text), string(pattern), nil)
			}
		}
		return celtypes.NoSuchOverloadErr()
	}), nil
}

// constantMatch compiles a constant pattern once.
func constantMatch(overload string) *interpreter.RegexOptimization {
	return &interpreter.RegexOptimization{
		Function: overloads.Matches, OverloadID: overload, RegexIndex: 1,
		Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
			compiled, err := compilePattern(pattern)
			if err != nil {
				return nil, err
			}
			return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
				if text, ok := args[0].(celtypes.String); ok {
					return match(string(text), pattern, compiled)
				}
				return celtypes.NoSuchOverloadErr()
			}), nil
		},
	}
}

const ipaddressName = "IPAddress"

var ipaddressType = cel.ObjectType(ipaddressName, traits.ReceiverType)

// address is an IP address as a CEL value.
type address struct{ ip netip.Addr }

// parseAddress reads an address. An IPv4 address in the clothes of an IPv6 one
// is the IPv4 address, or it would escape the ranges of a condition.
func parseAddress(text string) (address, error) {
	ip, err := netip.ParseAddr(text)
	return address{ip.Unmap()}, err
}

var errAddress = errors.New("an IP address converts to nothing else")

// ConvertToNative implements [ref.Val]: nothing asks for it.
func (a address) ConvertToNative(reflect.Type) (any, error) { return nil, errAddress }

// ConvertToType implements [ref.Val].
func (a address) ConvertToType(to ref.Type) ref.Val {
	if to == celtypes.TypeType {
		return ipaddressType
	}
	return celtypes.WrapErr(errAddress)
}

// Equal implements [ref.Val].
func (a address) Equal(other ref.Val) ref.Val {
	b, ok := other.(address)
	if !ok {
		return celtypes.NoSuchOverloadErr()
	}
	return celtypes.Bool(a.ip == b.ip)
}

// Type implements [ref.Val].
func (a address) Type() ref.Type { return ipaddressType }

// Value implements [ref.Val].
func (a address) Value() any { return a.ip } // not a: CEL measures a value by what is in it

// inCIDR reports whether an address is in a range, which may be IPv4 in the
// clothes of IPv6 like the address.
func inCIDR(lhs, rhs ref.Val) ref.Val {
	a, ok := lhs.(address)
	cidr, ok2 := rhs.(celtypes.String)
	if !ok || !ok2 {
		return celtypes.NoSuchOverloadErr()
	}
	network, err := netip.ParsePrefix(string(cidr))
	if err != nil {
		return celtypes.NewErr("%q is not a CIDR range", string(cidr))
	}
	if ip := network.Addr().Unmap(); ip.Is4() && network.Bits() >= 96 {
		network = netip.PrefixFrom(ip, network.Bits()-96)
	}
	return celtypes.Bool(network.Contains(a.ip))
}

func toAddress(arg ref.Val) ref.Val {
	text, ok := arg.(celtypes.String)
	if !ok {
		return celtypes.MaybeNoSuchOverloadErr(arg)
	}
	a, err := parseAddress(string(text))
	if err != nil {
		return celtypes.WrapErr(err)
	}
	return a
}
