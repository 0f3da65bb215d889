package main

import "testing"

func TestDrive(t *testing.T) {
	t.Parallel()
	d := newDrive(1, 1)
	seen := map[[3]string]bool{}
	d.each(func(object, relation, user string) {
		k := [3]string{object, relation, user}
		if seen[k] {
			t.Errorf("twice: %v", k)
		}
		seen[k] = true
	})
	count := map[kind]int{}
	for _, q := range d.questions(1<<20, 2) {
		count[q.kind]++
	}
	list := d.lists[0].want
	t.Logf("%s, %v questions, lists %d", d, count, len(list))
	if len(list) != inFolder {
		t.Errorf("the lister sees %d documents", len(list))
	}
}
