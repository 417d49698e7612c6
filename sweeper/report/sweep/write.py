"""Read a sweep and write its report."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from sweeper.layout import REPORT, UNFINISHED
from sweeper.masking import masked
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.report.markup import Html, join, tag
from sweeper.report.sweep.answer import Answer, answer
from sweeper.report.sweep.media import Media
from sweeper.report.sweep.page import page
from sweeper.report.sweep.sections import Material, sections
from sweeper.report.sweep.shown_study import importances, shown_study
from sweeper.report.sweep.standings import standings
from sweeper.text import short_names

__all__ = ["write_report"]


def write_report(folder: Path, to: Path | None = None) -> Path:
    """Write the report of a sweep, which may be running.

    Args:
        folder: The sweep's folder.
        to: The file; by default ``report.html`` in the folder.

    Returns:
        The file.

    Raises:
        SweepNotFoundError: If the folder contains no sweep.
        SweepDamagedError: If its journal is damaged.
        OSError: If the file cannot be written; it is unchanged then.
    """
    to = to or folder / REPORT
    sweep = read_sweep(folder)
    sweep.mark_interrupted()
    text = _text(sweep, to)
    beside = to.with_name(f"{to.name}{UNFINISHED}")
    try:
        beside.write_text(text, encoding="utf-8", errors="replace")
        beside.replace(to)
    finally:
        beside.unlink(missing_ok=True)
    return to


def _text(sweep: SweepState, to: Path) -> str:
    names = short_names(sweep.varying)
    study = shown_study(sweep, names)
    settings = [one.get("setting", {}) for trial in sweep.trials.values() for one in trial.tried]
    settings += [one.get("setting", {}) for one in sweep.confirmation.get("finalists", ())]
    fields = [name for setting in settings for name in setting]
    given = Answer(
        sweep=sweep,
        standings=standings(sweep),
        shares=importances(study) if names else {},
        names={**short_names(list(dict.fromkeys(fields))), **names},
    )
    material = Material(given, study, Media(sweep.folder, to), _command(sweep))
    parts = [
        (f"part-{number}", title, content) for number, (title, content) in enumerate(sections(material), 1)
    ]
    links = tag("nav", [tag("a", title, href=f"#{anchor}") for anchor, title, _ in parts])
    body = [
        tag("section", tag("h2", title), content, class_="part", id=anchor)
        for anchor, title, content in parts
    ]
    return page(f"{sweep.name}: report", _head(sweep), answer(given), links, join(body))


def _head(sweep: SweepState) -> Html:
    objectives = ", ".join(f"{one.goal} {one.name}" for one in sweep.objectives)
    now = time.strftime("%Y-%m-%d %H:%M")
    state = f"{sweep.state}: {sweep.message}" if sweep.message else sweep.state
    return join(
        tag("h1", sweep.name),
        tag("p", f"{objectives} · {state} · as of {now}", class_="soft"),
    )


def _command(sweep: SweepState) -> str:
    """The command that started the sweep, without passwords."""
    command = sweep.info.get("command")
    if isinstance(command, (list, tuple)):
        command = shlex.join(map(str, command))
    return masked(str(command)) if command else ""
