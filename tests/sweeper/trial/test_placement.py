"""Who waits for what on a cluster, and who goes first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.trial.placement import STARVED_S, WAITING, has_priority, needs_text, waits_for

ALL = {"GPU": 4.0, "CPU": 16.0}
GPU = {"GPU": 1.0, "CPU": 4.0}
CPU = {"CPU": 1.0}


@pytest.mark.parametrize(
    ("elder", "waited_s", "ours", "first"),
    [
        # Equal trials take turns.
        ([GPU], 1.0, [GPU], True),
        ([CPU], 1.0, [CPU, CPU], True),
        # A larger one is not waited for at once, but not starved either.
        ([GPU, GPU], 1.0, [GPU], False),
        ([GPU, GPU], STARVED_S, [GPU], True),
        ([CPU] * 8, STARVED_S, [CPU], True),
        # Trials on CPUs are not held up by one that waits for a GPU.
        ([GPU], STARVED_S, [CPU], False),
        # What the cluster does not have has no turn.
        ([GPU] * 5, STARVED_S, [GPU], False),
    ],
)
def test_who_goes_first(
    elder: list[dict[str, float]], waited_s: float, ours: list[dict[str, float]], first: bool
) -> None:
    assert has_priority(elder, waited_s, ours, ALL) == first


@pytest.mark.parametrize(
    ("bundles", "text"),
    [
        ([GPU], "1 GPU and 4 CPUs"),
        ([CPU], "1 CPU"),
        ([{"GPU": 0.5, "CPU": 1}], "0.5 GPUs and 1 CPU"),
        ([], "a place"),
    ],
)
def test_what_is_needed_is_said_in_words(bundles: list[dict[str, float]], text: str) -> None:
    assert needs_text(bundles) == text


def test_what_a_trial_waits_for_is_read_from_its_folder(tmp_path: Path) -> None:
    assert waits_for(tmp_path) == ""
    (tmp_path / WAITING).write_text(json.dumps({"needs": "1 GPU", "since": 0}))
    assert waits_for(tmp_path) == "1 GPU"
    (tmp_path / WAITING).write_text("[1")
    assert waits_for(tmp_path) == ""
