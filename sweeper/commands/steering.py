"""Commands that show and control a running sweep, from any terminal."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.alerts.watcher import Watcher
from sweeper.commands.options import Json, Sweep, SweepsFolder, open_console
from sweeper.driver.resume import resume as resume_here
from sweeper.driver.resume import without_driver
from sweeper.errors import UserError
from sweeper.records.summary import list_sweeps, read_summary
from sweeper.records.sweep_state import SweepState, find_sweep
from sweeper.spec.alerts import AlertsSpec
from sweeper.steering import entrance
from sweeper.steering.operations import LocalSweep, RunningSweep
from sweeper.steering.status import forecast_of, status_of
from sweeper.terminal.as_json import to_json
from sweeper.terminal.live import Display, events_as_lines
from sweeper.terminal.status import print_others, print_status, summary_table
from sweeper.terminal.tables import print_ranking

__all__ = ["budget", "cancel", "logs", "pause", "resume", "status", "stop", "watch"]

FOLLOW_S = 0.5
"""Seconds between two reads of a log or journal that is followed."""

Trial = Annotated[int | None, typer.Argument(metavar="TRIAL", min=0, help="Number of a trial.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the sweep, e.g. budget.trials=+20 parameters.optimizer.lr.max=1e-3.",
    ),
]
Limits = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY=VALUE",
        help="New limits, e.g. trials=+20 hours=12 gpu_hours=null max_failed=5. null: no limit.",
    ),
]
Elsewhere = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster on which the sweep runs, if its folder is not on this machine.",
    ),
]


def status(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="Name of a sweep, or path of its folder. Default: all sweeps."),
    ] = None,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Show the state of one sweep or of all: trials, best value so far, budget used."""
    if sweep is None:
        _status_of_all(address, sweeps, as_json)
        return
    with _reach(sweep, sweeps, address) as reach:
        found = reach.call("status")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    print_status(open_console(), found)


def _status_of_all(address: str | None, sweeps: Path, as_json: bool) -> None:
    if address is None:
        there, others = list_sweeps(sweeps)
        found = [status_of(one) for one in there]
        place = str(sweeps)
    else:
        try:
            found, others = [one.call("status") for one in entrance.entrances(address)], []
        finally:
            entrance.leave()
        place = address
    console = open_console()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if found:
        console.print(summary_table(found, console.width if console.is_terminal else None))
    elif not others:
        console.print(f"No sweeps in {place}." if address is None else f"No sweep runs on {place}.")
    print_others(console, others)


def watch(
    sweep: Sweep,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
    alerts: Annotated[
        bool,
        typer.Option(
            "--alerts", help="Send the sweep's alerts if it falls silent or its driver dies (docs/alerts.md)."
        ),
    ] = False,
) -> None:
    """Follow a running sweep until it ends. Ctrl-C stops watching, not the sweep."""
    console = open_console()
    with _reach(sweep, sweeps, address) as reach, contextlib.suppress(KeyboardInterrupt):
        found, offset = _followed(reach)
        if as_json and alerts:
            raise UserError("--alerts cannot be used with --json.")
        watcher = _watcher(found) if alerts else None
        if as_json:
            for event in _coming_events(reach):
                typer.echo(json.dumps(event))
            return
        board = forecast_of(found)
        with (
            Display(console, board, elsewhere=address is not None) as display,
            contextlib.suppress(entrance.GoneError),
        ):
            driver = dict(found.driver) if found.status == "running" else None
            for event in _coming_events(reach, offset, driver):
                found.apply(event)
                display.tell(event)
        if watcher is not None:
            watcher.close(died=found.status == "running" and address is None)
        if found.trials:
            print_ranking(console, found)
        if found.status != "running":
            console.print(found.message, markup=False, style="bold")
        elif address is None:
            console.print(
                "The driver of this sweep died. `sweeper resume` continues the sweep.", style="bold red"
            )
        else:
            console.print(
                "The driver of this sweep has ended. The results are in the folder of the sweep.",
                style="bold",
            )


def _watcher(sweep: SweepState) -> Watcher:
    """Sends the alerts of a sweep that its driver cannot send."""
    plain = sweep.spec.get("alerts")
    if plain is None:
        raise UserError(f"{sweep.name} was started without a section alerts. See docs/alerts.md.")
    return Watcher(AlertsSpec.from_dict(plain), sweep)


def _followed(reach: RunningSweep) -> tuple[SweepState, int]:
    """The state of a sweep from its journal, and the offset in bytes up to which it was read."""
    chunks = list(_chunks(reach))
    followed = SweepState(Path(chunks[0]["folder"]))
    for chunk in chunks:
        for event in chunk["events"]:
            followed.apply(event)
    return followed, chunks[-1]["offset"]


