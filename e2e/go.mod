module bulwark.example/e2e

go 1.26.0

replace bulwark.example/sdk => ../sdk

require github.com/go-jose/go-jose/v4 v4.1.9

require (
	bulwark.example/sdk v0.0.0
	golang.org/x/sys v0.49.0
)
