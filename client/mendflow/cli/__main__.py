"""The entry point of `python -m mendflow.cli`."""

from mendflow.cli import main

main(prog_name="mendflow")
