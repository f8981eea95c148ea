"""What keeps a crash or an internal error from coming back."""
