"""Drivers of trials on the machines that train: each beside its worker."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from small_trainable import release

from sweeper.layout import trial_folder
from sweeper.records.sweep_state import read_sweep
from sweeper.trial.exchange import REPORTS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = {
    "name": "machines",
    "trainable": "small_trainable:TRAINABLE",
    "config": {"train.steps": 20, "train.log_every": 5, "hold_step": 7},
    "parameters": {"optimizer.lr": {"values": [0.01, 0.02]}},
    "metric": {"name": "train/loss", "goal": "minimize"},
    "search": {"method": "grid"},
    "budget": {"trials": 2},
    "resources": {"workers": 1, "gpu_per_worker": 0, "cpu_per_worker": 1},
}


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any, Any]]:
    """A cluster of a head that trains nothing, a large and a small machine, and these two.

    Each of the two takes one driver of a trial. Without a wish Ray places both workers on the large one.
    """
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    common = {"object_store_memory": 80 * 1024**2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": 0})
    large, small = (
        cluster.add_node(**common, num_cpus=cpus, resources={"sweep_driver": 1}) for cpus in (6, 2)
    )
    yield cluster, large, small
    cluster.shutdown()


def below(node: Any, name: str) -> int:
    """The number of processes of a machine whose command line has a name."""
    found = 0
    for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            found += name in " ".join(process.cmdline())
    return found


def test_a_driver_runs_beside_its_worker_and_a_lost_machine_costs_its_own_trial_alone(
    machines: tuple[Any, Any, Any], tmp_path: Path, settles: Callable[[Callable[[], bool]], bool]
) -> None:
    cluster, large, small = machines
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    folder = tmp_path / "sweeps" / "machines"
    environment = os.environ | {
        "PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "SWEEPER_CACHE": str(tmp_path / "cache"),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "sweeper", "launch", str(tmp_path / "space.yaml")]
    launched = subprocess.Popen(
        [*command, "--sweeps", str(folder.parent), "--address", str(cluster.address)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        reported = [trial_folder(folder, number) / REPORTS for number in (0, 1)]
        assert any(settles(lambda: all(path.exists() for path in reported)) for _ in range(2))
        for node, each in ((cluster.head_node, 0), (large, 1), (small, 1)):
            assert (below(node, "ImplicitFunc"), below(node, "RayTrainWorker")) == (each, each)
        cluster.remove_node(small, allow_graceful=False)
        for number in (0, 1):
            release(trial_folder(folder, number))
        said, _ = launched.communicate(timeout=400)
    finally:
        launched.kill()
        launched.wait()
    assert launched.returncode == 0, said
    trials = read_sweep(folder).trials.values()
    assert [trial.status for trial in trials] == ["completed", "completed"]
    assert sorted(sum(trial.retries.values()) for trial in trials) == [0, 1]
    assert {reason for trial in trials for reason in trial.retries} == {"lost"}
