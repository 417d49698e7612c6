"""Print how fast the ways to compute a policy's chunks are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from sweeper.terminal.tables import Column, fitted_table, number_text, stacked
from sweeper.text import counted, describe_value
from trainables.inspection import Benched, BenchedRow

__all__ = ["print_bench"]

SAMPLER, STEPS = "policy.sampler", "policy.num_inference_steps"
"""Shown as measured, not as set."""
ROUNDING = 1e-4
"""Differences below this share of the action's range are rounding."""


def print_bench(console: Console, found: Benched) -> None:
    """Print the table, and what was measured how. What all rows have in common is in the title."""
    settings = _settings(found.rows)
    common = {title: cells[0] for title, cells in settings.items() if len(set(cells)) == 1}
    shared = [counted(int(cell), "step") if title == "steps" else cell for title, cell in common.items()]
    varying = {title: cells for title, cells in settings.items() if title not in common}
    columns = [Column("backend", justify="left")]
    columns += [Column(stacked(title), justify="left") for title in varying]
    columns += [Column("p50\nms"), Column("p95\nms", spare=1), Column("Hz", spare=2)]
    columns += [Column("memory\nMB", spare=3), Column("difference", spare=1)]
    with_episodes = any(row.played is not None for row in found.rows)
    if with_episodes:
        columns += [Column("success\n95 %"), Column("to row 1\n95 %"), Column("reward")]
        columns += [Column("to row 1\n95 %"), Column("front")]
    rows: list[list[str | Text]] = [
        [
            row.speed.backend,
            *(cells[number] for cells in varying.values()),
            *_speed(row),
            *(_episodes(row) if with_episodes else ()),
        ]
        for number, row in enumerate(found.rows)
    ]
    console.print()
    how = f": {', '.join(shared)}" if shared else ""
    console.print(Text.assemble((found.label, "bold"), how), soft_wrap=True)
    console.print(fitted_table(columns, rows, console.width if console.is_terminal else None))
    for row in found.rows:
        if row.speed.why:
            console.print(Text.assemble(("! ", "yellow"), row.speed.why), soft_wrap=True)
    _remarks(console, found)


def _settings(rows: Sequence[BenchedRow]) -> dict[str, list[str]]:
    """How each row computes, by the title of the column."""
    fields = {name for row in rows for name in row.speed.setting} - {SAMPLER, STEPS}
    named = {name: [row.speed.setting.get(name) for row in rows] for name in sorted(fields)}
    return {
        "precision": [row.speed.precision for row in rows],
        "sampler": [row.speed.sampler for row in rows],
        "steps": [str(row.speed.steps) for row in rows],
        **{
            name.rpartition(".")[2]: [describe_value(value) for value in values]
            for name, values in named.items()
            if len({str(value) for value in values}) > 1
        },
    }


def _speed(row: BenchedRow) -> list[str | Text]:
    speed = row.speed
    style = "" if speed.difference < ROUNDING else "yellow"
    return [
        number_text(speed.latency.p50_ms),
        number_text(speed.latency.p95_ms),
        number_text(speed.chunks_per_s),
        "" if speed.memory_mb is None else f"{speed.memory_mb:,.0f}",
        Text(f"{speed.difference:.1g}", style=style),
    ]


def _episodes(row: BenchedRow) -> list[str]:
    played = row.played
    if played is None:
        return [""] * 5
    low, high = played.success_interval
    return [
        f"{played.success_rate:.0%}\n{low:.0%} – {high:.0%}",
        _apart(played.success_difference, played.success_difference_interval, percent=True),
        number_text(played.max_reward),
        _apart(played.difference, played.difference_interval),
        "*" if row.front else "",
    ]


def _apart(difference: float | None, interval: tuple[float, float] | None, *, percent: bool = False) -> str:
    """The difference to the first row, with its interval if there is one."""
    if difference is None:
        return ""
    shown = f"{difference:+.0%}" if percent else f"{difference:+.3g}"
    if interval is None:
        return shown
    low, high = (f"{end:+.0%}" if percent else f"{end:+.2g}" for end in interval)
    return f"{shown}\n{low} – {high}"


def _remarks(console: Console, found: Benched) -> None:
    first = found.rows[0].speed
    latency = first.latency
    busy = found.machine["busy_share"]
    console.print()
    words = (
        f"{counted(len(latency.times_ms), 'run')} of each row, in turns, on {latency.device} with "
        f"{counted(latency.threads, 'thread')}. One observation, one chunk; Hz: chunks per second. "
        "Difference: the largest to the plain loop, as a share of the action's range"
        f"{f', at {first.compared}' if first.compared else ''}."
    )
    console.print(words, style="dim")
    load = f"{busy:.0%} of the machine's {found.machine['cpus']} CPUs were in use by others just before."
    console.print(load, style="yellow" if busy > 0.25 else "dim")
    counts = {row.played.episodes for row in found.rows if row.played is not None}
    if counts:
        console.print(
            f"Reward: the mean of the largest rewards of {counts.pop()} episodes from the same starts. "
            "To row 1: the difference on these starts. Front (*): no other row is faster and has at least "
            "the same reward.",
            style="dim",
        )
