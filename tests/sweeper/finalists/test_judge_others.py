"""Policies that are not trials of the sweep are judged beside them, or alone."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command_line import ended, run_in
from reaching_policies import SKILL
from reaching_sweeps import ended_sweep
from real_robot import judge_all, reaching_robot

from sweeper.finalists.judging.addresses import Address
from sweeper.finalists.judging.judging import JudgeOptions, Judging
from sweeper.finalists.judging.others import other_policies
from sweeper.finalists.judging.servers import serving
from sweeper.finalists.judging.session import last_session, new_session, wanted_policies
from sweeper.records.events import event_fault
from sweeper.records.sweep_state import read_sweep
from sweeper.report.remake import SWITCH, remake_report
from trainables.deployment.bundle import open_bundle
from trainables.episodes import read_answers

sys.path.append(str(Path(__file__).parents[1] / "commands"))

from test_eval_command import CONFIG, SIZES, write_checkpoint, write_dataset
from test_judge_pusht import SERVED, run_once, write_pusht_sweep

pytestmark = pytest.mark.filterwarnings("default")  # MLflow warns of its own habits.

JUDGE = ("judge", "arm", "--serve", "none")


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep ``arm``, and an earlier one ``old`` whose only policy is better than its trials."""
    run_in(tmp_path, monkeypatch)
    ended_sweep(tmp_path / "sweeps" / "old", 0.95)
    ended_sweep(tmp_path / "sweeps" / "arm", 0.1, 0.4)
    return tmp_path / "sweeps" / "arm"


def judging_beside(arm: Path, *named: str, episodes: int = 60) -> Judging:
    trials, _ = wanted_policies(read_sweep(arm), 2)
    others = other_policies(named, arm, arm.parent, trials)
    return Judging(new_session(arm, [*trials, *others], 3), JudgeOptions(episodes))


@pytest.mark.slow
def test_a_policy_of_another_sweep_meets_the_same_starts_and_may_win(arm: Path) -> None:
    judging = judging_beside(arm, "old:0")
    asked = judge_all(judging, reaching_robot(judging.session))
    first = Counter(letter for start, letter in asked if start == 0)
    assert first == {"A": 1, "B": 1, "C": 1}
    result = judging.result()
    assert result is not None
    assert result.complete
    assert "Policy old:0 is the best of 3 policies" in result.verdict
    best, *others = result.found
    assert (best["trial"], best["policy"], best["state"]) == (None, "old:0", "best")
    assert {one["trial"] for one in others} == {0, 1}
    again = last_session(arm)
    assert again == judging.session
    assert Judging(again, judging.options).result() == result  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_command_records_and_shows_a_policy_that_is_not_a_trial(
    arm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*JUDGE, "--top", "1", "--also", "old", "--episodes", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO("s dropped it\ns\n\n"))
    assert ended(*arguments, "--seed", "4") == 0
    shown = capsys.readouterr().out
    before, _, after = shown.partition("on the real robot, judged by a person")
    assert "old" not in before, "the operator does not know which policy is which"
    assert "old:0" in after
    sweep = read_sweep(arm)
    assert {one["trial"] for one in sweep.judgement["finalists"]} == {None, 1}
    assert sweep.trials[1].judged["score"] == 1.0
    assert not list((arm.parent / "old").rglob("*-real.jsonl")), "another sweep's folder stays as it was"
    (records,) = arm.glob("real/policies/*/episodes/*-real.jsonl")
    assert len(read_answers(records)) == 1
    assert ended("results", "arm", "--json") == 0
    assert json.loads(capsys.readouterr().out)["judgement"] == sweep.judgement
    monkeypatch.delenv(SWITCH, raising=False)
    page, fault = remake_report(arm)
    assert page is not None
    assert not fault
    assert "old:0" in page.read_text()


@pytest.mark.slow
def test_only_other_policies_are_judged_if_no_trial_is_wanted(
    arm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("s\n\n"))
    assert ended(*JUDGE, "--top", "0", "--also", "old:0", "--episodes", "1") == 0
    assert "Policy old:0 was judged alone, from 1 start." in capsys.readouterr().out
    judged = read_sweep(arm).judgement
    assert judged["winner"] == "old:0"
    assert ended("results", "arm") == 0
    assert "Policy old:0 has a mean score of 1.000" in capsys.readouterr().out
    assert ended(*JUDGE, "--top", "0") == 2
    assert "--top 0: no policy is left to judge" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "message"),
    [
        (("arm:1",), "this is trial 1 of the sweep itself. Use --trial 1"),
        (("copy",), "it is the same policy as trial 1"),
        (("old", "old:0"), "it is the same policy as old"),
        (("missing",), "missing"),
    ],
)
def test_a_policy_that_cannot_be_judged_beside_them_is_refused(
    arm: Path, capsys: pytest.CaptureFixture[str], named: tuple[str, ...], message: str
) -> None:
    shutil.copytree(arm / "trials" / "1" / "checkpoints" / "000010", "copy")
    assert ended(*JUDGE, *(part for name in named for part in ("--also", name))) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert last_session(arm) is None


