from __future__ import annotations

import numpy as np
import pytest

from trainables.interface import FieldInfo
from trainables.ranges import LARGEST, compressed, parse_choice


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        (7, {7}),
        ("7", {7}),
        ("2-4", {2, 3, 4}),
        ("2:4", {2, 3}),
        (" 2 - 4 ", {2, 3, 4}),
        (range(1, 9, 3), {1, 4, 7}),
        (range(9, 1, -3), {9, 6, 3}),
        ([0, "2-3", "6:8", range(10, 12)], {0, 2, 3, 6, 7, 10, 11}),
        ((np.int64(3), 5), {3, 5}),
        (np.arange(3), {0, 1, 2}),
        ([], set()),
        (range(0), set()),
    ],
)
def test_numbers_and_ranges_are_chosen_as_they_read(value, chosen):
    choice = parse_choice(value)
    assert {number for number in range(20) if number in choice} == chosen
    assert bool(choice) == bool(chosen)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("9-3", "'9-3' ends before it begins"),
        ("5:5", "'5:5' is empty"),
        ("x", "'x' is neither a whole number nor a range"),
        ("1-2-3", "'1-2-3' is neither"),
        ("-3", "'-3' is neither"),
        ("٣", "is neither"),
        ("", "'' is neither"),
        (-1, "-1 is negative"),
        (range(-2, 4), "leaves the numbers from 0"),
        (2.0, "2.0 is neither"),
        (True, "True is neither"),
        (None, "None is neither"),
        ({"a": 1}, "'a' is neither"),
        ([0, ["1-2"]], r"\['1-2'\] is neither"),
        ("0-99999999999999999999", "larger than any number"),
        (LARGEST + 1, "larger than any number"),
        ("9" * 5000, "is neither"),
    ],
)
def test_nonsense_is_named(value, words):
    with pytest.raises(ValueError, match=words):
        parse_choice(value)


def test_missing_numbers_are_listed_as_ranges():
    choice = parse_choice([3, 12, "8-10", "20:22", range(0, 30, 10)])
    assert choice.missing({3, 9, 20}) == ["12", "8", "10", "21", "0-10 in steps of 10"]
    assert parse_choice([1, "2-3"]).missing([1, 2, 3]) == []


def test_a_range_is_never_written_out():
    choice = parse_choice("0-1000000000000000")
    assert 999_999_999_999_999 in choice
    assert choice.missing(range(206)) == ["206-1000000000000000"]


def test_numbers_are_written_so_that_they_can_be_read_back():
    numbers = [9, 3, 4, 5, 0, 1, 20, 7]
    assert compressed(numbers) == "[0, 1, 3-5, 7, 9, 20]"
    assert {n for n in range(30) if n in parse_choice([0, 1, "3-5", 7, 9, 20])} == set(numbers)
    assert compressed([]) == "[]"


def test_a_field_of_ranges_accepts_what_can_be_read_and_describes_what_it_expects():
    info = FieldInfo("episodes", "ranges", None, nullable=True)
    for value in (None, 3, "0-99", [0, "4:9"]):
        assert info.faults(value) == []
    (fault,) = info.faults([0, "9-3"])
    assert str(fault) == (
        "episodes: '9-3' ends before it begins. "
        "Expected ints and ranges such as 0-99 or 0:100, alone or in a list, or null."
    )


def test_a_field_of_texts_takes_one_or_several():
    info = FieldInfo("root", "texts", None)
    for value in ("a", ["a"], ["a", "b"]):
        assert info.faults(value) == []
    (fault,) = info.faults(["a", 3])
    assert str(fault) == "root: 3 is not a text. Expected a text or a list of texts."
