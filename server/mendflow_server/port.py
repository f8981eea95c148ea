"""What is asked of the engine, and what it answers."""

from mendflow_server.api.port import Ending, StartCommand

__all__ = ["Ending", "StartCommand"]
