"""Drafts of space files from what users have: what `check` answers is applied, the rest has a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.errors import UserError
from sweeper.spec.schema import space_schema
from sweeper.spec.space_file import combinations
from sweeper.spec.space_file.draft.accept import accepted
from sweeper.spec.space_file.draft.complete import complete
from sweeper.spec.space_file.draft.content import Draft, capitalised
from sweeper.spec.space_file.draft.from_tools import draft_of_sweep, draft_of_training
from sweeper.spec.space_file.draft.pasted_command import read_command
from sweeper.spec.space_file.draft.write import grouped, value_text, written
from sweeper.spec.space_file.habits import FIELDS
from sweeper.spec.space_file.yaml_nodes import read_file
from trainables import registry
from trainables.interface import ProposedField

TRAINABLE = registry.load("diffusion_policy")
SCHEMA = jsonschema.Draft7Validator(space_schema(TRAINABLE))


@pytest.fixture(autouse=True)
def _fewer_combinations(monkeypatch):
    monkeypatch.setattr(combinations, "RANDOM_DRAWS", 20)
    monkeypatch.setattr(combinations, "DRAWS_PER_VALUE", 1)


@pytest.fixture
def finished(tmp_path):
    """The text of a sweep file of another tool, as a space that `check` accepts, and its draft."""

    def make(text: str) -> tuple[dict[str, Any], Draft]:
        file = tmp_path / "other.yaml"
        file.write_text(text)
        draft = draft_of_sweep(read_file(file)[1].value, "a file", TRAINABLE)
        return space_of(draft), draft

    return make


def space_of(draft: Draft) -> dict[str, Any]:
    draft.name = draft.name or "space"

    def text_of(current: Draft) -> str:
        complete(current, TRAINABLE.propose(current.fixed, None), TRAINABLE)
        return written(current, "diffusion_policy", "space.yaml")

    read = yaml.safe_load(accepted(draft, text_of, TRAINABLE))
    assert isinstance(read, dict)
    return read


def reasons(draft: Draft) -> dict[str, str]:
    return {left.name: left.reason for left in draft.left}


# W&B


WANDB = {
    "nested": """\
program: train.py
method: bayes
metric: {name: eval/pc_success, goal: maximize}
parameters:
  policy:
    parameters:
      horizon: {values: [16, 32]}
      n_action_steps: {value: 8}
  optimizer:
    parameters:
      lr: {distribution: log_uniform_values, min: 1e-5, max: 1e-3}
  env.type: {value: pusht}
  dataset.repo_id: {value: lerobot/pusht}
run_cap: 20
""",
    "q_log": """\
method: random
metric: {name: val_loss, goal: minimize}
parameters:
  batch_size: {distribution: q_log_uniform_values, min: 16, max: 128, q: 16}
  policy.optimizer_lr: {distribution: log_uniform, min: -11.5, max: -6.9}
""",
    "probabilities": """\
method: bayes
metric: {name: eval_loss, goal: minimize}
parameters:
  policy.beta_schedule: {values: [squaredcos_cap_v2, linear], probabilities: [0.7, 0.3]}
  policy.noise_scheduler_type: {values: [DDPM, DDIM]}
  seed: {value: 1}
""",
    "early_terminate": """\
method: grid
metric: {name: eval/avg_max_reward, goal: maximize}
early_terminate: {type: hyperband, min_iter: 2, eta: 3}
parameters:
  env.type: {value: pusht}
  policy.horizon: {values: [8, 16]}
  policy.prediction_type: {values: [epsilon, sample]}
""",
    "command": """\
method: bayes
project: arm
metric: {name: loss, goal: minimize}
parameters:
  policy.optimizer_lr: {min: 0.00001, max: 0.001}
command:
  - ${env}
  - lerobot-train
  - --policy.type=diffusion
  - --dataset.repo_id=me/arm
  - --steps=30000
  - --wandb.enable=true
  - ${args}
