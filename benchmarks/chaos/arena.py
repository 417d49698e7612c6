"""Where sweeps run that are to be disturbed: their drivers, their processes, and clusters of their own.

Everything that is started carries a mark in its environment and belongs to a session of ours, so that what
is left behind is found, and nothing else is ever touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.chaos.trainable import PLACE
from sweeper.layout import JOURNAL, LOG, trial_folder
from sweeper.machines.ssh import unused_port
from sweeper.records.events import Event
from sweeper.records.journal import read_journal
from sweeper.trial.exchange import ATTEMPT, REPORTS, TIME

__all__ = [
    "PATIENCE_S",
    "ROOT",
    "Arena",
    "Driver",
    "RayCluster",
    "SweepFolder",
    "eventually",
    "interrupt",
]

ROOT = Path(__file__).parents[2]
MARK = "SWEEPER_CHAOS"
PATIENCE_S = 300.0
"""How long anything may take on a machine that is busy before it counts as stuck."""


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE_S, every: float = 0.05) -> bool:
    """Wait until something becomes true; whether it did."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(every)
    return True


@dataclass
class SweepFolder:
    """A sweep of walks, seen from outside.

    Attributes:
        path: Its folder.
        steps: Steps of a whole walk.
        seeds: The seed of each walk.
        uri: Where MLflow keeps its runs; None for its own database.
    """

    path: Path
    steps: int
    seeds: tuple[int, ...]
    uri: str | None = None
    _events: list[Event] = field(default_factory=list)
    _offset: int = 0

    def events(self) -> list[Event]:
        """The journal; only what is new of it is read."""
        journal = self.path / JOURNAL
        if self._offset > (journal.stat().st_size if journal.exists() else 0):
            self._events, self._offset = [], 0  # a folder of which nothing came was taken away
        chunk = read_journal(journal, self._offset)
        self._events, self._offset = [*self._events, *chunk.events], chunk.offset
        return self._events

    def begun(self) -> bool:
        """Whether a driver has taken the sweep up."""
        return any(event["event"] == "sweep_start" for event in self.events())

    def ended(self) -> bool:
        """Whether every trial came to an end of its own."""
        ends = {event["trial"] for event in self.events() if _own_end(event)}
        return len(ends) >= len(self.seeds)

    def closed(self) -> bool:
        """Whether a driver has said that nothing is left to do."""
        ends = [event for event in self.events() if event["event"] in ("sweep_start", "sweep_end")]
        return bool(ends and ends[-1]["event"] == "sweep_end" and ends[-1]["status"] == "done")

    def running(self) -> list[int]:
        """Trials that run, as the journal says."""
        running: set[int] = set()
        for event in self.events():
            if event["event"] == "trial_start":
                running.add(event["trial"])
            elif event["event"] in ("trial_end", "trial_retry"):
                running.discard(event["trial"])
            elif event["event"] in ("sweep_start", "sweep_end"):
                running.clear()
        return sorted(running)

    def reports_since(self, since: float, trial: int) -> list[float]:
        """When the worker of a trial reported after a moment, seconds since 1970."""
        found = []
        with contextlib.suppress(OSError):
            for line in (trial_folder(self.path, trial) / REPORTS).read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    when = float(json.loads(line)[TIME])
                    if when > since:
                        found.append(when)
        return found

    def went_on(self, since: float, trial: int) -> float | None:
        """When a trial that was cut off first reported again; None where it has not yet.

        A worker whose driver was killed may live for some seconds: only a later attempt counts.
        """
        starts = [
            event["time"]
            for event in self.events()
            if event["event"] == "trial_start" and event["trial"] == trial and event["time"] > since
        ]
        again = self.reports_since(starts[0], trial) if starts else []
        return again[0] if again else None

    def worker(self, trial: int) -> psutil.Process | None:
        """The process that trains in a trial's folder: it prints to the log there."""
        log = trial_folder(self.path, trial) / LOG
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if Path(f"/proc/{process.pid}/fd/1").readlink() == log and "Train" in process.name():
                    return process
        return None

    def trial_driver(self, trial: int) -> psutil.Process | None:
        """The process of Ray's in which a trial waits for its workers."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            pid = json.loads((trial_folder(self.path, trial) / ATTEMPT).read_text())["pid"]
            process = psutil.Process(pid)
            return process if "Tune" in process.name() or "Implicit" in process.name() else None
        return None


def _own_end(event: Event) -> bool:
    return bool(event["event"] == "trial_end" and event["status"] != "interrupted")


class Driver:
    """A driver of a sweep: ``sweeper launch`` or ``sweeper resume`` in a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, mark: str) -> None:
        self.process = process
        self.log = log
        self.started = time.time()
        self._mark = mark

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def ends_within(self, seconds: float, every: float = 0.05) -> bool:
        """Wait for its end; whether it came."""
        return eventually(lambda: not self.alive, seconds, every)

    def kill(self) -> None:
        """Cut it off without a word."""
        self.process.kill()
        self.process.wait()

    def left(self) -> list[psutil.Process]:
        """Processes that it started, and theirs, that still run."""
        return processes_of(self.process.pid, self._mark)

    def cleaned(self, seconds: float = 60.0) -> float | None:
        """Seconds until nothing of it was left; None where something still is."""
        since = time.monotonic()
        return time.monotonic() - since if eventually(lambda: not self.left(), seconds, 0.1) else None

    def printed(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace")


def processes_of(session: int, mark: str) -> list[psutil.Process]:
    """The processes of a session, and those that carry a mark, wherever they went."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            ours = os.getsid(process.pid) == session
            if not ours:
                ours = wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@dataclass
class Arena:
    """A folder for sweeps and whatever they need, and all processes that are started for them.

    Attributes:
        folder: The folder; short, since sockets lie in it.
        cpus: CPUs of every Ray that is started.
        within: What drivers of sweeps are started by: a command that becomes the one that follows it.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="chaos-")))
    cpus: int = 2
    within: tuple[str, ...] = ()
    _sessions: list[tuple[int, str]] = field(default_factory=list)
    _count: int = 0

    @property
    def sweeps(self) -> Path:
        """Where the sweeps lie."""
        return self.folder / "sweeps"

    def sweep(
        self,
        trials: int,
        steps: int = 40,
        *,
        uri: str | None = None,
        config: Mapping[str, Any] | None = None,
        sections: Mapping[str, Any] | None = None,
        sweeps: Path | None = None,
    ) -> SweepFolder:
        """Write the space file of a sweep of walks.

        Args:
            trials: How many walks.
            steps: Steps of each.
            uri: Where MLflow keeps the runs.
            config: More fixed values.
            sections: More of the space file.
            sweeps: Where the sweep's folder lies; None for the arena's.
        """
        self._count += 1
        name = f"sweep-{self._count}"
        seeds = tuple(range(trials))
        space = {
            "name": name,
            "trainable": "benchmarks.chaos.trainable:TRAINABLE",
            "config": {"train.steps": steps, **(config or {})},
            "parameters": {"seed": {"values": list(seeds)}},
            "metric": {"name": PLACE, "goal": "minimize"},
            "search": {"method": "grid"},
            "resources": {"workers": 1, "gpu_per_worker": 0, "cpu_per_worker": 1, "max_concurrent": 2},
            "failures": {"retries": 100, "preemptions": 100},
            "tracking": {"uri": uri, "experiment": "chaos"},
            **(sections or {}),
        }
        self.sweeps.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
        return SweepFolder((sweeps or self.sweeps) / name, steps, seeds, uri)

    def drive(self, sweep: SweepFolder, address: str | None = None, resume: bool | None = None) -> Driver:
        """Start a driver that launches the sweep, or goes on with it where one has begun."""
        begun = sweep.begun() if resume is None else resume
        name = sweep.path.name
        what = ["resume", name] if begun else ["launch", str(self.folder / f"{name}.yaml")]
        command = [*what, "--sweeps", str(sweep.path.parent)]
        if address is not None:
            command += ["--address", address]
        process, log, mark = self.start("driver", *self.within, sys.executable, "-m", "sweeper.cli", *command)
        return Driver(process, log, mark)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of sweeper's and wait for it."""
        command = [sys.executable, "-m", "sweeper.cli", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment(), capture_output=True, text=True)

    def environment(self) -> dict[str, str]:
        """The environment of everything that is started."""
        cleared = {"RAY_ADDRESS", "MLFLOW_TRACKING_URI", "PYTHONWARNINGS"}
        return {
            **{name: value for name, value in os.environ.items() if name not in cleared},
            "SWEEPER_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(self.folder / "r"),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A token of the user's is for clusters of theirs: heads would ask for it, machines not bring it.
            "RAY_AUTH_MODE": "disabled",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def start(self, kind: str, *command: str) -> tuple[subprocess.Popen[bytes], Path, str]:
        """Start a process in a session of its own, with a mark that its children inherit.

        Returns:
            The process, the file that it prints to, and the mark.
        """
        (self.folder / "r").mkdir(exist_ok=True)
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{kind}-{len(self._sessions)}.log"
        mark = uuid.uuid4().hex
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment() | {MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )
        self._sessions.append((process.pid, mark))
        return process, log, mark

    def close(self) -> None:
        """End whatever is left, and take the folder away."""
        for session, mark in self._sessions:
            for process in processes_of(session, mark):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _hear_interrupts() -> None:
    """What a shell starts in the background is deaf to Ctrl-C, and so would be its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class RayCluster:
    """A cluster on this machine: a head with CPUs, and machines that are processes of their own.

    Args:
        arena: Who starts it.
        cpus: CPUs of the head.
    """

    def __init__(self, arena: Arena, cpus: int) -> None:
        self._arena = arena
        self._port = unused_port()
        self.address = f"127.0.0.1:{self._port}"
        for _ in range(3):  # a busy machine may take longer than Ray's own patience
            self.head = self._start("--head", f"--port={self._port}", "--include-dashboard=false", cpus=cpus)
            if _is_up(self.head):
                return
        raise RuntimeError(f"no Ray cluster starts here: {self.head[1].read_text()[-2000:]}")

    def add_machine(self, cpus: int = 1) -> tuple[subprocess.Popen[bytes], Path, str]:
        """Start a machine that joins the cluster, and wait until it has.

        Raises:
            RuntimeError: Where it does not.
        """
        for _ in range(3):
            machine = self._start(f"--address={self.address}", cpus=cpus)
            if _is_up(machine):
                return machine
        raise RuntimeError(f"no machine joins the cluster: {machine[1].read_text()[-2000:]}")

    def lose_machine(self, machine: tuple[subprocess.Popen[bytes], Path, str]) -> int:
        """Kill a machine with everything on it; how many processes there were."""
        found = processes_of(machine[0].pid, machine[2])
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        machine[0].wait()
        return len(found)

    def give_notice(self, machine: tuple[subprocess.Popen[bytes], Path, str], seconds: int) -> None:
        """Tell Ray that a machine is about to be taken back.

        Raises:
            RuntimeError: Where Ray does not take it.
        """
        lines = [process.cmdline() for process in processes_of(machine[0].pid, machine[2])]
        named = next(word for line in lines for word in line if word.startswith("--node_id="))
        command = [
            *(str(Path(sys.executable).with_name("ray")), "drain-node", f"--address={self.address}"),
            *("--node-id", named.partition("=")[2], "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
            *("--reason-message", "taken back", "--deadline-remaining-seconds", str(seconds)),
        ]
        done = subprocess.run(command, env=self._arena.environment(), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Ray takes no notice: {done.stdout}{done.stderr}")

    def cpus(self) -> tuple[float, float]:
        """CPUs that are free, and all that there are."""
        script = (
            "import json, sys, ray\n"
            f"ray.init({self.address!r}, log_to_driver=False, logging_level='ERROR')\n"
            "print(json.dumps([ray.available_resources().get('CPU', 0.0), ray.cluster_resources()['CPU']]))\n"
        )
        command, environment = [sys.executable, "-c", script], self._arena.environment()
        for _ in range(3):  # Ray's patience with itself is short on a busy machine
            answer = subprocess.run(command, env=environment, capture_output=True, text=True)
            if answer.returncode == 0:
                free, total = json.loads(answer.stdout.strip().splitlines()[-1])
                return free, total
        raise RuntimeError(f"the cluster cannot be asked: {answer.stderr[-2000:]}")

    def left(self, *words: str) -> list[str]:
        """Command lines of its processes that hold one of some words."""
        found = []
        for process in processes_of(self.head[0].pid, self.head[2]):
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(word in line for word in words):
                    found.append(line)
        return found

    def _start(self, *options: str, cpus: int) -> tuple[subprocess.Popen[bytes], Path, str]:
        ports: Sequence[str] = [
            f"--{name}={unused_port()}"
            for name in ("metrics-export-port", "runtime-env-agent-port", "dashboard-agent-listen-port")
        ]
        if "--head" in options:
            ports = [*ports, f"--ray-client-server-port={unused_port()}"]
        store = 80 * 1024**2
        ray = str(Path(sys.executable).with_name("ray"))
        given = [f"--num-cpus={cpus}", f"--object-store-memory={store}", "--disable-usage-stats", "--block"]
        return self._arena.start("ray", ray, "start", *options, *given, *ports)


def _is_up(machine: tuple[subprocess.Popen[bytes], Path, str]) -> bool:
    """Wait until a machine's Ray runs, or has given up; whether it runs."""
    process, log, _ = machine

    def settled() -> bool:
        return "Ray runtime started" in log.read_text() or process.poll() is not None

    return eventually(settled, 120) and process.poll() is None


def interrupt(driver: Driver, number: int = signal.SIGINT) -> None:
    """Ask a driver to end, as Ctrl-C or a service does."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(driver.process.pid, number)
