"""The commands `mendflow serve` and `mendflow verify`."""
