"""A workflow's events, and what follows from them."""
