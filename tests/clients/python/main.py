"""A tour of Mendflow from Python, on the generated stubs alone.

run tour ADDRESS NAME            everything that a caller does; each workflow id starts with NAME-
run watch ADDRESS WORKFLOW_ID    a workflow's events until it ends
run starts ADDRESS NAME COUNT    many concurrent starts

Python also has a client, the package mendflow, which does most of this. This program shows the calls below it.
"""

from __future__ import annotations

import sys

from connection import Connection
from starts import start_many
from tour import Tour
from watching import print_event, watch


def main() -> None:
    """Run the mode from the command line."""
    match sys.argv[1:]:
        case ["tour", address, name]:
            with Connection(address) as connection:
                Tour(connection, name).run()
        case ["watch", address, workflow_id]:
            with Connection(address) as connection:
                for event in watch(connection, workflow_id):
                    print_event(event)
        case ["starts", address, name, count]:
            with Connection(address) as connection:
                start_many(connection, name, int(count))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
