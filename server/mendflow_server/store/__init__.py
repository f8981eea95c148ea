"""Storing: one protocol, and an implementation for each database."""
