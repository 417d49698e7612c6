"""What other tools write in place of ours: the tables, every form of a parameter, names in each section."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_trainable import Parabola

from sweeper.errors import SpecError, SpecFault
from sweeper.spec.space_file import combinations
from sweeper.spec.space_file.fields import SETTINGS, value_problem
from sweeper.spec.space_file.habits import (
    FIELDS,
    HOURS,
    METRICS,
    NO_METRIC,
    NOT_HERE,
    NOT_IN_THE_POLICY,
    SETTINGS_OF_OTHERS,
    VALUES,
)
from sweeper.spec.space_file.load import load_spec
from sweeper.spec.space_file.other_forms import our_form
from sweeper.spec.space_file.overrides import read_config
from trainables import registry
from trainables.interface import ConfigError

FIELDS_OF_OURS = registry.load("diffusion_policy").fields
METRICS_OF_OURS = registry.load("diffusion_policy").metrics
SPACE = """\
trainable: diffusion_policy
config:
  dataset.repo_id: builtin/pusht
{config}parameters:
  optimizer.lr: {{min: 1e-5, max: 1e-3, log: true}}
{parameters}metric: {{name: eval/action_mse}}
budget: {{trials: 8}}
{top}"""


@pytest.fixture(autouse=True)
def _fewer_combinations(monkeypatch):
    monkeypatch.setattr(combinations, "RANDOM_DRAWS", 20)
    monkeypatch.setattr(combinations, "DRAWS_PER_VALUE", 1)


@pytest.fixture
def faults(tmp_path):
    """The faults of a small space with lines added to its parts, and with overrides."""

    def faults_of(*overrides: str, **parts: str) -> list[SpecFault]:
        lines = {part: parts.get(part, "") for part in ("config", "parameters", "top")}
        indent = {"config": "  ", "parameters": "  ", "top": ""}
        text = {part: f"{indent[part]}{line}\n" if line else "" for part, line in lines.items()}
        (tmp_path / "space.yaml").write_text(SPACE.format(**text))
        try:
            load_spec(tmp_path / "space.yaml", overrides)
        except SpecError as error:
            return list(error.faults)
        return []

    return faults_of


# The tables


def test_every_name_of_the_tables_stands_for_something_of_ours():
    assert len(FIELDS) > 40
    assert set(FIELDS) <= set(FIELDS_OF_OURS)
    assert {*METRICS, *NO_METRIC} <= set(METRICS_OF_OURS)
    for path in SETTINGS_OF_OTHERS:
        section, _, setting = path.partition(".")
        options = setting.startswith("options.")
        assert path in ("name", "early_stop") or options or setting in SETTINGS[section], path


@pytest.mark.parametrize(
    "table", [FIELDS, SETTINGS_OF_OTHERS, METRICS, NO_METRIC, NOT_HERE, NOT_IN_THE_POLICY]
)
def test_every_word_of_a_table_is_there_once_and_in_lower_case(table: Mapping[str, str]):
    words = " ".join(table if table in (NOT_HERE, NOT_IN_THE_POLICY) else table.values()).split()
    assert words
    assert [word for word in words if words.count(word) > 1 or word != word.lower()] == []


def test_every_value_of_the_tables_is_legal():
    for path, values in VALUES.items():
        section, _, setting = path.partition(".")
        info = FIELDS_OF_OURS.get(path) or SETTINGS[section][setting]
        assert [value for value in values if value != "auto" and value_problem(info, value)] == [], path
    assert set(HOURS) <= set(SETTINGS_OF_OTHERS["budget.hours"].split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ours"), [(name, ours) for ours, names in FIELDS.items() for name in names.split()]
)
def test_every_name_of_a_field_is_answered_with_ours(faults, name: str, ours: str):
    value = FIELDS_OF_OURS[ours].default
    written = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    found = faults(config=f"{name}: {written}")
    mine = [fault for fault in found if fault.name == f"config.{name}"]
    assert mine, found
    assert f"Write `{ours}: " in mine[0].remedy


# Forms of a parameter


@pytest.mark.parametrize(
    ("written", "kind", "ours"),
    [
        # W&B
        ({"distribution": "log_uniform", "min": -9, "max": -2}, "float", {"min": 0.000123, "max": 0.135}),
        (
            {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
            "float",
            {"min": 1e-5, "max": 1e-3},
        ),
        ({"distribution": "inv_log_uniform", "min": 2, "max": 9}, "float", {"min": 0.000123, "max": 0.135}),
        ({"distribution": "log_normal", "mu": -7, "sigma": 1}, "float", {"min": 0.000123, "max": 0.00674}),
        ({"distribution": "uniform", "min": 0, "max": 1}, "float", {"min": 0, "max": 1}),
        ({"distribution": "int_uniform", "min": 1, "max": 8}, "int", {"min": 1, "max": 8}),
        ({"distribution": "q_uniform", "min": 8, "max": 34, "q": 8}, "int", {"min": 8, "max": 32, "step": 8}),
        (
            {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1},
            "float",
            {"min": 0, "max": 1, "step": 0.1},
        ),
        ({"distribution": "q_uniform", "min": 1, "max": 8}, "int", {"min": 1, "max": 8}),
        ({"distribution": "categorical", "values": [1, 2]}, "int", {"values": [1, 2]}),
        ({"distribution": "constant", "value": 3}, "int", {"value": 3}),
        ({"distribution": "normal", "mu": 1, "sigma": 0.25}, "float", {"min": 0.5, "max": 1.5}),
        (
            {"distribution": "q_log_uniform_values", "min": 32, "max": 256, "q": 32},
            "int",
            {"values": [32, 64, 128, 256]},
        ),
        ({"values": ["32", "64"]}, "int", {"values": [32, 64]}),
        ({"min": "1e-5", "max": "1e-3", "log": True}, "float", {"min": 1e-5, "max": 1e-3, "log": True}),
        # Hydra
        ("choice(32, 64, 128)", "int", {"values": [32, 64, 128]}),
        ("choice('linear', \"squaredcos_cap_v2\")", "str", {"values": ["linear", "squaredcos_cap_v2"]}),
        ("choice([64, 128], [128, 256])", "list[int]", {"values": [[64, 128], [128, 256]]}),
        ("choice(true, false)", "bool", {"values": [True, False]}),
        ("shuffle(choice(1, 2))", "int", {"values": [1, 2]}),
        ("interval(0.1, 0.5)", "float", {"min": 0.1, "max": 0.5}),
        ("tag(log, interval(1e-5, 1e-3))", "float", {"min": 1e-5, "max": 1e-3, "log": True}),
        ("int(interval(1, 8))", "int", {"min": 1, "max": 8}),
        ("range(8, 33, step=8)", "int", {"min": 8, "max": 32, "step": 8}),
        ("range(8, 32, 8)", "int", {"min": 8, "max": 24, "step": 8}),
        ("range(1, 9)", "int", {"min": 1, "max": 8}),
        ("range(start=0, stop=1, step=0.25)", "float", {"min": 0, "max": 0.75, "step": 0.25}),
        ("1e-5, 1e-4", "float", {"values": [1e-5, 1e-4]}),
        ("linear,squaredcos_cap_v2", "str", {"values": ["linear", "squaredcos_cap_v2"]}),
        # Optuna, Ray Tune, Hyperopt, Ax, NNI
        ('trial.suggest_float("lr", 1e-5, 1e-3, log=True)', "float", {"min": 1e-5, "max": 1e-3, "log": True}),
        ("trial.suggest_int('n', 8, 32, step=8)", "int", {"min": 8, "max": 32, "step": 8}),
        ("trial.suggest_categorical('n', [1, 2])", "int", {"values": [1, 2]}),
        ("tune.loguniform(1e-5, 1e-3)", "float", {"min": 1e-5, "max": 1e-3, "log": True}),
        ("tune.choice([1, 2])", "int", {"values": [1, 2]}),
        ("tune.randint(1, 9)", "int", {"min": 1, "max": 8}),
        ("tune.quniform(8, 34, 8)", "int", {"min": 8, "max": 32, "step": 8}),
        ({"grid_search": [1, 2]}, "int", {"values": [1, 2]}),
        ("hp.choice('x', ['a', 'b'])", "str", {"values": ["a", "b"]}),
        ("hp.uniform('x', 0, 1)", "float", {"min": 0, "max": 1}),
        ("hp.loguniform('x', -9, -2)", "float", {"min": 0.000123, "max": 0.135, "log": True}),
        ({"type": "float", "low": 1e-5, "high": 1e-3, "log": True}, "float", {"min": 1e-5, "max": 1e-3}),
        ({"type": "range", "bounds": [1e-5, 1e-3], "log_scale": True}, "float", {"min": 1e-5, "max": 1e-3}),
        ({"range": [1e-5, 1e-3], "scale": "log"}, "float", {"min": 1e-5, "max": 1e-3, "log": True}),
        ({"_type": "choice", "_value": [1, 2]}, "int", {"values": [1, 2]}),
        ({"_type": "loguniform", "_value": [1e-5, 1e-3]}, "float", {"min": 1e-5, "max": 1e-3, "log": True}),
        ({"_type": "quniform", "_value": [8, 32, 8]}, "int", {"min": 8, "max": 32, "step": 8}),
        ([8, 16, 24], "int", {"values": [8, 16, 24]}),
    ],
)
def test_a_form_of_another_tool_becomes_ours(written: Any, kind: str, ours: dict[str, Any]):
    form = our_form(written, kind)
    assert form is not None
    logarithmic = "log" in str(written) and "values" not in ours
    assert form.settings == {**ours, **({"log": True} if logarithmic else {})}


@pytest.mark.parametrize(
    "written",
    [
        "glob(*)",
        "choice()",
        "somewhere(1, 2)",
        "linear",
        "range(8)extra",
        "interval(a, b)",
        [],
        [{"a": 1}],
        {"distribution": "beta", "a": 1},
        {"distribution": "log_uniform", "min": -9, "max": 10**20},
        {"distribution": "q_uniform", "min": 1, "max": 1e300, "q": 1e-300},
        {"distribution": "normal", "mu": 10**400, "sigma": 1},
        {"min": 1, "max": 2},
        {"low": 1, "high": 2, "values": [3]},
        3,
        None,
        "((((",
    ],
)
def test_what_is_not_understood_is_not_translated(written: Any):
    assert our_form(written) is None


@pytest.mark.slow
@pytest.mark.parametrize("key", [".", "-", "+", "~", "", " ", "..", "+.", "a..b", "/"])
def test_a_name_of_signs_alone_is_a_fault(faults, key):
    for part in ("top", "config", "parameters"):
        assert faults(**{part: f"{key!r}: {{{key!r}: 1}}"}), part
    assert faults(f"{key}=3")


def test_texts_keep_their_quotes_if_the_field_is_a_text():
    form = our_form({"distribution": "categorical", "values": ["1", "2"]}, "str")
    assert form is not None
    assert form.settings == {"values": ["1", "2"]}


# Where a name is written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "name", "words"),
    [
        ({"top": "method: bayes"}, "method", "Write `search: {method: tpe}`."),
        ({"top": "run_cap: 50"}, "run_cap", "Write `budget: {trials: 50}`."),
        ({"top": "timeout: 5400"}, "timeout", "Write `budget: {hours: 1.5}`."),
        ({"top": "n_jobs: -1"}, "n_jobs", "Write `resources: {max_concurrent: auto}`."),
        ({"top": "entity: lab"}, "entity", "Remove it: MLflow has no entities."),
        ({"top": "study_name: my study"}, "study_name", "Write `name: my-study`."),
        ({"top": "direction: maximize"}, "direction", "Write `metric: {goal: maximize}`."),
        ({"top": "obs_horizon: 2"}, "obs_horizon", "Write `policy.n_obs_steps: 2` under config."),
        ({"config": "eval_freq: 100"}, "config.eval_freq", "Write `train.eval_every: 100`."),
        ({"config": "policy.use_amp: true"}, "config.policy.use_amp", "Write `train.precision: bf16`."),
        ({"config": "policy.device: cpu"}, "config.policy.device", "`resources: {gpu_per_worker: 0}`"),
        ({"config": "optimizer.name: AdamW"}, "config.optimizer.name", "Write `optimizer.name: adamw`."),
        ({"config": "image_size: 96"}, "config.image_size", "Write `policy.resize_shape: [96, 96]`."),
        (
            {"config": "policy.horizon: choice(16, 32)"},
            "config.policy.horizon",
            "Write `policy.horizon: {values: [16, 32]}` under parameters.",
        ),
        (
            {"parameters": "pred_horizon: {values: [16]}"},
            "parameters.pred_horizon",
            "`policy.horizon: {values: [16]}`",
        ),
        ({"parameters": "seed: {value: 3}"}, "", ""),
        ({"parameters": "num_workers: {values: [2]}"}, "parameters.num_workers", "Remove it"),
        (
            {"top": "early_terminate: {type: hyperband, max_iter: 27, s: 2, eta: 3}"},
            "early_terminate",
            "Write `early_stop: {method: asha, min_steps: 15000, reduction: 3}`.",
        ),
        (
            {"top": "pruner: {_target_: optuna.pruners.MedianPruner, n_warmup_steps: 1000}"},
            "pruner",
            "Write `early_stop: {method: median, min_steps: 1000}`.",
        ),
        ({"top": "early_terminate: null"}, "early_terminate", "Remove it: without `early_stop`"),
        ({"top": "hydra/sweeper: optuna"}, "hydra/sweeper", "Remove it: `search` says"),
        ({"top": "seed: [1, 2]"}, "seed", "Write `train.seed: {values: [1, 2]}` under parameters."),
        (
            {"config": "train.seed: [1, 2]"},
            "config.train.seed",
            "`train.seed: {values: [1, 2]}` under parameters.",
        ),
        (
            {"top": "direction: [minimize, max]"},
            "direction",
            "Write `objectives: [{name: ..., goal: minimize}, {name: ..., goal: maximize}]`.",
        ),
        (
            {"top": "env: {type: aloha, task: AlohaInsertion-v0}"},
            "env",
            "Write `rollout.env: gym_aloha/AlohaInsertion-v0` under config.",
        ),
        (
            {"top": "tune_config: {num_samples: 10, scheduler: {type: asha, grace_period: 50}}"},
            "tune_config",
            "  early_stop: {method: asha, min_steps: 50}",
        ),
        ({"top": "early_stopping: 5"}, "early_stopping", "early_stop: {method: asha, min_steps: ...}"),
        ({"top": "search: {type: random}"}, "search.type", "Write `search: {method: random}`."),
        ({"top": "resources: {n_jobs: 2}"}, "resources.n_jobs", "Write `resources: {max_concurrent: 2}`."),
        ({"top": "search: {trials: 3}"}, "search.trials", "Write `budget: {trials: 3}`."),
    ],
)
def test_a_name_of_another_tool_is_answered_where_it_is_written(faults, parts, name, words):
    found = faults(**parts)
    if not name:
        assert found == []
        return
    mine = [fault for fault in found if fault.name == name]
    assert mine, found
    assert words in mine[0].remedy
    assert mine[0].line > 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("n_trials=50", "Write budget.trials=50."),
        ("run_cap=50", "Write budget.trials=50."),
        ("obs_horizon=2", "Write config.policy.n_obs_steps=2."),
        ("config.obs_horizon=2", "Write config.policy.n_obs_steps=2."),
        ("parameters.pred_horizon={values: [16]}", "Write 'parameters.policy.horizon={values: [16]}'."),
        (
            "parameters.optimizer.lr=loguniform(1e-5, 1e-4)",
            "Write 'parameters.optimizer.lr={min: 1e-05, max: 0.0001, log: true}'.",
        ),
        ("search.method=bayes", "Write `method: tpe`."),
        ("policy.horizon=16,32", "Write 'parameters.policy.horizon={values: [16, 32]}'."),
        ("config.batch_size=8,16", "Write 'parameters.train.batch_size={values: [8, 16]}'."),
        ("+policy.horizon=16", "Write config.policy.horizon=16."),
        ("++config.policy.horizon=16", "Write config.policy.horizon=16."),
        ("wandb.enable=true", "Remove it: MLflow records every sweep."),
        ("budget=8", "Write budget.trials=8."),
    ],
)
def test_a_name_of_another_tool_on_the_command_line(faults, override, words):
    found = faults(override)
    assert [fault.place for fault in found] == [f"argument {override}"]
    assert words in found[0].remedy


def test_a_name_of_another_tool_is_answered_without_a_space_file_too():
    with pytest.raises(ConfigError) as caught:
        read_config(registry.load("diffusion_policy"), ["obs_horizon=2", "policy.horizont=16", "dropout=1"])
    assert [fault.remedy for fault in caught.value.faults] == [
        "Write config.policy.n_obs_steps=2.",
        "Did you mean policy.horizon?",
        "See docs/configuration.md for every field.",
    ]


def test_a_constraint_with_a_name_of_another_tool_comes_with_ours(faults):
    found = faults(top="constraints: ['pred_horizon > 8', 'dropout > 0']")
    assert [(fault.name, fault.remedy) for fault in found] == [
        ("constraints[0]", "Did you mean policy.horizon?"),
        ("constraints[1]", "See docs/configuration.md for every field."),
    ]


def test_each_of_several_objectives_is_answered(tmp_path: Path):
    text = SPACE.format(config="", parameters="", top="").replace(
        "metric: {name: eval/action_mse}", "objectives: [{name: eval_loss}, {name: eval/jerk, mode: min}]"
    )
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "space.yaml")
    assert [fault.name for fault in caught.value.faults] == ["objectives[0].name", "objectives[1].mode"]


@pytest.mark.parametrize(
    "name", ["policy.horizont", "polcy.horizon", "train.step", "optimizer.weight_decy", "rollout.episode"]
)
def test_a_misspelt_field_comes_with_the_right_one(faults, name):
    remedies = [fault.remedy for fault in faults(config=f"{name}: 16") if fault.name == f"config.{name}"]
    assert len(remedies) == 1
    assert re.match(r"Did you mean [a-z_.]+\?|Write `[a-z_.]+: 16`", remedies[0])


@pytest.mark.parametrize(
    "name",
    [
        "dropout",
        "gamma",
        "patience",
        "policy.foo",
        "chunk_sise",
        "model_name",
        "kl",
        "loss_weight",
        "n",
    ],
)
def test_there_is_no_hint_rather_than_a_far_one(faults, name):
    found = faults(config=f"{name}: 16")
    assert [fault.remedy for fault in found] == ["See docs/configuration.md for every field."]


def test_a_name_that_several_fields_have_comes_with_all_of_them(faults):
    assert faults(config="name: adam")[0].remedy == "Did you mean optimizer.name or lr_scheduler.name?"


# What is understood is checked as if it were written in our words


def test_values_of_another_tool_are_checked_like_ours(faults):
    found = faults(config="obs_horizon: 0\n  vision_encoder: vit", parameters="pred_horizon: {values: [18]}")
    assert [(fault.name, fault.remedy) for fault in found] == [
        (
            "config.obs_horizon",
            "It is called `policy.n_obs_steps` here. 0 is too small. Expected an int of at least 1 (steps).",
        ),
        (
            "config.vision_encoder",
            "It is called `policy.vision_backbone` here. 'vit' is not a known value. "
            "Expected one of resnet18, resnet34, resnet50, resnet101.",
        ),
        ("parameters.pred_horizon", "Write `policy.horizon: {values: [18]}`."),
        (
            "parameters.policy.horizon",
            "Nearest legal values: 16 and 24; or change the number of policy.down_dims.",
        ),
    ]


def test_a_wrong_name_does_not_hide_a_horizon_that_cannot_be_trained(faults):
    found = faults(config="policy.n_obs_step: 2\n  foo: 3", parameters="pred_horizon: {values: [16, 18]}")
    assert "18 is not a multiple of 8" in " ".join(fault.problem for fault in found)


def test_a_setting_that_is_there_already_is_kept(faults):
    found = faults(top="n_trials: 0")
    assert [fault.name for fault in found] == ["n_trials"]


def test_a_section_of_several_parts_is_not_taken_for_one_setting(faults):
    assert {fault.name for fault in faults(top="inference: 3")} >= {"inference"}


def test_the_metric_of_inference_settings_is_answered_too(faults):
    found = faults(top="inference: {parameters: {policy.n_action_steps: [1, 2]}, metric: eval/pc_success}")
    remedies = [fault.remedy for fault in found]
    assert "Write `metric: rollout/success_rate`. It is a share from 0 to 1." in remedies


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("search: bayes", "Write `search: {method: tpe}`."),
        ("search: random", "Write `search: {method: random}`."),
        ("resources: 2", "Write `resources: {max_concurrent: 2}`."),
        ("keep: 5", "Write `keep: {trials: 5}`."),
        ("failures: 0", "Write `failures: {retries: 0}`."),
        ("tracking: http://host:5000", 'Write `tracking: {uri: "http://host:5000"}`.'),
        ("search: 3", "Keys: method, seed, startup_trials, options, try_first, from."),
    ],
)
def test_a_section_that_is_a_single_value_comes_with_the_setting(faults, section, words):
    assert [fault.remedy for fault in faults(top=section)] == [words]


def test_a_file_that_searches_nothing_is_told_so_beside_other_faults(tmp_path: Path):
    (tmp_path / "space.yaml").write_text("trainable: diffusion_policy\nmetric: eval/jerk\nbudget: 8\n")
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "space.yaml")
    assert [(fault.name, fault.remedy) for fault in caught.value.faults][:3] == [
        ("parameters", "Search at least one field, e.g. `optimizer.lr: {min: 1e-5, max: 1e-3, log: true}`."),
        ("metric", "Write `metric: {name: eval/jerk}`."),
        ("budget", "Write `budget: {trials: 8}`."),
    ]


def test_a_file_without_a_trainable_is_checked_to_its_end(tmp_path: Path):
    (tmp_path / "space.yaml").write_text(
        "config: {train.steps: 0, foo: 1}\n"
        "parameters: {policy.horizon: {values: [16, big]}}\n"
        "metric: {name: rollout/sucess_rate}\n"
        "search: {method: tpee}\n"
        "budget: {trials: 0}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "space.yaml")
    assert [fault.name for fault in caught.value.faults] == [
        "trainable",
        "config.foo",
        "config.train.steps",
        "parameters.policy.horizon.values",
        "metric.name",
        "search.method",
        "budget.trials",
    ]


def test_a_file_whose_trainable_cannot_be_loaded_is_checked_as_far_as_possible(tmp_path: Path):
    (tmp_path / "space.yaml").write_text(
        "trainable: no_such_module:TRAINABLE\n"
        "config: {anything: 1}\n"
        "parameters:\n"
        "  lr: {min: 1e-3, max: 1e-5}\n"
        "  width: {values: [1, 1]}\n"
        "  depth: choice(1, 2)\n"
        "  kind: {min: one, max: 2}\n"
        "constraints: ['width =']\n"
        "metric: {name: loss, goal: minimise}\n"
        "search: {method: tpee}\n"
        "run_cap: 3\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "space.yaml")
    assert [fault.name for fault in caught.value.faults] == [
        "trainable",
        "parameters.lr",
        "parameters.width.values",
        "parameters.depth",
        "constraints[0]",
        "metric.goal",
        "search.method",
        "run_cap",
    ]


WORDS = sorted(
    {word for table in (FIELDS, SETTINGS_OF_OTHERS) for words in table.values() for word in words.split()}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**20),
    st.floats(),
    st.sampled_from(
        ["", "choice(", "range(1)", "interval(1, 2)", "tag(log, glob(*))", "1,2", "adam", "bayes", "-1", "{"]
    ),
    st.text(max_size=6),
)
KEYS = [
    "min",
    "max",
    "values",
    "value",
    "distribution",
    "q",
    "mu",
    "sigma",
    "type",
    "task",
    "parameters",
    "_target_",
    "lr",
    "bounds",
    "_type",
    "_value",
    "when",
    "log",
    "step",
    "env",
    "sampler",
    ".",
    "command",
]
VALUES_OF_OTHERS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(
        [
            *WORDS,
            *" ".join((*NOT_HERE, *NOT_IN_THE_POLICY)).split(),
            "optimizer.lr",
            "train.steps",
            "dataset.root",
            ".",
        ]
    ),
    part=st.sampled_from(["top", "config", "parameters", "search", "early_stop", "metric"]),
    value=VALUES_OF_OTHERS,
)
def test_whatever_another_tool_writes_is_read_or_refused(tmp_path_factory, name, part, value):
    space = {
        "trainable": "diffusion_policy",
        "config": {"dataset.repo_id": "builtin/pusht"},
        "parameters": {"optimizer.lr": {"min": 1e-5, "max": 1e-3}},
        "metric": {"name": "eval/action_mse"},
        "budget": {"trials": 8},
        "search": {},
    }
    place = space if part == "top" else space.setdefault(part, {})
    place[name] = value
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    with contextlib.suppress(SpecError):
        load_spec(path)


def test_a_custom_trainable_hears_nothing_of_diffusion_policies(tmp_path: Path):
    (tmp_path / "space.yaml").write_text(
        "trainable: small_trainable:TRAINABLE\n"
        "config: {policy.type: act, num_workers: 3, max_steps: 40, obs_horizon: 2}\n"
        "parameters: {learning_rate: {distribution: log_uniform_values, min: 1e-3, max: 1e-1}}\n"
        "metric: {name: loss, goal: minimize}\n"
        "run_cap: 3\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "space.yaml")
    fields = ", ".join(Parabola.fields)
    assert [(fault.name, fault.remedy) for fault in caught.value.faults] == [
        ("config.policy.type", f"Fields: {fields}."),
        ("config.num_workers", f"Fields: {fields}."),
        ("config.max_steps", "Write `train.steps: 40`."),
        ("config.obs_horizon", f"Fields: {fields}."),
        ("parameters.learning_rate", "Write `optimizer.lr: {min: 0.001, max: 0.1, log: true}`."),
        ("metric.name", "Write `name: train/loss`."),
        ("run_cap", "Write `budget: {trials: 3}`."),
    ]


def test_lists_in_a_command_of_wandb_are_read(faults):
    (fault,) = faults(top="command: [python, train.py, '--policy.crop_shape=[84,84]', '${args}']")

    assert "policy.crop_shape: [84, 84]" in fault.remedy


def test_a_share_of_a_step_between_evaluations_is_a_fault_of_its_field(faults):
    stop = "early_stop: {method: asha, min_steps: 100}"
    found = faults(parameters="train.eval_every: {values: [0.5, 100]}", top=stop)

    assert [fault.name for fault in found if "0.5" in fault.problem] == ["parameters.train.eval_every.values"]
