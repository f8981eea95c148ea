"""The verbs on workflows, and the workflows in memory."""
