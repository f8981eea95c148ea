"""The program buf, which the development extra installs beside Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_BUF = Path(sys.executable).with_name("buf")


def run_buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run buf, or skip the test where it is not installed."""
    if not _BUF.exists():
        pytest.skip(f"needs buf (PyPI: buf-bin) beside {sys.executable}")
    return subprocess.run([str(_BUF), *arguments], capture_output=True, text=True, check=False)
