"""Floor 2: one process, one heavy thing each, no Ray."""
