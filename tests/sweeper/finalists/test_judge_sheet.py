"""Finalists are judged on another machine: neutral bundles and a sheet go there, the outcomes come back."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from command_line import ended, run_in
from exported_sweeps import write_sweep
from reaching_sweeps import ended_sweep
from real_robot import Robot, judge_all, reaching_robot, verdict

from sweeper.errors import UserError
from sweeper.finalists.judging.answers import Answers, Outcome
from sweeper.finalists.judging.judging import JudgeOptions, Judging
from sweeper.finalists.judging.session import Session, last_session, new_session, wanted_policies
from sweeper.finalists.judging.sheet import enter_sheet, read_sheet, session_of, sheet_text
from sweeper.records.sweep_state import read_sweep
from trainables.deployment.bundle import open_bundle
from trainables.episodes import EpisodeFile, read_episodes

pytestmark = pytest.mark.filterwarnings("default")  # MLflow warns of its own habits.

Rows = list[dict[str, str]]


def session_in(folder: Path, *skills: float, seed: int = 3) -> Session:
    sweep = ended_sweep(folder, *skills)
    return new_session(sweep.folder, wanted_policies(sweep, len(skills))[0], seed)


def rows_of(text: str) -> Rows:
    return list(csv.DictReader(io.StringIO(text)))


def write_rows(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def fill_in(rows: Rows, robot: Robot) -> None:
    """Judge what has no outcome, as a person does who follows the sheet."""
    for row in rows:
        if not row["outcome"]:
            row["outcome"] = verdict(robot(row["policy"], int(row["start"]) - 1)).word


def entered(session: Session, path: Path) -> tuple[Judging, int]:
    """Record a sheet; returns the session and how many outcomes were new."""
    sheet = read_sheet(path)
    assert session_of(sheet, session.folder) == session
    judging = Judging(session, JudgeOptions(sheet.starts))
    return judging, len(enter_sheet(judging, sheet))


@pytest.mark.slow
def test_a_filled_in_sheet_has_the_result_of_the_questions_in_the_terminal(tmp_path: Path) -> None:
    asked = session_in(tmp_path / "asked" / "arm", 0.35, 0.65, 0.5)
    expected = Judging(asked, JudgeOptions(12))
    order = judge_all(expected, reaching_robot(asked))
    session = session_in(tmp_path / "sheet" / "arm", 0.35, 0.65, 0.5)
    rows = rows_of(sheet_text(Judging(session, JudgeOptions(12))))
    assert [(int(row["start"]) - 1, row["policy"]) for row in rows] == order
    assert {row["session"] for row in rows} == {"arm/1"}
    fill_in(rows, reaching_robot(session))
    judging, new = entered(session, write_rows(tmp_path / "sheet.csv", rows))
    assert new == 36
    assert judging.result() == expected.result()
    assert entered(session, tmp_path / "sheet.csv")[1] == 0, "the same sheet again changes nothing"


@pytest.mark.slow
def test_a_sheet_of_a_session_that_continues_leaves_out_a_policy_that_left(tmp_path: Path) -> None:
    session = session_in(tmp_path / "arm", 0.05, 0.9, 0.8)
    judging = Judging(session, JudgeOptions(60))
    robot = reaching_robot(session)
    while len(judging.left()) == 3:
        judge_all(judging, robot, most=1)
    (gone,) = set(session.letters) - set(judging.left())
    rows = rows_of(sheet_text(judging))
    answered = [row for row in rows if row["outcome"]]
    assert len(answered) == len(judging.history())
    assert gone in {row["policy"] for row in answered}
    assert {row["policy"] for row in rows if not row["outcome"]} == set(judging.left())
    fill_in(rows, robot)
    _, new = entered(session, write_rows(tmp_path / "sheet.csv", rows))
    assert new == len(rows) - len(answered)


def test_a_changed_outcome_is_a_correction_and_a_void_episode_has_a_second_row(tmp_path: Path) -> None:
    session = session_in(tmp_path / "arm", 0.5, 0.5)
    rows = rows_of(sheet_text(Judging(session, JudgeOptions(2))))
    first = rows[0]
    rows[0] = first | {"outcome": "V", "tag": "camera fell"}
    rows.insert(1, first | {"outcome": "0,5", "tag": "slow"})
    judging, new = entered(session, write_rows(tmp_path / "sheet.csv", rows))
    assert new == 2
    told = [str(given.outcome) for given in judging.history()]
    assert told == ["void (camera fell)", "score 0.5 (slow)"]
    question = judging.question()
    assert question is not None
    assert (question.start + 1, question.letter) == (int(rows[2]["start"]), rows[2]["policy"])
    rows[1]["outcome"] = "f"
    judging, new = entered(session, write_rows(tmp_path / "sheet.csv", rows))
    assert new == 1
    assert entered(session, tmp_path / "sheet.csv")[1] == 0
    (path,) = (tmp_path / "arm").glob("trials/*/episodes/*-real.jsonl")
    assert [record.max_reward for record in read_episodes(path)[1]] == [0.0], "the correction counts"
    assert [str(given.outcome) for given in judging.history()][:2] == told, "what was first said is kept"


def test_a_score_comes_back_to_the_last_digit(tmp_path: Path) -> None:
    session = session_in(tmp_path / "arm", 0.5, 0.5)
    judging = Judging(session, JudgeOptions(1))
    question = judging.question()
    assert question is not None
    judging.answer(question.key, Outcome.of("score", "0.123456789012"))
    (tmp_path / "sheet.csv").write_text(sheet_text(judging))
    assert entered(session, tmp_path / "sheet.csv")[1] == 0


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_a_program_for_tables_saves_is_read(tmp_path: Path, separator: str) -> None:
    session = session_in(tmp_path / "arm", 0.5, 0.5)
    head, *rows = sheet_text(Judging(session, JudgeOptions(1))).splitlines()
    filled = [head, *(f"{row.removesuffix(',,')},success," for row in rows), ",,,,"]
    text = "".join(f"{line}\r\n" for line in filled).replace(",", separator)
    (tmp_path / "sheet.csv").write_bytes(text.encode("utf-8-sig"))
    judging, new = entered(session, tmp_path / "sheet.csv")
    assert (new, {given.outcome.word for given in judging.history()}) == (2, {"success"})


def test_a_program_brings_json(tmp_path: Path) -> None:
    session = session_in(tmp_path / "arm", 0.5, 0.5)
    episodes = [
        {"start": 1, "policy": "A", "outcome": 0.25, "tag": "slow"},
        {"start": 1, "policy": "b", "outcome": "success"},
    ]
    path = tmp_path / "sheet.json"
    path.write_text(json.dumps({"session": "arm/1", "episodes": episodes}))
    judging, new = entered(session, path)
    assert new == 2
    assert {given.letter: str(given.outcome) for given in judging.history()} == {
        "A": "score 0.25 (slow)",
        "B": "success",
    }
    path.write_text('{"session": "arm/1"}')
    with pytest.raises(UserError, match=r"is not a sheet in JSON: KeyError: 'episodes'. Expected"):
        read_sheet(path)


HEAD = "session,start,policy,outcome,tag\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}arm/1,1,A,great,\n", "line 2: 'great' is not an outcome. Allowed: success, failure"),
        (f"{HEAD}arm/1,0,A,s,\n", "line 2: the start is 0. Allowed is 1 to 9999."),
        (f"{HEAD}arm/1,one,A,s,\n", "line 2: the start is 'one'. Expected a number."),
        (f"{HEAD}arm/1,1,A,1.5,\n", "line 2: The score is '1.5'. Allowed is a number from 0 to 1"),
        (f"{HEAD}arm/1,1,A,,dropped it\n", "line 2: there is a tag, 'dropped it', but no outcome."),
        (f"{HEAD}arm/1,1,A,s,\narm/2,1,B,s,\n", "the rows belong to the sessions arm/1, arm/2."),
        (f"{HEAD}arm/1,1,A,,\n", "no row has an outcome. Fill in the column outcome."),
        ("start,policy,outcome\n1,A,s\n", "the first line does not name session."),
        ("", "the first line does not name session, start, policy, outcome."),
        (f'{HEAD}arm/1,1,A,s,"{"x" * 140_000}', "is not CSV: field larger than field limit"),
    ],
)
def test_a_fault_of_a_sheet_is_reported_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sheet.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_sheet(path)
    assert message in str(caught.value)


def test_all_faults_of_a_sheet_are_reported_and_nothing_is_recorded(tmp_path: Path) -> None:
    session = session_in(tmp_path / "arm", 0.5, 0.5)
    path = tmp_path / "sheet.csv"
    path.write_text(f"{HEAD}arm/1,1,A,s,\narm/1,1,B,great,\narm/1,x,B,s,\n")
    with pytest.raises(UserError, match=r"(?s)nothing was recorded.*line 3: 'great'.*line 4: the start is"):
        read_sheet(path)
    path.write_text(f"{HEAD}arm/1,1,A,s,\narm/1,1,C,s,\n")
    judging = Judging(session, JudgeOptions(1))
    with pytest.raises(UserError, match=r"'C' is not a policy of the session arm/1, which has A, B\."):
        enter_sheet(judging, read_sheet(path))
    assert judging.history() == []


def test_a_sheet_of_another_sweep_or_session_is_refused(tmp_path: Path) -> None:
    session = session_in(tmp_path / "arm", 0.5, 0.5)
    path = tmp_path / "sheet.csv"
    for named, message in (
        ("leg/1", r"its session is 'leg/1', which is not one of arm: arm/1 is its first"),
        ("arm", r"its session is 'arm'"),
        ("arm/7", r"arm has no session 7 on the real robot. Its sessions: 1\."),
    ):
        path.write_text(f"{HEAD}{named},1,A,s,\n")
        with pytest.raises(UserError, match=message):
            session_of(read_sheet(path), session.folder)


def test_a_full_disk_is_reported_and_the_sheet_can_be_recorded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_in(tmp_path / "arm", 0.5, 0.5)
    rows = rows_of(sheet_text(Judging(session, JudgeOptions(2))))
    fill_in(rows, reaching_robot(session))
    path = write_rows(tmp_path / "sheet.csv", rows)
    append, left = EpisodeFile.append, [None]

    def full(file: EpisodeFile, records: Any) -> None:
        if not left:
            raise OSError(28, "No space left on device")
        left.pop()
        append(file, records)

    with monkeypatch.context() as disk:
        disk.setattr(EpisodeFile, "append", full)
        with pytest.raises(UserError, match="after 1 new outcome the disk took no more: No space left"):
            entered(session, path)
    assert len(Answers(session).history()) == 1
    assert entered(session, path)[1] == 3


# The command


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of two trials that have diffusion policies."""
    run_in(tmp_path, monkeypatch)
    (tmp_path / "sweeps").mkdir()
    write_sweep(tmp_path / "sweeps" / "small", random=True)
    return tmp_path / "sweeps" / "small"


