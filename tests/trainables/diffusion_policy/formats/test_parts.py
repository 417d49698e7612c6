"""The parts of a policy, run one after the other, are the policy; what cannot be written is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_policy import small_policy

from trainables.diffusion_policy.config.sections import FLOW_SAMPLERS, SAMPLERS
from trainables.diffusion_policy.formats.checks import action_range
from trainables.diffusion_policy.formats.errors import FormatError, need_onnx
from trainables.diffusion_policy.formats.parts import (
    HORIZON,
    NEXT,
    NOISE,
    NOISY,
    STEP,
    STEP_NOISE,
    Chunk,
    denoising_of,
    example_observation,
    policy_parts,
)
from trainables.diffusion_policy.formats.place import check_place
from trainables.diffusion_policy.formats.running import draw_noise
from trainables.diffusion_policy.formats.write import Material, write_format
from trainables.interface import FormatOptions

COUNT = 3


class Unasked:
    """A judge that is not to be asked."""

    def action_error(self, exported: object) -> None:
        raise AssertionError

    def episodes(self, exported: object) -> None:
        raise AssertionError


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(COUNT)]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [*SAMPLERS, *FLOW_SAMPLERS])
@pytest.mark.parametrize("cameras", [0, 2])
def test_parts_and_chunk_give_the_policys_actions_with_its_noise(sampler: str, cameras: int) -> None:
    policy = small_policy(
        cameras=cameras,
        environment=0 if cameras else 2,
        sampler=sampler,
        num_inference_steps=5,
        prediction_type="flow" if sampler in FLOW_SAMPLERS else "epsilon",
    ).eval()
    denoising = denoising_of(policy)
    observation = example_observation(policy, COUNT)
    expected = policy.predict_horizon(observation, generator=generators())
    drawn = draw_noise(denoising, generators(), (policy.horizon, policy.action_dim))
    noise = {name: torch.from_numpy(value) for name, value in drawn.items()}
    assert (STEP_NOISE in noise) == (sampler == "DDPM")

    with torch.no_grad():
        _, whole = Chunk(policy, denoising)(observation, noise[NOISE], noise.get(STEP_NOISE))
        parts = policy_parts(policy, denoising)
        values = dict(observation)
        values |= parts["prepare"](values)
        values |= parts["encode"](values)
        values[NOISY] = noise[NOISE]
        values |= {name: torch.zeros_like(noise[NOISE]) for name in denoising.memory}
        for number in range(len(denoising.steps)):
            values[STEP] = torch.tensor([number])
            if STEP_NOISE in noise:
                values[NOISE] = noise[STEP_NOISE][:, number]
            values |= parts["predict"](values)
            values |= parts["update"](values)
            values |= {name: values[f"{NEXT}{name}"] for name in (NOISY, *denoising.memory)}
        values |= parts["finish"](values)
    # The range of an action is 200.
    torch.testing.assert_close(whole, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(values[HORIZON], expected, atol=2e-3, rtol=0)


@pytest.mark.slow
def test_the_range_of_an_action_comes_from_the_training() -> None:
    assert action_range(small_policy()).tolist() == [200.0, 200.0]


def material(*, real: bool) -> Material:
    policy = small_policy()
    return Material(example_observation(policy), "random observations", real, Unasked(), {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (FormatOptions("torch", precisions=("int8",)), "only --format onnx has other precisions"),
        (FormatOptions("onnx", precisions=("int8",)), "no recorded observations to calibrate with"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(tmp_path: Path, options: FormatOptions, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        write_format(small_policy().eval(), tmp_path / "out", options, material(real=False))
    assert list(tmp_path.iterdir()) == []


def test_packages_that_are_missing_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    with pytest.raises(FormatError, match=r'onnxruntime is not installed.*sweeper\[onnx\]"'):
        need_onnx()


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    check_place(tmp_path / "new", replace=False)
    folder = tmp_path / "out"
    folder.mkdir()
    check_place(folder, replace=False)
    report = {"variants": [{"files": [{"name": "chunk.onnx"}]}]}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "chunk.onnx").touch()
    with pytest.raises(FormatError, match="replace it with --force"):
        check_place(folder, replace=False)
    check_place(folder, replace=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(FormatError, match=r"contains something else \(thesis.tex\)"):
        check_place(folder, replace=True)
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="is a file"):
        check_place(tmp_path / "file", replace=True)


class Undecided(torch.nn.Module):
    """A layer whose way depends on its values, which no trace can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize("name", ["onnx", "torch"])
@pytest.mark.slow
def test_a_part_that_cannot_be_traced_is_named_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    policy = small_policy().eval()
    policy.diffusion.unet.final_conv.append(Undecided())
    named = {"onnx": "denoising network", "torch": "policy"}[name]
    with pytest.raises(FormatError, match=f"the {named} cannot be exported"):
        write_format(policy, tmp_path / "out", FormatOptions(name), material(real=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_export_that_is_not_the_policy_is_an_error_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small_policy(sampler="DDIM", num_inference_steps=2).eval()
    predict = policy.predict_horizon
    monkeypatch.setattr(policy, "predict_horizon", lambda *a, **k: predict(*a, **k) + 0.03)
    with pytest.raises(FormatError, match=r"the export is not the policy: dimension \d .*of its range"):
        write_format(policy, tmp_path / "out", FormatOptions("torch"), material(real=False))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(policy, "predict_horizon", lambda *a, **k: predict(*a, **k) * np.nan)
    with pytest.raises(FormatError, match="not finite"):
        write_format(policy, tmp_path / "out", FormatOptions("torch"), material(real=False))
