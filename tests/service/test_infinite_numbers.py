"""Numbers that JSON text can express and a history cannot: they are refused at the start, not at the end."""

from __future__ import annotations

from collections.abc import Iterable  # noqa: TC003 - the server reads the annotation at run time
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import step, wait_signal, workflow
from mendflow.errors import InvalidRequest
from mendflow.v1 import payload_pb2
from tests.support.servers import serving

if TYPE_CHECKING:
    from pathlib import Path


@workflow(signals={"go": float})
async def scales(factor: float) -> float:
    return factor * await wait_signal("go", float)


@workflow
async def takes_any(value: Any) -> Any:
    return value


@step
async def total(numbers: Iterable[int]) -> int:
    return sum(numbers) + sum(numbers)


@workflow
async def adds(numbers: Iterable[int]) -> int:
    return await total(numbers) + await total(numbers)


DEFINITIONS = {each.name: each for each in (scales, takes_any, adds)}
INFINITE = ["1e999", '"inf"', '"-Infinity"', '"NaN"']


@pytest.mark.parametrize("text", INFINITE)
async def test_an_infinite_float_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path, definitions=DEFINITIONS) as server:
        with pytest.raises(InvalidRequest, match=r"input: .* is not a JSON number"):
            await server.client.start("scales", payload_pb2.Payload(json=text), id="infinite")
        handle = await server.client.start("scales", 2.0)
        with pytest.raises(InvalidRequest, match=r"data: .* is not a JSON number"):
            await handle.signal("go", payload_pb2.Payload(json=text))
        await handle.signal("go", 1.5)
        assert await handle.result() == 3.0


async def test_an_infinite_number_without_a_type_is_refused_at_the_start_and_in_a_signal(tmp_path: Path) -> None:
    infinite = payload_pb2.Payload(json='{"a":[1,1e999]}')
    async with serving(tmp_path, definitions=DEFINITIONS) as server:
        with pytest.raises(InvalidRequest, match=r"input\.a\[1\]: inf is not a JSON number"):
            await server.client.start("takes_any", infinite)
        handle = await server.client.start("scales", 2.0)
        with pytest.raises(InvalidRequest, match=r"data\.a\[1\]: inf is not a JSON number"):
            await handle.signal("undeclared", infinite, allow_undeclared=True)


async def test_an_iterable_is_a_list_in_workflows_and_steps(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=DEFINITIONS) as server:
        assert await server.client.run("adds", [1, 2]) == 12
