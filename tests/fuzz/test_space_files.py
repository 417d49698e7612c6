"""Space files from strangers: a plan, or an error of ours that says what is wrong. Never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE_TEXTS, damaged_bytes, damaged_trees, fuzz, scalars

from sweeper.errors import SpecError, SweeperError
from sweeper.machines.machine import Machine
from sweeper.machines.plan import make_plan
from sweeper.spec.expressions import Expression
from sweeper.spec.space_file.load import load_spec
from trainables.interface import TrainableError

pytestmark = pytest.mark.slow

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
GOOD = (Path(__file__).parents[1] / "sweeper" / "good_space.yaml").read_text()
MACHINE = Machine(cpus=4, gpus=1, disk_gb=100.0)
WORDS = [
    *("policy.horizon", "policy.down_dims", "true", "null", "1", "0", "-3", "1e308", "'a'", "[1,2]", "x"),
    *("(", ")", ",", "[", "]", "{", "}", ".", "\\", "'", '"', "\n", ":="),
    *("and", "or", "not", "in", "==", "<=", "<", "+", "-", "*", "/", "//", "%", "**"),
    *("min", "max", "len", "abs", "if", "lambda", "for", "await", "__class__"),
]
KEYS = [
    *("name", "trainable", "config", "parameters", "constraints", "metric", "objectives", "budget", "", ".."),
    *("parameters.policy.horizon", "parameters.optimizer.lr.max", "budget.trials", "search.method"),
    *(
        "config.dataset.root",
        "config.policy.down_dims",
        "resources.workers",
        "tracking.uri",
        "config.",
        "a.b",
    ),
    *("early_stop", "a.b"),
]


def refused(error: Exception) -> None:
    """A refusal must say something."""
    assert str(error).strip()


def try_space(folder: Path, data: bytes, overrides: tuple[str, ...] = ()) -> None:
    """Check a space file as ``sweeper check`` does."""
    file = folder / "space.yaml"
    file.write_bytes(data)
    try:
        make_plan(load_spec(file, overrides, folder / "sweeps"), MACHINE)
    except (SweeperError, TrainableError) as error:
        refused(error)


def dumped(tree: Any) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


@fuzz(1.0, 60)
@given(data=st.data())
def test_a_space_with_damaged_values_is_refused_or_planned(tmp_path_factory, data) -> None:
    space = yaml.safe_load(data.draw(st.sampled_from(SPACES)).read_text())
    try_space(tmp_path_factory.mktemp("fuzz"), dumped(data.draw(damaged_trees(space))))


@fuzz(1.0, 60)
@given(data=st.data())
def test_a_space_with_damaged_bytes_is_refused_or_planned(tmp_path_factory, data) -> None:
    whole = data.draw(st.sampled_from(SPACES)).read_bytes()
    try_space(tmp_path_factory.mktemp("fuzz"), data.draw(damaged_bytes(whole)))


@fuzz(0.5, 30)
@given(data=st.data())
def test_overrides_are_refused_or_planned(tmp_path_factory, data) -> None:
    file = data.draw(st.sampled_from(SPACES))
    keys = st.sampled_from(KEYS)
    values = st.one_of(st.text(max_size=12), st.sampled_from(HOSTILE_TEXTS), scalars().map(str))
    overrides = data.draw(st.lists(st.tuples(keys, values).map("=".join), min_size=1, max_size=3))
    try_space(tmp_path_factory.mktemp("fuzz"), file.read_bytes(), tuple(overrides))


@fuzz(1.0, 200)
@given(words=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), max_size=14))
def test_an_expression_has_a_value_or_is_refused(words) -> None:
    config = {"policy.horizon": 16, "policy.down_dims": [64, 128], "x": 2.5}
    try:
        Expression(" ".join(words)).holds(config)
    except SweeperError as error:
        refused(error)


NINES = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
NINES += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]


def swapped(old: str, new: str) -> str:
    """The good space with something else in one place."""
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (GOOD + "\n".join(NINES), "", "has more than 50000 values"),
        ("[" * 100_000, "", "levels deep"),
        ("a: " + "{b: " * 5000, "", "levels deep"),
        (swapped("max: 1e-3", "max: " + "9" * 100_000), "", "cannot be read"),
        (
            swapped("{values: [8, 16, 24, 32]}", "{min: 1, max: 100000000000000}"),
            "parameters.policy.horizon",
            "cannot be used in any trial",
        ),
    ],
    ids=["aliases", "lists", "mappings", "digits", "numbers"],
)
def test_a_file_that_would_unfold_without_end_is_refused(tmp_path, text, name, words) -> None:
    """The space is good but for this, so that nothing else can be what is refused."""
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(file, (), tmp_path / "sweeps")
    (fault,) = caught.value.faults
    assert fault.name == name
    assert words in fault.problem
