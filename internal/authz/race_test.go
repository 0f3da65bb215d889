//go:build race

package authz

// raced: the race detector makes sync.Pool forget, on purpose and by chance, so
// that a question may have to make its memory anew.
const raced = true
