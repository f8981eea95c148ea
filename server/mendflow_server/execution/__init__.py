"""One open workflow: its inputs become events, its commits become effects."""
