"""The HTTP server and its health routes."""
