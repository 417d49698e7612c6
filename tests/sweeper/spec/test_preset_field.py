"""`policy.preset` in a space file: check lists what it sets, the file wins, constraints see its values."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.errors import SpecError
from sweeper.spec.space_file.load import load_spec

SPACE = """\
trainable: diffusion_policy
config:
  dataset.root: data
  policy.preset: {preset}
parameters:
  optimizer.lr: {{min: 1e-5, max: 1e-3, log: true}}
  policy.n_action_steps: {{min: 20, max: 63}}
{more}
constraints:
  - policy.n_action_steps <= policy.horizon - policy.n_obs_steps + 1
metric: {{name: eval/action_mse}}
budget: {{trials: 4}}
"""


def write(tmp_path: Path, more: str = "", preset: str = "lerobot-0.6") -> Path:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE.format(preset=preset, more=more))
    return file


def test_check_lists_each_field_that_a_preset_sets(tmp_path):
    spec = load_spec(write(tmp_path))

    (note,) = spec.notes
    assert "taken from policy.preset: lerobot-0.6" in note
    assert "policy.horizon: 64" in note
    assert "optimizer.name: adam" in note
    # Searched here.
    assert "optimizer.lr:" not in note
    assert "policy.n_action_steps" not in note


def test_constraints_see_the_values_of_a_preset(tmp_path):
    """With the default horizon of 16 no value of this range would be allowed."""
    spec = load_spec(write(tmp_path))

    assert spec.config["policy.horizon"] == 64


def test_a_field_of_the_file_wins(tmp_path):
    spec = load_spec(write(tmp_path), ["config.policy.horizon=80"])

    assert spec.config["policy.horizon"] == 80
    assert "policy.horizon" not in spec.notes[0]


def test_a_preset_cannot_be_searched(tmp_path):
    file = write(tmp_path, "  policy.preset: {values: [small, paper-image]}")
    file.write_text(file.read_text().replace("  policy.preset: lerobot-0.6\n", ""))

    with pytest.raises(SpecError, match="a preset cannot be searched"):
        load_spec(file)


def test_an_unknown_preset_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(SpecError, match=r"Expected one of lerobot-0\.6, paper-image"):
        load_spec(write(tmp_path, preset="lerobot-0.7"))
