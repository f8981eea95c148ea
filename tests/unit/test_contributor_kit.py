"""The files that editors, hooks and the issue tracker read are valid and name commands that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(VENV)", ".venv")
TARGETS = set(re.findall(r"^([\w./-]+):", MAKEFILE, re.MULTILINE))
FORMS = [ROOT / ".github/ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug_report", "feature_request")]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_each_hook_runs_a_make_target_of_lint() -> None:
    [repo] = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    entries = [hook["entry"] for hook in repo["hooks"]]
    lint = re.findall(r"^lint: (.*?) ##", MAKEFILE, re.MULTILINE)[0].split()
    assert entries == [f"make {target}" for target in lint]
    assert set(lint) <= TARGETS
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}


def test_the_dev_container_sets_up_by_a_make_target_on_the_oldest_python() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    command, target = container["postCreateCommand"].split()
    assert command == "make"
    assert target in TARGETS
    oldest = re.findall(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[0]
    dockerfile = (ROOT / ".devcontainer" / container["build"]["dockerfile"]).read_text(encoding="utf-8")
    assert f"/python:{oldest}-" in dockerfile
    assert f"useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash {container['remoteUser']}" in dockerfile


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_an_issue_form_has_what_the_tracker_requires(form: Path) -> None:
    content = read_yaml(form)
    assert content["name"]
    assert content["description"]
    fields = [part for part in content["body"] if part["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_each_file_in_the_table_of_tasks_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("| task | files |") :].partition("\n\n")[0]
    named = set(re.findall(r"`([\w./-]+(?:\.(?:py|proto|sql|md|toml)|/))`", table))
    folders = [ROOT / each for each in ("", "server/mendflow_server", "server/mendflow_server/store/sqlite")]
    folders += [ROOT / each for each in ("server/mendflow_server/telemetry", "client/mendflow/cli")]
    folders += [ROOT / "protos/mendflow/v1", ROOT / "server/mendflow_server/api"]
    missing = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert [name for name in missing if "NAME" not in name and "NNNN" not in name] == []
    assert len(named) > 30
