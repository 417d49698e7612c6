"""What fails while a policy is exported is named, and leaves nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_policy import small_policy

from trainables.diffusion_policy.formats import onnx_graphs
from trainables.diffusion_policy.formats.errors import FormatError
from trainables.diffusion_policy.formats.parts import denoising_of, example_observation
from trainables.diffusion_policy.formats.running import ExportedPolicy, onnx_files
from trainables.diffusion_policy.formats.write import Material, write_format
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.interface import FormatOptions

STATE: dict[str, Any] = {"environment": 2, "sampler": "DDIM", "num_inference_steps": 2}
CAMERA: dict[str, Any] = {"cameras": 1, "image": (40, 48), "crop_shape": (33, 40), "num_inference_steps": 2}
INT8 = FormatOptions("onnx", precisions=("fp32", "fp16", "int8"), episodes=0)
QUANTISE = "onnxruntime.quantization.quantize_static"
HALVE = "onnxruntime.transformers.float16.convert_float_to_float16"
SESSION = "onnxruntime.InferenceSession"


class NoJudge:
    """A judge of policies that have neither a dataset nor a simulator."""

    def action_error(self, exported: ExportedPolicy) -> None:
        return None

    def episodes(self, exported: ExportedPolicy) -> None:
        return None


def exported(
    policy: DiffusionPolicy, folder: Path, wanted: FormatOptions = INT8, *, real: bool = True
) -> dict[str, Any]:
    material = Material(example_observation(policy, 3), "three moments", real, NoJudge(), {})
    return write_format(policy, folder, wanted, material)


def failing(message: str) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(message)

    return fail


def test_packages_that_are_not_installed_are_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small_policy(environment=2).eval()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FormatError, match=r"onnxruntime is not installed\. Run: pip install .*\[onnx\]"):
        exported(policy, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(FormatError, match="onnx, onnxruntime are not installed"):
        exported(policy, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "said", "kind"),
    [
        ("torch.onnx.export", "cannot be exported to ONNX: Unsupported: aten.nope", CAMERA),
        (HALVE, "cannot be converted to fp16: Unsupported: aten.nope", STATE),
        (QUANTISE, "cannot be quantised: Unsupported: aten.nope", CAMERA),
        (SESSION, r"ONNX Runtime \S+ cannot load chunk.onnx: Unsupported: aten.nope", STATE),
    ],
)
def test_a_converter_that_fails_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, said: str, kind: dict[str, Any]
) -> None:
    policy = small_policy(**kind).eval()
    monkeypatch.setattr(broken, failing("Unsupported: aten.nope\nat line 3"))
    with pytest.raises(FormatError, match=said) as caught:
        exported(policy, tmp_path / "out")
    assert "at line 3" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_earlier_export_stays_if_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small_policy(**STATE).eval()
    exported(policy, tmp_path / "out", FormatOptions("onnx"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(QUANTISE, failing("no calibration data"))
    wanted = FormatOptions("onnx", precisions=("fp32", "int8"), episodes=0, replace=True)
    with pytest.raises(FormatError, match="cannot be quantised: no calibration data"):
        exported(policy, tmp_path / "out", wanted)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy(**CAMERA).eval()
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".onnx":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FormatError, match=r"out cannot be written: .*No space left on device"):
        exported(policy, tmp_path / "out", FormatOptions("onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_without_recorded_observations_is_refused(tmp_path: Path) -> None:
    policy = small_policy(**CAMERA).eval()
    with pytest.raises(FormatError, match=r"no recorded observations to calibrate with .* --dataset ROOT"):
        exported(policy, tmp_path / "out", real=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_would_be_too_large_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small_policy(**STATE).eval()
    monkeypatch.setattr(onnx_graphs, "LARGEST_B", 1000)
    with pytest.raises(FormatError, match=r"chunk.onnx would be .* Use --precision fp16, or --format torch"):
        exported(policy, tmp_path / "out", FormatOptions("onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_cannot_be_loaded_or_run_is_named(tmp_path: Path) -> None:
    policy = small_policy(**STATE).eval()
    exported(policy, tmp_path / "out", FormatOptions("onnx"))
    chunk, denoising = tmp_path / "out" / "chunk.onnx", denoising_of(policy)
    run = onnx_files([chunk], denoising)
    values = {name: value.numpy() for name, value in example_observation(policy, 1).items()}
    with pytest.raises(FormatError, match=r"ONNX Runtime \S+ cannot run chunk.onnx: "):
        run({**values, "noise": np.zeros((1, policy.horizon + 1, policy.action_dim), np.float32)})
    chunk.write_bytes(chunk.read_bytes()[:1000])
    with pytest.raises(FormatError, match=r"ONNX Runtime \S+ cannot load chunk.onnx: "):
        onnx_files([chunk], denoising)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_exported_in_any_precision(tmp_path: Path) -> None:
    policy = small_policy(**CAMERA).eval()
    with torch.no_grad():
        policy.encoder_parameters()[0].fill_(torch.nan)
    with pytest.raises(FormatError, match="an exported action is not finite"):
        exported(policy, tmp_path / "out", FormatOptions("onnx"))
    assert list(tmp_path.iterdir()) == []
