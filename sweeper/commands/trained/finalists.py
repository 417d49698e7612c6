"""Commands that examine trained policies after the search."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sweeper.commands.options import Address, Json, Sweep, SweepsFolder, open_console
from sweeper.commands.trained.delivery import deliver
from sweeper.driver.launch import launch
from sweeper.driver.signals import interrupted_by_sigterm
from sweeper.errors import INTERRUPTED, SweeperError, UserError
from sweeper.finalists import compare as comparing
from sweeper.finalists.candidates import finalists
from sweeper.finalists.confirm import choose_finalists, confirmed_metric
from sweeper.finalists.confirm import confirm as run
from sweeper.finalists.evaluators import evaluators
from sweeper.finalists.racing import ConfirmOptions
from sweeper.finalists.recording import recording
from sweeper.finalists.seeds import seed_sweep, with_seeds
from sweeper.records.sweep_state import SweepState, find_sweep, read_sweep
from sweeper.report.remake import remake_report
from sweeper.spec.sweep import CONFIRM_BLOCK, ConfirmSpec, ResourceSpec, SweepSpec
from sweeper.terminal.finalists.comparison import difference_lines, letters, print_differences, print_policies
from sweeper.terminal.finalists.confirmation import print_confirmation
from sweeper.terminal.finalists.sentences import sweep_arguments

__all__ = ["compare", "confirm", "confirm_after", "confirm_sweep"]


def confirm(
    sweep: Sweep,
    top: Annotated[int, typer.Option(min=1, help="Confirm the best N trials.", metavar="N")] = 8,
    trial: Annotated[
        list[int] | None, typer.Option(help="Confirm this trial; may be repeated.", metavar="NUMBER")
    ] = None,
    episodes: Annotated[
        int,
        typer.Option(
            min=1, help="Most episodes of each trial, in blocks of 32; more later continue it.", metavar="N"
        ),
    ] = ConfirmSpec.episodes,
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
    state = read_sweep(find_sweep(sweep, sweeps))
    wanted = ConfirmSpec(top, episodes, seeds, epsilon)
    complete = confirm_sweep(state, wanted, console, address=address, trials=trial or ())
    if as_json:
        typer.echo(json.dumps(dict(state.confirmation), indent=2))
    raise typer.Exit(0 if complete else INTERRUPTED)


def confirm_sweep(
    state: SweepState,
    wanted: ConfirmSpec,
    console: Console,
    *,
    address: str | None = None,
    trials: Sequence[int] = (),
) -> bool:
    """Confirm the best trials of a sweep, show how it goes, and print the answer.

    Args:
        state: The sweep; it is brought up to date.
        wanted: What is asked.
        console: Where to show it.
        address: Ray cluster; None for RAY_ADDRESS, or a private Ray.
        trials: The trials that are meant; none for the best.

    Returns:
        Whether nothing is left to do.

    Raises:
        UserError: If there are not enough finalists, or the sweep is in use.
        SweeperError: If no finalist can be evaluated.
    """
    metric = confirmed_metric(state).name
    chosen, missing = choose_finalists(state, wanted.top, trials)
    if wanted.most_episodes < wanted.episodes:
        missing = [_in_blocks(wanted), *missing]
    for reason in missing:
        console.print(f"! {reason}", style="yellow", soft_wrap=True, markup=False)
    with _said_to_continue(console), interrupted_by_sigterm():
        if wanted.seeds > 1:
            for one in chosen:
                spec = seed_sweep(state, one.trial, wanted.seeds)
                console.print(f"Training trial {one.trial} with {wanted.seeds - 1} other seeds", style="bold")
                if launch(spec, address=address, console=console):
                    raise SweeperError(f"{spec.name} did not end; the same command continues it.")
            chosen = [with_seeds(one, state.folder) for one in chosen]
        options = ConfirmOptions(episodes=wanted.episodes, epsilon=wanted.epsilon)
        with recording(state) as record:
            console.print("Starting Ray …", style="dim")
            report = partial(console.print, style="dim", soft_wrap=True, markup=False)
            resources = ResourceSpec(**state.spec["resources"])
            # Ray replaces the handler of SIGTERM when it starts; ours must come afterwards.
            with evaluators(resources, address=address, report=report) as cluster, interrupted_by_sigterm():
                result = run(record, chosen, options, cluster, report)
    for problem in result.problems:
        console.print(f"! {problem}", style="yellow", soft_wrap=True, markup=False)
    page, fault = remake_report(state.folder)
    if fault:
        console.print(f"! The report was not written: {fault}.", style="yellow", soft_wrap=True, markup=False)
    deliver(state.folder, console)
    print_confirmation(console, state, metric)
    if page is not None:
        console.print(f"Report: {page}", soft_wrap=True, markup=False)
    if result.complete:
        command = f"sweeper export {sweep_arguments(state.folder)} --to FOLDER"
        console.print(f"`{command}` writes the winner for the robot.", soft_wrap=True, markup=False)
    return result.complete


def _in_blocks(wanted: ConfirmSpec) -> str:
    """Why fewer episodes are played than were asked for."""
    most = wanted.most_episodes
    return (
        f"At most {most} episodes of each trial are played, not {wanted.episodes}: they are compared after "
        f"each block of {CONFIRM_BLOCK}. The nearest possible numbers are {most} and {most + CONFIRM_BLOCK}."
    )


@contextlib.contextmanager
def _said_to_continue(console: Console) -> Iterator[None]:
    """Say that nothing is lost if Ctrl-C comes before there is a result."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Interrupted. The same command continues the confirmation.", style="bold magenta")
        raise


