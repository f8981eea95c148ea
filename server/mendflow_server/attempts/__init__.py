"""Running the code of steps."""
