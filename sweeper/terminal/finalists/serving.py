"""Print where a policy is served, what it takes, and how the server ended."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from sweeper.terminal.finalists.tuning import setting_text
from sweeper.text import counted
from trainables.interface import RunningServer

__all__ = ["print_ended", "print_serving", "reachable"]

ANYWHERE = ("0.0.0.0", "[::]")
"""Addresses at which a server listens on all networks of a machine; no client can connect to them."""


def print_serving(
    console: Console, label: str, setting: Mapping[str, Any], server: RunningServer, *, show_token: bool
) -> None:
    """Print where a policy is served, and what clients must know.

    Args:
        console: Where to print.
        label: What the user calls the policy.
        setting: The inference setting, as far as it differs from the training's.
        server: The server.
        show_token: Whether the token was made for this server, so that the user does not know it yet.
    """
    console.print(f"Serving {label} at {reachable(server.url)}", style="bold", soft_wrap=True, markup=False)
    for line in description_lines(server.description, setting):
        console.print(f"  {line}", soft_wrap=True, markup=False)
    if show_token:
        console.print(f"  token     {server.token}", soft_wrap=True, markup=False)
    if server.token is not None:
        console.print(
            "! The connection is not encrypted: anyone who can read this network can read the token. "
            "Use a network that you trust, or an SSH tunnel.",
            style="yellow",
            soft_wrap=True,
        )
    if not server.description["batch"]["alike"]:
        console.print(
            f"! In a batch of {server.description['batch']['rows']} rows, the place decides the last "
            "digits of a client's actions. With --batch 1, 16 or 32 it usually does not.",
            style="yellow",
            soft_wrap=True,
        )
    # Shells start the background jobs of a script so that they ignore what Ctrl-C sends.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    end = f"`kill {os.getpid()}`" if ignored else "Ctrl-C"
    console.print(f"{end} ends the server.", style="dim")


def description_lines(description: Mapping[str, Any], setting: Mapping[str, Any]) -> list[str]:
    """What a server describes, line by line."""
    steps = description["n_obs_steps"]
    inputs = ", ".join(f"{one['name']} {one['shape']}" for one in description["inputs"])
    batch, limits = description["batch"], description["limits"]
    together = "one client at a time" if batch["rows"] == 1 else f"up to {batch['rows']} clients at once"
    return [
        f"setting   {setting_text(setting)}",
        f"takes     {inputs}; the last {counted(steps, 'observation')}",
        f"gives     {counted(description['n_action_steps'], 'action')} {description['action']['shape']}",
        f"predicts  {together}, in {batch['chunk_ms']:.1f} ms",
        f"limits    {limits['sessions']} sessions, messages up to {limits['message_bytes'] / 1e6:.1f} MB, "
        f"{limits['idle_s']:g} s without a message",
        "pages     /healthz, /metadata, /metrics",
    ]


def print_ended(console: Console, counts: Mapping[str, int]) -> None:
    """Print what a server did."""
    console.print(
        f"Ended. Sessions: {counts['sessions']}, answers: {counts['answers']}, errors: {counts['errors']}."
    )


def reachable(url: str) -> str:
    """A URL with the name of this machine if the server listens on all its networks."""
    for host in ANYWHERE:
        url = url.replace(f"//{host}:", f"//{socket.gethostname()}:")
    return url
