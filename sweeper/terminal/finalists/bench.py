"""Print how fast the ways to compute a policy's chunks are."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.terminal.tables import number_text
from sweeper.text import counted, describe_value
from trainables.inspection import Benched, BenchedRow

__all__ = ["print_bench"]

ROUNDING = 1e-4
"""Differences below this share of the action's range are rounding."""


def print_bench(console: Console, found: Benched) -> None:
    """Print the table, and what was measured how."""
    settings = [dict(row.speed.setting) for row in found.rows]
    named = sorted({name for setting in settings for name in setting} - {"policy.sampler"})
    varying = [
        name
        for name in named
        if name != "policy.num_inference_steps" and len({str(s.get(name)) for s in settings}) > 1
    ]
    with_episodes = any(row.played is not None for row in found.rows)
    titles = ["backend", "precision", "sampler", "steps", *(name.rpartition(".")[2] for name in varying)]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(title)
    numbers = ["p50 ms", "p95 ms", "Hz", "memory MB", "difference"]
    for title in numbers + (
        ["success", "95 %", "to row 1", "reward", "to row 1", "front"] if with_episodes else []
    ):
        table.add_column(title, justify="right")
    for row in found.rows:
        table.add_row(*_cells(row, varying), *(_episodes(row) if with_episodes else ()))
    console.print()
    console.print(Text(found.label, style="bold"), soft_wrap=True)
    console.print(table)
    for row in found.rows:
        if row.speed.why:
            console.print(Text.assemble(("! ", "yellow"), row.speed.why), soft_wrap=True)
    _remarks(console, found)


def _cells(row: BenchedRow, varying: list[str]) -> list[str | Text]:
    speed = row.speed
    style = "" if speed.difference < ROUNDING else "yellow"
    return [
        speed.backend,
        speed.precision,
        speed.sampler,
        str(speed.steps),
        *(describe_value(speed.setting.get(name)) for name in varying),
        number_text(speed.latency.p50_ms),
        number_text(speed.latency.p95_ms),
        number_text(speed.chunks_per_s),
        "" if speed.memory_mb is None else f"{speed.memory_mb:,.0f}",
        Text(f"{speed.difference:.1g}", style=style),
    ]


def _episodes(row: BenchedRow) -> list[str]:
    played = row.played
    if played is None:
        return [""] * 6
    low, high = played.success_interval
    return [
        f"{played.success_rate:.0%}",
        f"{low:.0%} – {high:.0%}",
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
    return f"{shown} ({low} – {high})"


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
