"""The Mendflow server.

`mendflow serve` runs it. `mendflow_server.embedding.EmbeddedServer` runs it inside another program.
"""
