module bulwark.example/examples

go 1.26

require bulwark.example/sdk v0.0.0

require github.com/go-jose/go-jose/v4 v4.1.9 // indirect

replace bulwark.example/sdk => ../sdk
