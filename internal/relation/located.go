package relation

// Located is a tuple with the store that holds it.
type Located struct {
	Store StoreID
	Tuple Tuple
}
