"""`sweeper bench` times the ways to compute a policy's actions, and says how they differ."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import ended, plain_console, printed
from test_eval_command import trial as trial

from sweeper.evidence.paired import tango_interval
from sweeper.finalists import bench as benching
from sweeper.terminal.finalists.bench import print_bench
from trainables.episodes import EpisodeRecord
from trainables.inspection import Benched, BenchedRow, BenchRow, Latency, Played

TAKES_SECONDS = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "BUSY_S", 0.01)


def row(backend: str, ms: float, reward: float | None = None, **played: object) -> BenchedRow:
    speed = BenchRow(
        backend,
        "fp32",
        "DDIM",
        8,
        {"policy.sampler": "DDIM"},
        Latency((ms, ms, 2 * ms), "cpu", 1, 8),
        2.0,
        2e-7,
        compared="8 moments of held-out episodes of arm",
    )
    if reward is None:
        return BenchedRow(speed)
    played = Played(20, 0.5, (0.3, 0.7), reward, 0.01, (-0.02, 0.04), 0.05, (-0.1, 0.2))
    return BenchedRow(speed, played, True)


def test_the_table_has_a_row_for_each_way() -> None:
    console = plain_console(120)
    rows = (row("plain", 20.0), row("onnx", 5.0))
    print_bench(console, Benched("small:0", "/c", {"busy_share": 0.5, "cpus": 2}, rows))
    lines = printed(console).splitlines()
    # What all rows have in common is not a column.
    assert lines[1] == "small:0: fp32, DDIM, 8 steps"
    titles = " ".join(f"{lines[2]} {lines[3]}".split())
    assert titles == "p50 p95 memory backend ms ms Hz MB difference"
    assert lines[5].split() == ["plain", "20", "38", "50", "2", "2e-07"]
    assert lines[6].split()[3] == "200"
    assert "share of the action's range, at 8 moments of held-out episodes of arm." in " ".join(
        printed(console).split()
    )
    assert "50% of the machine's 2 CPUs were in use by others just before." in printed(console)


def test_what_differs_between_rows_is_a_column() -> None:
    console = plain_console(120)
    faster = row("plain", 5.0)
    faster = replace(faster, speed=replace(faster.speed, steps=4))
    rows = (row("plain", 20.0), faster)
    print_bench(console, Benched("small:0", "/c", {"busy_share": 0.0, "cpus": 2}, rows))
    lines = printed(console).splitlines()
    assert lines[1] == "small:0: fp32, DDIM"
    other = replace(faster, speed=replace(faster.speed, precision="bf16", sampler="UniPC"))
    print_bench(console, Benched("nothing alike", "/c", {"busy_share": 0.0, "cpus": 2}, (rows[0], other)))
    assert "nothing alike" in printed(console).splitlines()
    assert [line.split()[:3] for line in lines[5:7]] == [["plain", "8", "20"], ["plain", "4", "5"]]


@pytest.mark.parametrize("width", [80, 180])
def test_episodes_have_their_intervals_and_the_difference_to_the_first_row(width: int) -> None:
    console = plain_console(width, terminal=True)
    print_bench(console, Benched("small:0", "/c", {"busy_share": 0.0, "cpus": 2}, (row("plain", 20.0, 0.4),)))
    lines = printed(console).splitlines()
    assert lines[5].split()[-6:] == ["2e-07", "50%", "+5%", "0.4", "+0.01", "*"]
    assert " ".join(lines[6].split()) == "30% – 70% -10% – +20% -0.02 – +0.04"
    assert max(map(len, lines[:7])) <= width
    assert "20 episodes from the same starts" in " ".join(printed(console).split())


def test_a_row_is_on_the_front_if_none_is_faster_and_at_least_as_good() -> None:
    rows = [row("plain", 20.0).speed, row("steps", 10.0).speed, row("onnx", 5.0).speed, row("x", 1.0).speed]
    on_it = [benching._is_front(number, rows, [0.5, 0.4, 0.4, None]) for number in range(4)]
    assert on_it == [True, False, True, None]


@TAKES_SECONDS
def test_a_trial_is_benched(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["policy.sampler=DDIM,UniPC", "policy.num_inference_steps=2"]
    assert ended("bench", "small:0", *arguments, "--runs", "3", "--episodes", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    ways = [
        (one["speed"]["backend"], one["speed"]["sampler"], one["speed"]["steps"]) for one in found["rows"]
    ]
    assert ways == [
        (backend, sampler, 2) for sampler in ("DDIM", "UniPC") for backend in ("plain", "steps", "onnx")
    ]
    for one in found["rows"]:
        speed = one["speed"]
        assert len(speed["latency"]["times_ms"]) == 3
        assert 0 < speed["p50_ms"] <= speed["p95_ms"]
        assert speed["difference"] < 1e-5
        assert one["played"]["episodes"] == 2
    assert found["rows"][0]["played"]["difference"] is None
    assert any(one["front"] for one in found["rows"])


def episodes(*outcomes: float) -> list[EpisodeRecord]:
    return [
        EpisodeRecord(number, number, reward == 1.0, reward, reward, length=3, chunk_ms=1.0)
        for number, reward in enumerate(outcomes)
    ]


def test_success_is_compared_start_by_start() -> None:
    first, other = episodes(1.0, 0.2, 1.0, 0.4), episodes(1.0, 1.0, 0.5, 1.0)
    alone, beside = benching._played(first, []), benching._played(other, first)
    assert (alone.success_difference, alone.success_difference_interval) == (None, None)
    assert beside.success_difference == pytest.approx(0.25)
    expected = tango_interval(only_a=2, only_b=1, pairs=4)
    assert beside.success_difference_interval == (expected.low, expected.high)
    assert beside.difference == pytest.approx(0.225)


@TAKES_SECONDS
def test_a_warm_start_is_compared_and_played(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["policy.num_inference_steps=4", "policy.warm_start_steps=0,3", "--backend", "plain"]
    arguments += ["--backend", "steps", "--runs", "2", "--episodes", "2", "--json"]
    assert ended("bench", "small:0", *arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    named = [(one["speed"]["setting"]["policy.warm_start_steps"], one["speed"]["backend"]) for one in rows]
    assert named == [(0, "plain"), (0, "steps"), (3, "plain"), (3, "steps")]
    assert all(one["speed"]["difference"] < 1e-5 for one in rows)
    assert rows[0]["played"] != rows[2]["played"]
    assert ended("bench", "small:0", "policy.num_inference_steps=4", "policy.warm_start_steps=4") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "policy.warm_start_steps 4 of 4 denoising steps cannot be skipped. Use at most 3" in said


@TAKES_SECONDS
def test_a_backend_that_cannot_be_used_is_replaced_and_named(
    trial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("bench", str(trial / "checkpoints" / "000020"), "--backend", "graph", "--runs", "2") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "! not graph: a CUDA graph needs a GPU, and the policy is on cpu" in out
    assert ": fp32, DDIM, 4 steps" in out
    assert "─ steps " in out  # the row


@TAKES_SECONDS
def test_what_is_wrong_is_said_before_anything_is_timed(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["policy.horizon=8"], "policy.horizon: a trained policy cannot change it. Inference fields are"),
        (["policy.sampler"], "policy.sampler: expected FIELD=A,B,C"),
        (["policy.num_inference_steps=500"], "policy.num_inference_steps"),
        (["--backend", "warp"], "backend 'warp' is not one. Use one of plain, steps, compile, onnx, graph."),
        (["--precision", "fp8"], "precision 'fp8' is not one. Use one of fp32, bf16, fp16."),
        (["--lerobot", str(tmp_path / "none")], "none: there is no such file. Name a Python with LeRobot."),
        (["--lerobot", sys.executable], "LeRobot ended before it answered. It printed: Traceback"),
    ):
        assert ended("bench", "small:0", *arguments, "--runs", "2") != 0, arguments
        out = capsys.readouterr()
        assert message in " ".join((out.err + out.out).split()), (message, out)
