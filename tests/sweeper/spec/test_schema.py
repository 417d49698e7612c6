"""The JSON Schema of space files accepts what `sweeper check` accepts, and refuses what has a wrong shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from command_line import ended

from sweeper.spec.schema import space_schema
from sweeper.spec.space_file.load import packaged_spaces
from trainables import registry

ROOT = Path(__file__).parents[3]
FILES = {"diffusion_policy": "space.schema.json", "diffusion_policy_distilled": "distilled.schema.json"}
GOOD = Path(__file__).parents[1] / "good_space.yaml"
TRAINABLE = registry.load("diffusion_policy")
SCHEMA = space_schema(TRAINABLE)
CHECKED = jsonschema.Draft7Validator(SCHEMA)


def faults(space: Any) -> list[str]:
    return [error.message for error in CHECKED.iter_errors(space)]


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_the_schema_is_one_and_the_file_beside_the_spaces_is_current(name, capsys):
    jsonschema.Draft7Validator.check_schema(space_schema(registry.load(name)))
    assert ended("schema", "--trainable", name) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == space_schema(registry.load(name))
    # Remake it with: sweeper schema --trainable NAME > search_spaces/FILE
    assert (ROOT / "search_spaces" / FILES[name]).read_text() == printed


def test_the_command_prints_the_schema_of_the_usual_trainable(capsys):
    assert ended("schema") == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA


def test_every_space_of_the_package_names_the_schema_and_fits_it():
    spaces = packaged_spaces()
    assert len(spaces) >= 6
    for path in spaces.values():
        first, space = path.read_text().splitlines()[0], yaml.safe_load(path.read_text())
        name = space["trainable"]
        assert first == f"# yaml-language-server: $schema={FILES[name]}", path
        found = jsonschema.Draft7Validator(space_schema(registry.load(name))).iter_errors(space)
        assert [error.message for error in found] == [], path
    assert faults(yaml.safe_load(GOOD.read_text())) == []


def test_the_default_of_every_field_fits():
    for name, info in TRAINABLE.fields.items():
        field = jsonschema.Draft7Validator(SCHEMA["definitions"]["fields"]["properties"][name])
        given = list(info.default) if isinstance(info.default, tuple) else info.default
        if given is not None or info.nullable:
            assert field.is_valid(given), name
        assert not field.is_valid({"an": {"odd": "thing"}}) or info.kind == "dict", name


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"budgets": {"trials": 4}},
        {"budget": {"trials": 0}},
        {"budget": {"trails": 4}},
        {"config": {"policy.horizn": 16}},
        {"config": {"policy.horizon": "sixteen"}},
        {"config": {"policy.beta_schedule": "cosine"}},
        {"config": {"policy.down_dims": 32}},
        {"parameters": {"policy.horizon": [8, 16]}},
        {"parameters": {"policy.horizon": {"values": []}}},
        {"parameters": {"policy.horizon": {"min": 8}}},
        {"parameters": {"policy.beta_schedule": {"min": 1, "max": 2}}},
        {"parameters": {"optimizer.lr": {"min": 1e-5, "max": 1e-3, "distribution": "log"}}},
        {"metric": {"name": "success"}},
        {"metric": {"goal": "maximize"}},
        {"metric": None},
        {"search": {"method": "bayes"}},
        {"search": {"method": "tpe", "options": {"candidates": 4}}},
        {"early_stop": {"method": "asha", "reduction": 1}},
        {"inference": {"parameters": {"policy.horizon": {"values": [8]}}}},
        {"inference": {"episodes": 50}},
        {"confirm": {"top": 1}},
        {"resources": {"gpu_per_worker": "all"}},
        {"keep": {"checkpoints": "none"}},
    ],
)
def test_a_wrong_shape_is_refused(change):
    space = yaml.safe_load(GOOD.read_text())
    assert faults(space | change) != []


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"batch_size": 32, "policy.optimizer_lr": "1e-4"}},  # LeRobot's names, YAML 1.1's texts
        {"parameters": {"optimizer.lr": {"min": "1e-5", "max": "1e-3", "log": True}}},
        {"early_stop": None, "inference": None, "confirm": None, "name": None},
        {"resources": {"gpu_per_worker": "auto", "max_concurrent": 4}},
        {"config": {"dataset.episodes": "0-99", "dataset.root": ["one", "two"]}},
        {"inference": {"parameters": {"policy.n_action_steps": {"values": [1, 2]}}}},
    ],
)
def test_other_ways_to_write_it_are_accepted(change):
    space = yaml.safe_load(GOOD.read_text())
    assert faults(space | change) == []


def test_a_space_without_a_metric_or_objectives_is_refused():
    space = yaml.safe_load(GOOD.read_text())
    del space["metric"]
    assert faults(space) != []
    assert faults(space | {"objectives": [{"name": "eval/action_mse"}, {"name": "train/loss"}]}) == []
