"""A tour of Mendflow from Python, on the generated stubs alone.

run tour ADDRESS NAME            all that a caller does; every workflow id begins with NAME-
run watch ADDRESS WORKFLOW_ID    a workflow's events, to its end
run starts ADDRESS NAME COUNT    many starts at once

Python has a client of its own (the package mendflow), which does most of this by itself. This shows what it stands on.
"""

from __future__ import annotations

import sys

from connection import Connection
from starts import start_many
from tour import Tour
from watching import print_event, watch


def main() -> None:
    """Do what the arguments say."""
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
