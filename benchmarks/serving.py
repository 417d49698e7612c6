"""Many robots at one server: ``python -m benchmarks.serving [--clients 50] [--hz 10] [--seconds 120]``.

A server of a tiny policy runs in a process of its own. Each client sends one observation per control period
and waits for its actions; an answer that is not there when the next period begins is a miss. In the second
half of the time other clients do harm: they die in the middle of a message, send garbage, claim a terabyte,
never read, or send nothing. Their effect on the others is the difference of the two rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import struct
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from benchmarks import machine
from trainables.deployment.server.protocol import pack, unpack
from trainables.deployment.server.running import start_server
from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.interface import ServeOptions

STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
SIZES = {STATE: 2, ENVIRONMENT: 16, "action": 2}


def tiny_policy(threads: int) -> object:
    """A policy of Push-T's shapes with random weights: 0.3 million of them, four steps of DDIM."""
    import torch

    from trainables.diffusion_policy.config.sections import PolicyConfig
    from trainables.diffusion_policy.network.policy import build_policy

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kinds = (FeatureType.STATE, FeatureType.ENV, FeatureType.ACTION)
    features = PolicyFeatures.of(
        Feature(name, kind, (size,)) for (name, size), kind in zip(SIZES.items(), kinds, strict=True)
    )
    statistics = {
        feature.name: {"min": np.zeros(feature.shape), "max": np.full(feature.shape, 512.0)}
        for feature in features.all()
    }
    config = PolicyConfig(
        down_dims=(32, 64), diffusion_step_embed_dim=32, sampler="DDIM", num_inference_steps=4
    )
    return build_policy(config, features, statistics).eval()


def run_server(pipe: Connection, batch: int, threads: int) -> None:
    """Serve until the other end of the pipe is closed."""
    policy = tiny_policy(threads)
    with start_server(policy, ServeOptions(port=0, batch=batch, max_sessions=256)) as server:  # type: ignore[arg-type]
        pipe.send((server.url, dict(server.description["batch"])))
        try:
            pipe.recv()
        except EOFError:
            return


@dataclass
class Measured:
    """What the well-behaved clients saw.

    Attributes:
        latencies_ms: From an observation to its actions.
        misses: Answers that came after the next period had begun.
        errors: Messages that were answered with an error, and connections that were lost.
    """

    latencies_ms: list[float] = field(default_factory=list)
    misses: int = 0
    errors: int = 0


async def robot(url: str, number: int, hz: float, until_s: float, measured: Measured) -> None:
    """Act at a fixed rate, as a control loop does."""
    rng = np.random.default_rng(number)
    period_s = 1 / hz
    async with connect(url, compression=None, max_size=None) as connection:
        await connection.recv()
        tick_s = time.perf_counter() + random.Random(number).random() * period_s
        while tick_s < until_s:
            await asyncio.sleep(max(0.0, tick_s - time.perf_counter()))
            observation = {name: rng.uniform(0, 512, SIZES[name]) for name in (STATE, ENVIRONMENT)}
            start_s = time.perf_counter()
            await connection.send(pack(observation))
            answer = await connection.recv()
            late_s = time.perf_counter() - start_s
            measured.latencies_ms.append(1e3 * late_s)
            measured.errors += isinstance(answer, str) or unpack(answer)["actions"].shape[-1] != 2
            measured.misses += late_s > period_s
            # A loop that is late leaves out the periods that have passed.
            tick_s += period_s * max(1, int(np.ceil((time.perf_counter() - tick_s) / period_s)))


