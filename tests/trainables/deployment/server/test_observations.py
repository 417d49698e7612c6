"""What a client sends is checked: names, shapes, types, finite numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from small_policy import features

from trainables.deployment.server.observations import (
    MOST_ROWS,
    Request,
    RequestError,
    Reset,
    Takes,
    read_request,
)

TAKES = Takes(
    features(cameras=1, image=(4, 6)), n_obs_steps=2, n_action_steps=4, available_actions=7, continues=True
)
PICTURE = np.zeros((3, 4, 6), dtype=np.uint8)
ONE = {"observation.images.c0": PICTURE, "observation.state": np.zeros(3, dtype=np.float32)}


def read(message: Any) -> Request:
    found = read_request(message, TAKES)
    assert isinstance(found, Request)
    return found


def stacked(*leading: int) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(value, (*leading, *value.shape)) for name, value in ONE.items()}


@pytest.mark.parametrize(
    ("leading", "layout", "rows"), [((), "single", 1), ((2,), "stacked", 1), ((5, 2), "rows", 5)]
)
def test_the_shapes_decide_what_is_meant(leading: tuple[int, ...], layout: str, rows: int) -> None:
    request = read(stacked(*leading))
    assert (request.layout, request.rows) == (layout, rows)
    assert {name: value.shape for name, value in request.values.items()} == {
        name: (*leading, *value.shape) for name, value in ONE.items()
    }


@pytest.mark.parametrize("dtype", ["f8", "f2", "i4", "u1"])
def test_vectors_of_other_numbers_become_float32(dtype: str) -> None:
    values = read({**ONE, "observation.state": np.array([1, 2, 3], dtype=dtype)}).values
    assert values["observation.state"].dtype == np.float32
    assert values["observation.state"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        ({"observation.state": None}, ["observation.state: is a NoneType, not an array."]),
        ({"observation.state": [1.0, 2.0, 3.0]}, ["observation.state: is a list, not an array."]),
        ({"prompt": "push"}, ["prompt: the policy has no such input. It takes observation.images.c0, obser"]),
        ({7: 1}, ["7: the policy has no such input."]),
        ({"observation.state": np.zeros(4)}, ["has the shape [4]. Send one observation, [3], the last 2"]),
        ({"observation.state": np.zeros((3, 3))}, ["has the shape [3, 3]", "[2, 3], or rows of those"]),
        ({"observation.state": np.zeros((2, 3))}, ["different numbers of steps or rows"]),
        ({"observation.state": np.array([1, np.nan, 2])}, ["observation.state: has values that are not"]),
        ({"observation.state": np.array([1, np.inf, 2])}, ["not finite"]),
        ({"observation.state": np.array([1, 1e300, 2])}, ["not finite"]),
        ({"observation.state": np.zeros(3, dtype=bool)}, ["has the type bool. Send float32."]),
        ({"observation.images.c0": PICTURE.astype(np.float32)}, ["has the type float32. Send uint8."]),
        (
            {"observation.images.c0": PICTURE.transpose(1, 2, 0)},
            ["has the shape [4, 6, 3]", "The channels come first: image.transpose(2, 0, 1)."],
        ),
        ({"observation.images.c0": PICTURE[:, :3]}, ["observation.images.c0: has the shape [3, 3, 6]"]),
        ({"command": "fly"}, ["command: fly is not one of reset, observe"]),
        ({"command": ["reset"]}, ["command: ['reset'] is not one of"]),
        ({"seed": -1}, ["seed: -1 is not a whole number"]),
        ({"seed": 2**63}, ["is not a whole number"]),
        ({"seed": 1.5}, ["1.5 is not a whole number"]),
        ({"seed": True}, ["True is not a whole number"]),
        ({"seed": [1, 2]}, ["2 seeds for 1 rows"]),
        ({"generator": np.zeros(3, dtype=np.uint8)}, ["send a list with one state per row"]),
        ({"generator": [b"state"]}, ["a state is not an array of uint8"]),
        ({"generator": [np.zeros(8, dtype=np.uint8)], "seed": 3}, ["not both"]),
        ({"x" * 500: 1}, ["..."]),
        ({"n_action_steps": 8}, ["n_action_steps: 8 is not a whole number from 1 to 7"]),
        ({"n_action_steps": 1.0}, ["1.0 is not a whole number"]),
        ({"known": np.zeros((7, 2))}, ["kept: is not an array. Send numbers of the shape [7]"]),
        ({"kept": np.zeros(7)}, ["known: is not an array. Send numbers of the shape [7, 2]"]),
        ({"known": np.zeros((1, 7, 2)), "kept": np.zeros(7)}, ["known: has the shape [1, 7, 2]"]),
        ({"known": np.full((7, 2), np.nan), "kept": np.zeros(7)}, ["known: has values that are not finite"]),
        ({"known": np.zeros((7, 2)), "kept": np.full(7, 1.5)}, ["kept: has values that are not from 0 to 1"]),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_remedy(change: dict[Any, Any], faults: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        read({**ONE, **change})
    assert [fault for fault in faults if fault not in str(caught.value)] == []
    assert len(str(caught.value)) < 500


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        read({"observation.images.c0": PICTURE.astype(float), "state": np.zeros(3)})
    for fault in ("state: the policy has no such", "observation.state: is missing", "Send uint8"):
        assert fault in str(caught.value)


@pytest.mark.parametrize("message", [None, [], 3, "reset", b"", np.zeros(3)], ids=repr)
def test_a_message_is_a_map(message: Any) -> None:
    with pytest.raises(RequestError, match="send a map of observations by name"):
        read_request(message, TAKES)


@pytest.mark.parametrize("rows", [0, MOST_ROWS + 1])
def test_a_message_has_few_rows(rows: int) -> None:
    with pytest.raises(RequestError, match=f"have {rows} rows: from 1 to {MOST_ROWS}"):
        read(stacked(rows, 2))


def test_rows_of_different_numbers_are_refused() -> None:
    uneven = {**stacked(3, 2), "observation.state": np.zeros((4, 2, 3))}
    with pytest.raises(RequestError, match="different numbers of rows"):
        read(uneven)


def test_only_one_observation_can_be_remembered() -> None:
    assert read({**ONE, "command": "observe"}).observe_only
    with pytest.raises(RequestError, match="observe: send one observation"):
        read({**stacked(2), "command": "observe"})


def test_actions_that_are_known_need_a_policy_that_continues_them() -> None:
    known = {"known": np.ones((5, 7, 2)), "kept": np.linspace(1, 0, 7)}
    request = read({**stacked(5, 2), **known})
    assert request.known is not None
    assert (request.known.shape, request.known.dtype) == ((5, 7, 2), np.float32)
    one = read({**ONE, "known": np.ones((7, 2)), "kept": np.ones(7)})
    assert one.known is not None
    assert one.known.shape == (1, 7, 2)
    with pytest.raises(RequestError, match="this policy cannot continue actions"):
        read_request({**stacked(5, 2), **known}, dataclasses.replace(TAKES, continues=False))


def test_a_reset_has_a_seed_or_none() -> None:
    assert read_request({"command": "reset"}, TAKES) == Reset(None)
    assert read_request({"command": "reset", "seed": np.int64(5)}, TAKES) == Reset(5)
    with pytest.raises(RequestError, match="sead is not known"):
        read_request({"command": "reset", "sead": 5}, TAKES)
