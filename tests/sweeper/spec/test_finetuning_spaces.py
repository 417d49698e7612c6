"""Spaces that start from a checkpoint: what they leave open, it decides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.errors import SpecError
from sweeper.machines.machine import Machine
from sweeper.machines.plan import make_plan
from sweeper.spec.space_file.load import load_spec
from tests.trainables.diffusion_policy.checkpoint_files import header_of

SPACE = """\
name: tuned
trainable: diffusion_policy
config:
  dataset.root: data
  policy.path: {path}
  eval.window_steps: 2
  {more}
parameters:
  optimizer.lr: {{min: 1e-6, max: 1e-4, log: true}}
  policy.num_inference_steps: {{values: [4, 8]}}
  policy.beta_end: {{min: 0.01, max: 0.05, when: "policy.beta_schedule != 'squaredcos_cap_v2'"}}
  policy.beta_schedule: {{values: [squaredcos_cap_v2, linear]}}
  policy.n_action_steps: {{min: 1, max: 16}}
constraints:
  - policy.n_action_steps <= policy.horizon - policy.n_obs_steps + 1
metric: {{name: eval/action_mse, goal: minimize}}
budget: {{trials: 2}}
"""
CHECKPOINT = {
    "type": "diffusion",
    "horizon": 8,
    "n_obs_steps": 3,
    "n_action_steps": 2,
    "down_dims": [32, 64],
    "beta_end": 0.015,
    "num_inference_steps": 16,
    "n_groups": 8,
    "input_features": {"observation.state": {"type": "STATE", "shape": [3]}},
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs" / "pretrained_model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CHECKPOINT))
    header_of(folder)
    return folder


def write(tmp_path: Path, path: object, more: str = "train.batch_size: 64") -> Path:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE.format(path=path, more=more))
    return file


@pytest.mark.slow
def test_what_the_space_leaves_open_is_the_checkpoints(tmp_path, checkpoint):
    spec = load_spec(write(tmp_path, checkpoint))

    assert spec.config["policy.down_dims"] == [32, 64]
    assert spec.config["policy.horizon"] == 8
    assert spec.config["dataset.observations"] == ["observation.state"]
    # Searched in every trial: the checkpoint has no say.
    assert "policy.num_inference_steps" not in spec.config
    # Searched in some: in the others the checkpoint's value holds.
    assert spec.config["policy.beta_end"] == 0.015
    assert any("are taken from the checkpoint" in note and "policy.horizon: 8" in note for note in spec.notes)


@pytest.mark.slow
def test_constraints_see_the_checkpoints_values(tmp_path, checkpoint):
    spec = load_spec(write(tmp_path, checkpoint))
    base = {**spec.config, "policy.num_inference_steps": 4, "policy.beta_schedule": "linear"}

    assert spec.space.violated({**base, "policy.n_action_steps": 6}) == []
    assert spec.space.violated({**base, "policy.n_action_steps": 7}) != []


@pytest.mark.slow
def test_a_path_is_settled_from_where_the_sweep_runs_and_a_name_on_the_hub_is_left(
    tmp_path, checkpoint, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert load_spec(write(tmp_path, "outputs")).config["policy.path"] == str(checkpoint)
    assert load_spec(write(tmp_path, "my_checkpoint")).config["policy.path"] == "my_checkpoint"
    assert load_spec(write(tmp_path, "./none")).config["policy.path"] == str(tmp_path / "none")


@pytest.mark.slow
def test_what_the_weights_fix_is_a_fault_at_its_line(tmp_path, checkpoint):
    with pytest.raises(SpecError) as caught:
        load_spec(write(tmp_path, checkpoint, "policy.down_dims: [64, 128]"))

    (fault,) = caught.value.faults
    assert fault.line == 7
    assert "[32, 64]" in str(fault)
    assert "policy.reinit_mismatched: true" in str(fault)


@pytest.mark.slow
def test_a_checkpoint_that_is_not_here_is_a_warning_and_one_that_is_none_a_fault(tmp_path):
    plan = make_plan(load_spec(write(tmp_path, "my_checkpoint")), Machine(cpus=4, gpus=1))
    assert any("policy.path: my_checkpoint does not exist on this machine" in line for line in plan.warnings)

    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="does not contain a checkpoint"):
        load_spec(write(tmp_path, tmp_path / "empty"))


@pytest.mark.slow
def test_layers_that_would_begin_anew_are_listed_beforehand(tmp_path, checkpoint):
    more = "policy.reinit_mismatched: true\n  policy.kernel_size: 3"
    plan = make_plan(load_spec(write(tmp_path, checkpoint, more)), Machine(cpus=4, gpus=1))

    said = [line for line in plan.warnings if line.startswith("policy.reinit_mismatched")]
    assert len(said) == 1
    assert "policy.kernel_size" in said[0]
    assert "unet.down_modules.0.0.conv1.block.0" in said[0]
    assert plan.disk_per_trial_gb < 0.1


@pytest.mark.slow
def test_checking_a_checkpoint_loads_nothing_heavy(tmp_path, checkpoint):
    program = (
        "import sys\n"
        "from sweeper.machines.plan import make_plan\n"
        "from sweeper.spec.space_file.load import load_spec\n"
        f"make_plan(load_spec({str(write(tmp_path, checkpoint))!r}))\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pyarrow', 'av', 'safetensors', 'huggingface_hub'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""
