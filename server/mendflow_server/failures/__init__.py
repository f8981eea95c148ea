"""What an exception means, and whether a step is retried."""