""",
}


@pytest.mark.parametrize("form", WANDB)
def test_a_sweep_of_wandb_becomes_a_space(finished, form: str):
    space, draft = finished(WANDB[form])

    assert space["parameters"]
    assert all(reason.endswith(".") for reason in reasons(draft).values())
    expected: dict[str, Any] = {
        "nested": {
            "parameters": {
                "policy.horizon": {"values": [16, 32]},
                "optimizer.lr": {"min": "1e-5", "max": 0.001, "log": True},
            },
            "metric": {"name": "rollout/success_rate", "goal": "maximize"},
            "budget": {"trials": 20},
        },
        "q_log": {"search": {"method": "random"}, "metric": {"name": "eval/action_mse", "goal": "minimize"}},
        "probabilities": {"search": {"method": "tpe"}},
        "early_terminate": {
            "search": {"method": "grid"},
            "early_stop": {"method": "asha", "min_steps": 10000, "reduction": 3},
        },
        "command": {"tracking": {"experiment": "arm"}, "metric": {"name": "train/loss", "goal": "minimize"}},
    }[form]
    assert {section: space[section] for section in expected} == expected


def test_evaluations_until_a_trial_may_be_stopped_are_those_of_the_space(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text(WANDB["early_terminate"])
    draft = draft_of_sweep(read_file(file)[1].value, "a file", TRAINABLE)
    often = ProposedField("train.eval_every", 100, "", needed=True)
    proposal = replace(TRAINABLE.propose({}, None), config=(often,))
    for _ in range(2):  # a draft is completed again until `check` accepts it
        complete(draft, proposal, TRAINABLE)

    assert draft.sections["early_stop"] == {"method": "asha", "min_steps": 200, "reduction": 3}
    assert [note for note in draft.notes if "min_steps" in note] == [
        "early_terminate: min_steps counts optimiser steps: 2 evaluations, one every 100 steps."
    ]


def test_fixed_values_of_wandb_are_fixed(finished):
    space, _ = finished(WANDB["nested"])

    assert space["config"]["policy.n_action_steps"] == 8
    assert space["config"]["rollout.env"] == "gym_pusht/PushT-v0"
    assert space["config"]["dataset.repo_id"] == "lerobot/pusht"


def test_the_command_of_wandb_is_read(finished):
    space, draft = finished(WANDB["command"])

    assert space["config"]["dataset.repo_id"] == "me/arm"
    assert space["config"]["train.steps"] == 30000
    assert "sweeper launch FILE" in reasons(draft)["command"]
    assert "policy.type" not in reasons(draft)  # what is trained here, too


def test_a_sweep_without_an_end_gets_one_and_says_so(finished):
    space, draft = finished(WANDB["q_log"])

    assert space["budget"]["trials"] >= 10
    assert any("has no number of trials" in note for note in draft.notes)


def test_a_file_without_a_dataset_has_a_place_for_it(finished):
    space, draft = finished(WANDB["q_log"])

    assert space["config"]["dataset.root"] == "my_dataset"
    assert any("names no dataset" in note for note in draft.notes)


def test_values_that_cannot_be_trained_are_left_out_with_the_reason(finished):
    space, draft = finished("""\
parameters:
  policy.horizon: {values: [12, 16, 32, 33]}
  policy.optimizer_lr: {min: 1e-5, max: 1e-3, log: true}
""")

    assert space["parameters"]["policy.horizon"] == {"values": [16, 32]}
    assert "is not a multiple of 8" in reasons(draft)["policy.horizon"]


def test_a_range_with_impossible_numbers_becomes_the_possible_ones(finished):
    space, _ = finished("parameters:\n  policy.horizon: {distribution: int_uniform, min: 8, max: 40}\n")

    assert space["parameters"]["policy.horizon"] == {"values": [8, 16, 24, 32, 40]}


def test_a_single_possible_value_is_fixed(finished):
    space, _ = finished("parameters:\n  policy.horizon: {values: [16, 18]}\n  optimizer.lr: [1e-5, 1e-4]\n")

    assert space["config"]["policy.horizon"] == 16


def test_a_metric_of_rollouts_without_a_simulator_is_replaced(finished):
    space, draft = finished("metric: {name: eval/pc_success}\nparameters:\n  lr: [1e-5, 1e-4]\n")

    assert space["metric"]["name"] == "eval/action_mse"
    assert "rollout.env" in reasons(draft)["metric"]


def test_the_direction_of_another_metric_is_corrected(finished):
    space, draft = finished("""\
