"""`python -m mendflow.command`."""

from mendflow.command import main

main(prog_name="mendflow")
