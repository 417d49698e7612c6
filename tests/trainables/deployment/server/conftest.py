"""A small policy, served."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "diffusion_policy"))  # small_policy

from small_policy import small_policy

from trainables.deployment.client import RemotePolicy
from trainables.deployment.server.running import RunningServer, start_server
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.interface import ServeOptions

ROWS = 16
"""Rows of a batch in which the place does not matter."""
PATIENCE_S = 200.0
"""How long a server waits for a client, and a client for a server."""


@pytest.fixture(scope="session")
def policy() -> DiffusionPolicy:
    """Sees three numbers, twice; acts with two, four times."""
    return small_policy(noise_scheduler_type="DDIM", num_inference_steps=2).eval()


@pytest.fixture
def served(
    policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RunningServer]]:
    """Serve the policy at any free port; every server ends with the test.

    The servers have much patience, as the clients of a busy machine may pause at any moment.
    """
    for limit in ("OPEN_S", "SEND_S", "DRAIN_S", "PING_S"):
        monkeypatch.setattr(f"trainables.deployment.server.server.{limit}", PATIENCE_S)
    running: list[RunningServer] = []

    def serve(served: Any = policy, report: Callable[[str], object] = str, **options: Any) -> RunningServer:
        chosen = ServeOptions(**{"port": 0, "batch": ROWS, **options})
        running.append(start_server(served, chosen, None, report))
        return running[-1]

    yield serve
    for server in running:
        server.close()


@pytest.fixture
def connected() -> Iterator[Callable[..., RemotePolicy]]:
    """Connect to a server; every client ends with the test."""
    clients: list[RemotePolicy] = []

    def connect(server: RunningServer, **options: Any) -> RemotePolicy:
        clients.append(RemotePolicy(server.url, **{"timeout_s": PATIENCE_S, **options}))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
