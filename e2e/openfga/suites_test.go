package openfga

import (
	"testing"

	fga "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/openfga/tests/check"
	"github.com/openfga/openfga/tests/listobjects"
	"github.com/openfga/openfga/tests/listusers"
)

// The suites make their stores themselves; one server answers them all.

func TestCheck(t *testing.T) {
	t.Parallel()
	check.RunAllTests(t, service(t))
}

func TestCheckMatrix(t *testing.T) {
	t.Parallel()
	check.RunMatrixTests(t, "bulwark", "", service(t))
}

func TestListObjects(t *testing.T) {
	t.Parallel()
	listobjects.RunAllTests(t, service(t))
}

func TestListObjectsMatrix(t *testing.T) {
	t.Parallel()
	listobjects.RunMatrixTests(t, "bulwark", "", service(t))
}

func TestListUsers(t *testing.T) {
	t.Parallel()
	listusers.RunAllTests(t, service(t))
}

func service(t *testing.T) fga.OpenFGAServiceClient {
	t.Helper()
	return fga.NewOpenFGAServiceClient(bulwark.connect(t))
}
