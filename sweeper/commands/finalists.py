"""Commands that examine trained policies after the search."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import Address, Json, Sweep, SweepsFolder, open_console
from sweeper.driver.launch import launch
from sweeper.driver.signals import interrupted_by_sigterm
from sweeper.errors import SweeperError, UserError
from sweeper.finalists.confirm import choose_finalists, confirmed_metric
from sweeper.finalists.confirm import confirm as run
from sweeper.finalists.evaluators import evaluators
from sweeper.finalists.racing import ConfirmOptions
from sweeper.finalists.recording import recording
from sweeper.finalists.seeds import seed_sweep, with_seeds
from sweeper.records.sweep_state import find_sweep, read_sweep
from sweeper.spec.sweep import ResourceSpec
from sweeper.terminal.finalists.confirmation import print_confirmation
from sweeper.tracking.sync import sync_sweep

__all__ = ["confirm"]

INTERRUPTED = 130


def confirm(
    sweep: Sweep,
    top: Annotated[int, typer.Option(min=1, help="Confirm the best N trials.", metavar="N")] = 8,
    trial: Annotated[
        list[int] | None, typer.Option(help="Confirm this trial; may be repeated.", metavar="NUMBER")
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="Most episodes of each trial; more later continue it.", metavar="N")
    ] = 400,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Train each configuration with N seeds in all before that.", metavar="N"),
    ] = 1,
    epsilon: Annotated[
        float,
        typer.Option(
            min=0.0, help="Stop if the leader is at most this much worse than the best.", metavar="X"
        ),
    ] = 0.0,
    address: Address = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Evaluate the best trials on fresh starts until it is clear which one is the best, and how good."""
    console = open_console(stderr=as_json)
    folder = find_sweep(sweep, sweeps)
    state = read_sweep(folder)
    metric = confirmed_metric(state).name
    wanted, missing = choose_finalists(state, top, trial or ())
    for reason in missing:
        console.print(f"! {reason}", style="yellow", soft_wrap=True, markup=False)
    with interrupted_by_sigterm():
        if seeds > 1:
            for one in wanted:
                spec = seed_sweep(state, one.trial, seeds)
                console.print(f"Training trial {one.trial} with {seeds - 1} other seeds", style="bold")
                if launch(spec, address=address, console=console):
                    raise SweeperError(f"{spec.name} did not end; the same command continues it.")
            wanted = [with_seeds(one, folder) for one in wanted]
        options = ConfirmOptions(episodes=episodes, epsilon=epsilon)
        with recording(state) as record:
            console.print("Starting Ray …", style="dim")
            report = partial(console.print, style="dim", soft_wrap=True, markup=False)
            resources = ResourceSpec(**state.spec["resources"])
            with evaluators(resources, address=address, report=report) as cluster:
                result = run(record, wanted, options, cluster, report)
    for problem in result.problems:
        console.print(f"! {problem}", style="yellow", soft_wrap=True, markup=False)
    try:
        sent = sync_sweep(folder, None, str)
        if not sent.complete:
            console.print(str(sent), style="yellow", soft_wrap=True)
    except UserError as error:
        console.print(f"! {error}", style="yellow", soft_wrap=True, markup=False)
    if as_json:
        typer.echo(json.dumps(dict(state.confirmation), indent=2))
    else:
        print_confirmation(console, state.confirmation, metric, state.name)
    raise typer.Exit(0 if result.complete else INTERRUPTED)