direction: maximize
metric: {name: eval_loss}
parameters:
  lr: [1e-5, 1e-4]
""")

    assert space["metric"] == {"name": "eval/action_mse", "goal": "minimize"}
    assert any("became minimize" in note for note in draft.notes) or "direction" in reasons(draft)


@pytest.mark.parametrize(
    ("config", "metric"), [("", "eval/action_mse"), ("env: pusht\n", "rollout/success_rate")]
)
def test_a_direction_alone_means_how_good_policies_are_not_how_fast(finished, config, metric):
    space, draft = finished(f"direction: maximize\n{config}parameters:\n  lr: [1e-5, 1e-4]\n")

    assert space["metric"]["name"] == metric
    assert "direction: Choose the metric; docs/metrics.md lists them." in draft.notes


def test_a_target_does_not_cost_the_metric(finished):
    space, draft = finished("""\
metric: {name: eval/avg_max_reward, goal: maximize, target: 0.95}
parameters:
  env.type: {value: pusht}
  lr: [1e-5, 1e-4]
""")

    assert space["metric"] == {"name": "rollout/avg_max_reward", "goal": "maximize"}
    assert "budget" in reasons(draft)["metric.target"]


def test_a_misspelt_name_may_have_the_form_of_another_tool(finished):
    form = "{distribution: q_log_uniform_values, min: 16, max: 64, q: 16}"
    space, _ = finished(f"parameters:\n  policy.horizont: {form}\n")

    assert space["parameters"]["policy.horizon"] == {"values": [16, 32, 64]}


def test_only_a_name_that_differs_is_written_beside_the_value(finished):
    _, draft = finished("""\
