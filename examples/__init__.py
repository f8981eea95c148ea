"""Workflows to read, to run and to take apart; docs/examples.md explains them."""
