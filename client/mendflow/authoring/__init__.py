"""What workflow code is written with: steps, workflows, and the calls they make."""
