"""Print what was found of finalists after the search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.records.sweep_state import SweepState
from sweeper.terminal.finalists.sentences import interval_text, shrinkage_sentence
from sweeper.terminal.tables import Column, fitted_table, number_text, short_names, stacked, value_text
from sweeper.text import counted, race_words

__all__ = ["confirmation_table", "print_confirmation"]


def print_confirmation(console: Console, sweep: SweepState, metric: str) -> None:
    """Print the confirmation of a sweep: the table of finalists, best first, and the answer.

    Args:
        console: Where to print.
        sweep: The sweep, which has a confirmation.
        metric: What was confirmed.
    """
    confirmation = sweep.confirmation
    console.print(confirmation_table(sweep, metric, console.width if console.is_terminal else None))
    style = "bold green" if confirmation["complete"] else "bold magenta"
    console.print()
    console.print(Text(confirmation["verdict"], style=style), soft_wrap=True)
    sentence = shrinkage_sentence(confirmation, metric)
    if sentence:
        console.print(sentence, soft_wrap=True)


def confirmation_table(sweep: SweepState, metric: str, width: int | None = None) -> Table:
    """The finalists of a sweep's confirmation as a table, best first."""
    finalists = sweep.confirmation["finalists"]
    acting = sweep.acting_values(finalists)
    settings = short_names(list(dict.fromkeys(name for values in acting for name in values)))
    seeds = any("seeds_sd" in one["metrics"] for one in finalists)
    columns = [
        Column("trial"),
        Column("state", justify="left"),
        Column(stacked(metric), style="bold"),
        Column("95 %\ninterval"),
        Column("P(best)"),
        Column("episodes"),
        Column("search", spare=1),
    ]
    columns += [Column("between\nseeds (sd)")] if seeds else []
    columns += [Column(stacked(short), spare=2) for short in settings.values()]
    rows = [
        [
            *_cells(one, metric, seeds),
            *(value_text(values[name]) if name in values else "–" for name in settings),
        ]
        for one, values in zip(finalists, acting, strict=True)
    ]
    title = f"{sweep.name}: {counted(len(finalists), 'finalist')} on fresh starts"
    return fitted_table(columns, rows, width, title=title)


def _cells(one: Mapping[str, Any], metric: str, seeds: bool) -> list[Text | str]:
    metrics = one["metrics"]
    styles = {"best": "bold green", "left": "yellow", "out": "dim", "failed": "red"}
    interval = interval_text(metrics.get(f"{metric}_low"), metrics.get(f"{metric}_high"))
    cells: list[Text | str] = [
        str(one["trial"]),
        Text(race_words(one["state"]), style=styles.get(one["state"], "")),
        number_text(metrics.get(metric)),
        interval,
        f"{one['p_best']:.2f}" if "p_best" in one else "–",
        f"{metrics['episodes']:.0f}",
        number_text(metrics.get("search")),
    ]
    return [*cells, number_text(metrics.get("seeds_sd"))] if seeds else cells
