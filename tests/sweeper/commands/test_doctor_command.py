"""The doctor: what it says of what nodes measured, and that it asks every node."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from probed_nodes import measured

from sweeper.cli import main
from sweeper.machines.doctor import probe
from sweeper.machines.doctor.diagnosis import NodeReport, judge
from trainables.interface import Finding


def node(name: str = "worker", *, is_head: bool = False, gpus: float = 1.0, **changes: Any) -> NodeReport:
    own = {field.name for field in dataclasses.fields(NodeReport)}
    report = {key: value for key, value in changes.items() if key in own}
    rest = {key: value for key, value in changes.items() if key not in own}
    return NodeReport(name, is_head, gpus, measured(**rest), **report)


def head(**changes: Any) -> NodeReport:
    return NodeReport("head", True, 0.0, measured(**{"gpus": [], "driver": None, **changes}))


SERVER = "http://127.0.0.1:5000"


def found(*reports: NodeReport, mlflow: str | None = SERVER) -> list[Finding]:
    return [diagnosis for diagnosis in judge(reports, mlflow) if diagnosis.severity in ("error", "warning")]


def test_a_cluster_in_order_has_nothing_wrong() -> None:
    assert found(head(), node("one"), node("two")) == []
    told = judge([head(), node("one")], SERVER)
    assert {diagnosis.check for diagnosis in told} >= {"versions", "gpus", "disk", "store", "mlflow", "token"}


def test_a_node_with_another_python_or_code_or_package_is_named() -> None:
    for key, value in {"python": "3.11.9", "ray": "2.59.0", "code": "bbbbbbbbbbbb"}.items():
        other = measured()["identity"] | {key: value}
        (diagnosis,) = found(head(), node("one"), node("two", identity=other))
        assert (diagnosis.severity, diagnosis.check, diagnosis.where) == ("error", key, "two")
        assert value in diagnosis.problem
        assert diagnosis.remedy
    packages = {"torch": "2.9.1", "numpy": "2.4.6"}
    (diagnosis,) = found(head(), node("one", identity=measured()["identity"] | {"packages": packages}))
    assert "torch 2.9.1" in diagnosis.problem
    assert "numpy" not in diagnosis.problem


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"gpus_given": 2.0}, "gpus", "offers 2 GPUs, but NVIDIA's driver lists 1"),
        ({"torch_cuda": None}, "gpus", "torch was built without CUDA"),
        ({"driver": "535.104.05"}, "driver", "535.104.05, but torch, built for CUDA 13.0, needs 580"),
        ({"shm_gb": 0.067, "shm_free_gb": 0.06}, "shm", "0.06 of 0.07 GB"),
        ({"files": 1024}, "files", "only 1024 files"),
        ({"skew_s": -42.0}, "clock", "42.0 s behind the head's"),
        ({"unwritten": "Read-only file system"}, "store", "cannot be written: Read-only file system"),
        ({"unread": ("a", "b")}, "store", "not shared: 2 files"),
        ({"token": False}, "token", "without token"),
        ({"silence": "ModuleNotFoundError: sweeper"}, "answer", "ModuleNotFoundError: sweeper"),
    ],
)
def test_what_is_wrong_with_a_node_is_said_with_the_remedy(
    changes: dict[str, Any], check: str, words: str
) -> None:
    (diagnosis,) = found(head(), node(gpus=changes.pop("gpus_given", 1.0), **changes))
    assert diagnosis.check == check
    assert diagnosis.where == "worker"
    assert words in diagnosis.problem
    assert diagnosis.remedy


def test_a_full_or_closed_disk_is_said() -> None:
    full = measured()["cache"] | {"free_gb": 0.5}
    (diagnosis,) = found(head(), node(cache=full))
    assert "/mnt/frames (decoded frames) has 0.5 GB free" in diagnosis.problem
    closed = measured()["sweeps"] | {"writable": False}
    (diagnosis,) = found(head(), node(sweeps=closed))
    assert diagnosis.severity == "error"


def test_mlflow_must_be_reached_by_the_head_alone() -> None:
    (diagnosis,) = found(head(mlflow="Connection refused"), node())
    assert (diagnosis.check, diagnosis.where) == ("mlflow", "head")
    assert found(head(), node(mlflow="Connection refused")) == []


def test_marks_of_others_are_read_and_missing_ones_named(tmp_path: Path) -> None:
    name, content = probe.leave_mark(str(tmp_path))
    assert probe.missing_marks(str(tmp_path), {name: content}) == []
    assert probe.missing_marks(str(tmp_path), {name: "other", "gone": "x"}, patience_s=0) == [name, "gone"]
    assert probe.leave_mark(str(tmp_path / "nowhere")) == ("", "No such file or directory")


def test_one_machine_without_a_cluster_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--sweeps", str(tmp_path), "--json"])
    diagnoses = json.loads(capsys.readouterr().out)
    assert ended.value.code == int(any(diagnosis["level"] == "error" for diagnosis in diagnoses))
    assert {"versions", "gpus"} <= {diagnosis["check"] for diagnosis in diagnoses}
    # A server that does not answer is wrong, and says so in the exit code.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--sweeps", str(tmp_path)])
    assert ended.value.code == 1
    assert "MLflow does not answer at http://127.0.0.1:1" in capsys.readouterr().out


@pytest.fixture
def two_nodes(settles: Callable[..., bool]) -> Iterator[str]:
    """A cluster of two nodes on this machine, apart from any other Ray; its address."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 1024**2, "num_cpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    cluster.add_node(**small)
    yield str(cluster.address)
    cluster.shutdown()


@pytest.mark.ray
def test_every_node_of_a_cluster_is_asked(two_nodes: str, tmp_path: Path) -> None:
    # In a process of its own: this one may be connected to another Ray.
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "sweeper.cli", "doctor", "--json", "--address", two_nodes]
    done = subprocess.run(
        [*command, "--sweeps", str(tmp_path)], capture_output=True, text=True, timeout=500, env=environment
    )
    assert done.stdout, done.stderr
    diagnoses = json.loads(done.stdout)
    by_check: dict[str, list[Any]] = {}
    for diagnosis in diagnoses:
        by_check.setdefault(diagnosis["check"], []).append(diagnosis)
    assert [diagnosis["level"] for diagnosis in by_check["store"]] == ["fine", "fine"]
    assert "on all 2 nodes" in by_check["versions"][0]["found"]
    assert "2 machines are up: 2 CPUs, 0 GPUs" in by_check["size"][0]["found"]
    assert not list(tmp_path.iterdir())
    assert done.returncode == int(any(diagnosis["level"] == "error" for diagnosis in diagnoses))