@pytest.mark.slow
def test_bundles_go_to_another_machine_under_neutral_names(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("judge", "small", "--bundles", "robot", "--episodes", "2", "--seed", "4")
    assert ended(*arguments) == 0
    shown = capsys.readouterr().out
    assert "trial" not in shown.lower(), "the operator does not know which policy is which"
    assert "sweeper judge small --record robot/sheet.csv" in shown
    folder = tmp_path / "robot"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "policy-A.zip",
        "policy-B.zip",
        "sheet.csv",
    ]
    session = last_session(small)
    assert session is not None
    for letter in session.letters:
        bundle = open_bundle(folder / f"policy-{letter}.zip")
        trial = session.policy(letter).trial
        weights = (bundle.policy / "model.safetensors").read_bytes()
        (recorded,) = (small / "trials" / str(trial) / "checkpoints").glob(f"*{session.policy(letter).step}")
        assert weights == (recorded / "model.safetensors").read_bytes()
        assert bundle.lerobot is not None
        assert bundle.card is not None
        assert f"sweeper serve policy-{letter}.zip --name {letter}" in bundle.card.read_text()
        with zipfile.ZipFile(folder / f"policy-{letter}.zip") as archive:
            for name in archive.namelist():
                content = archive.read(name) if not name.endswith(".safetensors") else b""
                assert str(small).encode() not in content, name
                assert f"trial {trial}".encode() not in content, name
    readme = (folder / "README.md").read_text()
    assert "sweeper serve policy-B.zip --name B --port 8001" in readme
    assert "sweeper judge small --record sheet.csv" in readme
    assert ended(*arguments) == 2, "the sheet may have outcomes that were not recorded"
    assert "robot exists. It may contain outcomes" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob(".robot*")), "nothing is left over"


