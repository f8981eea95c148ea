"""Workflow code, driven and replayed against its history."""