def confirm_after(folder: Path, console: Console, address: str | None = None) -> int:
    """Confirm the best trials of a sweep that is done, as its space file asks; once for the same trials.

    If only one trial can be confirmed, it is measured alone: nobody is there to ask for that afterwards.

    Returns:
        The exit code: 0 if nothing is left to do, 130 if it was interrupted.

    Raises:
        SweeperError: As `confirm_sweep`.
    """
    state = read_sweep(folder)
    asked = SweepSpec.from_dict(state.spec, folder).confirm
    if asked is None:
        return 0
    before = state.confirmation
    found, _ = finalists(state, asked.top)
    alone = [found[0].trial] if len(found) == 1 and found[0].trial is not None else []
    chosen = {one.trial for one in choose_finalists(state, asked.top, alone)[0]}
    same = before.get("options", {}).get("episodes") == asked.episodes
    if before.get("complete") and same and chosen == {one["trial"] for one in before["finalists"]}:
        return 0
    console.print()
    if alone and asked.top > 1:
        reason = f"! Only trial {alone[0]} has completed with a checkpoint: it is compared with no other."
        console.print(reason, style="yellow", soft_wrap=True, markup=False)
    complete = confirm_sweep(state, asked, console, address=address, trials=alone)
    return 0 if complete else INTERRUPTED


def compare(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="SWEEP for its best trial, SWEEP:TRIAL, or a checkpoint, e.g. of LeRobot. The first one is "
            "compared with each of the others.",
        ),
    ],
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Play episodes until each has N on the same fresh starts.", metavar="N"),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Mean of episodes to compare by. Default: the objective.", metavar="NAME"),
    ] = None,
    env: Annotated[str | None, typer.Option(help="Simulator, if no trial names one.", metavar="ID")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Folder of the dataset for held-out errors, if no trial names one.", metavar="FOLDER"
        ),
    ] = None,
    address: Address = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Compare trained policies on the same episodes: how large the difference is, and how sure."""
    console = open_console(stderr=as_json)
    found = comparing.find_contenders(policies, sweeps)
    wanted = comparing.metric_of(found, metric)
    result = None
    if episodes is None and dataset is None:
        result = comparing.compare_recorded(found, wanted)
        if result is None and comparing.has_environment(found, env):
            raise UserError(
                f"{', '.join(one.label for one in found)}: no recorded episodes from the same starts. "
                "Play some: --episodes 100."
            )
    if result is None:
        report = partial(console.print, style="dim", soft_wrap=True, markup=False)
        resources = _resources(found)
        with interrupted_by_sigterm(), evaluators(resources, address=address, report=report) as cluster:
            if episodes is not None:
                result = comparing.play(found, wanted, episodes, cluster, env, report)
            else:
                result = comparing.compare_errors(found, cluster, dataset)
    if as_json:
        typer.echo(json.dumps(_plain(result), indent=2))
        return
    print_policies(console, result.policies, result.metric, result.unit, result.purpose, result.paired)
    first, *others = letters(len(result.policies))
    for letter, pair in zip(others, result.pairs, strict=True):
        console.print()
        lines = difference_lines(
            first, letter, pair.difference, pair.interval, pair.comparison, pair.p_value, result.unit,
            len(result.pairs) > 1,
        )  # fmt: skip
        for line in lines:
            console.print(line, soft_wrap=True, markup=False)
    for note in result.notes:
        console.print(f"! {note}", style="yellow", soft_wrap=True, markup=False)
    console.print()
    print_differences(console, result.policies, result.differences)


def _resources(found: list[comparing.Contender]) -> ResourceSpec:
    """The resources of the first trial's sweep; of checkpoints alone, those of a default trial."""
    records = next((one.records for one in found if one.records is not None), None)
    if records is None:
        return ResourceSpec()
    return ResourceSpec(**read_sweep(records.parent.parent.parent).spec["resources"])


def _plain(result: comparing.PolicyComparison) -> dict[str, object]:
    plain = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name != "pairs"
    }
    pairs = [
        {
            "a": pair.a,
            "b": pair.b,
            "difference": pair.difference,
            "interval": [end if math.isfinite(end) else None for end in pair.interval],
            "interval_method": pair.comparison.interval.method,
            "p_value": pair.p_value,
            "test": pair.comparison.test,
            "a_is_better": pair.comparison.a_is_better,
            "further_episodes": pair.comparison.further_episodes(),
        }
        for pair in result.pairs
    ]
    for one in result.policies:
        one |= {end: None for end in ("low", "high") if not math.isfinite(one[end] or 0.0)}
    return {**plain, "notes": list(result.notes), "pairs": pairs}
