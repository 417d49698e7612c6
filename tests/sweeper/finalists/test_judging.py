"""A person judges finalists on the real robot, without names, on the same starts, in spite of any crash."""

from __future__ import annotations

import io
import json
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ended, plain_console, printed, run_in
from reaching_sweeps import ended_sweep
from real_robot import judge_all, page_of, reaching_robot, start_judge, verdict

from benchmarks.evidence import paired_successes
from sweeper.errors import SweeperError, UserError
from sweeper.evidence.race import RaceRule, RaceState, replay
from sweeper.finalists.judging.addresses import Address, address_of
from sweeper.finalists.judging.answers import Answers, Outcome
from sweeper.finalists.judging.dialogue import converse
from sweeper.finalists.judging.judging import JudgeOptions, Judging, StaleError
from sweeper.finalists.judging.servers import serving
from sweeper.finalists.judging.session import Session, last_session, new_session, wanted_policies
from sweeper.layout import JOURNAL
from sweeper.records.journal import read_journal
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.terminal.finalists.judgement import print_judgement
from trainables.episodes import read_answers, read_episodes

pytestmark = pytest.mark.filterwarnings("default")  # MLflow warns of its own habits.


def session_of(sweep: SweepState, seed: int = 3, top: int = 8) -> Session:
    wanted, missing = wanted_policies(sweep, top)
    assert not missing
    return new_session(sweep.folder, wanted, seed)


def judging_of(folder: Path, *skills: float, seed: int = 3, **options: Any) -> Judging:
    return Judging(session_of(ended_sweep(folder, *skills), seed), JudgeOptions(**options))


def answers_on_disk(folder: Path) -> list[dict[str, Any]]:
    found = [
        record for path in folder.glob("trials/*/episodes/*-real.jsonl") for record in read_answers(path)
    ]
    found.sort(key=lambda record: record.judged.answer if record.judged else 0)
    return [
        {
            "episode": one.episode,
            "score": one.max_reward,
            "word": one.judged.word,
            "tag": one.judged.tag,
            "answer": one.judged.answer,
        }
        for one in found
        if one.judged
    ]


@pytest.mark.slow
def test_every_policy_meets_every_start_once_in_random_order(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, 0.5, episodes=30)
    asked = judge_all(judging, reaching_robot(judging.session))
    assert Counter(asked) == {(start, letter): 1 for start in range(30) for letter in "ABC"}
    assert [start for start, _ in asked] == sorted(start for start, _ in asked)
    orders = ["".join(letter for start, letter in asked if start == block) for block in range(30)]
    assert len(set(orders)) == 6
    first = Counter(order[0] for order in orders)
    assert all(4 <= first[letter] <= 16 for letter in "ABC")


@pytest.mark.slow
def test_the_names_and_the_order_come_from_the_recorded_seed(tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "arm", 0.2, 0.4, 0.6, 0.8)
    first, same = session_of(sweep, seed=1), session_of(sweep, seed=1)
    assert [one.trial for one in first.policies] == [one.trial for one in same.policies]
    assert [first.order(start) for start in range(9)] == [same.order(start) for start in range(9)]
    named = {tuple(one.trial for one in session_of(sweep, seed=seed).policies) for seed in range(30)}
    assert len(named) > 10, "the best trial must not always have the same name"
    last = session_of(sweep, seed=29)
    assert last_session(sweep.folder) == last
    assert {last.episode(start) for start in range(5)}.isdisjoint(
        {first.episode(start) for start in range(5)}
    )


@pytest.mark.slow
def test_the_best_is_found_and_the_episodes_end(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.1, 0.95, 0.4, episodes=60)
    asked = judge_all(judging, reaching_robot(judging.session))
    result = judging.result()
    assert result is not None
    first = result.found[0]
    assert (first["trial"], first["state"], result.complete, result.further) == (1, "best", True, 0)
    assert result.starts < 40
    assert len(asked) < 3 * result.starts, "a policy that left is not asked for any more"
    assert f"Trial 1 is the best of 3 policies, after {result.starts} starts" in result.verdict
    assert first["metrics"]["score_low"] < 0.95 < first["metrics"]["score_high"] + 0.1
    assert judging.question() is None


