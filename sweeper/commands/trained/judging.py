"""The command that compares trained policies on the real robot."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sweeper.commands.options import Json, Sweep, SweepsFolder, open_console
from sweeper.commands.trained.delivery import deliver
from sweeper.driver.signals import interrupted_by_sigterm
from sweeper.errors import INTERRUPTED, UserError
from sweeper.finalists.judging.addresses import Address, address_of
from sweeper.finalists.judging.dialogue import converse
from sweeper.finalists.judging.judging import Judgement, JudgeOptions, Judging
from sweeper.finalists.judging.others import check_alike, check_unchanged, other_policies
from sweeper.finalists.judging.servers import Served, serving
from sweeper.finalists.judging.session import (
    JudgedPolicy,
    Session,
    last_session,
    named_source,
    new_session,
    wanted_policies,
)
from sweeper.finalists.judging.sheet import enter_sheet, read_sheet, session_of, sheet_text
from sweeper.finalists.judging.web import JudgePage
from sweeper.finalists.recording import Recording, recording
from sweeper.machines.machine import usable_cache
from sweeper.publication.unnamed import write_unnamed_policies
from sweeper.records.events import EventKind, winner_of
from sweeper.records.sweep_state import SweepState, find_sweep, read_sweep
from sweeper.report.remake import remake_report
from sweeper.terminal.finalists.judgement import (
    print_bundles,
    print_judgement,
    print_recorded,
    print_session,
)

__all__ = ["judge"]


TOKEN = "SWEEPER_JUDGE_TOKEN"


def judge(
    sweep: Sweep,
    top: Annotated[
        int, typer.Option(min=0, help="Judge the best N trials; 0: only those of --also.", metavar="N")
    ] = 3,
    trial: Annotated[
        list[int] | None, typer.Option(help="Judge this trial; may be repeated.", metavar="NUMBER")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge this policy, too: a checkpoint, e.g. of LeRobot, a bundle, or SWEEP[:TRIAL] of "
            "another sweep; may be repeated.",
            metavar="POLICY",
        ),
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, max=9999, help="Most starts; more later continue the session.", metavar="N")
    ] = 30,
    epsilon: Annotated[
        float,
        typer.Option(
            min=0.0, help="Stop if the leader is at most this much worse than the best.", metavar="X"
        ),
    ] = 0.0,
    serve: Annotated[
        str,
        typer.Option(
            help="Where to serve the first policy; the others have the next ports. `none`: they run "
            "elsewhere, e.g. from exports.",
            metavar="HOST:PORT",
        ),
    ] = "127.0.0.1:8000",
    bundles: Annotated[
        Path | None,
        typer.Option(
            help="Judge on another machine: write bundles of the policies under neutral names, and a sheet "
            "to fill in.",
            metavar="FOLDER",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Record the outcomes of such a sheet: CSV, or JSON.", metavar="FILE"),
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Ask on a web page instead of in the terminal.")] = False,
    web_address: Annotated[
        str | None,
        typer.Option(
            help="Where to serve that page, which implies --web. 0.0.0.0:8080: also for a phone in the same "
            "network. Default: 127.0.0.1:8080.",
            metavar="HOST:PORT",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN,
            show_envvar=True,
            help="What the link of the page contains beyond this machine. Default: a random one.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Decides the names and the order of a new session. Default: a random one."),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start another session, though there is one of the same policies.")
    ] = False,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Compare the best trials on the real robot: you judge each episode without knowing the policy."""
    console = open_console(stderr=as_json)
    on_page = web or web_address is not None
    elsewhere = {"--web": on_page, "--bundles": bundles is not None, "--record": record is not None}
    if sum(elsewhere.values()) > 1:
        raise UserError(f"{' and '.join(name for name, given in elsewhere.items() if given)}: choose one.")
    state = read_sweep(find_sweep(sweep, sweeps))
    if record is not None:
        asked = {"--trial": bool(trial), "--also": bool(also), "--seed": seed is not None, "--new": new}
        _record_sheet(state, record, epsilon, asked, console, as_json)
        return
    page_at = address_of(web_address or "127.0.0.1:8080", "--web-address")
    serve_at = None if serve == "none" else address_of(serve, "--serve")
    wanted = _wanted(state, top, trial or (), also or (), sweeps, console)
    with recording(state) as opened:
        session = _session(state.folder, wanted, new, seed, console)
        judging = Judging(session, JudgeOptions(episodes, epsilon))
        if bundles is not None:
            _write_bundles(judging, state.name, bundles, console, as_json)
            return
        page = JudgePage(judging, state.name, page_at, token, say=partial(_show, console))
        with _ended_by_interrupt(console), _serving(judging, serve_at, console) as served:
            print_session(console, session.letters, episodes, len(judging.history()), served)
            if on_page:
                page.servers = served
                _ask_on_page(page, console)
            else:
                converse(judging, console.input, partial(_show, console))
        result = judging.result()
        if result is not None:
            _record(opened, judging, result)
    _show_result(state, result, console, as_json)
    raise typer.Exit(0 if result is not None and result.complete else INTERRUPTED)


