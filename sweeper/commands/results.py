"""Commands that show the results of sweeps."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sweeper.certainty.requirement import judge, read_requirement
from sweeper.certainty.standing import Standing, standing_of
from sweeper.commands.options import Json, Sweep, SweepsFolder, open_console
from sweeper.errors import UserError
from sweeper.layout import STATE
from sweeper.records.summary import list_sweeps as read_sweeps
from sweeper.records.summary import read_summary
from sweeper.records.sweep_state import SweepState, find_sweep
from sweeper.terminal.as_json import to_csv, to_json
from sweeper.terminal.result import print_links, ui_command
from sweeper.terminal.status import print_others
from sweeper.terminal.tables import print_ranking, sweeps_table
from sweeper.tracking.server import serve
from sweeper.tracking.state import read_state
from sweeper.tracking.sync import sync_sweep
from sweeper.tracking.urls import links_to, runs_url

__all__ = ["list_sweeps", "report", "results", "sync", "ui"]


def results(
    sweep: Sweep,
    top: Annotated[int | None, typer.Option(min=1, help="Show only the best N trials.", metavar="N")] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 1 unless this is true of the best trial, e.g. 'rollout/success_rate_low>=0.6'; "
            "may be repeated.",
            metavar="CONDITION",
        ),
    ] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
) -> None:
    """Show a sweep's trials, best first. Works while the sweep runs."""
    if as_json and as_csv:
        raise UserError("--json and --csv: choose one of them.")
    requirements = [read_requirement(text) for text in require or ()]
    found = read_summary(find_sweep(sweep, sweeps))
    found.mark_interrupted()
    standing = standing_of(found, found.ranking())
    verdicts = [judge(one, found, standing) for one in requirements]
    if as_json:
        typer.echo(json.dumps(to_json(found, standing), indent=2))
    elif as_csv:
        typer.echo(to_csv(found, standing, top), nl=False)
    else:
        _print_results(found, top, standing)
    for verdict in verdicts:
        typer.echo(verdict.sentence, err=as_json or as_csv)
    if not all(verdict.met for verdict in verdicts):
        raise typer.Exit(1)


def _print_results(found: SweepState, top: int | None, standing: Standing) -> None:
    console = open_console()
    print_ranking(console, found, top, standing)
    links = links_to(found, read_state(found.folder / STATE))
    if links is not None:
        console.print()
    print_links(console, links, ui_command(found.folder))


def report(
    sweep: Sweep,
    to: Annotated[
        Path | None,
        typer.Option(help="File to write. Default: report.html in the sweep's folder.", metavar="FILE"),
    ] = None,
    sweeps: SweepsFolder = Path("sweeps"),
) -> None:
    """Write the report of a sweep: one HTML file, which opens without a network."""
    console = open_console()
    folder = find_sweep(sweep, sweeps)
    try:
        with console.status("Drawing the figures …"):
            from sweeper.report.sweep.write import write_report  # loads plotly and Optuna

            file = write_report(folder, to)
    except OSError as error:
        raise UserError(
            f"--to: {to or folder} cannot be written: {error.strerror}. Name a file in an existing folder."
        ) from error
    console.print(f"Report: {file}", soft_wrap=True, markup=False)


def list_sweeps(sweeps: SweepsFolder = Path("sweeps"), as_json: Json = False) -> None:
    """List all sweeps, newest first."""
    found, others = read_sweeps(sweeps)
    for one in found:
        one.mark_interrupted()
    if as_json:
        rest = [{"sweep": one.name, "status": one.status, "message": one.message} for one in others]
        typer.echo(json.dumps([*map(to_json, found), *rest], indent=2))
        return
    console = open_console()
    if found:
        console.print(sweeps_table(found, console.width if console.is_terminal else None))
    elif not others:
        console.print(f"No sweeps in {sweeps}. `sweeper demo` starts a small one.")
    print_others(console, others)


def ui(
    sweep: Sweep,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on this machine; the next free one if it is in use.")
    ] = 5000,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Open the chart of all trials, if there is a desktop."),
    ] = True,
    search: Annotated[
        bool, typer.Option("--search", help="Serve Optuna's pages for the search instead of MLflow's.")
    ] = False,
    sweeps: SweepsFolder = Path("sweeps"),
) -> None:
    """Serve MLflow's web pages for a sweep on this machine until Ctrl-C."""
    folder = find_sweep(sweep, sweeps)
    if search:
        _serve_search(folder, port, browser)
        return
    found = read_summary(folder)
    uri = found.spec["tracking"]["uri"]
    if uri is not None and uri.startswith(("http://", "https://")):
        typer.echo(f"The runs of {sweep} are on the MLflow server at {uri}")
        print_links(open_console(), links_to(found, read_state(folder / STATE)), "")
        return
    _end_with_servers()
    with contextlib.suppress(KeyboardInterrupt), serve(folder, port, uri) as pages:
        console = open_console()
        state = read_state(folder / STATE)
        links = links_to(found, state, pages.url)
        print_links(console, links, "")
        # MLflow begins with a page about language models.
        runs = pages.url if state is None else runs_url(pages.url, state.experiment_id)
        console.print(f"All runs: {runs}  (Ctrl-C stops the server)", soft_wrap=True)
        if browser and console.is_terminal and _has_desktop():
            webbrowser.open(pages.url if links is None else links.charts)
        pages.wait()


def _serve_search(folder: Path, port: int, browser: bool) -> None:
    """Serve Optuna's pages for the search of a sweep until Ctrl-C."""
    from sweeper.report.dashboard import follow, serve_study

    _end_with_servers()
    with contextlib.suppress(KeyboardInterrupt), serve_study(folder, port) as (pages, refresh):
        console = open_console()
        console.print(f"Optuna's pages: {pages.url}  (Ctrl-C stops the server)", soft_wrap=True)
        console.print("They show a copy of the study; what is changed there is not kept.", style="dim")
        if browser and console.is_terminal and _has_desktop():
            webbrowser.open(pages.url)
        follow(pages, refresh)


def _end_with_servers() -> None:
    """A server is a separate process. It must end with this one, however this one ends."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _has_desktop() -> bool:
    """Whether this shell is on a desktop: a browser that is opened over SSH would be on the wrong machine."""
    named = any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
    return (named or sys.platform == "darwin") and "SSH_CONNECTION" not in os.environ


def sync(
    sweep: Sweep,
    to: Annotated[
        str | None,
        typer.Option(
            help="MLflow server or database to upload to. Default: the one of the sweep.", metavar="URI"
        ),
    ] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Upload missing data of a sweep to MLflow. Nothing is uploaded twice."""
    console = open_console(stderr=as_json)
    with console.status("") as status:
        result = sync_sweep(find_sweep(sweep, sweeps), to, status.update)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        console.print(str(result), soft_wrap=True)
    raise typer.Exit(0 if (result.complete or result.by_driver) and not result.others else 1)