@pytest.mark.slow
def test_equals_are_not_told_apart_and_the_number_of_further_starts_is_told(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.55, 0.7, episodes=30)
    judge_all(judging, reaching_robot(judging.session))
    result = judging.result()
    assert result is not None
    assert result.complete
    assert {one["state"] for one in result.found} == {"left"}
    assert result.further
    assert f"--episodes {30 + result.further} continues" in result.verdict
    more = Judging(judging.session, JudgeOptions(episodes=32))
    assert [start for start, _ in judge_all(more, reaching_robot(judging.session))] == [30, 30, 31, 31]
    same = judging_of(tmp_path / "same", 0.5, 0.5, episodes=12)
    judge_all(same, reaching_robot(same.session))
    told = same.result()
    assert told is not None
    assert told.further is None
    assert "no useful number" in told.verdict
    near = Judging(same.session, JudgeOptions(episodes=12, epsilon=0.9))
    ended_early = near.result()
    assert ended_early is not None
    assert "at most 0.9 worse" in ended_early.verdict
    with pytest.raises(UserError, match="must be below 1"):
        Judging(same.session, JudgeOptions(epsilon=1.5))


def test_a_few_starts_allow_no_plan_and_no_chance_of_being_the_best(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.3, 0.9, episodes=9)
    judge_all(judging, reaching_robot(judging.session), most=2)
    for options, words in ((JudgeOptions(9), "The same command"), (JudgeOptions(1), "A larger --episodes")):
        result = Judging(judging.session, options).result()
        assert result is not None
        assert result.further is None
        assert not any("p_best" in one for one in result.found)
        assert result.verdict.endswith(f"{words} continues.")
    assert "P(best)" in printed_table(result.found)


def printed_table(found: list[dict[str, Any]]) -> str:
    console = plain_console()
    print_judgement(console, {"finalists": found, "complete": False, "verdict": ""}, "arm")
    return printed(console)


@pytest.mark.slow
def test_scores_count_as_they_are(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=20)
    better = judging.session.policies[0]
    while (question := judging.question()) is not None:
        score = 0.9 if question.letter == better.letter else 0.2
        judging.answer(question.key, Outcome.of("score", str(score), "slow"))
    result = judging.result()
    assert result is not None
    assert (result.found[0]["trial"], result.found[0]["state"]) == (better.trial, "best")
    assert result.found[0]["metrics"]["score"] == pytest.approx(0.9)
    assert result.found[0]["metrics"]["success_rate"] == 0.0
    assert result.found[1]["tags"] == {"slow": result.starts}


def test_a_void_episode_is_repeated_and_does_not_count(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=2)
    first = judging.question()
    assert first is not None
    judging.answer(first.key, Outcome.of("void", tag="camera fell"))
    again = judging.question()
    assert again is not None
    assert (again.letter, again.start, again.again) == (first.letter, first.start, True)
    judge_all(judging, reaching_robot(judging.session))
    result = judging.result()
    assert result is not None
    (voided,) = [one for one in result.found if one["letter"] == first.letter]
    assert (voided["metrics"]["void"], voided["metrics"]["episodes"]) == (1, 2)
    path = next(judging.session.folder.glob(f"trials/{voided['trial']}/episodes/*-real.jsonl"))
    evaluated, records = read_episodes(path)
    assert (evaluated.purpose, evaluated.environment, len(records)) == ("real", "real robot", 2)
    assert len(read_answers(path)) == 3


def test_a_correction_counts_and_the_first_answer_is_kept(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=3)
    first = judging.question()
    assert first is not None
    judging.answer(first.key, Outcome.of("success"))
    given = judging.correct(judging.key(), first.letter, first.start, Outcome.of("failure", tag="slipped"))
    assert str(given.outcome) == "failure (slipped)"
    assert [(one["score"], one["tag"]) for one in answers_on_disk(tmp_path / "arm")] == [
        (1.0, ""),
        (0.0, "slipped"),
    ]
    (path,) = (tmp_path / "arm").glob("trials/*/episodes/*-real.jsonl")
    assert [record.max_reward for record in read_episodes(path)[1]] == [0.0]
    with pytest.raises(UserError, match="Start 3 with policy A has no answer yet"):
        judging.correct(judging.key(), "A", 2, Outcome.of("success"))


