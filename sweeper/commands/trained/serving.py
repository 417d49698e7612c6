"""The command that serves a policy."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import Json, Policy, SweepsFolder, WhichCheckpoint, open_console, plain_name
from sweeper.commands.trained.settings import chosen_setting, typed_setting
from sweeper.driver.signals import interrupted_by_sigterm
from sweeper.finalists.candidates import find_candidate
from sweeper.finalists.serving import serve_policy
from sweeper.machines.machine import usable_cache
from sweeper.terminal.faults import checking
from sweeper.terminal.finalists.serving import print_ended, print_serving, reachable
from trainables.interface import ServeOptions

__all__ = ["serve"]

TOKEN = "SWEEPER_SERVE_TOKEN"


def serve(
    policy: Policy,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at; 0.0.0.0 for all networks of this machine. Clients on other machines "
            "need a token."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN,
            show_envvar=True,
            help="What clients must send. Default: a random one, which is printed; none at 127.0.0.1.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A field of the inference setting, e.g. policy.num_inference_steps=4. May be repeated. "
            "Default: what was chosen for the trial, or else as in the training.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=512,
            help="Rows of every inference batch: how many clients are answered at once. Default: the most "
            "that take 20 ms, which is measured; often 1 with a camera on a CPU.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads that a prediction uses on a CPU; 0 for all cores.")
    ] = 0,
    sessions: Annotated[int, typer.Option(min=1, help="Most clients at once.")] = 64,
    idle: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="End a session without messages after this time.")
    ] = 300.0,
    message_mb: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="MB", help="Largest message. Default: what observations need."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What clients see as the policy's name. Default: SWEEP:TRIAL, or the file."),
    ] = None,
    checkpoint: WhichCheckpoint = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Serve a policy to robots over a WebSocket until Ctrl-C: actions for observations."""
    found = find_candidate(policy, sweeps, which=checkpoint)
    candidate = dataclasses.replace(
        found, setting=chosen_setting(found) | typed_setting(found, setting or [])
    )
    options = ServeOptions(
        host=host,
        port=port,
        token=token,
        # Clients need not know where a checkpoint is on this machine.
        name=name or (plain_name(candidate.label) if candidate.sweep is None else candidate.label),
        max_sessions=sessions,
        max_message_b=None if message_mb is None else round(message_mb * 1e6),
        idle_s=idle,
        batch=batch,
    )
    console = open_console(stderr=as_json)
    report = partial(console.print, style="dim", soft_wrap=True, markup=False)
    # However this process is ended, the clients get the answers that are being computed.
    with interrupted_by_sigterm(), contextlib.suppress(KeyboardInterrupt):
        with checking(console, candidate.label, "Opening") as progress:
            server = serve_policy(
                candidate, options, usable_cache(), threads=threads, progress=progress, report=report
            )
        try:
            with server:
                if as_json:
                    where = {"url": reachable(server.url), "token": server.token}
                    typer.echo(json.dumps({**server.description, **where}))
                else:
                    made = token is None and server.token is not None
                    print_serving(console, candidate.label, candidate.setting, server, show_token=made)
                server.wait()
        finally:
            print_ended(console, server.counts)
