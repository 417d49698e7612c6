"""Print the findings of the dataset doctor and the machine doctor, and describe a dataset."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sweeper.text import counted
from trainables.interface import Examination, Finding, Severity

__all__ = [
    "diagnoses_json",
    "print_diagnoses",
    "print_examination",
    "print_finding",
    "print_portrait",
    "to_json",
]

SEVERITIES = ("error", "warning", "note")
_SIGNS: Mapping[Severity, tuple[str, str]] = {
    "error": ("✗", "bold red"),
    "warning": ("!", "bold yellow"),
    "note": ("·", "cyan"),
    "fine": ("✓", "green"),
}
LISTED_TASKS = 10


def to_json(root: str, examination: Examination) -> dict[str, Any]:
    """An examination as plain types. All keys exist; they are null if the dataset could not be opened."""
    names = ("version", "fps", "episodes", "frames", "pictures", "skipped", "exclude_episodes")
    return {
        "root": root,
        **{name: examination.summary.get(name) for name in names},
        "counts": _counts(examination),
        "findings": [
            dataclasses.asdict(found) | {"episodes": list(found.episodes), "files": list(found.files)}
            for found in examination.findings
        ],
    }


def _counts(examination: Examination) -> dict[str, int]:
    found: Counter[str] = Counter(finding.severity for finding in examination.findings)
    return {severity: found[severity] for severity in SEVERITIES}


def print_examination(console: Console, root: str, examination: Examination) -> None:
    """Print what was checked and every finding, errors first."""
    counts = _counts(examination)
    sign, style = _SIGNS["error"] if counts["error"] else ("✓", "bold green")
    console.print(Text.assemble((f"{sign} ", style), (root, "bold")), soft_wrap=True)
    for line in _checked(examination.summary):
        console.print(Padding(Text(line, style="dim"), (0, 0, 0, 2), expand=False))
    for found in examination.findings:
        print_finding(console, found)
    console.print()
    named = [counted(number, word) for word, number in counts.items() if number]
    console.print(Text(", ".join(named) + "." if named else "No problems found.", style="bold"))
    exclude = examination.summary.get("exclude_episodes")
    if exclude:
        words = f"To train without the errors, set dataset.exclude_episodes: {exclude}"
        console.print(Text(words, style="green"), soft_wrap=True)


def _checked(summary: Mapping[str, Any]) -> list[str]:
    if not summary:
        return []
    frames = f"{summary['frames']:,}"
    episodes = f"{summary['episodes']:,} episodes"
    lines = [f"{summary['version']}, {episodes}, {frames} frames, {summary['fps']:g} fps"]
    lines += [
        f"{camera}: checked {count:,} of {frames} images" for camera, count in summary["pictures"].items()
    ]
    lines += [f"not checked: {what}" for what in summary["skipped"]]
    return lines


def print_finding(console: Console, found: Finding) -> None:
    """Print a finding: where, what, why, and what to do."""
    sign, style = _SIGNS[found.severity]
    console.print()
    title = Text.assemble((f"{sign} ", style), (found.where, "bold"), (f"  {found.check}", "dim"))
    console.print(Padding(title, (0, 0, 0, 2), expand=False))
    body = Text.assemble(found.problem, (f"\n{found.why}", "dim"), (f"\n{found.remedy}", "green"))
    console.print(Padding(body, (0, 0, 0, 4), expand=False))


# -- portraits


def print_portrait(console: Console, root: str, portrait: Mapping[str, Any]) -> None:
    """Print a description of a dataset, and the paths of the images drawn from it."""
    console.print(Text(root, style="bold"), soft_wrap=True)
    console.print()
    console.print(Padding(_facts(portrait), (0, 0, 0, 2), expand=False))
    console.print()
    console.print(Padding(_features(portrait["features"]), (0, 0, 0, 2), expand=False))
    console.print()
    for path in portrait["pictures"]:
        # A path stays on one line, so that a terminal can open it.
        console.print(Text.assemble("  ", (path, "cyan")), soft_wrap=True)


def _facts(portrait: Mapping[str, Any]) -> Table:
    lengths, sizes = portrait["episode_s"], portrait["size_gb"]
    grid = Table.grid(padding=(0, 2))
    facts = [
        ("format", f"LeRobot {portrait['version']}"),
        ("episodes", f"{portrait['episodes']:,}"),
        ("frames", f"{portrait['frames']:,} at {portrait['fps']:g} fps, {_duration(portrait['hours'])}"),
        (
            "length",
            f"{lengths['shortest']:.1f} to {lengths['longest']:.1f} s, median {lengths['median']:.1f} s, "
            f"90% between {lengths['q05']:.1f} and {lengths['q95']:.1f} s",
        ),
        (
            "on disk",
            f"{_size(sizes['all'])}: data {_size(sizes['data'])}, videos {_size(sizes['videos'])}, "
            f"metadata {_size(sizes['meta'])}",
        ),
    ]
    if len(portrait["sources"]) > 1:
        facts.insert(0, ("datasets", ", ".join(portrait["sources"])))
    for title, words in facts:
        grid.add_row(Text(title, style="dim"), Text(words))
    tasks = portrait["tasks"]
    for number, task in enumerate(tasks[:LISTED_TASKS]):
        title = "" if number else "tasks" if len(tasks) > 1 else "task"
        count = f" ({task['episodes']:,} episodes)" if len(tasks) > 1 else ""
        grid.add_row(Text(title, style="dim"), Text(task["task"] + count))
    if len(tasks) > LISTED_TASKS:
        grid.add_row("", Text(f"... {len(tasks)} in total"))
    return grid


def _features(features: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("feature", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    table.add_column("used as", no_wrap=True)
    table.add_column("dimensions")
    for name, feature in features.items():
        used = feature["used_as"] or ""
        table.add_row(
            Text(name, style="bold" if used else "dim"),
            feature["dtype"],
            " × ".join(map(str, feature["shape"])),
            used,
            Text(", ".join(feature["names"] or ())),
        )
    return table


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"


def _size(gb: float) -> str:
    if gb >= 1:
        return f"{gb:,.1f} GB"
    return f"{gb * 1e3:.1f} MB" if gb >= 1e-3 else f"{gb * 1e6:.0f} kB"


def print_diagnoses(console: Console, diagnoses: Sequence[Finding]) -> None:
    """Print the findings of the machine doctor, the worst first."""
    for severity, (sign, style) in _SIGNS.items():
        for diagnosis in diagnoses:
            if diagnosis.severity != severity:
                continue
            console.print(
                Text.assemble((f"{sign} ", style), (f"{diagnosis.where}  ", "bold"), diagnosis.problem),
                soft_wrap=True,
            )
            if diagnosis.remedy:
                console.print(Padding(Text(diagnosis.remedy, style="green"), (0, 0, 0, 2), expand=False))
    severities = Counter(diagnosis.severity for diagnosis in diagnoses)
    named = [counted(severities[word], word) for word in ("error", "warning") if severities[word]]
    console.print(f"{', '.join(named)}." if named else "No problems found.", style="bold")


def diagnoses_json(diagnoses: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings about machines as plain types."""
    return [
        {
            "level": diagnosis.severity,
            "check": diagnosis.check,
            "where": diagnosis.where,
            "found": diagnosis.problem,
            "remedy": diagnosis.remedy,
        }
        for diagnosis in diagnoses
    ]
