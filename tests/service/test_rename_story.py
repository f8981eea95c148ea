"""The story of docs/writing-workflows.md, word for word: a rename, from the mistake to its repair."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import as_text, run_command
from tests.support.deploying import deployment
from tests.support.servers import ROOT

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.deploying import Deployment


def page() -> list[str]:
    """Return the page's blocks of Python."""
    text = (ROOT / "docs" / "writing-workflows.md").read_text(encoding="utf-8")
    story = text.partition("### A rename, from the mistake to the way out")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", story, re.DOTALL)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Deployment]:
    deployed = deployment(tmp_path, module="shop")
    try:
        yield deployed
    finally:
        deployed.server.kill()


def mendflow(shop: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as an operator would."""
    server = shop.server
    return as_text(run_command(arguments, {"MENDFLOW_SERVER": server.grpc_address}, directory=server.directory))


def charged(shop: Deployment) -> int:
    return (shop.server.directory / "server.log").read_text(encoding="utf-8").count("charging for lamp")


@pytest.mark.parametrize("way_out", ["the old code again", "the recorded name under the new one"])
def test_a_rename_is_predicted_pauses_charges_once_and_has_a_way_out(shop: Deployment, way_out: str) -> None:
    old, kept = page()
    misspelt = old.replace("async def authorize", "async def authorise").replace("await authorize", "await authorise")
    renamed = misspelt.replace("@step\nasync def authorise", f"{kept.splitlines()[0]}\nasync def authorise")
    shop.deploy(old)
    assert mendflow(shop, "start", "checkout", "--id", "order-17", "--input", '"lamp"').returncode == 0
    shop.server.terminate()
    (shop.server.directory / "shop.py").write_text(misspelt, encoding="utf-8")
    predicted = mendflow(shop, "verify", "shop", "--store", f"sqlite:///{shop.server.store}")
    assert predicted.returncode == 1
    for text in ("order-17", "step authorize (event 2)", "step authorise"):
        assert text in predicted.stdout
    shop.deploy(misspelt)
    assert mendflow(shop, "signal", "order-17", "approve").returncode == 0
    shown = mendflow(shop, "show", "order-17").stdout
    for text in ("PAUSED", "step authorize (event 2)", "step authorise"):
        assert text in shown
    source = old if way_out == "the old code again" else renamed
    (shop.server.directory / "shop.py").write_text(source, encoding="utf-8")
    assert mendflow(shop, "verify", "shop", "--server", shop.server.grpc_address).returncode == 0
    shop.deploy(source)
    ended = mendflow(shop, "watch", "order-17")
    assert ended.returncode == 0
    assert "lamp shipped, authorization of lamp" in mendflow(shop, "show", "order-17").stdout
    assert charged(shop) == 1
