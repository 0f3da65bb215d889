module bulwark.example/sdk

go 1.26

require github.com/go-jose/go-jose/v4 v4.1.9

require github.com/google/go-cmp v0.7.0 // tests alone
