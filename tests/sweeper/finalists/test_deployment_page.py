"""Every command and program of docs/deployment.md runs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import ended, run_in
from real_robot import page_of, start_judge
from test_judge_pusht import write_pusht_sweep

from sweeper.finalists.judging.session import last_session
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.space_file.load import load_spec

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # MLflow warns of its own habits.

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
TRIAL = "sweeps/pusht-quick/trials/2"
REAL = {"NAME:7": "pusht-quick:2", "NAME": "pusht-quick", "DIR": "out", "PATH/TO/CHECKPOINT": TRIAL}
"""What stands for the placeholders of the page."""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines]


@dataclass(frozen=True)
class Way:
    """How a command of the page is run in a test.

    Attributes:
        short: Arguments that make it short.
        before: Commands of the page that come before it.
        typed: What the user types.
        code: Its exit code.
        on_ray: Whether it runs on the Ray of the tests.
    """

    short: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    typed: str = ""
    code: int = 0
    on_ray: bool = False


FEW = ("--episodes", "2")
BENCH = Way(("--runs", "2"))
JUDGED = Way(("--episodes", "1", "--serve", "none"), typed="s\nf dropped it\n0.5 slow\n\n")
EXPORT = "sweeper export pusht-quick --format onnx --to exported"
BUNDLES = "sweeper judge pusht-quick --bundles robot --episodes 20"
DISTIL = "sweeper launch pusht_distilled config.policy.path=sweeps/pusht-quick/trials/2"
SHORT_TRAINING = (
    "budget.trials=2",
    "search.startup_trials=1",
    "config.train.steps=12",
    "config.train.eval_every=6",
    "config.train.log_every=6",
    "config.lr_scheduler.warmup_steps=2",
    "config.distill.teacher_steps=4",
    "config.rollout.episodes=2",
    "config.rollout.max_steps=8",
    "early_stop.min_steps=6",
    "config.eval.windows=8",
)
WAYS = {
    "sweeper confirm NAME": Way(("--episodes", "20"), on_ray=True),
    "sweeper tune NAME": Way(("policy.n_action_steps=1,4", "--episodes", "4"), on_ray=True),
    "sweeper bench NAME": BENCH,
    "sweeper export NAME --to DIR": Way(),
    "sweeper judge NAME": JUDGED,
    "sweeper bench NAME:7 policy.sampler=DDIM,UniPC policy.num_inference_steps=2,4,8 --episodes 100": Way(
        ("--runs", "2", "--backend", "steps", *FEW)
    ),
    "sweeper bench PATH/TO/CHECKPOINT --backend plain --backend compile --precision bf16": BENCH,
    "sweeper bench NAME policy.num_inference_steps=8 policy.warm_start_steps=0,4,6 --episodes 100": Way(
        ("--runs", "2", "--backend", "steps", *FEW)
    ),
    "sweeper tune NAME policy.num_inference_steps=8,16 policy.warm_start_steps=0,4": Way(
        ("--episodes", "4"), on_ray=True
    ),
    EXPORT: Way(),
    "python exported/run.py": Way(before=(EXPORT,)),
    "sweeper export pusht-quick --format lerobot --format torch --parts steps --to exported-all": Way(),
    "sweeper export pusht-quick --format onnx --precision fp32 --precision fp16 --precision int8 "
    "--episodes 50 --to exported-int8": Way(FEW),
    "sweeper export pusht --bundle pusht.zip": Way(),
    "sweeper export pusht --to exported --card": Way(),
    "sweeper export pusht --push my-lab/pusht --private --dry-run": Way(),
    "sweeper judge pusht-quick": JUDGED,
    "sweeper judge pusht-quick --top 2 --episodes 60": Way(
        ("--episodes", "1", "--serve", "none"), typed="s\ns\n\n"
    ),
    "sweeper judge pusht-quick --trial 1 --trial 2 --new": Way(
        ("--episodes", "1", "--serve", "none"), typed="s\ns\n\n"
    ),
    "sweeper judge pusht-quick --also ./old_checkpoint": Way(
        ("--episodes", "1", "--serve", "none"), typed="s\nf\n0.5\ns\n\n"
    ),
    "sweeper judge pusht-quick --serve none": Way(("--episodes", "1"), typed="s\nq\n", code=130),
    "sweeper judge pusht-quick --bundles robot": Way(),
    BUNDLES: Way(("--episodes", "1")),
    "sweeper check pusht_distilled config.policy.path=sweeps/pusht-quick/trials/2": Way(),
    DISTIL: Way(SHORT_TRAINING, on_ray=True),
    "sweeper export pusht-distilled --to exported": Way(before=(DISTIL,), on_ray=True),
}
"""The commands that end by themselves."""

SERVED = (
    "sweeper serve NAME",
    "sweeper serve pusht-quick",
    "sweeper serve pusht-quick:2 --host 0.0.0.0",
    "sweeper serve PATH/TO/CHECKPOINT --setting policy.num_inference_steps=4 --batch 16",
)
CURLED = tuple(one for one in commands() if one.startswith("curl "))
ON_A_PAGE = ("sweeper judge pusht-quick --web-address 0.0.0.0:8080",)
BACK = ("sweeper judge pusht-quick --record robot/sheet.csv",)
ELSEWHERE = {
    "pip install 'diffusion-policy-sweeper[onnx]'": ("tests/test_install.py", "install"),
    "sweeper export pusht --push my-lab/pusht --private": (
        "tests/sweeper/commands/test_publishing.py",
        '"--push"',
    ),
}
"""Commands that need a package index or the hub, and where they are tested."""
BESIDE = shlex.join(["sweeper", "bench", "NAME", "--lerobot", "~/lerobot/bin/python"])
PYTHON = "LEROBOT_PYTHON"
"""The variable that names a Python with LeRobot."""


def real(command: str) -> list[str]:
    """The words of a command, with something real for each placeholder."""
    return [REAL.get(word, word) for word in shlex.split(command)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sweeps of the page."""
    run_in(tmp_path, monkeypatch)
    monkeypatch.setattr("sweeper.finalists.bench.BUSY_S", 0.01)
    monkeypatch.setattr("sweeper.publication.facts.BUSY_S", 0.01)
    monkeypatch.setattr("sweeper.publication.facts.RUNS", 5)
    folder = write_pusht_sweep(tmp_path / "sweeps" / "pusht-quick", tmp_path / "set", monkeypatch, 4, 1, 2)
    shutil.copytree(folder, folder.parent / "pusht")
    shutil.copytree(folder / "trials" / "1" / "checkpoints", tmp_path / "old_checkpoint")
    return tmp_path