@pytest.mark.slow
def test_a_policy_that_changed_since_its_first_episode_is_refused(
    arm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*JUDGE, "--also", "old:0")
    monkeypatch.setattr("sys.stdin", io.StringIO("s\n"))
    ended(*arguments)
    checkpoint = arm.parent / "old" / "trials" / "0" / "checkpoints" / "000010"
    (checkpoint / "README.md").write_text("A note for people changes no policy.")
    monkeypatch.setattr("sys.stdin", io.StringIO("s\n"))
    ended(*arguments)
    assert "The session continues after 1 answer" in capsys.readouterr().out
    (checkpoint / SKILL).write_text("0.2")
    assert ended(*arguments) == 2
    assert "has changed since session 1 started" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    ended(*arguments, "--new")
    assert last_session(arm).number == 2  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_policy_of_another_robot_is_refused_with_every_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path, monkeypatch)
    write_pusht_sweep(tmp_path / "sweeps" / "arm", tmp_path / "set", monkeypatch, 4)
    with monkeypatch.context() as other:
        other.setitem(SIZES, "action", 3)
        other.setitem(SIZES, "observation.state", 5)
        write_checkpoint(tmp_path / "other", write_dataset(tmp_path / "other_set", SIZES))
    assert ended(*JUDGE, "--also", "other/checkpoints/000020") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "must act on the same robot" in said
    assert "an action has 3 numbers; that of trial 0 has 2" in said
    assert "observation.state has the shape (5,); trial 0 has (2,)" in said
    assert last_session(tmp_path / "sweeps" / "arm") is None


@pytest.mark.slow
def test_a_checkpoint_and_a_bundle_are_packed_under_neutral_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path, monkeypatch)
    folder = write_pusht_sweep(tmp_path / "sweeps" / "arm", tmp_path / "set", monkeypatch, 4)
    monkeypatch.setitem(CONFIG, "policy.n_action_steps", 2)
    write_checkpoint(tmp_path / "secret", tmp_path / "set")
    assert ended(*JUDGE, "--also", "secret/checkpoints/000020", "--bundles", "robot", "--episodes", "1") == 0
    shown = capsys.readouterr().out
    assert "secret" not in shown
    session = last_session(folder)
    assert session is not None
    (other,) = [one for one in session.policies if one.trial is None]
    assert open_bundle(tmp_path / "robot" / f"policy-{other.letter}.zip").setting == {}
    named = f"robot/policy-{other.letter}.zip"
    assert ended(*JUDGE, "--top", "0", "--also", named, "--bundles", "again", "--episodes", "1") == 0
    assert (tmp_path / "again" / "policy-A.zip").is_file()
    sheet = tmp_path / "robot" / "sheet.csv"
    sheet.write_text(
        "session,start,policy,outcome,tag\n"
        + "".join(f"arm/1,1,{one.letter},{'s' if one is other else 'f'},\n" for one in session.policies)
    )
    assert ended("judge", "arm", "--record", str(sheet)) == 0
    assert read_sweep(folder).judgement["winner"] == "secret/checkpoints/000020"
    assert ended("judge", "arm", "--record", str(sheet), "--also", "old") == 2
    assert "--also: the session is that of the sheet" in capsys.readouterr().err


@pytest.mark.slow
@SERVED
def test_another_policy_is_served_under_its_neutral_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in(tmp_path, monkeypatch)
    folder = write_pusht_sweep(tmp_path / "sweeps" / "arm", tmp_path / "set", monkeypatch, 4)
    write_checkpoint(tmp_path / "secret", tmp_path / "set")
    others = other_policies(["secret/checkpoints/000020"], folder, tmp_path / "sweeps", [])
    session = new_session(folder, others, 1)
    monkeypatch.chdir(folder)  # what the user typed is found from any folder
    with serving(session, Address("127.0.0.1", 0), session.letters) as served:
        assert [one.letter for one in served] == ["A"]
        assert 0.0 <= run_once(served[0].url, 0, "A") <= 1.0


def test_a_journal_names_a_judged_policy_that_is_not_a_trial() -> None:
    one: dict[str, Any] = {"trial": None, "policy": "./old", "letter": "A"}
    event = {"event": "judged", "time": 1.0, "finalists": [one], "winner": "./old"}
    event |= {"verdict": "", "complete": True, "options": {}}
    assert event_fault(event, {}) == ""
    assert "not among the finalists" in event_fault({**event, "winner": "x"}, {})
    for wrong in ({"trial": None}, {"policy": "./old"}, {"trial": None, "policy": ""}):
        assert "is not a list of finalists" in event_fault({**event, "finalists": [wrong]}, {})