def test_undo_takes_back_one_answer_after_the_other(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=3)
    first = judging.question()
    assert first is not None
    judging.answer(first.key, Outcome.of("success"))
    second = judging.question()
    assert second is not None
    judging.answer(second.key, Outcome.of("failure"))
    judging.correct(judging.key(), first.letter, first.start, Outcome.of("failure"))
    undone = judging.undo(judging.key())
    assert undone is not None
    assert (undone.letter, str(undone.outcome)) == (first.letter, "failure")
    records = [record for one in "AB" for record in Answers(judging.session)._files[one].records()]
    assert sorted(record.max_reward for record in records) == [0.0, 1.0]
    judging.undo(judging.key())
    now = judging.question()
    assert now is not None
    assert (now.letter, now.start) == (second.letter, second.start)
    judging.undo(judging.key())
    now = judging.question()
    assert now is not None
    assert (now.letter, now.start) == (first.letter, first.start)
    assert judging.undo(judging.key()) is None
    assert len(answers_on_disk(tmp_path / "arm")) == 6, "nothing is ever deleted"


@pytest.mark.slow
def test_a_correction_that_brings_a_policy_back_has_its_episodes_judged(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, 0.5, episodes=40)
    loser, *_ = judging.session.letters
    while len(judging.left()) == 3:
        question = judging.question()
        assert question is not None
        judging.answer(question.key, Outcome.of("failure" if question.letter == loser else "success"))
    judge_all(judging, lambda letter, start: reaching_robot(judging.session)("B", start), most=4)
    left_at = max(given.start for given in judging.history() if given.letter == loser)
    for start in range(left_at + 1):
        judging.correct(judging.key(), loser, start, Outcome.of("success"))
    assert loser in judging.left()
    question = judging.question()
    assert question is not None
    assert (question.letter, question.start) == (loser, left_at + 1)


def test_an_answer_to_another_question_is_refused(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=3)
    question = judging.question()
    assert question is not None
    judging.answer(question.key, Outcome.of("success"))
    for late in (
        lambda: judging.answer(question.key, Outcome.of("success")),
        lambda: judging.correct(question.key, question.letter, 0, Outcome.of("failure")),
        lambda: judging.undo(question.key),
    ):
        with pytest.raises(StaleError):
            late()
    assert len(judging.history()) == 1


@pytest.mark.parametrize(
    ("word", "score", "tag", "message"),
    [
        ("great", "", "", "'great' is not an outcome. Allowed: success, failure, a score"),
        ("score", "1.5", "", "The score is '1.5'. Allowed is a number from 0 to 1"),
        ("score", "nan", "", "The score is 'nan'"),
        ("score", "", "", "Allowed is a number from 0 to 1"),
        ("failure", "", "x" * 81, "The tag has 81 characters. At most 80"),
    ],
)
def test_an_outcome_that_cannot_be_is_refused(word: str, score: str, tag: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Outcome.of(word, score, tag)


def test_a_comma_is_a_decimal_point() -> None:
    assert Outcome.of("score", " 0,5 ").score == 0.5


def test_one_policy_alone_is_measured(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.7, episodes=20)
    judge_all(judging, reaching_robot(judging.session))
    result = judging.result()
    assert result is not None
    assert "judged alone, from 20 starts" in result.verdict
    assert [(one["state"], "p_best" in one) for one in result.found] == [("alone", False)]
    metrics = result.found[0]["metrics"]
    assert metrics["score_low"] < 0.7 < metrics["score_high"]


def test_the_confirmed_finalists_come_before_the_ranking(tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "arm", 0.9, 0.5, 0.7)
    found = [{"trial": 1, "state": "best"}, {"trial": 2, "state": "failed"}]
    sweep.confirmation = {"finalists": found}
    assert [one.trial for one in wanted_policies(sweep, 3)[0]] == [1, 0, 2]
    assert [one.trial for one in wanted_policies(sweep, 3, [2, 0, 2])[0]] == [2, 0]


def test_a_damaged_session_is_named(tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "arm", 0.5)
    session = session_of(sweep)
    session.path.write_text("{")
    with pytest.raises(UserError, match=r"real/1\.json cannot be read as a session.*--new"):
        last_session(sweep.folder)


# In the terminal


def typing(judging: Judging, *lines: str) -> tuple[bool, str]:
    """Type lines into the dialogue; returns whether it ended, and what it showed."""
    waiting, shown = list(lines), []

    def read(prompt: str) -> str:
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    return converse(judging, read, shown.append), "\n".join(shown)


def test_the_terminal_asks_and_understands_short_answers(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=9)
    done, shown = typing(
        judging, "s", "f dropped it", "0.5 slow", ".25", "v camera fell", "success", "u", "", "bla",
        "c 1 z s", "c 9 a s", "c 1 A 0,75", "l", "7",
    )  # fmt: skip
    assert not done
    assert [(one["word"], one["score"], one["tag"]) for one in answers_on_disk(tmp_path / "arm")] == [
        ("success", 1.0, ""),
        ("failure", 0.0, "dropped it"),
        ("score", 0.5, "slow"),
        ("score", 0.25, ""),
        ("void", 0.0, "camera fell"),
        ("success", 1.0, ""),
        ("void", 0.0, "camera fell"),
        ("score", 0.75, ""),
    ]
    assert "Start 1 of up to 9: set up the scene" in shown
    assert "again (1 of 2 from this start)" in shown
    assert "Taken back: start 3" in shown
    assert "'bla' is not an answer" in shown
    assert "'z' is not a policy: A, B" in shown
    assert "Start 9 with policy A has no answer yet" in shown
    assert "Corrected: start 1, policy A: score 0.75" in shown
    assert "The score is '7'" in shown
    assert "trial" not in shown.lower(), "the operator does not know which policy is which"


def test_a_full_disk_is_reported_and_the_episode_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=9)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("trainables.episodes.EpisodeFile.append", full)
        _, shown = typing(judging, "s")
    assert "The answer was not recorded: No space left on device." in shown
    assert judging.history() == []


