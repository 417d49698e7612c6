"""The kit for GPUs: a case that fails is reported and stops no other, and its arithmetic is what it says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import correctness, steps, trials
from benchmarks.gpu.arithmetic import another_arithmetic, channels_last, tf32
from benchmarks.gpu.cases import Case, NotHereError, Setting, compared, read_rows, run_cases
from benchmarks.gpu.materials import TINY_SIZE, build, config_of, sizes, train
from benchmarks.gpu.report import as_markdown
from trainables.diffusion_policy.trainable import TRAINABLE

ROOT = Path(__file__).parent.parent


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting("cpu", quick=True, folder=tmp_path)


def fails() -> dict[str, float]:
    raise RuntimeError("the | device\nis gone")


def is_not_here() -> dict[str, float]:
    raise NotHereError("it is elsewhere")


@pytest.mark.slow
def test_every_case_becomes_a_row_whatever_happens(setting: Setting) -> None:
    cases = [
        Case("fails", fails),
        Case("is far", lambda: compared(0.2, 0.1)),
        Case("is no number", lambda: compared(math.nan, 0.1)),
        Case("is elsewhere", is_not_here),
        Case("is right", lambda: compared(0.1, 0.1, of="metres")),
    ]
    file = setting.folder / "rows.jsonl"
    run_cases(cases, file, setting, deadline=time.monotonic() + 3600)
    rows = read_rows(file)

    assert [row.status for row in rows] == ["failed", "differs", "differs", "skipped", "ok"]
    assert rows[0].note == "RuntimeError: the | device is gone"
    assert "in fails" in rows[0].details
    lines = as_markdown({"device": "cpu"}, {"Cases": rows}).splitlines()
    assert lines[0] == "device cpu"
    assert lines[4] == "| case | difference | tolerance | of | result |"
    assert lines[6] == "| fails |  |  |  | failed: RuntimeError: the / device is gone |"
    assert lines[-1] == "| is right | 0.1 | 0.1 | metres | ok |"


def test_no_case_begins_when_the_time_is_up(setting: Setting) -> None:
    file = setting.folder / "rows.jsonl"
    run_cases([Case("fails", fails)], file, setting, deadline=time.monotonic() - 1)
    assert [(row.status, row.note) for row in read_rows(file)] == [("skipped", "the time was up")]


def test_a_row_that_was_cut_off_is_left_out(setting: Setting) -> None:
    file = setting.folder / "rows.jsonl"
    run_cases([Case("is right", dict)], file, setting, deadline=time.monotonic() + 3600)
    with file.open("a") as cut_off:
        cut_off.write('{"case": "is cut')
    assert [row.case for row in read_rows(file)] == ["is right"]


@pytest.mark.slow
def test_encoders_are_channels_last_only_where_that_is_wanted(setting: Setting) -> None:
    def orders() -> set[bool]:
        policy = build(config_of(setting, TINY_SIZE), "cpu")
        kernels = [
            p for p in policy.encoder_parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1
        ]
        return {kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels}

    with channels_last(True):
        assert orders() == {True}
    with channels_last(False):
        assert orders() == {False}
    assert orders() == {False}


def test_arithmetic_is_as_it_was_afterwards() -> None:
    def now() -> tuple[bool, bool, bool]:
        backends = torch.backends
        return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.mkldnn.enabled

    before = now()
    with tf32(True), another_arithmetic("cpu"):
        assert now() == (True, True, False)
    assert now() == before


@pytest.mark.slow
def test_the_networks_are_those_that_the_page_names(setting: Setting) -> None:
    real = Setting("cpu", quick=False, folder=setting.folder)
    for changes in sizes(real).values():
        assert TRAINABLE.faults(config_of(real, changes)) == []
    with torch.device("meta"):
        count = sum(p.numel() for p in build(config_of(real, sizes(real)["262.7 M"]), "meta").parameters())
    assert count == 262_709_026


@pytest.mark.slow
def test_trials_at_once_are_measured_while_all_of_them_train(setting: Setting) -> None:
    found = trials._together(setting, trials.QUICK_STATE_ONLY, 2, "two of them")
    assert found["steps/s of all"] > 0
    assert 0 < found["busy, estimated"] < 1


@pytest.mark.slow
def test_an_evaluation_beside_training_is_measured(setting: Setting) -> None:
    found = trials._evaluated(setting, "inline")
    # Four episodes of a simulator that sleeps are played within the steps.
    assert found["longest step, s"] > trials.EPISODE_STEPS * trials.SLEEP_S
    assert found["s, first step to last"] > 2 * trials.EPISODE_STEPS * trials.SLEEP_S


@pytest.mark.slow
def test_rollouts_are_the_same_in_processes_and_side_by_side(setting: Setting) -> None:
    for found in (trials._rollouts(setting, 2), correctness._rollouts(setting)):
        assert found["difference"] == found["tolerance"] == 0


@pytest.mark.slow
def test_a_graph_is_not_measured_by_plain_steps(setting: Setting) -> None:
    config = config_of(setting, trials.QUICK_STATE_ONLY, {"train.compile": "graph"})
    with pytest.raises(RuntimeError, match="without a CUDA graph: a CUDA graph needs a GPU"):
        train(config, setting, "graph", reports=1)
    with pytest.raises(NotHereError, match="only a GPU has CUDA graphs"):
        steps._measure(setting, "tiny", 4, "bf16", "graph", True)


@pytest.mark.slow
def test_the_kit_runs_from_the_command_line(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--part", "memory"]
    command += ["--minutes", "20", "--threads", "1", "--json", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert found["hardware"]["device"] == "cpu"
    (rows,) = found["parts"].values()
    assert {row["status"] for row in rows} == {"ok"}
    assert "### Memory of training" in done.stdout
