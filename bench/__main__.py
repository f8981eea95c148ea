"""Print a table with the median and the range of several runs, or write JSON: `make bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import large, replicas, servers
from bench.rows import ECHO_ROW, ROWS, Bench


def measure(runs: int, scale: float, only: str, store: str) -> dict[str, list[float]]:
    """Return the figures of each row, one for each run. Each run has a new server and a new store."""
    figures: dict[str, list[float]] = {row.name: [] for row in ROWS if only in row.name or row.name == ECHO_ROW}
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="mendflow-bench-") as name, servers.echo() as echo:
            directory = Path(name)
            with servers.mendflow(directory, store) as server:
                bench = Bench(server, echo, directory, scale)
                for row in ROWS:
                    if row.name in figures:
                        figures[row.name].append(asyncio.run(row.measure(bench)))  # type: ignore[arg-type]  # a coroutine
    return figures


def report(figures: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return the table's rows as plain data."""
    echo = statistics.median(figures[ECHO_ROW])
    rows = []
    for row in ROWS:
        if row.name not in figures:
            continue
        found = figures[row.name]
        median = statistics.median(found)
        rows.append(
            {
                "row": row.name,
                "unit": row.unit,
                "median": median,
                "min": min(found),
                "max": max(found),
                "of_echo": median / echo if row.unit == "/s" else None,
                "reaches_least": row.reaches(median, echo, goal=False),
                "reaches_goal": row.reaches(median, echo, goal=True),
                "least": row.least,
                "goal": row.goal,
            }
        )
    return rows


def show(rows: list[dict[str, Any]], store: str) -> None:
    """Print the table."""
    kind = "PostgreSQL" if store else "SQLite synchronous=FULL"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    table = Table(title=f"three steps a workflow, {kind}, {python}")
    for name in ("", "median", "min", "max", "of the echo", "least", "goal"):
        table.add_column(name, justify="left" if not name else "right")
    for row in rows:
        digits = 0 if row["unit"] == "/s" else 2
        figure = [f"{row[name]:,.{digits}f}" for name in ("median", "min", "max")]
        figure[0] += f" {row['unit']}"
        ratio = "" if row["of_echo"] is None else f"{row['of_echo']:.2f}"
        table.add_row(row["row"], *figure, ratio, *(_mark(row, name) for name in ("least", "goal")))
    Console(width=120).print(table)


def _mark(row: dict[str, Any], name: str) -> str:
    reached = row[f"reaches_{name}"]
    return "" if reached is None else f"{row[name]:,} {'yes' if reached else 'NO'}"


def show_figures(title: str, figures: list[tuple[str, str]], file: Path | None) -> None:
    """Print rows of large stores or of replicas, and write them to a file if there is one."""
    table = Table(title=title)
    table.add_column("")
    table.add_column("figure", justify="right")
    for name, figure in figures:
        table.add_row(name, figure)
    Console(width=120).print(table)
    if file:
        file.write_text(json.dumps(dict(figures), indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the benchmarks and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how many runs, each with a new server (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="how much each row does (1.0)")
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument(
        "--store",
        default="",
        metavar="URL",
        help="a PostgreSQL database instead of an SQLite file",
    )
    parser.add_argument("--large", action="store_true", help="with 100,000 and 1,000,000 workflows in the store")
    parser.add_argument("--replicas", action="store_true", help="several servers on PostgreSQL, a new one by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    given = parser.parse_args()
    if given.large:
        show_figures("many workflows in the store", asyncio.run(large.measure(given.scale, given.only)), given.json)
        return
    if given.replicas:
        show_figures("replicas", asyncio.run(replicas.measure(given.scale, given.store)), given.json)
        return
    rows = report(measure(given.runs, given.scale, given.only, given.store))
    show(rows, given.store)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
