"""Whether the server is ready and alive."""