def test_the_last_answer_can_be_undone_before_the_session_ends(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=1)
    done, shown = typing(judging, "s", "s", "u", "f", "")
    assert done
    assert shown.count("The session has ended") == 2
    assert typing(judging)[0], "at the end of input it has ended, too"
    assert not typing(judging, "u", "q")[0]


@pytest.mark.slow
def test_the_command_judges_shows_who_was_who_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path, monkeypatch)
    ended_sweep(tmp_path / "sweeps" / "arm", 0.3, 0.9, 0.5)
    arguments = ("judge", "arm", "--serve", "none", "--episodes", "2", "--top", "2")
    monkeypatch.setattr("sys.stdin", io.StringIO("s\nf dropped it\n"))
    assert ended(*arguments, "--seed", "4") == 130
    out = capsys.readouterr().out
    before, _, after = out.partition("on the real robot, judged by a person")
    assert "trial" not in before.lower()
    assert "what went wrong: dropped it (1)" in after
    assert "It was stopped. Trial" in after
    monkeypatch.setattr("sys.stdin", io.StringIO("s\ns\n\n"))
    assert ended(*arguments, "--json") == 0
    shown = capsys.readouterr()
    assert "The session continues after 2 answers" in shown.err
    found = json.loads(shown.out)
    assert {one["trial"] for one in found["finalists"]} == {1, 2}
    assert found["options"]["seed"] == 4
    sweep = read_sweep(tmp_path / "sweeps" / "arm")
    assert sweep.judgement == found
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert ended(*arguments) == 0
    again = [event for event in read_journal(sweep.folder / JOURNAL).events if event["event"] == "judged"]
    assert len(again) == 2, "nothing new was found, so nothing is recorded"
    capsys.readouterr()
    assert ended("results", "arm") == 0
    assert "On the real robot, judged by a person: Trial" in capsys.readouterr().out
    assert ended(*arguments, "--seed", "5") == 2
    assert "has the seed 4" in capsys.readouterr().err
    assert ended("judge", "arm", "--serve", "none", "--trial", "0", "--trial", "2") == 130
    assert "A new session starts" in capsys.readouterr().out
    assert last_session(sweep.folder).number == 2  # type: ignore[union-attr]
    assert ended("judge", "arm", "--serve", "8000") == 2
    assert "--serve 8000: expected HOST:PORT" in capsys.readouterr().err


def test_an_address_has_a_host_and_a_port() -> None:
    assert address_of("[::1]:80", "--web") == Address("::1", 80)
    assert [Address(host, 1).is_local for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0")] == [
        True,
        True,
        True,
        False,
    ]
    assert Address("0.0.0.0", 1).reachable != "0.0.0.0"
    assert Address("::1", 1).reachable == "[::1]"
    for text in ("8000", "host", ":80", "a:b", "a:70000"):
        with pytest.raises(UserError, match="expected HOST:PORT"):
            address_of(text, "--serve")


@pytest.mark.slow
def test_a_server_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(ended_sweep(tmp_path / "arm", 0.5, 0.6))
    monkeypatch.setattr("sweeper.finalists.judging.servers.SERVE", ("-c", "raise SystemExit('no port')"))
    with (
        pytest.raises(SweeperError, match=r"server of policy A did not start: no port.*--serve none"),
        serving(session, Address("127.0.0.1", 0), session.letters),
    ):
        pass


# Whatever interrupts it


