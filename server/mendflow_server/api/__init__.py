"""The gRPC face: validate, call the engine, describe. No decision is taken here."""
