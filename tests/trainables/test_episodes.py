from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from trainables.episodes import (
    PURPOSES,
    EpisodeFile,
    EpisodeRecord,
    Evaluated,
    Judged,
    first_seed,
    read_answers,
    read_episodes,
    setting_key,
)

SEARCH = Evaluated("search", 2400, {}, "gym_pusht/PushT-v0")


def record(episode: int, **values: float) -> EpisodeRecord:
    success = {"success": True, "max_reward": 0.9, "sum_reward": 51.25, "length": 300, "chunk_ms": 12.3456}
    return EpisodeRecord(episode, 100_000 + episode, **(success | values))  # type: ignore[arg-type]


def test_blocks_of_episodes_are_appended_and_read_back_by_number(tmp_path: Path) -> None:
    file = EpisodeFile(tmp_path / "episodes", SEARCH)
    assert file.records() == []
    file.append([record(3), record(2)])
    file.append([record(0)])
    assert file.records() == [record(0), record(2), record(3)]
    assert read_episodes(file.path)[0] == SEARCH
    assert file.path.name == "002400-search.jsonl"


def test_rewards_keep_all_digits(tmp_path: Path) -> None:
    exact = record(0, max_reward=1 / 3, sum_reward=0.1 + 0.2)
    path = EpisodeFile(tmp_path, SEARCH).write([exact])
    assert read_episodes(path)[1] == [exact]


@pytest.mark.slow
def test_a_line_that_a_kill_cut_off_does_not_count_and_spoils_no_other(tmp_path: Path) -> None:
    file = EpisodeFile(tmp_path, SEARCH)
    file.write([record(0), record(1)])
    whole = file.path.read_bytes()
    for cut in range(len(whole) - len(whole.splitlines()[-1]), len(whole)):
        file.path.write_bytes(whole[:cut])
        assert record(0) in file.records()
        file.append([record(5)])
        assert set(file.records()) - {record(1)} == {record(0), record(5)}


def test_an_episode_that_was_recorded_twice_counts_once(tmp_path: Path) -> None:
    file = EpisodeFile(tmp_path, SEARCH)
    file.append([record(0), record(1)])
    file.append([record(1), record(2)])
    assert [one.episode for one in file.records()] == [0, 1, 2]


def test_settings_and_purposes_have_files_of_their_own() -> None:
    setting = {"policy.sampler": "DDIM", "policy.n_action_steps": 4}
    same = dict(reversed(setting.items()))
    assert setting_key(setting) == setting_key(same) != setting_key(setting | {"policy.n_action_steps": 8})
    names = {Evaluated(purpose, 1, value, "env").name for purpose in PURPOSES for value in ({}, setting)}
    assert len(names) == 2 * len(PURPOSES)


def test_seeds_of_purposes_never_meet() -> None:
    starts = sorted(first_seed(100_000, purpose) for purpose in PURPOSES)
    assert starts[0] == 100_000
    assert all(later - earlier >= 1_000_000 for earlier, later in pairwise(starts))
    assert starts[-1] + 1_000_000 < 2**32


@pytest.mark.parametrize("head", ["", "[]", '{"purpose": "search"}', '{"purpose": "x", "step": 1}', "{"])
def test_a_file_that_does_not_say_what_was_evaluated_is_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f"{head}\n{json.dumps(record(0).to_json())}\n")
    with pytest.raises(ValueError, match="the first line does not describe what was evaluated"):
        read_episodes(path)


def judged(episode: int, answer: int, score: float, word: str = "score", **more: object) -> EpisodeRecord:
    said = Judged(answer, 1700000000.5, word, **more)  # type: ignore[arg-type]
    return EpisodeRecord(episode, episode, score == 1.0, score, score, 0, 0.0, said)


def test_a_corrected_answer_counts_and_every_answer_is_kept(tmp_path: Path) -> None:
    file = EpisodeFile(tmp_path, Evaluated("real", 2400, {}, "real robot"))
    answers = [
        judged(3, 1, 1.0),
        judged(4, 2, 0.5, tag="slow"),
        judged(3, 3, 0.0, "failure", tag="dropped it"),
        judged(4, 4, 0.0, "void", undoes=2),
    ]
    for answer in answers:
        file.append([answer])
    assert file.path.name == "002400-real.jsonl"
    assert file.records() == [answers[2]], "an episode that is void has no record"
    assert read_answers(file.path) == answers


def test_episodes_of_a_simulator_are_written_as_before(tmp_path: Path) -> None:
    path = EpisodeFile(tmp_path, SEARCH).write([record(0)])
    assert "judged" not in path.read_text()
    assert read_answers(path) == []
    whole = path.read_text()
    path.write_text(whole + json.dumps(record(1).to_json() | {"judged": {"answer": "x"}}) + "\n")
    assert read_episodes(path)[1] == [record(0)], "a damaged answer is left out"
