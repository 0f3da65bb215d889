module bulwark.example

go 1.26
