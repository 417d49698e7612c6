"""How many trials share a GPU: what limits them, and what the check says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sweeper.machines import gpu_share as sharing
from sweeper.machines.cluster import Cluster, Node, settle
from sweeper.machines.gpu_share import GpuShare, gpu_share, mps_is_running
from sweeper.machines.machine import Machine
from sweeper.machines.plan import make_plan
from sweeper.spec.space_file.load import load_spec, packaged_spaces
from sweeper.spec.sweep import ResourceSpec
from sweeper.terminal.plan import _lines
from trainables.diffusion_policy.trainable import DiffusionPolicyTrainable
from trainables.interface import GpuNeed

NODE = Machine(cpus=64, gpus=2, gpu_names=("NVIDIA H100",) * 2, disk_gb=5000.0, gpu_memory_gb=80.0)
STATE = "pusht_state"


class Needy(DiffusionPolicyTrainable):
    """A trainable whose needs are given."""

    def __init__(self, need: GpuNeed) -> None:
        self._need = need

    def gpu_need(self, config: Mapping[str, Any]) -> GpuNeed:
        return self._need


@pytest.fixture(autouse=True)
def no_mps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "none"))


def share(need: GpuNeed, *overrides: str, machine: Machine = NODE) -> GpuShare:
    return gpu_share(load_spec(packaged_spaces()[STATE], overrides), Needy(need), machine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("need", "machine", "overrides", "trials", "why"),
    [
        (GpuNeed(2.0, 0.1), NODE, [], 4, "at most 4 share one"),
        (GpuNeed(2.0, 0.4), NODE, [], 2, "keeps it busy for about 40% of the time"),
        (GpuNeed(2.0, 1.0), NODE, [], 1, "a trial keeps it busy for about 100% of the time"),
        (GpuNeed(24.0, 0.1), NODE, [], 3, "needs about 24.0 GB of its 80.0 GB"),
        (GpuNeed(90.0, 0.1), NODE, [], 1, "a trial needs about 90.0 GB of its 80.0 GB"),
        (GpuNeed(2.0, 0.1), dataclasses.replace(NODE, cpus=8), [], 2, "a trial needs 2 CPUs of 8"),
        (GpuNeed(2.0, 0.1), NODE, ["resources.cpu_per_worker=16"], 2, "a trial needs 16 CPUs of 64"),
        (GpuNeed(2.0, 0.1), NODE, ["resources.max_concurrent=4"], 2, "4 trials at once, on 2 GPUs"),
        (
            GpuNeed(2.0, 0.1),
            NODE,
            ["budget.trials=2"],
            1,
            "one trial on each GPU: 2 trials at once, on 2 GPUs",
        ),
        (GpuNeed(2.0, 0.1, "it is shy"), NODE, [], 1, "one trial on each GPU: it is shy"),
        (GpuNeed(2.0, 0.1), dataclasses.replace(NODE, gpu_memory_gb=None), [], 1, "its memory is not known"),
        (GpuNeed(2.0, 0.1), NODE, ["resources.workers=2"], 1, "NCCL refuses two workers on one"),
        (GpuNeed(2.0, 0.1), NODE, ["resources.gpu_per_worker=0.5"], 1, ""),
        (GpuNeed(2.0, 0.1), NODE, ["resources.gpu_per_worker=0"], 1, ""),
        (GpuNeed(2.0, 0.1), Machine(cpus=8, gpus=0), [], 1, ""),
        (
            GpuNeed(2.0, 0.1),
            NODE,
            ["objectives=null", "metric={name: eval/chunk_latency_ms, goal: minimize}"],
            1,
            "the sweep compares eval/chunk_latency_ms",
        ),
    ],
)
def test_the_tightest_limit_decides_and_is_said(
    need: GpuNeed, machine: Machine, overrides: list[str], trials: int, why: str
) -> None:
    found = share(need, *overrides, machine=machine)
    assert found.trials == trials
    assert why in found.why
    assert bool(found.why) == bool(why)


@pytest.mark.slow
def test_trials_that_share_get_equal_parts_of_the_gpus_and_of_the_cpus() -> None:
    resources = share(GpuNeed(24.0, 0.1)).of(ResourceSpec())
    settled = resources.settled(NODE.cpus, NODE.gpus)
    assert settled.gpu_per_worker == pytest.approx(1 / 3)
    assert (settled.at_once, settled.cpu_per_worker) == (6, 8)
    assert GpuShare(1, "").of(ResourceSpec()) == ResourceSpec()


@pytest.mark.parametrize("trials", [1, 2, 3, 4])
def test_as_many_trials_run_at_once_as_share_the_gpus(trials: int) -> None:
    cluster = Cluster((Node(NODE.cpus, NODE.gpus, "this machine"),))
    assert settle(GpuShare(trials, "").of(ResourceSpec()), cluster).at_once == trials * NODE.gpus


@pytest.mark.slow
def test_the_heaviest_configuration_of_the_space_counts() -> None:
    class ByBatch(DiffusionPolicyTrainable):
        def gpu_need(self, config: Mapping[str, Any]) -> GpuNeed:
            return GpuNeed(1.0, 0.9 if config["train.batch_size"] == 256 else 0.1)

    override = "parameters.train.batch_size={values: [64, 256]}"
    spec = load_spec(packaged_spaces()[STATE], [override])
    assert gpu_share(spec, ByBatch(), NODE).trials == 1
    spec = load_spec(packaged_spaces()[STATE], ["config.train.batch_size=64"])
    assert gpu_share(spec, ByBatch(), NODE).trials == 4


@pytest.mark.slow
def test_the_check_says_how_many_share_and_whether_mps_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec(packaged_spaces()[STATE], [])

    def said() -> str:
        return "\n".join(" ".join(line) for line in _lines(make_plan(spec, NODE, Needy(GpuNeed(2.0, 0.1)))))

    assert "4 trials share a GPU: each needs about 2.0 GB of its 80.0 GB" in said()
    assert "0.25 GPUs" in said()
    assert "NVIDIA's MPS does not run: they take turns" in said()
    monkeypatch.setattr(sharing, "mps_is_running", lambda: True)
    assert "NVIDIA's MPS runs: they compute at the same time" in said()
    plain = make_plan(spec, NODE, Needy(GpuNeed(2.0, 1.0)))
    assert "MPS" not in "\n".join(" ".join(line) for line in _lines(plain))
    assert plain.to_dict()["gpu_share"]["trials"] == 1
    assert plain.to_dict()["resources"]["gpu_per_worker"] == 1


def test_mps_is_found_by_its_pipe_or_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not mps_is_running()
    pipes = tmp_path / "mps"
    pipes.mkdir()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(pipes))
    assert not mps_is_running()
    (pipes / "control").touch()
    assert mps_is_running()
    (pipes / "control").unlink()

    class Daemon:
        info = {"name": "nvidia-cuda-mps-control"}  # noqa: RUF012

    monkeypatch.setattr(sharing.psutil, "process_iter", lambda attrs: iter([Daemon()]))
    assert mps_is_running()


@pytest.mark.slow
@pytest.mark.parametrize(("space", "most"), [("pusht_state", 4), ("pusht_image", 1)])
def test_the_spaces_that_come_with_the_package(space: str, most: int) -> None:
    spec = load_spec(packaged_spaces()[space], ["resources.gpu_per_worker=auto"])
    found = make_plan(spec, NODE)
    assert 1 <= found.share.trials <= most
    assert found.share.why