def _coming_events(
    reach: RunningSweep, offset: int = 0, driver: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The events of a sweep's journal from an offset on, and new ones until its driver has ended.

    Args:
        reach: The sweep.
        offset: The offset in bytes.
        driver: The running driver, if an event before the offset named it.
    """
    while True:
        # Checked before reading, so that the last events of a driver that ends meanwhile are read, too.
        alive = driver is not None and reach.call("alive", driver=driver)["alive"]
        before = offset
        for chunk in _chunks(reach, offset):
            offset = chunk["offset"]
            for event in chunk["events"]:
                if event["event"] in ("sweep_start", "sweep_end"):
                    driver = event.get("driver")
                yield event
        if offset == before:
            if not alive:
                return
            time.sleep(FOLLOW_S)


def _chunks(reach: RunningSweep, offset: int = 0) -> Iterator[dict[str, Any]]:
    """The chunks of a sweep's journal from an offset to its end. The last chunk is empty."""
    while True:
        chunk = reach.call("events", offset=offset)
        yield chunk
        if chunk["offset"] == offset:
            return
        offset = chunk["offset"]


def logs(
    sweep: Sweep,
    trial: Trial = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Number of lines to show.")] = 40,
    worker: Annotated[int, typer.Option(min=0, help="Rank of the trial's worker.")] = 0,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Show the end of a trial's log. Without TRIAL: the last events and the driver's log."""
    with _reach(sweep, sweeps, address) as reach, contextlib.suppress(KeyboardInterrupt):
        found = reach.call("log", trial=trial, lines=lines, rank=worker)
        happened = _last_events(reach, lines) if trial is None else []
        if as_json:
            typer.echo(json.dumps({**found, "happened": happened}, indent=2))
            return
        console = open_console(stderr=True)
        if happened:
            console.print("Last events", style="dim")
            typer.echo("\n".join(happened))
        console.print(f"Last lines of {found['path']} on {found['host']}", style="dim", soft_wrap=True)
        typer.echo(found["text"], nl=False)
        while follow:
            time.sleep(FOLLOW_S)
            found = reach.call("log", trial=trial, offset=found["offset"], rank=worker)
            if found["text"]:
                typer.echo(found["text"], nl=False)


def _last_events(reach: RunningSweep, lines: int) -> list[str]:
    if not lines:
        return []
    return events_as_lines([event for chunk in _chunks(reach) for event in chunk["events"]])[-lines:]


def pause(
    sweep: Sweep,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Stop running trials at a checkpoint and free their resources. The driver waits for `resume`."""
    _ask("pause", sweep, address, sweeps, as_json)


def stop(
    sweep: Sweep,
    trial: Trial = None,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Start no more trials; running trials finish. With TRIAL: stop that trial after a checkpoint."""
    _ask("stop", sweep, address, sweeps, as_json, trial=trial)


def cancel(
    sweep: Sweep,
    trial: Trial = None,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Stop a sweep or one trial now. `resume` continues a sweep from its last checkpoints."""
    _ask("cancel", sweep, address, sweeps, as_json, trial=trial)


def budget(
    sweep: Sweep,
    limits: Limits,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Raise or lower the budget of a running sweep. It applies at once, and is kept on resume."""
    _ask("budget", sweep, address, sweeps, as_json, changes=limits)


def resume(
    sweep: Sweep,
    changes: Changes = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster on which the sweep is paused, or should continue."),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Resume although the driver ran on another machine. Use it only if that machine is gone.",
        ),
    ] = False,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Resume a sweep that is paused, ended, or whose driver is gone; a larger budget continues it."""
    state = without_driver(sweep, sweeps, address, take_over=take_over)
    if state is None:
        _ask("resume", sweep, address, sweeps, as_json, changes=changes or [])
        return
    console = open_console(stderr=as_json)
    code = resume_here(state, changes or (), address, console)
    if code == 0 and state.spec.get("confirm") is not None:
        from sweeper.commands.trained.finalists import confirm_after  # loads Ray's evaluators

        code = confirm_after(state.folder, console, address)
    if as_json:
        typer.echo(json.dumps(to_json(read_summary(state.folder)), indent=2))
    raise typer.Exit(code)


def _ask(action: str, sweep: str, address: str | None, sweeps: Path, as_json: bool, **arguments: Any) -> None:
    with _reach(sweep, sweeps, address) as reach:
        answer = reach.call("request", action=action, **arguments)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        open_console().print(answer["text"], markup=False, soft_wrap=True)


@contextlib.contextmanager
def _reach(sweep: str, sweeps: Path, address: str | None) -> Iterator[RunningSweep]:
    """The sweep with this name, here or on a cluster."""
    if address is None:
        yield LocalSweep(find_sweep(sweep, sweeps))
        return
    try:
        yield entrance.find_remote(sweep, address)
    finally:
        entrance.leave()