@pytest.mark.slow
def test_a_session_that_is_killed_at_random_ends_as_one_that_was_not(tmp_path: Path) -> None:
    undisturbed = judging_of(tmp_path / "undisturbed", 0.35, 0.65, 0.5, episodes=8, seed=7)
    expected = judge_all(undisturbed, reaching_robot(undisturbed.session))
    killed = ended_sweep(tmp_path / "killed", 0.35, 0.65, 0.5)
    arguments = ("--serve", "none", "--episodes", "8", "--web-address", "127.0.0.1:0")
    drawn, asked = random.Random(1), []
    for attempt in range(4):
        more = ("--seed", "7") if not attempt else ()
        process = start_judge(killed.folder, *arguments, *more)
        try:
            phone, _ = page_of(process)
            robot = reaching_robot(last_session(killed.folder))  # type: ignore[arg-type]
            left = drawn.randint(3, 6) if attempt < 3 else 10_000
            while left and (state := phone.state())["question"] is not None:
                question = state["question"]
                asked.append((question["start"], question["letter"]))
                phone.answer(state, word=verdict(robot(question["letter"], question["start"])).word)
                left -= 1
            if attempt < 3:
                process.send_signal(signal.SIGKILL)
            else:
                assert "Trial" in phone.answer(phone.state(), "/finish")["text"]
            out, _ = process.communicate(timeout=400)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, out
    assert asked == expected
    strip = [{**one} for one in answers_on_disk(killed.folder)]
    assert strip == answers_on_disk(undisturbed.session.folder)
    result = undisturbed.result()
    assert result is not None
    assert read_sweep(killed.folder).judgement["finalists"] == json.loads(json.dumps(result.found))


@pytest.mark.slow
def test_a_line_that_a_kill_cut_off_is_asked_again(tmp_path: Path) -> None:
    judging = judging_of(tmp_path / "arm", 0.5, 0.5, episodes=4)
    judge_all(judging, reaching_robot(judging.session), most=4)
    before = judging.question()
    assert before is not None
    judging.answer(before.key, Outcome.of("success"))
    trial = judging.session.policy(before.letter).trial
    (path,) = (tmp_path / "arm").glob(f"trials/{trial}/episodes/*-real.jsonl")
    whole = path.read_bytes()
    start = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for cut in range(start, len(whole) - 1, 7):
        path.write_bytes(whole[:cut])
        question = Judging(judging.session, judging.options).question()
        assert question is not None
        assert (question.letter, question.start) == (before.letter, before.start)
    judging.answer(judging.key(), Outcome.of("failure"))
    assert len(judging.history()) == 5


# What the person's answers may decide


@pytest.mark.slow
@pytest.mark.parametrize(("rates", "epsilon"), [([0.5] * 3, 0.0), ([0.8, 0.8, 0.3], 0.0), ([0.6] * 3, 0.2)])
def test_of_equal_policies_none_leaves_more_often_than_agreed(rates: list[float], epsilon: float) -> None:
    rng = np.random.default_rng(21)
    options = JudgeOptions(episodes=40, epsilon=epsilon)
    rule = RaceRule(options.episodes, 1, options.delta, epsilon)
    best = {letter for letter, rate in zip("ABC", rates, strict=True) if rate == max(rates)}
    wrong = 0
    for _ in range(800):
        outcomes = paired_successes(rng, rates, options.episodes, 0.3)
        # A person gives a score to a part of the failures.
        scored = np.where((outcomes == 0) & (rng.random(outcomes.shape) < 0.3), 0.5, outcomes)
        found = {letter: dict(enumerate(column)) for letter, column in zip("ABC", scored.T, strict=True)}
        race = replay("ABC", found, rule)
        wrong += any(departure.arm in best for departure in race.departures)
    assert wrong / 800 <= options.delta


@pytest.mark.slow
def test_the_planned_number_of_starts_decides_about_half_of_the_time() -> None:
    rng = np.random.default_rng(22)
    enough, planned = 0, 0
    for _ in range(300):
        outcomes = paired_successes(rng, [0.5, 0.75], 2000, 0.0)
        found = {letter: dict(enumerate(column)) for letter, column in zip("AB", outcomes.T, strict=True)}
        race = replay("AB", found, RaceRule(40, 1))
        further = race.further_episodes()
        if race.state is not RaceState.BUDGET_USED or not further or further > 1900 or race.leader != "B":
            continue
        planned += 1
        enough += replay("AB", found, RaceRule(40 + further, 1)).state is RaceState.DECIDED
    assert planned > 100
    assert 0.3 < enough / planned < 0.85