@pytest.mark.slow
def test_the_outcomes_of_a_sheet_are_recorded_by_the_command(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("judge", "small", "--bundles", "robot", "--episodes", "6", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(one["file"]).name for one in told["bundles"]] == ["policy-A.zip", "policy-B.zip"]
    sheet = tmp_path / "robot" / "sheet.csv"
    rows = rows_of(sheet.read_text())
    for row in rows[:4]:
        row["outcome"] = "success" if row["policy"] == "A" else "failure"
    write_rows(sheet, rows)
    assert ended("judge", "small", "--record", str(sheet)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Recorded 4 outcomes of" in shown
    assert f"The first episode without an outcome is start 3 with policy {rows[4]['policy']}." in shown
    assert "leads after 2 starts" in shown
    for row in rows[4:]:
        row["outcome"] = "success" if row["policy"] == "A" else "failure"
    write_rows(sheet, rows)
    assert ended("judge", "small", "--record", str(sheet), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    session = last_session(small)
    assert session is not None
    assert found["winner"] == session.policy("A").trial
    assert read_sweep(small).judgement == found
    assert ended("results", "small") == 0
    assert "On the real robot, judged by a person: Trial" in capsys.readouterr().out


@pytest.mark.slow
def test_options_that_exclude_each_other_are_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (("--bundles", "robot", "--record", "x.csv"), "--bundles and --record: choose one."),
        (("--record", "x.csv", "--seed", "1", "--new"), "--seed, --new: the session is that of the sheet."),
        (("--record", "x.csv"), "x.csv cannot be read: No such file or directory."),
    ):
        assert ended("judge", "small", *arguments) == 2
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_session_that_has_ended_has_no_sheet(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = read_sweep(small)
    session = new_session(sweep.folder, wanted_policies(sweep, 3)[0], 1)
    judging = Judging(session, JudgeOptions(1))
    for question in iter(judging.question, None):
        judging.answer(question.key, Outcome.of("success"))
    assert ended("judge", "small", "--bundles", "robot", "--episodes", "1") == 2
    assert "nothing is left to judge in session 1" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "robot").exists()
