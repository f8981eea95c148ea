"""The log of a workflow that has failed says why, and where in the user's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from mendflow import PermanentError, step, workflow
from mendflow.v1 import workflow_pb2
from tests.support.servers import serving

if TYPE_CHECKING:
    from pathlib import Path


@step
async def declines(amount: int) -> int:
    """Fail because of another error."""
    try:
        return dict[int, int]()[amount]
    except KeyError as error:
        raise PermanentError("card declined") from error


@workflow
async def pays(amount: int) -> int:
    """Fail with its step."""
    return await declines(amount)


async def test_a_failed_workflow_is_logged_at_error_with_its_causes_and_places(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with serving(tmp_path, definitions={"pays": pays}) as server:
            await server.client.start("pays", 7, id="p")
            assert (await server.client.get("p", wait=10)).state == workflow_pb2.WORKFLOW_STATE_FAILED
    [line] = [line for line in logs if line["event"] == "workflow_ended"]
    assert (line["log_level"], line["state"], line["workflow_id"]) == ("error", "FAILED", "p")
    assert (line["type"], line["step_key"]) == ("mendflow.errors.StepFailed", "declines")
    assert line["place"].endswith("in pays")
    assert "test_failure_logs.py" in line["place"]
    assert [cause["type"] for cause in line["causes"]] == ["mendflow.errors.PermanentError", "builtins.KeyError"]
    assert [cause["place"].rpartition(" ")[2] for cause in line["causes"]] == ["declines", "declines"]
    assert line["causes"][0]["message"] == "card declined"
