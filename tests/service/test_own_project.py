"""docs/your-own-project.md, run word for word in an empty folder up to the container."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import as_script, split_at
from tests.support.servers import ROOT, free_port

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs/your-own-project.md"

# It installs a package and what it needs into a new environment.
pytestmark = [pytest.mark.proof, pytest.mark.timeout(400)]


def test_the_page_leads_from_an_empty_folder_to_a_served_workflow(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    grpc = f"127.0.0.1:{free_port()}"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {
        "MENDFLOW": str(ROOT),
        "MENDFLOW_SERVER": grpc,
        "MENDFLOW_GRPC_ADDRESS": grpc,
        "MENDFLOW_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    script = as_script(split_at(PAGE, "In a container")[0])
    log = tmp_path / "output.txt"
    with log.open("w", encoding="utf-8") as output:
        page = subprocess.Popen(
            ["/bin/sh", "-c", script],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = page.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # A page that stopped at an error has left its server.
                os.killpg(page.pid, signal.SIGTERM)
    text = log.read_text("utf-8")
    assert code == 0, text
    assert text.count("4 passed") == 2, text
    assert text.count("Success: no issues found") == 2, text
    assert text.count("0 errors, 0 warnings") == 2, text
    assert "\n1 open workflow: 1 would pause\ndo not deploy this\n" in text, text
    assert "\n1 open workflow: 1 would continue\n" in text, text
    # The server's log may come between them.
    assert "\n9 workflow_succeeded\n" in text, text
    assert "\npaid under " in text, text
