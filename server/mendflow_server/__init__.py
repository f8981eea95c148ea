"""The Mendflow server."""
