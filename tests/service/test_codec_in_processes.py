"""Every process encodes a value to the same text."""

from __future__ import annotations

import json
import string
import subprocess
import sys


def test_the_text_does_not_depend_on_the_process() -> None:
    code = (
        "from mendflow.codec import ValueType as V; import string;"
        "print(V.of(dict[str, frozenset[str]]).encode({'a': frozenset(string.ascii_letters)}).json)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {json.dumps({"a": sorted(string.ascii_letters)}, separators=(",", ":")).encode() + b"\n"}
