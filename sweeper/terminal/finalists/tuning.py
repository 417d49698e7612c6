"""Print the inference settings that were examined on a policy, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.terminal.tables import Column, fitted_table, number_text, short_names, stacked, value_text
from sweeper.text import race_words

__all__ = ["print_tuned", "setting_text", "settings_table"]

STYLES = {"chosen": "bold green", "out": "dim", "impossible": "dim", "too slow": "yellow", "failed": "red"}
BAR = 40
"""Characters of the longest bar of the front."""


def print_tuned(console: Console, tuned: Mapping[str, Any]) -> None:
    """Print a choice: the settings, the front, the chosen one, and what it gains.

    Args:
        console: Where to print.
        tuned: As `sweeper tune --json` has it.
    """
    console.print(settings_table(tuned, console.width if console.is_terminal else None))
    console.print()
    for line in front_lines(tuned["tried"]):
        console.print(line, soft_wrap=True, markup=False)
    console.print()
    console.print(Text(f"Chosen: {setting_text(tuned['setting'])}.", style="bold green"), soft_wrap=True)
    console.print(_gain_text(tuned), soft_wrap=True, markup=False)


def settings_table(tuned: Mapping[str, Any], width: int | None = None) -> Table:
    """The settings of a policy as a table: the chosen one, then the rest by value."""
    tried = sorted(tuned["tried"], key=lambda row: _order(row, maximize=tuned["goal"] == "maximize"))
    names = short_names(list(dict.fromkeys(name for row in tried for name in row["setting"])))
    columns = [
        *(Column(stacked(short)) for short in names.values()),
        Column("state", justify="left"),
        Column(stacked(tuned["metric"]), style="bold"),
        Column("latency\nms"),
        Column("episodes" if tuned["metric"].startswith("rollout/") else "moments"),
        Column("front", justify="left"),
    ]
    rows: list[list[Text | str]] = [
        [
            *(value_text(row["setting"].get(name, "as trained")) for name in names),
            Text(race_words(row["state"]), style=STYLES.get(row["state"], "")),
            number_text(row["value"]),
            "" if row["latency_ms"] is None else f"{row['latency_ms']:.1f}",
            str(row["episodes"]),
            "*" if row["front"] else "",
        ]
        for row in tried
    ]
    return fitted_table(columns, rows, width, title=f"{tuned['policy']}: {len(tried)} inference settings")


def front_lines(tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """The front of value against latency, the fastest setting first; a bar is as long as the latency."""
    front = sorted((row for row in tried if row["front"]), key=lambda row: row["latency_ms"])
    if not front:
        return []
    slowest = max(row["latency_ms"] for row in front) or 1.0
    lines = ["Front: no other setting is both faster and better (the bar is the latency)."]
    for row in front:
        bar = "#" * max(1, round(BAR * row["latency_ms"] / slowest))
        setting = setting_text(row["setting"])
        lines.append(f"  {row['value']:8.3f}  {row['latency_ms']:8.1f} ms  {bar:<{BAR}}  {setting}")
    return lines


def setting_text(setting: Mapping[str, Any]) -> str:
    """A setting in words."""
    if not setting:
        return "the setting of the training"
    return ", ".join(f"{name}={value_text(value)}" for name, value in setting.items())


def _order(row: Mapping[str, Any], *, maximize: bool) -> tuple[bool, bool, float]:
    value = row["value"]
    return row["state"] != "chosen", value is None, 0.0 if value is None else -value if maximize else value


def _gain_text(tuned: Mapping[str, Any]) -> str:
    metric, metrics, untuned = tuned["metric"], tuned["metrics"], tuned["untuned"]
    latency = "eval/chunk_latency_ms"
    starts = "starts" if metric.startswith("rollout/") else "held-out moments"
    if not tuned["setting"]:
        return (
            f"No setting is better than that of the training: {metric} {metrics[metric]:.3f}, "
            f"{metrics[latency]:.1f} ms for a chunk."
        )
    if tuned["gain"] is None:
        return (
            f"On the {starts} that judge: {metric} {metrics[metric]:.3f}, {metrics[latency]:.1f} ms for a "
            "chunk. The policy fails with the setting of the training, so there is no comparison."
        )
    gain = tuned["gain"]
    return (
        f"On {gain['count']} {starts} that did not choose: {metric} {metrics[metric]:.3f}, as trained "
        f"{untuned[metric]:.3f}. Gain {gain['difference']:+.3f}, 95 % interval [{gain['low']:+.3f}, "
        f"{gain['high']:+.3f}], p = {gain['p_value']:.3g} (paired). "
        f"Latency {metrics[latency]:.1f} ms for a chunk, as trained {untuned[latency]:.1f} ms."
    )
