// Package ledger is the form of the audit log: events, blocks, trees, proofs.
package ledger
