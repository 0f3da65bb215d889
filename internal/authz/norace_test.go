//go:build !race

package authz

const raced = false
