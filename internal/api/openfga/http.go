package openfga

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/web"
)

// maxNesting is how deep the messages of a body may stand in each other: a
// definition of a model takes two for each of its parentheses.
const maxNesting = 100

// mount offers the operation over HTTP.
func (o *operation[Q, R]) mount(a *API) {
	a.mux.Handle(o.pattern, func(w http.ResponseWriter, r *http.Request) error {
		in := fromHTTP(r)
		var q Q
		q = q.ProtoReflect().New().Interface().(Q)
		out, more, err := o.serve(r.Context(), a, &in, q)
		if err != nil {
			return err
		}
		a.headers(&more, w.Header().Set)
		if o.encode != nil {
			return o.encode(w, out)
		}
		return send(w, max(o.status, http.StatusOK), out)
	})
}

func fromHTTP(r *http.Request) inbound {
	return inbound{
		id: web.RequestID(r), method: r.Method, authorization: web.Authorization(r), source: web.Source(r),
		http: r, option: r.Header.Values,
	}
}

// send answers with a message as OpenFGA spells it: every member, in the names
// of the proto file.
func send(w http.ResponseWriter, status int, out proto.Message) error {
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return nil
	}
	body, err := spell(out)
	if err != nil {
		return err
	}
	web.SendRaw(w, status, body)
	return nil
}

// spell uses the JSON names of OpenFGA's files, which its clients read and which
// are not all the fields' own (tupleToUserset). It is compact: protojson puts
// spaces where it pleases, so that nobody relies on its bytes, and here equal
// answers have equal ones.
func spell(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the answer does not encode", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, fault.Wrap(fault.Internal, "the answer does not encode", err)
	}
	return b.Bytes(), nil
}

// encodeCheck is the answer that programs wait for, by hand.
func encodeCheck(w http.ResponseWriter, out *fga.CheckResponse) error {
	body := append(strconv.AppendBool([]byte(`{"allowed":`), out.GetAllowed()), `,"resolution":`...)
	text, err := json.Marshal(out.GetResolution())
	if err != nil {
		return fault.Wrap(fault.Internal, "the answer does not encode", err)
	}
	web.SendRaw(w, http.StatusOK, append(append(body, text...), '}'))
	return nil
}

// encodeStream gives each object a line, in the form that OpenFGA gives streams.
func encodeStream(w http.ResponseWriter, out *fga.ListObjectsResponse) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	var line []byte
	for _, object := range out.GetObjects() {
		text, err := json.Marshal(object)
		if err != nil {
			return fault.Wrap(fault.Internal, "the answer does not encode", err)
		}
		line = append(append(append(line[:0], `{"result":{"object":`...), text...), "}}\n"...)
		if _, err := w.Write(line); err != nil {
			return nil // the peer is gone
		}
	}
	return nil
}

// read fills the request from body, path and parameters.
func (o *operation[Q, R]) read(r *http.Request, q Q) error {
	params, err := web.Query(r, o.query...)
	if err != nil {
		return err
	}
	m := q.ProtoReflect()
	switch r.Method {
	case http.MethodPost, http.MethodPut:
		raw, err := web.Body(r)
		if err != nil {
			return err
		}
		if err := decode(raw, q); err != nil {
			return err
		}
	default:
		if err := web.Empty(r); err != nil {
			return err
		}
	}
	for name, values := range params {
		if err := setParam(m, name, values[0]); err != nil {
			return err
		}
	}
	for _, name := range pathNames(o.pattern) {
		field, value := m.Descriptor().Fields().ByName(protoreflect.Name(name)), r.PathValue(name)
		if m.Has(field) && m.Get(field).String() != value {
			return fault.New(fault.Invalid, "the member "+name+" of the body is another than the path's")
		}
		m.Set(field, protoreflect.ValueOfString(value))
	}
	return nil
}

// pathNames returns what stands in braces.
func pathNames(pattern string) []string {
	var names []string
	for part := range strings.SplitSeq(pattern, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

// setParam puts a parameter of the URL into the member of its name.
func setParam(m protoreflect.Message, name, text string) error {
	field := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if field.Kind() == protoreflect.StringKind {
		m.Set(field, protoreflect.ValueOfString(text))
		return nil
	}
	switch field.Message().FullName() {
	case "google.protobuf.Int32Value":
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return fault.New(fault.Invalid, name+" must be a number")
		}
		m.Set(field, protoreflect.ValueOfMessage(wrapperspb.Int32(int32(n)).ProtoReflect()))
	default: // google.protobuf.Timestamp, the one other kind that a parameter has
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return fault.New(fault.Invalid, name+" must be a time like 2030-01-31T12:00:00Z")
		}
		m.Set(field, protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()))
	}
	return nil
}

// where finds the place in a message of protojson.
var where = regexp.MustCompile(`\(line (\d+):(\d+)\): (.*)$`)

// decode reads JSON into the message. It refuses what two readers could take for
// two things: repeated members, members that the message does not have, what is
// not UTF-8, lone surrogates, anything behind the value.
func decode(raw []byte, into proto.Message) error {
	err := protojson.UnmarshalOptions{RecursionLimit: maxNesting}.Unmarshal(raw, into)
	if err == nil {
		return nil
	}
	text := "the body is not valid JSON of this request"
	if parts := where.FindStringSubmatch(err.Error()); parts != nil && len(parts[3]) <= 200 {
		text += ": line " + parts[1] + ", column " + parts[2] + ": " + parts[3]
	}
	return fault.Wrap(fault.Invalid, strings.ToValidUTF8(text, ""), err)
}
