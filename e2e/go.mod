module bulwark.example/e2e

go 1.26

replace bulwark.example/sdk => ../sdk

require github.com/go-jose/go-jose/v4 v4.1.9
