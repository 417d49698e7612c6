"""What a worker leaves about its course between reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.trial.exchange import ATTEMPT, ProgressFile, ProgressReader, own_slot_of, phase_of, progress_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("image: 1,024 of 9,000 frames decoded", "image: 2,048 of 9,000 frames decoded", True),
        ("step 100: rollout: 3 of 10 episodes", "step 200: rollout: 4 of 10 episodes", True),
        ("decoding 40 %", "decoding 40.5 %", True),
        ("opening the dataset", "building the policy", False),
    ],
)
def test_a_phase_is_a_message_without_its_numbers(one: str, other: str, same: bool) -> None:
    assert (phase_of(one) == phase_of(other)) is same


def test_the_progress_of_a_trial_is_opened_only_if_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda file: opened.append(file) or read_text(file))
    reader, file = ProgressReader(), tmp_path / "progress.json"
    assert reader(tmp_path) == ""
    ProgressFile(file)("decoding 1 of 9")
    assert [reader(tmp_path) for _ in range(5)] == ["decoding 1 of 9"] * 5
    ProgressFile(file)("decoding 2 of 9")
    assert [reader(tmp_path) for _ in range(5)] == ["decoding 2 of 9"] * 5
    assert opened == [file] * 2
    file.unlink()  # the next attempt starts
    assert reader(tmp_path) == ""


def test_a_new_phase_is_never_left_out_and_is_logged_once(tmp_path: Path) -> None:
    logged: list[str] = []
    progress = ProgressFile(tmp_path / "progress.json", logged.append)
    for message in ("opening the dataset", "decoding 1 of 9", "decoding 2 of 9", "building the policy"):
        progress(message)
    assert progress_of(tmp_path) == "building the policy"
    assert logged == ["opening the dataset", "decoding 1 of 9", "building the policy"]


def test_within_a_phase_the_file_is_written_now_and_then(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path / "progress.json")
    for number in range(1000):
        progress(f"decoding {number} of 1000")
    assert progress_of(tmp_path) == "decoding 0 of 1000"


def test_a_slot_that_another_trial_has_by_now_is_not_the_trials_own(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, slot in zip(folders, ("1", "1", "2"), strict=True):
        folder.mkdir()
        (folder / ATTEMPT).write_text(json.dumps({"slot": slot}))
    restarted, running, apart = folders
    assert own_slot_of(restarted, [running, apart]) == ""
    assert own_slot_of(apart, [restarted, running]) == "2"
    assert own_slot_of(tmp_path / "not started", [running]) == ""
