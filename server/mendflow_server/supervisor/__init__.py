"""Recovery at the start, and the regular ticks after it."""
