"""Commands that look at and steer a sweep that runs, from any terminal."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.commands.options import Json, Sweep, SweepsFolder, open_console
from sweeper.driver.resume import is_driven
from sweeper.driver.resume import resume as resume_here
from sweeper.records.sweep_state import SweepState, find_sweep, list_sweeps, read_sweep
from sweeper.steering import entrance
from sweeper.steering.operations import LocalSweep, RunningSweep
from sweeper.steering.status import board_of, status_of
from sweeper.terminal.as_json import to_json
from sweeper.terminal.live import Display, told_events
from sweeper.terminal.status import print_status, summary_table
from sweeper.terminal.tables import print_ranking

__all__ = ["budget", "cancel", "logs", "pause", "resume", "status", "stop", "watch"]

FOLLOW_S = 0.5
"""How often a log or a journal that is followed is looked at."""

Trial = Annotated[int | None, typer.Argument(metavar="TRIAL", min=0, help="Number of one trial.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Changes, e.g. budget.trials=+20 parameters.optimizer.lr.max=1e-3."
    ),
]
Limits = Annotated[
    list[str],
    typer.Argument(metavar="KEY=VALUE", help="e.g. trials=+20 hours=12 gpu_hours=null max_failed=5."),
]
Elsewhere = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="ADDRESS", help="Ask a sweep on this Ray cluster, whose folder need not be here."
    ),
]


def status(
    sweep: Annotated[
        str | None, typer.Argument(metavar="SWEEP", help="Name or folder of a sweep; left out: all.")
    ] = None,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Show how a sweep stands, or all of them: trials, the best so far, what is left of the budget."""
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
        there, damaged = list_sweeps(sweeps)
        found = [status_of(one) for one in there]
        place = str(sweeps)
    else:
        try:
            found, damaged = [one.call("status") for one in entrance.entrances(address)], {}
        finally:
            entrance.leave()
        place = address
    console = open_console()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if found:
        console.print(summary_table(found, console.width if console.is_terminal else None))
    elif not damaged:
        console.print(f"No sweeps in {place}." if address is None else f"No sweep runs on {place}.")
    for name, why in damaged.items():
        console.print(f"! {name} is damaged: {why}", style="yellow", markup=False, soft_wrap=True)


def watch(
    sweep: Sweep,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Watch a sweep that runs elsewhere, until it ends. Ctrl-C leaves the sweep alone."""
    console = open_console()
    with _reach(sweep, sweeps, address) as reach, contextlib.suppress(KeyboardInterrupt):
        found, offset = _followed(reach)
        if as_json:
            for event in _coming_events(reach):
                typer.echo(json.dumps(event))
            return
        board = board_of(found)
        with (
            Display(console, board, elsewhere=address is not None) as display,
            contextlib.suppress(entrance.GoneError),
        ):
            driver = dict(found.driver) if found.status == "running" else None
            for event in _coming_events(reach, offset, driver):
                found.apply(event)
                display.tell(event)
        if found.trials:
            print_ranking(console, found)
        if found.status != "running":
            console.print(found.message, markup=False, style="bold")
        elif address is None:
            console.print(
                "Its driver died without a word. `sweeper resume` goes on with it.", style="bold red"
            )
        else:
            console.print("Its driver has ended; its folder has what came of it.", style="bold")


def _followed(reach: RunningSweep) -> tuple[SweepState, int]:
    """A sweep as its journal tells it, and the byte behind what was read."""
    chunks = list(_chunks(reach))
    followed = SweepState(Path(chunks[0]["folder"]))
    for chunk in chunks:
        for event in chunk["events"]:
            followed.apply(event)
    return followed, chunks[-1]["offset"]


def _coming_events(
    reach: RunningSweep, offset: int = 0, driver: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The events behind a byte of a sweep's journal, and those that come, until its driver has ended.

    Args:
        reach: The sweep.
        offset: The byte.
        driver: The driver that runs, where what lies before the byte named it.
    """
    while True:
        # Asked first: what a driver says before it is gone is told, too.
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
    """The stretches of a sweep's journal behind a byte, up to its end: the last one is empty."""
    while True:
        chunk = reach.call("events", offset=offset)
        yield chunk
        if chunk["offset"] == offset:
            return
        offset = chunk["offset"]


def logs(
    sweep: Sweep,
    trial: Trial = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it grows, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Show this many lines of its end.")] = 40,
    worker: Annotated[int, typer.Option(min=0, help="Worker of the trial, by its rank.")] = 0,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Show the end of a trial's log; without a trial that of the driver, and what happened last."""
    with _reach(sweep, sweeps, address) as reach, contextlib.suppress(KeyboardInterrupt):
        found = reach.call("log", trial=trial, lines=lines, rank=worker)
        happened = _last_events(reach, lines) if trial is None else []
        if as_json:
            typer.echo(json.dumps({**found, "happened": happened}, indent=2))
            return
        console = open_console(stderr=True)
        if happened:
            console.print("What happened last", style="dim")
            typer.echo("\n".join(happened))
        console.print(f"The end of {found['path']} on {found['host']}", style="dim", soft_wrap=True)
        typer.echo(found["text"], nl=False)
        while follow:
            time.sleep(FOLLOW_S)
            found = reach.call("log", trial=trial, offset=found["offset"], rank=worker)
            if found["text"]:
                typer.echo(found["text"], nl=False)


def _last_events(reach: RunningSweep, lines: int) -> list[str]:
    if not lines:
        return []
    return told_events([event for chunk in _chunks(reach) for event in chunk["events"]])[-lines:]


def pause(
    sweep: Sweep,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Have running trials stop after a checkpoint and free what they hold; the driver waits for resume."""
    _ask("pause", sweep, address, sweeps, as_json)


def stop(
    sweep: Sweep,
    trial: Trial = None,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Begin no more trials; those that run go on to the end. With TRIAL: end it after a checkpoint."""
    _ask("stop", sweep, address, sweeps, as_json, trial=trial)


def cancel(
    sweep: Sweep,
    trial: Trial = None,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """End a sweep now, or one trial of it. A sweep can be resumed, from its trials' last checkpoints."""
    _ask("cancel", sweep, address, sweeps, as_json, trial=trial)


def budget(
    sweep: Sweep,
    limits: Limits,
    address: Elsewhere = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Raise or lower the budget of a sweep that runs: at once, and for whoever resumes it."""
    _ask("budget", sweep, address, sweeps, as_json, changes=limits)


def resume(
    sweep: Sweep,
    changes: Changes = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster on which the sweep waits, or is to go on."),
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="The machine on which its driver ran is gone.")
    ] = False,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Go on with a sweep that is paused, that ended, or whose driver is gone; also with a larger budget."""
    if is_driven(sweep, sweeps, address, take_over=take_over):
        _ask("resume", sweep, address, sweeps, as_json, changes=changes or [])
        return
    code, folder = resume_here(sweep, changes or (), sweeps, address, open_console(stderr=as_json))
    if as_json:
        typer.echo(json.dumps(to_json(read_sweep(folder)), indent=2))
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
    """The sweep that is meant, here or on a cluster."""
    if address is None:
        yield LocalSweep(find_sweep(sweep, sweeps))
        return
    try:
        yield entrance.find_remote(sweep, address)
    finally:
        entrance.leave()