async def raw_session(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection after the handshake, on which anything can be sent."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        f"GET / HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def frame(data: bytes, claimed: int | None = None) -> bytes:
    """A binary frame, which may claim another length than it has; the mask is zero."""
    return (
        bytes([0x82, 0xFF]) + struct.pack(">Q", len(data) if claimed is None else claimed) + bytes(4) + data
    )


async def dies(url: str) -> None:
    """Send half a message and reset the connection."""
    _, writer = await raw_session(url)
    writer.write(frame(b"half", claimed=1000))
    await writer.drain()
    writer.transport.abort()


async def sends_garbage(url: str) -> None:
    """Send bytes that are not msgpack, then bytes that are not a WebSocket."""
    reader, writer = await raw_session(url)
    for _ in range(20):
        writer.write(frame(os.urandom(2000)))
    writer.write(os.urandom(2000))
    await writer.drain()
    await reader.read()
    writer.close()


async def claims_too_much(url: str) -> None:
    """Announce a message of a terabyte."""
    reader, writer = await raw_session(url)
    writer.write(frame(b"", claimed=2**40))
    await writer.drain()
    await reader.read()
    writer.close()


async def stalls(url: str) -> None:
    """Ask for actions and never read them."""
    reader, writer = await raw_session(url)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    message = frame(pack({name: np.zeros((32, 2, SIZES[name])) for name in (STATE, ENVIRONMENT)}))
    for _ in range(5):
        writer.write(message)
        await asyncio.sleep(0.2)
    writer.transport.abort()


async def says_nothing(url: str) -> None:
    """Connect, and never send a request."""
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    await asyncio.sleep(1)
    writer.transport.abort()


HARMFUL: tuple[Callable[[str], object], ...] = (dies, sends_garbage, claims_too_much, stalls, says_nothing)


async def harm(url: str, act: Callable[[str], object], until_s: float) -> int:
    """Do harm again and again; returns how often."""
    times = 0
    while time.perf_counter() < until_s:
        with contextlib.suppress(
            ConnectionError, TimeoutError, asyncio.IncompleteReadError
        ):  # it was cut off
            await asyncio.wait_for(act(url), 10)  # type: ignore[arg-type]
        times += 1
        await asyncio.sleep(0.1)
    return times


async def measure(url: str, clients: int, hz: float, seconds: float, harmed: bool) -> tuple[Measured, int]:
    """Let clients act for some time; returns what they saw, and how many harmful connections there were."""
    measured, until_s = Measured(), time.perf_counter() + seconds
    robots = [robot(url, number, hz, until_s, measured) for number in range(clients)]
    harmful = [harm(url, act, until_s) for act in HARMFUL] if harmed else []
    results = await asyncio.gather(*robots, *harmful, return_exceptions=True)
    measured.errors += sum(isinstance(result, BaseException) for result in results[:clients])
    problems = [result for result in results if isinstance(result, BaseException)]
    if problems:
        print("problems:", problems[:3])
    return measured, sum(result for result in results[clients:] if isinstance(result, int))


def metric(url: str, name: str) -> float:
    """A counter of the server."""
    page = urllib.request.urlopen(url.replace("ws://", "http://") + "/metrics").read().decode()
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} "))


def row(measured: Measured, seconds: float, harmful: int) -> dict[str, float]:
    """The figures of one half."""
    latencies_ms = np.array(measured.latencies_ms)
    p50, p95, p99 = np.percentile(latencies_ms, [50, 95, 99])
    return {
        "answers": len(latencies_ms),
        "per s": len(latencies_ms) / seconds,
        "p50 ms": p50,
        "p95 ms": p95,
        "p99 ms": p99,
        "max ms": latencies_ms.max(),
        "misses": measured.misses,
        "errors": measured.errors,
        "harmful": harmful,
    }


def main() -> None:
    """Run both halves and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--hz", type=float, default=10.0, help="control rate of each client")
    parser.add_argument("--seconds", type=float, default=120.0, help="of both halves together")
    parser.add_argument("--batch", type=int, default=32, help="rows of every inference batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch in the server")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=run_server, args=(theirs, arguments.batch, arguments.threads)
    )
    server.start()
    theirs.close()
    url, batch = ours.recv()
    half_s = arguments.seconds / 2
    rows = {}
    for title, harmed in (("calm", False), ("harmed", True)):
        measured, harmful = asyncio.run(measure(url, arguments.clients, arguments.hz, half_s, harmed))
        rows[title] = row(measured, half_s, harmful)
    rows_per_batch = metric(url, "sweeper_serve_batch_rows_sum") / metric(
        url, "sweeper_serve_batch_rows_count"
    )
    ours.close()
    server.join()
    show(arguments, batch, rows, rows_per_batch)


def show(
    arguments: argparse.Namespace, batch: dict[str, float], rows: dict[str, dict[str, float]], filled: float
) -> None:
    """Print the table, and write JSON where asked."""
    console = Console()
    described = machine.describe() | {"load": " ".join(f"{load:.1f}" for load in os.getloadavg())}
    console.print(", ".join(f"{name} {value}" for name, value in described.items()))
    table = Table(
        title=f"{arguments.clients} clients at {arguments.hz:g} Hz; batches of {batch['rows']} rows "
        f"({batch['chunk_ms']:.1f} ms alone), {filled:.1f} of them asked for",
        title_justify="left",
    )
    table.add_column("half")
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right")
    for title, values in rows.items():
        table.add_row(
            title, *(f"{value:,.1f}" if "ms" in name else f"{value:,.0f}" for name, value in values.items())
        )
    console.print(table)
    if arguments.json is not None:
        found = {"machine": described, "batch": batch, "rows_asked_for": filled, "halves": rows}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
