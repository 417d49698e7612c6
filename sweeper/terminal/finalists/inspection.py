"""Print what was found out about one policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sweeper.terminal.tables import number_text
from sweeper.text import counted, describe_value
from trainables.inspection import Comparison, Inspection, Latency, Rollouts

__all__ = ["print_inspection"]

MOST_DIMENSIONS = 16


def print_inspection(console: Console, found: Inspection, page: Path) -> None:
    """Print the figures, and where the page, pictures and films are."""
    console.print()
    step = f"  step {found.step:,}" if found.step else ""
    console.print(Text.assemble((found.label, "bold"), (step, "dim")), soft_wrap=True)
    _grid(console, _setting(found))
    if found.rollouts is not None:
        _heading(console, "In the simulator", found.rollouts.environment)
        _grid(console, _rollouts(found.rollouts))
        _hard(console, found.rollouts)
    if found.comparison is not None:
        _heading(console, "Compared with demonstrations", found.comparison.dataset)
        _grid(console, _comparison(found.comparison))
        _dimensions(console, found.comparison)
    if found.latency is not None:
        _heading(console, "Latency", "one observation, one action chunk")
        _grid(console, _latency(found, found.latency))
    console.print()
    for note in found.notes:
        console.print(Text.assemble(("· ", "cyan"), note), soft_wrap=True)
    paths = [page, found.rollouts and found.rollouts.film]
    if found.denoising is not None:
        paths += [found.denoising.picture, found.denoising.film]
    for path in paths:
        if path is not None:
            console.print(Text(str(path), style="cyan"), soft_wrap=True)


def _heading(console: Console, title: str, rest: str) -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), (f"  {rest}", "dim")), soft_wrap=True)


def _grid(console: Console, rows: Iterable[tuple[str, str | Text]]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for title, words in rows:
        grid.add_row(Text(title, style="dim"), words if isinstance(words, Text) else Text(words))
    console.print(Padding(grid, (0, 0, 0, 2), expand=False))


def _setting(found: Inspection) -> list[tuple[str, str | Text]]:
    words = Text()
    for number, (name, value) in enumerate(found.setting.items()):
        changed = name in found.changed
        words.append(", " if number else "")
        words.append(
            f"{name.rpartition('.')[2]} {describe_value(value)}", style="bold yellow" if changed else ""
        )
    return [("checkpoint", found.checkpoint), ("setting", words)]


def _rollouts(rollouts: Rollouts) -> list[tuple[str, str | Text]]:
    solved, count = sum(record.success for record in rollouts.records), len(rollouts.records)
    low, high = rollouts.success_interval
    rows: list[tuple[str, str | Text]] = [
        (
            "success",
            f"{rollouts.success_rate:.1%}  ({solved} of {count}; 95 %: {low:.1%} to {high:.1%})",
        )
    ]
    for title, value, interval in (
        ("largest reward", rollouts.max_reward, rollouts.max_reward_interval),
        ("summed reward", rollouts.sum_reward, rollouts.sum_reward_interval),
    ):
        ends = (
            "" if interval is None else f"  (95 %: {number_text(interval[0])} to {number_text(interval[1])})"
        )
        rows.append((title, f"{number_text(value)}{ends}"))
    rows.append(("length", f"{number_text(rollouts.length)} steps"))
    return rows


def _hard(console: Console, rollouts: Rollouts) -> None:
    if not rollouts.hard:
        return
    table = _table(
        "start that failed", "seed", "largest reward", f"fails again (of {rollouts.hard[0].runs} runs)"
    )
    for start in rollouts.hard:
        table.add_row(
            f"#{start.episode}", str(start.seed), number_text(start.max_reward), str(start.failures)
        )
    console.print()
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _comparison(found: Comparison) -> list[tuple[str, str | Text]]:
    style = {"no": "green", "unknown": "bold yellow", "yes": "bold red"}[found.trained_on]
    moments = f"{found.moments:,} moments of {len(found.episodes):,} episodes, {found.samples} chunks at each"
    if found.moments < found.wanted_moments:
        moments += f" ({found.wanted_moments:,} were wanted: the time was used up)"
    share = f"  ({found.relative_in_words})" if found.relative_in_words else ""
    rows: list[tuple[str, str | Text]] = [
        ("episodes", Text(found.provenance, style=style)),
        ("compared", moments),
        ("MSE", f"{number_text(found.mse)}{share}"),
        ("MAE", number_text(found.mae)),
        ("MSE of the nearest chunk", number_text(found.mse_nearest)),
        ("MAE by steps ahead", _steps(found.mae_by_step, found.executed_steps)),
        ("spread of the chunks", f"{number_text(found.std)} (standard deviation)"),
        ("modes", found.modes_in_words),
    ]
    if found.jerk is not None:
        beside = (
            ""
            if found.demonstrated_jerk is None
            else f"  (demonstrated: {number_text(found.demonstrated_jerk)})"
        )
        rows.append(("jerk", f"{number_text(found.jerk)} per step{beside}"))
    if found.step is not None and found.seam is not None:
        inside = f"a step inside a chunk: {number_text(found.step)}"
        rows.append(("step between chunks", f"{number_text(found.seam)}  ({inside})"))
    return rows


def _steps(values: Sequence[float], executed: int) -> str:
    """The first executed step, the last one, and the last that is predicted."""
    places = dict.fromkeys((0, min(executed, len(values)) - 1, len(values) - 1))
    return ", ".join(f"step {place}: {number_text(values[place])}" for place in places)


def _dimensions(console: Console, found: Comparison) -> None:
    table = _table("dimension", "MSE", "MAE", "std of the demonstrated action", "spread of the chunks")
    count = len(found.dimensions)
    for number, name in enumerate(found.dimensions[:MOST_DIMENSIONS]):
        spread = [row[number] for row in found.std_by_step[: found.executed_steps]]
        table.add_row(
            name,
            number_text(found.mse_by_dimension[number]),
            number_text(found.mae_by_dimension[number]),
            number_text(found.action_std_by_dimension[number]),
            number_text(sum(spread) / len(spread) if spread else None),
        )
    console.print()
    console.print(Padding(table, (0, 0, 0, 2), expand=False))
    if count > MOST_DIMENSIONS:
        console.print(f"  ... {count} dimensions in all", style="dim")


def _latency(found: Inspection, latency: Latency) -> list[tuple[str, str | Text]]:
    runs = f"{len(latency.times_ms)} runs on {latency.device}, {counted(latency.threads, 'thread')}"
    busy = found.machine.get("busy_share")
    rate = 1e3 * latency.executed_steps / latency.p95_ms
    rows: list[tuple[str, str | Text]] = [
        ("p50", f"{number_text(latency.p50_ms)} ms"),
        ("p95", f"{number_text(latency.p95_ms)} ms  ({rate:.0f} actions per second)"),
        ("measured", runs),
    ]
    if busy is not None:
        words = f"{busy:.0%} of the machine's {found.machine['cpus']} CPUs in use by others just before"
        rows.append(("load", Text(words, style="yellow" if busy > 0.25 else "")))
    return rows


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
