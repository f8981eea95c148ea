"""A workflow's events and the state that follows from them."""
