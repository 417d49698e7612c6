"""Push-T as the robot: a simulated person runs the policy that is asked for, and answers what happened."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import ended, run_in
from real_robot import Phone, page_of, start_judge
from small_sweeps import LR, SUCCESS, begin, sweep

from sweeper.cli import COMMANDS
from sweeper.finalists.judging.session import Session, last_session
from sweeper.layout import JOURNAL, trial_folder
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.records.sweep_state import read_sweep
from trainables import registry
from trainables.episodes import read_episodes
from trainables.evaluation.simulators import make_environment
from trainables.interface import EvaluationContext, ServeOptions

sys.path.append(str(Path(__file__).parents[1] / "commands"))

from test_eval_command import CONFIG, PUSHT, write_checkpoint, write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # MLflow warns of its own habits.

SERVED = pytest.mark.skipif("serve" not in COMMANDS, reason="this version has no `sweeper serve`")


def write_pusht_sweep(
    folder: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, *action_steps: int
) -> Path:
    """A sweep whose policies act in Push-T, with one trial for each number of executed actions."""
    folder.mkdir(parents=True)
    write_dataset(dataset)
    with Journal(folder / JOURNAL) as journal:
        begin(journal, sweep(folder, LR, config=CONFIG), name=folder.name)
        for number, steps in enumerate(action_steps):
            monkeypatch.setitem(CONFIG, "policy.n_action_steps", steps)
            checkpoint = write_checkpoint(trial_folder(folder, number), dataset)
            at = {"trial": number}
            journal.append(EventKind.TRIAL_START, **at, values={LR.name: 1e-4}, config=dict(CONFIG))
            journal.append(
                EventKind.REPORT, **at, step=20, metrics={SUCCESS: 0.5}, checkpoint=str(checkpoint)
            )
            journal.append(
                EventKind.TRIAL_END,
                **at, status="completed", reason="", message="", step=20,
                final={SUCCESS: 0.5}, best={}, sweep_best={}, ended=number + 1,
            )  # fmt: skip
        journal.append(EventKind.SWEEP_END, status="done", message="")
    return folder


@pytest.fixture
def pusht(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep whose two policies act in Push-T; the second one plans again sooner."""
    run_in(tmp_path, monkeypatch)
    return write_pusht_sweep(tmp_path / "sweeps" / "pusht", tmp_path / "set", monkeypatch, 4, 1)


def opened(folder: Path, trial: int) -> Any:
    trainable: Any = registry.load("diffusion_policy")
    checkpoint = trial_folder(folder, trial) / "checkpoints" / "000020"
    return trainable.open_policy(checkpoint, {}, EvaluationContext(folder, "cpu", 1))


def seen(session: Session) -> Any:
    """What the person sees: the largest reward of the policy with a neutral name from a start."""
    policies = {one.letter: opened(session.folder, one.trial) for one in session.policies}
    return lambda letter, start: policies[letter].rollout({}, "real", [start])[0].max_reward


def questions(process: subprocess.Popen[str]) -> Iterator[tuple[int, str]]:
    """The start and the policy of each question in the terminal."""
    assert process.stdout is not None
    start = 0
    for line in process.stdout:
        if found := re.search(r"Start (\d+) of up to", line):
            start = int(found[1]) - 1
        if found := re.search(r"Policy (\w)\b.*Reset the scene", line):
            yield start, found[1]


def test_push_t_is_judged_in_the_terminal_and_then_on_the_page(pusht: Path) -> None:
    arguments = ("--serve", "none", "--episodes", "4")
    process = start_judge(pusht, *arguments, "--seed", "2")
    assert process.stdin is not None
    robot: Any = None
    for answers, (start, letter) in enumerate(questions(process)):
        if answers == 3:
            break
        robot = robot or seen(last_session(pusht))  # type: ignore[arg-type]
        process.stdin.write(f"{robot(letter, start)!r} as seen\n")
        process.stdin.flush()
    process.stdin.close()
    process.stdin = None
    process.communicate(timeout=400)
    assert process.returncode == 130
    process = start_judge(pusht, *arguments, "--web-address", "127.0.0.1:0")
    try:
        phone, shown = page_of(process)
        assert "The session continues after 3 answers" in shown
        state = phone.state()
        while (question := state["question"]) is not None:
            score = robot(question["letter"], question["start"])
            state = phone.answer(state, word="score", score=repr(score))
        phone.answer(state, "/finish")
        out, _ = process.communicate(timeout=400)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out
    for trial in (0, 1):
        expected = [one.max_reward for one in opened(pusht, trial).rollout({}, "real", range(4))]
        (path,) = (trial_folder(pusht, trial) / "episodes").glob("000020-real.jsonl")
        assert [record.max_reward for record in read_episodes(path)[1]] == expected
    judged = read_sweep(pusht).judgement
    assert judged["complete"]
    assert {one["metrics"]["episodes"] for one in judged["finalists"]} == {4}


