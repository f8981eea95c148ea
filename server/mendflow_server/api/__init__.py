"""The gRPC API: it checks each request, passes it to the engine, and makes the response."""
