"""What the head of a cluster needs for each trial that runs: memory, and work of the processor.

``python -m benchmarks.at_once [--trials N ...] [--json FILE]``; several minutes. A cluster of a head that
trains nothing and of two machines is simulated on this machine: Ray runs once for each, and believes that
the machines have as many CPUs as trials need. A real sweep trains all its trials at once; each of them takes
a small step twice a second and reports it. When all have reported, the processes of the head are weighed and
their work is counted for some seconds. This is done with the drivers of the trials on the head, and with
those on the machines that train.

Memory is proportional (PSS): what processes share is divided among them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.launched import failed, start_sweep, sweep_folder
from benchmarks.overhead import LOSS, PAUSE_S, STEPS
from sweeper.machines.cluster import DRIVER
from sweeper.trial.exchange import REPORTS

PLACES = ("head", "machines")
TRIALS = (2, 8)
MACHINES = 2
WATCHED_S = 20.0
START_S = 900.0
STORE_BYTES = 80 * 1024**2
KINDS = ("driver of the sweep", "Ray's server", "raylet", "drivers of trials", "others")


@contextlib.contextmanager
def cluster(place: str, trials: int) -> Iterator[Any]:
    """A simulated cluster whose machines train so many trials; their drivers run in ``place``."""
    from ray.cluster_utils import Cluster

    each = math.ceil(trials / MACHINES)
    drivers = {name: {DRIVER: count} for name, count in (("head", trials), ("machines", each))}
    common = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    head = {**common, "num_cpus": 0, "resources": drivers["head"] if place == "head" else {}}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(MACHINES):
            resources = drivers["machines"] if place == "machines" else {}
            made.add_node(**common, num_cpus=each, resources=resources)
        yield made
    finally:
        made.shutdown()


def run(place: str, trials: int) -> dict[str, Any]:
    """Train trials at once, and weigh the head."""
    with tempfile.TemporaryDirectory(prefix="at-once-") as temporary, cluster(place, trials) as made:
        folder = Path(temporary)
        space = _space(trials)
        sweep = start_sweep(folder, space, "--address", str(made.address))
        try:
            _wait_for_reports(sweep_folder(folder, space), trials, sweep, folder)
            return _weigh(made, sweep.pid, place, trials)
        finally:
            sweep.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                sweep.wait(60.0)
            sweep.kill()
            sweep.wait()


def _space(trials: int) -> dict[str, Any]:
    return {
        "name": "instant",
        "trainable": "benchmarks.overhead:TRAINABLE",
        "config": {PAUSE_S: 0.5, STEPS: 100_000},
        "parameters": {"seed": {"values": list(range(trials))}},
        "metric": {"name": LOSS, "goal": "minimize"},
        "search": {"method": "grid"},
        "budget": {"trials": trials},
        "resources": {"workers": 1, "gpu_per_worker": 0, "cpu_per_worker": 1},
    }


def _wait_for_reports(sweep: Path, trials: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + START_S
    while len(list(sweep.glob(f"trials/*/{REPORTS}"))) < trials:
        if process.poll() is not None or time.monotonic() > until:
            raise failed(folder, f"{trials} trials did not start")
        time.sleep(1.0)


def _weigh(made: Any, sweep: int, place: str, trials: int) -> dict[str, Any]:
    pids = {kind: [one.process.pid for one in some] for kind, some in made.head_node.all_processes.items()}
    memory, before = dict.fromkeys(KINDS, 0.0), _work(sweep, pids)
    time.sleep(WATCHED_S)
    after = _work(sweep, pids)
    work = dict.fromkeys(KINDS, 0.0)
    for process, kind in _head(sweep, pids):
        with contextlib.suppress(psutil.Error):
            memory[kind] += process.memory_full_info().pss / 1e6
            work[kind] += (after[process.pid] - before.get(process.pid, 0.0)) / WATCHED_S
    return {
        "drivers of trials on": place,
        "trials": trials,
        **{f"{kind}, MB": held for kind, held in memory.items()},
        "the head, MB": sum(memory.values()),
        "the head, CPUs": sum(work.values()),
        "driver of the sweep, CPUs": work["driver of the sweep"],
    }


def _head(sweep: int, pids: Mapping[str, list[int]]) -> Iterator[tuple[psutil.Process, str]]:
    """The processes of the head, and the kind of each."""
    yield psutil.Process(sweep), "driver of the sweep"
    for name, some in pids.items():
        for pid in some:
            kind = {"gcs_server": "Ray's server", "raylet": "raylet"}.get(name, "others")
            process = psutil.Process(pid)
            yield process, kind
            for child in process.children(recursive=True):
                driver = "ImplicitFunc" in " ".join(child.cmdline())
                yield child, "drivers of trials" if driver else "others"


def _work(sweep: int, pids: Mapping[str, list[int]]) -> dict[int, float]:
    found = {}
    for process, _ in _head(sweep, pids):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def main() -> None:
    """Run it, show a table, and write JSON if asked to."""
    from benchmarks import machine

    parser = argparse.ArgumentParser(prog="python -m benchmarks.at_once", description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=TRIALS, help="trials at once")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES, help="where drivers run")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # the simulated cluster asks for no token
    os.environ.pop("RAY_ADDRESS", None)
    console = Console()
    about = machine.describe() | machine.versions("ray", "optuna", "mlflow")
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    rows = []
    for place in arguments.places:
        for trials in arguments.trials:
            console.print(f"[dim]{trials} trials, drivers on {place} …[/dim]")
            rows.append(run(place, trials))
            console.print(rows[-1])
    table = Table(title="the head of a cluster", title_justify="left", show_header=False)
    for name in rows[0]:
        values = [row[name] for row in rows]
        table.add_row(name, *(f"{one:,.2f}" if isinstance(one, float) else str(one) for one in values))
    console.print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