def run_once(url: str, start: int, letter: str) -> float:
    """Run a served policy in Push-T for some steps; returns the largest reward."""
    from trainables.deployment import RemotePolicy

    with RemotePolicy(url, timeout_s=200) as policy:
        assert policy.metadata["name"] == letter
        environment = make_environment(PUSHT, policy.features)
        with contextlib.closing(environment):
            policy.reset(seed=start)
            actions = policy.infer(dict(environment.reset(seed=start)))["actions"]
            rewards = [environment.step(action).reward for action in actions]
    return float(max(rewards))


def finish(phone: Phone, process: subprocess.Popen[str]) -> str:
    phone.answer(phone.state(), "/finish")
    return process.communicate(timeout=400)[0]


def is_served(url: str) -> bool:
    from trainables.deployment import RemotePolicy, RemotePolicyError

    try:
        RemotePolicy(url, timeout_s=120).close()
    except RemotePolicyError:
        return False
    return True


@SERVED
def test_the_policies_are_served_under_their_neutral_names(pusht: Path) -> None:
    process = start_judge(pusht, "--serve", "127.0.0.1:0", "--episodes", "2", "--web-address", "127.0.0.1:0")
    try:
        phone, shown = page_of(process)
        state = phone.state()
        urls = {letter: one["url"] for letter, one in state["servers"].items()}
        assert sorted(urls) == ["A", "B"]
        assert all(f"policy {letter}: {url}" in shown for letter, url in urls.items())
        while (question := state["question"]) is not None:
            score = run_once(urls[question["letter"]], question["start"], question["letter"])
            state = phone.answer(state, word="score", score=repr(min(score, 1.0)))
        out = finish(phone, process)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out
    assert not any(is_served(url) for url in urls.values())


@SERVED
def test_the_servers_of_a_session_that_is_killed_end_with_it(pusht: Path) -> None:
    process = start_judge(pusht, "--serve", "127.0.0.1:0", "--web-address", "127.0.0.1:0")
    try:
        phone, _ = page_of(process)
        urls = [one["url"] for one in phone.state()["servers"].values()]
        assert all(is_served(url) for url in urls)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=400)
    finally:
        process.kill()
        process.wait()
    until = time.monotonic() + 400
    while any(is_served(url) for url in urls) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(is_served(url) for url in urls)


@contextlib.contextmanager
def served_bundle(readme: str, letter: str, folder: Path) -> Iterator[str]:
    """Serve a policy with its command of the README on a machine without the sweep; gives its address."""
    (command,) = re.findall(rf"^sweeper (serve policy-{letter}.zip .*) --port \d+$", readme, re.MULTILINE)
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper.cli", *command.split(), "--port", "0", "--threads", "1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate(timeout=400)


@SERVED
def test_the_policies_are_judged_on_another_machine(pusht: Path, tmp_path: Path) -> None:
    assert ended("judge", "pusht", "--bundles", "robot", "--episodes", "2", "--seed", "2") == 0
    there = tmp_path / "there"
    (tmp_path / "robot").rename(there)
    readme = (there / "README.md").read_text()
    with (there / "sheet.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    with served_bundle(readme, "A", there) as first, served_bundle(readme, "B", there) as second:
        for row in rows:
            url = first if row["policy"] == "A" else second
            score = run_once(url, int(row["start"]) - 1, row["policy"])
            row["outcome"] = repr(min(score, 1.0))
    with (there / "sheet.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert ended("judge", "pusht", "--record", str(there / "sheet.csv")) == 0
    session = last_session(pusht)
    assert session is not None
    with contextlib.ExitStack() as opened_servers:
        # The same policies, served from their trials, see and do the same.
        for policy in session.policies:
            server = opened(pusht, policy.trial).serve({}, ServeOptions(port=0, name=policy.letter, batch=1))
            opened_servers.enter_context(server)
            expected = [run_once(server.url, start, policy.letter) for start in range(2)]
            (path,) = (trial_folder(pusht, policy.trial) / "episodes").glob("*-real.jsonl")
            found = [record.max_reward for record in read_episodes(path)[1]]
            assert found == pytest.approx([min(one, 1.0) for one in expected], abs=1e-6)
    assert read_sweep(pusht).judgement["complete"]