hydra: {sweeper: {params: {policy.horizon: "choice(16, 32)", training.batch_size: "choice(32, 64)"}}}
parameters: {policy: {parameters: {beta_schedule: {values: [linear, squaredcos_cap_v2]}}}}
""")

    assert {name: written.comment for name, written in draft.parameters.items()} == {
        "policy.horizon": "",
        "policy.beta_schedule": "",
        "train.batch_size": "was hydra.sweeper.params.training.batch_size",
    }


def test_a_second_name_of_a_field_is_reported(finished):
    _, draft = finished("lr: 1e-4\nlearning_rate: 1e-3\nparameters:\n  seed: {values: [1, 2]}\n")

    assert reasons(draft)["learning_rate"] == "optimizer.lr is set to 0.0001 by another name."


def test_unknown_names_are_left_out(finished):
    _, draft = finished("frobnicate: 3\nparameters:\n  lr: [1e-5, 1e-4]\n  warp: {values: [1, 2]}\n")

    assert reasons(draft) == {
        "frobnicate": "There is nothing here for it.",
        "warp": "There is nothing here for it.",
    }


WORDS = [word for names in FIELDS.values() for word in names.split()] + [*TRAINABLE.fields]
VALUES = [
    0,
    1,
    2,
    8,
    16,
    18,
    64,
    1000,
    1e-5,
    1e-3,
    0.5,
    True,
    None,
    "linear",
    "DDIM",
    "pusht",
    "x",
    "8,16",
    [84, 84],
]
FORMS = st.one_of(
    st.sampled_from(VALUES),
    st.fixed_dictionaries({"value": st.sampled_from(VALUES)}),
    st.fixed_dictionaries({"values": st.lists(st.sampled_from(VALUES), min_size=1, max_size=4)}),
    st.fixed_dictionaries(
        {
            "distribution": st.sampled_from(["uniform", "log_uniform_values", "q_uniform", "normal", "beta"]),
            "min": st.sampled_from(VALUES),
            "max": st.sampled_from(VALUES),
        }
    ),
    st.sampled_from(["choice(16, 32)", "range(8,33,step=8)", "tag(log, interval(1e-5,1e-3))", "glob(*)"]),
)
SWEEPS = st.fixed_dictionaries(
    {
        "parameters": st.dictionaries(st.sampled_from(WORDS), FORMS, min_size=1, max_size=4),
        "metric": st.sampled_from(
            [None, "loss", {"name": "eval/pc_success"}, {"name": "accuracy", "goal": "min"}]
        ),
        "method": st.sampled_from(["bayes", "grid", "random", "unheard"]),
    }
)


@pytest.mark.slow
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(SWEEPS)
def test_any_sweep_becomes_a_space_that_check_accepts(finished, sweep: dict[str, Any]):
    sweep["parameters"].pop("policy.path", None)  # a name on the hub would be looked up
    for name in ["pretrained_path", "pretrained_policy_path", "pretrained_model_path", "init_from"]:
        sweep["parameters"].pop(name, None)
    space, draft = finished(yaml.safe_dump(sweep))

    assert SCHEMA.is_valid(space)
    assert all(left.reason for left in draft.left)


# LeRobot


POLICY = {
    "type": "diffusion",
    "n_obs_steps": 2,
    "horizon": 16,
    "n_action_steps": 8,
    "input_features": {
        "observation.image": {"type": "VISUAL", "shape": [3, 96, 96]},
        "observation.state": {"type": "STATE", "shape": [2]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    "device": "cuda",
    "use_amp": False,
    "crop_shape": [84, 84],
    "crop_is_random": True,
    "down_dims": [512, 1024, 2048],
    "optimizer_lr": 1e-4,
    "scheduler_warmup_steps": 500,
    "drop_n_last_frames": 7,
}
TRAINING = {
    "dataset": {"repo_id": "lerobot/pusht", "root": None, "episodes": None},
    "env": {"type": "pusht", "task": "PushT-v0", "fps": 10},
    "policy": POLICY,
    "output_dir": "outputs/train",
    "seed": 1000,
    "num_workers": 4,
    "batch_size": 64,
    "steps": 200000,
    "eval_freq": 25000,
    "log_freq": 200,
    "save_freq": 25000,
    "optimizer": {"type": "adam", "lr": 1e-4, "grad_clip_norm": 10},
    "scheduler": {"type": "diffuser", "num_warmup_steps": 500, "name": "cosine"},
    "eval": {"n_episodes": 50, "batch_size": 50, "use_async_envs": False},
    "wandb": {"enable": False, "project": "lerobot", "entity": None},
}
VERSIONS: dict[str, dict[str, Any]] = {
    "0.3": {},
    "0.4": {"policy": {**POLICY, "resize_shape": None, "crop_ratio": 1.0, "compile_model": False}},
    "0.6": {
        "policy": {
            **POLICY,
            "horizon": 64,
            "n_action_steps": 32,
            "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
            "use_group_norm": False,
            "use_separate_rgb_encoder_per_camera": True,
            "gradient_checkpointing": False,
        },
        "eval_freq": None,
        "env_eval_freq": 25000,
        "eval_steps": 0,
        "prefetch_factor": 4,
        "dataset": {"repo_id": "lerobot/pusht", "eval_split": 0.0},
        "env": {
            **{"type": "pusht", "task": "PushT-v0", "fps": 10, "episode_length": 300},
            "features": {"action": {"type": "ACTION", "shape": [2]}},
        },
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_training_of_lerobot_becomes_a_space_around_it(version: str):
    draft = draft_of_training(TRAINING | VERSIONS[version], "train_config.json", TRAINABLE)
    space = space_of(draft)

    config = space["config"]
    assert config["dataset.repo_id"] == "lerobot/pusht"
    assert config["rollout.env"] == "gym_pusht/PushT-v0"
    assert config["train.steps"] == 200000
    assert config["train.eval_every"] == 25000
    assert config["policy.crop_shape"] == [84, 84]
    assert config["optimizer.name"] == "adam"
    horizon = 64 if version == "0.6" else 16
    assert horizon in space["parameters"]["policy.horizon"]["values"]
    assert float(space["parameters"]["optimizer.lr"]["min"]) < 1e-4
    assert space["metric"]["name"] == "rollout/success_rate"
    assert not [name for name in reasons(draft) if name.startswith("env.features.")]
    if version == "0.6":
        assert config["policy.use_group_norm"] is False
        assert config["policy.pretrained_backbone_weights"] == "ResNet18_Weights.IMAGENET1K_V1"


def test_nothing_of_a_training_is_lost():
    """Each setting is written, is a default here, or is listed with the reason."""
    draft = draft_of_training(TRAINING, "train_config.json", TRAINABLE)

    carried = {
        "dataset.repo_id",
        "train.seed",
        "train.batch_size",
        "train.log_every",
        "train.checkpoint_every",
    }
    assert carried <= set(draft.config)
    assert {"optimizer.grad_clip_norm", "lr_scheduler.warmup_steps", "rollout.episodes"} <= set(draft.equal)
    assert {"output_dir", "num_workers", "policy.drop_n_last_frames", "eval.use_async_envs"} <= set(
        reasons(draft)
    )


def test_a_crop_that_lerobot_ignores_is_not_carried_over():
    """With a size to resize to and crop_ratio 1 LeRobot crops nothing, whatever crop_shape is."""
    policy = POLICY | {"resize_shape": [120, 160], "crop_ratio": 1.0}
    draft = draft_of_training(TRAINING | {"policy": policy}, "train_config.json", TRAINABLE)

    assert draft.config["policy.resize_shape"].value == [120, 160]
    assert "policy.crop_shape" not in draft.config


def with_transforms(**transforms: Any) -> Draft:
    dataset = {"repo_id": "lerobot/pusht", "image_transforms": transforms}
    return draft_of_training(TRAINING | {"dataset": dataset}, "train_config.json", TRAINABLE)


def augmented(draft: Draft) -> dict[str, Any]:
    return {name: entry.value for name, entry in draft.config.items() if name.startswith("augment.")}


def test_lerobots_changes_of_pictures_are_carried_over():
    draft = with_transforms(enable=True, max_num_transforms=2)
    assert augmented(draft) == {
        "augment.brightness": 0.2,
        "augment.contrast": 0.2,
        "augment.saturation": 0.5,
        "augment.hue": 0.05,
        "augment.sharpness": 0.5,
        "augment.affine_degrees": 5,
        "augment.affine_translate": 0.05,
    }
    assert any("LeRobot makes at most 2 of these changes" in note for note in draft.notes)
    assert not [left for left in draft.left if "image_transforms" in left.name]
    space_of(draft)


def test_each_form_of_a_change_is_understood_or_named():
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "a": ("ColorJitter", {"brightness": 0.3, "contrast": [0.7, 1.3]}),
        "b": ("RandomAffine", {"degrees": 8, "translate": [0.1, 0.05], "scale": [0.9, 1.1], "shear": 3}),
        "c": ("GaussianBlur", {"kernel_size": 5, "sigma": [0.1, 2.0]}),
        "d": ("RandomErasing", {"scale": [0.02, 0.2]}),
        "e": ("ColorJitter", {"hue": [0.0, 0.1]}),
        "f": ("RandomPosterize", {"bits": 4}),
        "g": ("Identity", {}),
        "h": ("SharpnessJitter", {"sharpness": [0.0, 2.0]}),
    }
    tfs: dict[str, dict[str, Any]] = {
        name: {"weight": 1.0, "type": kind, "kwargs": kwargs} for name, (kind, kwargs) in kinds.items()
    }
    tfs["h"]["weight"] = 0
    draft = with_transforms(enable=True, tfs=tfs)

    assert augmented(draft) == {
        "augment.brightness": 0.3,
        "augment.contrast": 0.3,
        "augment.affine_degrees": 8,
        "augment.affine_translate": 0.05,
        "augment.affine_scale": 0.1,
        "augment.blur_sigma": 2.0,
        "augment.erasing": 0.5,
        "augment.erasing_scale": 0.2,
    }
    said = " ".join(draft.notes)
    for words in ("for RandomAffine.shear", "The smaller of [0.1, 0.05]", "for RandomPosterize"):
        assert words in said
    assert "The range [0.0, 0.1] of e is not symmetric around 0" in said


def test_changes_of_pictures_that_are_not_enabled_are_not_mentioned():
    draft = with_transforms(enable=False, tfs={"a": {"type": "ColorJitter", "kwargs": {"hue": 0.1}}})
    assert augmented(draft) == {}
    assert not [left for left in draft.left if "image_transforms" in left.name]


def test_another_policy_is_refused():
    with pytest.raises(UserError, match="type 'act'"):
        draft_of_training({"policy": {"type": "act"}}, "train_config.json", TRAINABLE)


# Commands


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (
            ["lerobot-train", "--policy.type=diffusion", "--steps=20", "--policy.crop_shape=[84, 84]"],
            {"policy": {"type": "diffusion", "crop_shape": [84, 84]}, "steps": 20},
        ),
        (
            ["lerobot-train --policy.type diffusion \\\n  --batch_size 8 --resume --dataset.repo_id=me/arm"],
            {
                "policy": {"type": "diffusion"},
                "batch_size": 8,
                "resume": True,
                "dataset": {"repo_id": "me/arm"},
            },
        ),
        (
            ["python", "lerobot/scripts/train.py", "policy=diffusion", "policy.horizon=16", "env=pusht"],
            {"policy": {"type": "diffusion", "horizon": 16}, "env": "pusht"},
        ),
        (
            [
                "CUDA_VISIBLE_DEVICES=0",
                "python",
                "-m",
                "lerobot.scripts.train",
                "--env.type=pusht",
                "--env=x",
            ],
            {"env": {"type": "x"}},
        ),
        (
            ["accelerate", "launch", "--num_processes=2", "lerobot-train", "--policy.optimizer_lr=1e-4"],
            {"num_processes": 2, "policy": {"optimizer_lr": 1e-4}},
        ),
        (
            ["accelerate launch --multi_gpu lerobot/bin/lerobot-train --steps=20"],
            {"multi_gpu": True, "steps": 20},
        ),
    ],
)
def test_a_command_is_taken_apart(words: list[str], settings: dict[str, Any]):
    assert read_command(words).settings == settings


def test_a_command_names_its_file_of_settings():
    command = read_command(["lerobot-train", "--config_path=outputs/train_config.json", "--steps=5"])

    assert command.config_file == "outputs/train_config.json"
    assert command.settings == {"steps": 5}


@pytest.mark.parametrize("words", [["lerobot-train"], ['lerobot-train "--x']])
def test_a_command_without_settings_is_refused(words: list[str]):
    with pytest.raises(UserError):
        read_command(words)


def test_the_lists_of_a_multirun_are_searched():
    command = read_command(["python", "train.py", "-m", "policy=diffusion", "training.lr=1e-4,3e-4"])
    draft = draft_of_training(command.settings, "the command", TRAINABLE, every_value=True)

    assert space_of(draft)["parameters"] == {"optimizer.lr": {"values": ["1e-4", "3e-4"]}}


# Text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1e-5"),
        (0.0006, "6e-4"),
        (0.000123456789, "1.23456789e-4"),
        (0.1, "0.1"),
        (1 / 3, "0.3333333333333333"),
        (1e6, "1e+6"),
        (True, "true"),
        (None, "null"),
        ("a: b", '"a: b"'),
        ([1, [2.5, "x"]], "[1, [2.5, x]]"),
        ({"min": 0.001, "log": True}, "{min: 0.001, log: true}"),
    ],
)
def test_a_value_is_written_with_all_its_digits(value: Any, text: str, tmp_path: Path):
    assert value_text(value) == text
    (tmp_path / "value.yaml").write_text(f"value: {text}\n")
    assert read_file(tmp_path / "value.yaml")[1].value["value"].plain() == value


def test_reasons_that_are_equal_are_told_once():
    draft = Draft("a file")
    draft.leave("a", 1, "No.")
    draft.leave("b", None, "No.")
    draft.leave("b", None, "No.")
    draft.leave("c", [1], "Never.")

    assert grouped(draft.left) == [("a 1, b", "No."), ("c [1]", "Never.")]


def test_names_keep_their_letters_at_the_beginning_of_a_sentence():
    assert capitalised("is wrong.") == "Is wrong."
    assert capitalised("rollout/success_rate is missing.") == "rollout/success_rate is missing."


def test_every_line_of_a_space_is_short_enough(finished):
    file = Path(__file__).parents[1] / "other_tools" / "papers.yaml"
    _, draft = finished(file.read_text())
    complete(draft, TRAINABLE.propose(draft.fixed, None), TRAINABLE)
    text = written(draft, "diffusion_policy", "space.yaml")

    assert [line for line in text.splitlines() if len(line) > 120] == []
    assert json.dumps(draft.name) == '"space"'