def test_every_command_of_the_page_has_a_way_to_run() -> None:
    found = set(commands())
    assert len(found) > 30, "the commands were not found"
    known = {*WAYS, *SERVED, *CURLED, *ON_A_PAGE, *BACK, *ELSEWHERE, BESIDE}
    assert found == known
    for path, word in ELSEWHERE.values():
        assert word in (ROOT / path).read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("command", [one for one, way in WAYS.items() if not way.on_ray])
def test_a_command_of_the_page_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    run_command(place, monkeypatch, capsys, command)


@pytest.mark.parametrize("command", [one for one, way in WAYS.items() if way.on_ray])
def test_a_command_of_the_page_runs_on_ray(
    place: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    run_command(place, monkeypatch, capsys, command)


def run_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for one in (*WAYS[command].before, command):
        way = WAYS[one]
        monkeypatch.setattr("sys.stdin", io.StringIO(way.typed))
        program, *arguments = real(one)
        if program == "python":
            subprocess.run([sys.executable, *arguments], check=True, cwd=place, timeout=500)
        else:
            assert program == "sweeper"
            code = ended(*arguments, *way.short)
            out = capsys.readouterr()
            assert code == way.code, f"{one}\n{out.out}\n{out.err}"


@pytest.mark.skipif(PYTHON not in os.environ, reason=f"{PYTHON} names no Python with LeRobot")
def test_lerobot_is_timed_beside_the_policy(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *command, _ = real(BESIDE)
    assert ended(*command[1:], os.environ[PYTHON], "--backend", "plain", "--runs", "2") == 0
    assert re.search(r"^lerobot \d+\.\d+", capsys.readouterr().out, re.MULTILINE)


def test_a_sheet_of_the_page_comes_back(place: Path) -> None:
    assert ended(*real(BUNDLES)[1:], "--episodes", "1") == 0
    sheet = place / "robot" / "sheet.csv"
    example = re.search(r"```\n(session,start.*?)```", PAGE, re.DOTALL)
    assert example is not None
    head, *_ = sheet.read_text().splitlines()
    assert example[1].splitlines()[0] == head
    assert example[1].splitlines()[1].startswith("pusht-quick/1,1,")
    filled = [head, *(f"{row.removesuffix(',,')},s," for row in sheet.read_text().splitlines()[1:])]
    sheet.write_text("\n".join(filled) + "\n")
    assert ended(*real(BACK[0])[1:]) == 0
    judged = read_sweep(place / "sweeps" / "pusht-quick").judgement
    assert [one["metrics"]["score"] for one in judged["finalists"]] == [1.0, 1.0, 1.0]


# What goes on until it is ended


@contextlib.contextmanager
def serving(command: str, *more: str) -> Iterator[tuple[str, str]]:
    """Start a server of the page; gives its host with the port, and its token."""
    arguments = [*real(command)[1:], "--port", "0", "--threads", "1", *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        address = re.search(r"ws://([\w.]+:\d+)", said)
        assert address is not None, said
        token = re.search(r"token\s+(\S+)", said)
        yield address[1], "" if token is None else token[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=400)
    assert process.returncode == 0


@pytest.mark.parametrize("command", SERVED)
def test_a_server_of_the_page_answers_the_program_of_the_page(
    place: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = [block for block in blocks("python") if "RemotePolicy(" in block]
    with serving(command) as (address, token):
        here = f"127.0.0.1:{address.rpartition(':')[2]}"
        program = program.replace("127.0.0.1:8000", here)
        if token:
            program = program.replace('")', f'", token="{token}")', 1)
        exec(compile(program, "deployment.md", "exec"), {})
        assert re.search(r"\(\d, 2\) \{'infer_ms'", capsys.readouterr().out)
        for line in CURLED:
            asked = [word.replace("ROBOT:8000", here).replace("127.0.0.1:8000", here) for word in real(line)]
            asked = [word.replace("$TOKEN", token) for word in asked]
            if token and "Authorization:" not in line:
                asked += ["-H", f"Authorization: Bearer {token}"]
            answered = subprocess.run(
                [*asked, "--silent", "--fail"], capture_output=True, text=True, check=True, timeout=300
            )
            assert answered.stdout


def test_the_judges_page_is_answered_by_the_program_of_the_page(place: Path) -> None:
    (program,) = [block for block in blocks("python") if 'ask("/state")' in block]
    sweep = place / "sweeps" / "pusht-quick"
    ports = ("--serve", "127.0.0.1:0", "--web-address", "127.0.0.1:0")
    process = start_judge(sweep, *ports, "--episodes", "2", "--top", "1")
    try:
        phone, _ = page_of(process)
        names: dict[str, Any] = {}
        exec(compile(program.replace(":8080", f":{phone.port}"), "deployment.md", "exec"), names)
        assert names["server"]["url"].startswith("ws://")
        assert names["state"]["question"] != names["question"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=400)
    session = last_session(sweep)
    assert session is not None
    (answers,) = sweep.glob("trials/*/episodes/*-real.jsonl")
    assert '"slow"' in answers.read_text()


def test_the_judges_page_is_served_to_a_phone(place: Path) -> None:
    command = real(ON_A_PAGE[0])
    assert command[:3] == ["sweeper", "judge", "pusht-quick"]
    sweep = place / "sweeps" / "pusht-quick"
    more = [word.replace(":8080", ":0") for word in command[3:]]
    process = start_judge(sweep, *more, "--serve", "none", "--episodes", "1")
    try:
        phone, _ = page_of(process)
        state = phone.state()
        while state["question"] is not None:
            state = phone.answer(state, word="success")
        phone.answer(state, "/finish")
        out, _ = process.communicate(timeout=400)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out


# Programs and settings


class EnoughError(Exception):
    """Ends the endless loop of an example."""


def test_the_control_loop_of_the_page_runs(place: Path) -> None:
    assert ended("export", "pusht", "--to", "exported") == 0
    (program,) = [block for block in blocks("python") if "Controller(policy" in block]
    sent: list[np.ndarray] = []

    def observe() -> dict[str, np.ndarray]:
        if len(sent) == 12:
            raise EnoughError
        return {"observation.state": np.zeros(2), "observation.environment_state": np.zeros(16)}

    names = {"observe": observe, "send": sent.append}
    with pytest.raises(EnoughError):
        exec(compile(program.replace('"cuda"', '"cpu"'), "deployment.md", "exec"), names)
    assert np.isfinite(sent).all()


def test_the_bundle_and_the_acceleration_of_the_page_run(place: Path, capsys: Any) -> None:
    import torch

    assert ended("export", "pusht", "--bundle", "pusht.zip") == 0
    assert zipfile.is_zipfile(place / "pusht.zip")
    opened, faster = (
        next(block for block in blocks("python") if word in block) for word in ("open_bundle", "accelerate(")
    )
    names: dict[str, Any] = {"torch": torch}
    exec(compile(opened, "deployment.md", "exec"), names)
    names["observation"] = {
        feature.name: torch.zeros(8, names["policy"].n_obs_steps, *feature.shape)
        for feature in names["policy"].features.inputs
    }
    exec(compile(faster, "deployment.md", "exec"), names)
    assert len(names["actions"]) == 8


def test_the_settings_of_the_page_are_those_of_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("yaml")
    config = yaml.safe_load(block)["config"]
    spec = load_spec("pusht_quick", [f"config.{name}={value}" for name, value in config.items()])
    assert config.items() <= spec.config.items()


def test_all_programs_of_the_page_were_run() -> None:
    words = ("RemotePolicy(", 'ask("/state")', "Controller(policy", "open_bundle", "accelerate(")
    programs = blocks("python")
    assert len(programs) == len(words)
    assert all(any(word in program for word in words) for program in programs)
