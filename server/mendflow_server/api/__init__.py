"""The gRPC services: requests are checked, handed to the engine, and answered."""
