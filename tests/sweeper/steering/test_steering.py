"""Sweeps steered from another process: real drivers, a real cluster of one CPU, the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sweeper.layout import JOURNAL
from sweeper.machines.ssh import unused_port
from sweeper.records.journal import read_journal
from sweeper.records.sweep_state import read_sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = """\
name: {name}
trainable: small_trainable:TRAINABLE
config: {{train.steps: {steps}, train.log_every: 5, pause_s: {pause_s}}}
parameters:
  optimizer.lr: {{min: 0.001, max: 0.4, log: true}}
metric: {{name: train/loss, goal: minimize}}
search: {{method: random, seed: 1}}
budget: {{trials: {trials}}}
resources: {{workers: 1, gpu_per_worker: 0, cpu_per_worker: 1}}
"""

PATIENCE_S = 400
"""Enough for a busy machine. A passing test does not wait this long."""


class Place:
    """A folder with sweeps, a cluster, and commands that use both."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.sweeps = folder / "sweeps"
        self.started: list[subprocess.Popen[str]] = []
        self.head = 0
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "SWEEPER_CACHE": str(folder / "cache"),
            "COLUMNS": "80",
        }
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE"):
            self.environment.pop(name, None)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `sweeper` as a process that keeps running, as a driver does."""
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def launch(
        self, name: str, *, trials: int, steps: int = 20, pause_s: float = 0.0
    ) -> subprocess.Popen[str]:
        space = self.folder / f"{name}.yaml"
        space.write_text(SPACE.format(name=name, trials=trials, steps=steps, pause_s=pause_s))
        return self.start("launch", str(space), "--address", self.address)

    def run(self, *arguments: str, elsewhere: bool = False) -> tuple[int, str]:
        """Run a command: its exit code and output. ``elsewhere`` runs it in a folder without sweeps."""
        folder = self.folder
        if elsewhere:
            folder = self.folder / "elsewhere"
            folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "sweeper.cli", *arguments],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    def status(self, name: str, *options: str, elsewhere: bool = False) -> Any:
        code, text = self.run("status", name, *options, "--json", elsewhere=elsewhere)
        assert code == 0, text
        return json.loads(text)

    def events(self, name: str) -> list[Any]:
        return read_journal(self.sweeps / name / JOURNAL).events

    def trains(self) -> bool:
        """Whether a process of the cluster trains a trial."""
        for process in psutil.Process(self.head).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if " ".join(process.cmdline()).startswith(("ray::ImplicitFunc.train", "ray::RayTrainWorker")):
                    return True
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster of one CPU that the sweeps did not start, on its own ports."""
    folder = tmp_path_factory.mktemp("steering")
    address = f"127.0.0.1:{unused_port()}"
    made = Place(folder, address)
    with (folder / "ray.log").open("w") as log, tempfile.TemporaryDirectory(prefix="ray-") as sockets:
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address", "127.0.0.1", "--port", address.rpartition(":")[2]),
                *(
                    "--num-cpus",
                    "1",
                    "--include-dashboard",
                    "false",
                    "--ray-client-server-port",
                    str(unused_port()),
                ),
                *("--object-store-memory", "100000000", "--disable-usage-stats"),
                # This folder holds sockets, whose paths must be short.
                *("--temp-dir", sockets),
            ],
            env=made.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait(lambda: "Ray runtime started" in (folder / "ray.log").read_text() or head.poll() is not None)
            assert head.poll() is None, (folder / "ray.log").read_text()
            made.head = head.pid
            yield made
        finally:
            below: list[psutil.Process] = []
            if head.poll() is None:
                below = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
            for driver in made.started:
                if driver.poll() is None:
                    driver.kill()
                    driver.communicate()
            for process in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
            for process in psutil.wait_procs(below, timeout=10)[1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(below, timeout=5)
            head.wait()


def wait(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)


def ended(driver: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = driver.communicate(timeout=PATIENCE_S)
    return driver.returncode, output


def steps_of(events: list[Any], trial: int) -> list[int]:
    return [event["step"] for event in events if event["event"] == "report" and event["trial"] == trial]


def test_two_sweeps_that_each_want_the_whole_cluster_take_turns(place: Place) -> None:
    first = place.launch("one", trials=1, steps=1_000_000, pause_s=0.05)
    wait(lambda: bool(steps_of(place.events("one"), 0)))
    second = place.launch("two", trials=2)
    # It waits for the CPU that the first uses, and gets it as soon as that one is free.
    wait(lambda: any(event["event"] == "trial_wait" for event in place.events("two")))
    assert not steps_of(place.events("two"), 0)
    assert place.run("stop", "one", "0")[0] == 0
    assert [ended(driver)[0] for driver in (first, second)] == [0, 0]

    events = place.events("two")
    assert [e["status"] for e in events if e["event"] == "trial_end"] == ["completed", "completed"]
    assert {e["needs"] for e in events if e["event"] == "trial_wait" and e["needs"]} == {"1 CPU"}
    # The time that a trial waits counts neither as its duration nor as GPU-hours.
    for name in ("one", "two"):
        sweep = read_sweep(place.sweeps / name)
        assert all(not trial.needs for trial in sweep.trials.values())
        assert sweep.trials_s() < sweep.running_s()


def test_a_sweep_is_paused_resumed_with_a_larger_budget_and_stopped(place: Place) -> None:
    driver = place.launch("steered", trials=1, steps=1_000_000, pause_s=0.05)
    wait(lambda: bool(steps_of(place.events("steered"), 0)))
    assert place.trains()

    code, text = place.run("stop", "steered", "7")
    assert code == 2
    assert "there is no trial 7. Its trials: 0." in text
    assert place.run("resume", "steered")[0] == 2  # it runs

    code, text = place.run("pause", "steered")
    assert (code, text) == (0, "Pausing: trial 0 stops after a checkpoint, and no other starts.\n")
    wait(lambda: place.status("steered")["state"] == "paused")
    paused = place.status("steered")
    assert paused["alive"]
    assert paused["trials"]["interrupted"] == 1
    assert paused["running"] == []
    wait(lambda: not place.trains())

    code, text = place.run("resume", "steered", "budget.trials=+1")
    assert (code, text) == (0, "Budget: trials 1 → 2. The sweep continues from where it paused.\n")
    before = max(steps_of(place.events("steered"), 0))
    wait(lambda: max(steps_of(place.events("steered"), 0)) > before)
    steps = steps_of(place.events("steered"), 0)
    assert steps == sorted(set(steps))  # continued from its checkpoint, without repeated steps
    assert place.status("steered")["running_s"] < time.time() - paused["started"]

    # A second trial starts only because the budget is larger now.
    code, text = place.run("cancel", "steered", "0", "--json")
    assert json.loads(text)["text"] == "Trial 0 ends now."
    wait(lambda: bool(steps_of(place.events("steered"), 1)))
    trial = read_sweep(place.sweeps / "steered").trials[0]
    assert (trial.status, trial.reason) == ("stopped_early", "cancelled")
    assert yaml.safe_load((place.sweeps / "steered" / "spec.yaml").read_text())["budget"]["trials"] == 2

    code, text = place.run("logs", "steered", "1", "-n", "3")
    assert "checkpoint written" in text
    assert "worker.log" in text
    code, text = place.run("stop", "steered")
    assert text == "Stopping: trial 1 continues to its end, and no other starts.\n"
    assert place.status("steered")["state"] == "stopping"
    place.run("stop", "steered", "1")
    code, text = ended(driver)
    assert code == 0
    assert "Stopped by request: 2 of 2 trials ended." in text
    assert not (list((place.sweeps / "steered" / "requests").iterdir()))

    code, text = place.run("pause", "steered")
    assert code == 2
    assert "steered is not running: it is done" in text
    assert "sweeper resume steered" in text


def test_a_sweep_is_watched_and_steered_from_elsewhere_and_resumed_after_a_kill(place: Place) -> None:
    there = ("--address", place.address)
    driver = place.launch("far", trials=1, steps=1_000_000, pause_s=0.05)
    wait(lambda: bool(steps_of(place.events("far"), 0)))
    every = json.loads(place.run("status", *there, "--json", elsewhere=True)[1])
    assert [one["sweep"] for one in every] == ["far"]
    status = place.status("far", *there, elsewhere=True)
    assert status["running"][0]["trial"] == 0
    assert status["driver"]["pid"] == driver.pid
    code, text = place.run("pause", "fat", *there, elsewhere=True)
    assert code == 2
    assert "Did you mean 'far'?" in text
    code, text = place.run("budget", "far", "trials=0", *there, elsewhere=True)
    assert code == 2
    assert "trials" in text

    # Another sweep finds no free resources, reports it, and can be paused and ended while it waits.
    late = place.launch("late", trials=1)
    wait(lambda: any(event["event"] == "trial_wait" for event in place.events("late")))
    assert place.status("late", *there)["waiting"] == [{"trial": 0, "needs": "1 CPU"}]
    assert "waiting for 1 CPU" in place.run("status", "late")[1]
    assert place.run("pause", "late")[0] == 0
    wait(lambda: place.status("late")["state"] == "paused")
    assert place.status("late")["waiting"] == []
    assert place.run("cancel", "late")[0] == 0
    assert ended(late)[0] == 130

    # A request to a killed driver fails and leaves nothing for the next driver.
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    code, text = place.run("pause", "far")
    assert code == 2
    assert "its driver ended unexpectedly" in text
    assert place.status("far")["state"] == "interrupted"
    reached = place.status("far")
    assert reached["trials"] == {
        "completed": 0,
        "running": 0,
        "stopped_early": 0,
        "interrupted": 1,
        "failed": 0,
    }

    driver = place.start("resume", "far", "budget.trials=+2", *there)
    before = max(steps_of(place.events("far"), 0))
    wait(lambda: max(steps_of(place.events("far"), 0)) > before)
    watching = place.start("watch", "far", *there)
    assert watching.stdout is not None
    assert "trial 0 step" in watching.stdout.readline()
    code, text = place.run("cancel", "far", *there, elsewhere=True)
    assert (code, text) == (0, "Cancelling: trial 0 ends now, with the last checkpoint.\n")
    code, text = ended(driver)
    assert code == 130
    assert "sweeper resume far" in text
    code, text = ended(watching)
    assert code == 0
    sweep = read_sweep(place.sweeps / "far")
    assert (sweep.status, sweep.message) == ("interrupted", "Cancelled.")
    assert sweep.budget.trials == 3
    assert sweep.trials[0].status == "interrupted"
    steps = steps_of(place.events("far"), 0)
    assert steps == sorted(set(steps))
