package hop

// NoLargeBuffers has answers begin, and stay, with small buffers until it is undone.
func NoLargeBuffers() (undo func()) {
	largeBuffers.Add(mostBuffers)
	return func() { largeBuffers.Add(-mostBuffers) }
}