def _wanted(
    state: SweepState,
    top: int,
    trials: Sequence[int],
    also: Sequence[str],
    sweeps: Path,
    console: Console,
) -> list[JudgedPolicy]:
    """The policies that the user asked for; their letters are still empty."""
    if not top and not trials and not also:
        raise UserError("--top 0: no policy is left to judge. Name some with --also, or more trials.")
    wanted, missing = wanted_policies(state, top, trials) if top or trials else ([], [])
    for reason in missing:
        console.print(f"! {reason}", style="yellow", soft_wrap=True, markup=False)
    return [*wanted, *other_policies(also, state.folder, sweeps, wanted)] if also else wanted


def _show_result(state: SweepState, result: Judgement | None, console: Console, as_json: bool) -> None:
    """Print a result that was recorded, and pass it on to the report and the trackers."""
    if result is None:
        console.print(
            "No start was judged with every policy yet, so there is no result. The same command continues.",
            soft_wrap=True,
        )
        return
    _, fault = remake_report(state.folder)
    if fault:
        console.print(f"! The report was not written: {fault}.", style="yellow", soft_wrap=True, markup=False)
    deliver(state.folder, console)
    print_judgement(console, state.judgement, state.name)
    if as_json:
        typer.echo(json.dumps(dict(state.judgement), indent=2))


def _write_bundles(judging: Judging, name: str, folder: Path, console: Console, as_json: bool) -> None:
    """Write what another machine needs for the episodes that are left."""
    session = judging.session
    if judging.question() is None:
        raise UserError(
            f"{name}: nothing is left to judge in session {session.number}. Continue it with a larger "
            "--episodes, or start another one: --new."
        )
    policies = {letter: named_source(session.folder, session.policy(letter)) for letter in judging.left()}
    with console.status("") as status:
        made = write_unnamed_policies(policies, sheet_text(judging), name, folder, status.update)
    if as_json:
        values = {"session": session.number, "bundles": [dataclasses.asdict(one) for one in made]}
        typer.echo(json.dumps(values, indent=2))
    else:
        print_bundles(console, name, folder, made)


def _record_sheet(
    state: SweepState,
    file: Path,
    epsilon: float,
    asked: Mapping[str, bool],
    console: Console,
    as_json: bool,
) -> None:
    """Record the outcomes of a sheet in the session that it was written for."""
    wrong = [name for name, given in asked.items() if given]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: the session is that of the sheet. Leave it out with --record.")
    with recording(state) as opened:
        sheet = read_sheet(file)
        judging = Judging(session_of(sheet, state.folder), JudgeOptions(sheet.starts, epsilon))
        before = len(judging.history())
        given = enter_sheet(judging, sheet)
        print_recorded(console, file, before, len(given), judging.question())
        result = judging.result()
        if result is not None:
            _record(opened, judging, result)
    _show_result(state, result, console, as_json)


def _session(
    folder: Path,
    wanted: Sequence[JudgedPolicy],
    new: bool,
    seed: int | None,
    console: Console,
) -> Session:
    """The last session if it has these policies, or else a new one."""
    last = None if new else last_session(folder)
    if last is not None:
        check_unchanged(last, wanted)
    if last is None or {one.identity for one in last.policies} != {one.identity for one in wanted}:
        if any(one.trial is None for one in wanted):
            with console.status("") as status:
                check_alike(folder, wanted, usable_cache(), status.update)
        if last is not None:
            before = ", ".join(sorted(f"{one.words} at step {one.step}" for one in last.policies))
            _show(console, f"A new session starts, because the last one was about other policies: {before}.")
        return new_session(folder, wanted, seed)
    if seed not in (None, last.seed):
        raise UserError(
            f"--seed {seed}: session {last.number} of these policies has the seed {last.seed}, which decides "
            "its order. Leave --seed out to continue it, or start another one: --new."
        )
    return last


@contextlib.contextmanager
def _ended_by_interrupt(console: Console) -> Iterator[None]:
    """End the questions at Ctrl-C or SIGTERM; what was answered is on the disk."""
    with interrupted_by_sigterm():
        try:
            yield
        except KeyboardInterrupt:
            console.print("\nInterrupted. The same command continues the session.", style="bold magenta")


@contextlib.contextmanager
def _serving(judging: Judging, at: Address | None, console: Console) -> Iterator[list[Served]]:
    """Serve the policies that are left, if the user wants that and there are questions."""
    if at is None or judging.question() is None:
        yield []
        return
    console.print("Starting the servers of the policies …", style="dim")
    with serving(judging.session, at, judging.left()) as served:
        yield served


def _ask_on_page(page: JudgePage, console: Console) -> None:
    with page:
        console.print(f"Judge on this page: {page.link}", soft_wrap=True, markup=False, style="bold")
        if not page.address.is_local:
            text = "Everyone with the link can answer. Use it in a network that you trust."
            console.print(text, style="dim", soft_wrap=True)
        page.wait()


def _record(record: Recording, judging: Judging, result: Judgement) -> None:
    """Record a result in the journal, unless it is there already."""
    fields = {
        "finalists": result.found,
        "winner": winner_of(result.found[0]),
        "verdict": result.verdict,
        "complete": result.complete,
        "options": {
            **dataclasses.asdict(judging.options),
            "session": result.session,
            "seed": result.seed,
            "starts": result.starts,
            "further": result.further,
        },
    }
    known = record.sweep.judgement
    if any(known.get(name) != value for name, value in fields.items()):
        record.append(EventKind.JUDGED, **fields)


def _show(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
