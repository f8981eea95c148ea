"""The HTTP server with /health."""
