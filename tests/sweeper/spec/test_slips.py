"""Slips of typing in a space file: each is a fault that says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.errors import SpecError, SpecFault
from sweeper.spec.slips import meant_choice, meant_list, meant_number, meant_truth, strange_character
from sweeper.spec.space_file.load import load_spec

SPACE = """\
trainable: diffusion_policy
config:
  dataset.repo_id: builtin/pusht
  train.steps: 20000
parameters:
  optimizer.lr: {min: 1e-5, max: 1e-3, log: true}
metric: {name: eval/action_mse}
budget: {trials: 4}
"""


def faults_of(path: Path, text: str, *overrides: str) -> list[SpecFault]:
    path.write_bytes(text.encode())
    with pytest.raises(SpecError) as caught:
        load_spec(path, overrides)
    return list(caught.value.faults)


@pytest.fixture
def space(tmp_path):
    return tmp_path / "space.yaml"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("16", "16"),
        ("'16'", "16"),
        ("1e−4", "1e-4"),  # a minus sign of typography
        ("–3", "-3"),
        ("１６", "16"),
        ("20,000", "20000"),
        ("1,250,000.5", "1250000.5"),
        ("20 000", "20000"),
        ("20\u00a0000", "20000"),
        ("0,001", "0.001"),
        ("1,5", "1.5"),
        ("20k", "20000"),
        ("1.5 M", "1500000"),
        ("50%", "0.5"),
        ("12h", None),
        ("many", None),
        ("1,2,3", None),
        ("", None),
    ],
)
def test_the_number_that_a_text_means(text, number):
    assert meant_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("12h", "12"), ("1:30", "1.5"), ("2 hours", "2"), ("1:75", None)]
)
def test_a_time_is_a_number_of_hours(text, number):
    assert meant_number(text, "h") == number


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("[84, 84]", "[84, 84]"),
        ("(84, 84)", "[84, 84]"),
        ("84x96", "[84, 96]"),
        ("84 × 96", "[84, 96]"),
        ("256,512", "[256, 512]"),
        ("(84,)", "[84]"),
        ("84", None),
        ("[a, b]", None),
    ],
)
def test_the_list_that_a_text_means(text, listed):
    assert meant_list(text) == listed


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("0–9", "0-9"),
        ("0..9", "0-9"),
        ("0 to 9", "0-9"),
        ("[0-9]", "0-9"),
        ("0, 1, 2", "[0, 1, 2]"),
        ("9–0", None),
        ("all", None),
    ],
)
def test_the_choice_that_a_text_means(text, choice):
    assert meant_choice(text) == choice


def test_words_for_true_and_false():
    assert [meant_truth(word) for word in ("yes", "On", "TRUE", "off", "No", "1")] == [
        "true", "true", "true", "false", "false", None,
    ]  # fmt: skip


def test_ordinary_characters_are_not_strange():
    assert strange_character("dataset.root: /daten/Füße/机器人 #1 'x'") is None
    assert "U+00A0 no-break space" in strange_character("a\u00a0b")[0]
    assert "U+200B zero width space" in strange_character("a\u200bb")[0]
    assert strange_character("a：b") == ("： (U+FF1A fullwidth colon)", "Write : in its place.")


@pytest.mark.parametrize(
    ("old", "new", "name", "words"),
    [
        ("20000", "20,000", "config.train.steps", "Write 20000."),
        ("20000", "20k", "config.train.steps", "Write 20000."),
        ("20000", "'20000'", "config.train.steps", "Write 20000 without quotes."),
        ("20000", "20.000", "config.train.steps", "20.000 may mean 20 or 20000. Write 20000 or 20."),
        ("trials: 4", "trials: 2.000", "budget.trials", "Write 2000 or 2."),
        ("min: 1e-5", "min: 1e−5", "parameters.optimizer.lr.min", "Write 1e-5."),
        ("max: 1e-3", 'max: "0,001"', "parameters.optimizer.lr.max", "Write 0.001."),
        ("log: true", "log: yes", "parameters.optimizer.lr.log", "Expected true or false."),
        ("trials: 4", "trials: 4, hours: '1:30'", "budget.hours", "Write 1.5."),
        ("trials: 4", "trials: 4, hours: None", "budget.hours", "Write null."),
        ("20000", "20000\n  policy.crop_shape: (84, 84)", "config.policy.crop_shape", "Write [84, 84]."),
        ("20000", "20000\n  policy.crop_is_random: yes", "config.policy.crop_is_random", "Write true."),
        ("20000", "20000\n  dataset.episodes: 0–9", "config.dataset.episodes", "Write 0-9."),
    ],
)
def test_a_slip_comes_with_what_to_write(space, old, new, name, words):
    assert SPACE.count(old) == 1
    faults = faults_of(space, SPACE.replace(old, new))
    mine = [fault for fault in faults if fault.name == name]
    assert words in f"{mine[0].problem} {mine[0].remedy}", faults


def test_no_value_is_proposed_that_would_be_the_next_fault(space):
    (fault,) = faults_of(space, SPACE.replace("20000", "10%"))
    assert fault.remedy == "Expected an int of at least 1 (steps)."


@pytest.mark.parametrize("word", ["None", "none", "nil"])
@pytest.mark.parametrize(
    "name", ["dataset.revision", "rollout.env", "policy.pretrained_backbone_weights", "policy.path"]
)
def test_another_languages_null_is_not_taken_for_a_name(space, name, word):
    (fault,) = faults_of(space, SPACE, f"config.{name}={word}")
    assert (fault.problem, fault.remedy) == (f"{word!r} is a text here, not null.", "Write null.")


@pytest.mark.parametrize("name", ["dataset.root", "dataset.repo_id", "rollout.env", "policy.path"])
def test_an_empty_text_is_not_the_current_folder(space, name):
    (fault,) = faults_of(space, SPACE, f"config.{name}=''")
    assert (fault.problem, fault.remedy) == ("'' is an empty text here, not null.", "Write null.")


def test_other_sections_know_null_too(space):
    faults = faults_of(space, SPACE, "tracking.uri=None", "early_stop=none", "cost=false", "confirm=true")
    assert {(fault.name, fault.remedy.partition(" Keys")[0]) for fault in faults} == {
        ("tracking.uri", "Write null."),
        ("early_stop", "Remove the section, or write null."),
        ("cost", "Remove the section, or write null."),
        ("confirm", "Write `confirm: {}` for its defaults, or its settings."),
        ("confirm", "Set rollout.env in config, or remove the section."),
    }


@pytest.mark.parametrize("value", ["$DATA/set", "${DATA}/set", "~/${USER}/set", "${oc.env:DATA}"])
def test_a_variable_in_a_path_is_a_fault(space, value):
    for text in (SPACE.replace("repo_id: builtin/pusht", f'root: "{value}"'), SPACE):
        arguments = [] if "root" in text else [f"config.dataset.root={value}"]
        (fault,) = faults_of(space, text, *arguments)
        assert "variables are not filled in" in fault.problem


def test_a_folder_with_a_dollar_sign_in_its_name_is_a_folder(space, tmp_path):
    (tmp_path / "$set").mkdir()
    space.write_text(SPACE)
    spec = load_spec(space, [f"config.dataset.root={tmp_path}/$set"])
    assert spec.config["dataset.root"] == f"{tmp_path}/$set"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("train.steps: 20000", "train.steps：20000", "Line 4 contains ： (U+FF1A fullwidth colon). Write :"),
        ("  train.steps", "  train\u200b.steps", "contains a character that cannot be seen (U+200B"),
        ("  train.steps", "\u00a0\u00a0train.steps", "U+00A0 no-break space"),
        ("{min: 1e-5, max", "{min: 1e-5，max", "， (U+FF0C fullwidth comma)"),
        ("builtin/pusht", "“builtin/pusht”", "has typographic quotes"),
        ("  train.steps: 20000", "  <<: {train.steps: 20000}", "merge keys are not supported"),
    ],
)
def test_characters_that_only_look_right_are_named(space, old, new, words):
    assert SPACE.count(old) == 1
    faults = faults_of(space, SPACE.replace(old, new))
    assert words in f"{faults[0].problem} {faults[0].remedy}", faults


def test_characters_of_a_comment_or_of_quoted_text_are_free(space):
    text = SPACE.replace("20000", "20000  # “so lange”，bitte").replace("builtin", "'builtin'".strip("'"))
    space.write_text(f"{text}tracking: {{experiment: 'Füße “neu”'}}\n")
    assert load_spec(space).tracking.experiment == "Füße “neu”"


def test_quotes_of_a_web_page_on_the_command_line_are_named(space):
    (fault,) = faults_of(space, SPACE, "config.dataset.root=“~/data”")
    assert "U+201C" in fault.problem
    assert fault.place == "argument config.dataset.root=“~/data”"


def test_a_folder_without_its_field_is_answered_with_the_field(space, tmp_path):
    (tmp_path / "my_arm").mkdir()
    (fault,) = faults_of(space, SPACE, f"{tmp_path}/my_arm")
    assert fault.remedy == f"Write config.dataset.root={tmp_path}/my_arm if it is the dataset."


def test_three_decimals_of_a_number_that_is_not_whole_are_decimals(space):
    space.write_text(SPACE.replace("trials: 4", "trials: 4, hours: 1.500"))
    assert load_spec(space, ["config.train.steps=1000.0"]).budget.hours == 1.5


def test_a_number_with_a_comma_is_not_a_list_of_two(space):
    for given in ("config.train.steps=20,000", "config.optimizer.lr=0,001"):
        faults = faults_of(space, SPACE, given)
        assert "values" not in faults[0].remedy
    faults = faults_of(space, SPACE, "config.train.batch_size=32,64")
    assert "{values: [32, 64]}" in faults[0].remedy
