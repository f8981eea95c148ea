"""Health: whether the server is ready, and whether it is alive."""
