module bulwark.example/e2e

go 1.26

replace bulwark.example/sdk => ../sdk
