"""Export a policy: write its files, compare them with it, and describe them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.formats.checks import ALLOWED, parity, timed
from trainables.diffusion_policy.formats.errors import FormatError, need_onnx
from trainables.diffusion_policy.formats.onnx_graphs import (
    OPSET,
    chunk_model,
    encoder_model,
    graph_of,
    step_model,
)
from trainables.diffusion_policy.formats.parts import (
    ACTION_CHUNK,
    Denoising,
    Part,
    denoising_of,
    policy_parts,
    step_inputs,
    step_outputs,
)
from trainables.diffusion_policy.formats.place import check_place, put_in_place
from trainables.diffusion_policy.formats.precision import calibration_feeds, half, quantized
from trainables.diffusion_policy.formats.running import ExportedPolicy, draw_noise, onnx_files, torch_files
from trainables.diffusion_policy.formats.texts import example_program, readme
from trainables.diffusion_policy.formats.torch_archive import write_archives
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.features import FeatureType
from trainables.files import write_json
from trainables.interface import FormatOptions, FormatPrecision, silent

if TYPE_CHECKING:
    import onnx

__all__ = ["EXAMPLE", "FORMATS", "REPORT", "Judge", "Material", "write_format"]

FORMATS = ("onnx", "torch")
REPORT, README, PROGRAM, EXAMPLE = "report.json", "README.md", "run.py", "example.npz"


class Judge(Protocol):
    """Measures what the rounding of a variant costs."""

    def action_error(self, exported: ExportedPolicy) -> Mapping[str, Any] | None:
        """Errors at held-out moments beside the policy's; None if there are no such moments."""
        ...

    def episodes(self, exported: ExportedPolicy) -> Mapping[str, Any] | None:
        """Episodes from the policy's starts with its noise; None if none were asked for."""
        ...


@dataclass(frozen=True)
class Material:
    """What an export is checked with.

    Attributes:
        observations: Raw values (B, To, ...) by name.
        source: Where they come from, in words.
        real: Whether they are recorded ones.
        judge: Measures variants that are not fp32.
        about: The checkpoint and the training, for the report.
        notes: What the export leaves out of the policy, in a sentence each.
    """

    observations: Mapping[str, Tensor]
    source: str
    real: bool
    judge: Judge
    about: Mapping[str, Any]
    notes: Sequence[str] = ()


def write_format(
    policy: DiffusionPolicy,
    folder: Path,
    wanted: FormatOptions,
    material: Material,
    progress: Callable[[str], None] = silent,
) -> dict[str, Any]:
    """Write a policy on the CPU, in evaluation mode, and check every file.

    Returns:
        The report.

    Raises:
        FormatError: If the policy cannot be expressed, a precision is refused, or a variant differs too much.
            Nothing is left then.
    """
    check_place(folder, replace=wanted.replace)
    _check(wanted, material)
    denoising = denoising_of(policy)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        report = _description(policy, denoising, wanted, material)
        write = _write_onnx if wanted.format == "onnx" else _write_torch
        written = write(policy, denoising, wanted, material, beside, progress)
        for precision, files, run in written:
            progress(f"comparing {precision} with the policy")
            exported = ExportedPolicy(run, policy, denoising)
            report["variants"].append(
                {
                    "precision": precision,
                    "files": [_file(file) for file in files],
                    "parity": parity(exported, policy, denoising, material.observations, precision),
                    "latency": timed(exported, policy, material.observations),
                    **_cost(exported, precision, material.judge, progress),
                }
            )
        _write_example(policy, denoising, material, beside / EXAMPLE)
        write_json(beside / REPORT, report)
        (beside / README).write_text(readme(report), encoding="utf-8")
        (beside / PROGRAM).write_text(example_program(wanted.format, wanted.parts), encoding="utf-8")
        put_in_place(beside, folder)
    except OSError as error:
        raise FormatError(f"{folder} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return report


def _check(wanted: FormatOptions, material: Material) -> None:
    if wanted.format == "onnx":
        need_onnx()
    elif wanted.precisions != ("fp32",):
        raise FormatError("--precision: only --format onnx has other precisions than fp32.")
    if "int8" in wanted.precisions and not material.real:
        raise FormatError(
            "--precision int8: there are no recorded observations to calibrate with and to measure the loss "
            f"on ({material.source}). Name the dataset: --dataset ROOT."
        )


def _write_onnx(
    policy: DiffusionPolicy,
    denoising: Denoising,
    wanted: FormatOptions,
    material: Material,
    folder: Path,
    progress: Callable[[str], None],
) -> list[tuple[FormatPrecision, list[Path], Any]]:
    parts = policy_parts(policy, denoising)
    graphs = {}
    for name, part in parts.items():
        progress(f"exporting the {part.name}")
        graphs[name] = graph_of(part)
    written = []
    for precision in wanted.precisions:
        progress(f"writing {precision}")
        converted = _converted(graphs, parts, denoising, precision, material)
        if wanted.parts == "chunk":
            models = {"chunk": chunk_model(converted, denoising)}
        else:
            models = {"encoder": encoder_model(converted), "step": step_model(converted, denoising)}
        ending = ".onnx" if precision == "fp32" else f".{precision}.onnx"
        files = [_save(model, folder / f"{name}{ending}") for name, model in models.items()]
        written.append((precision, files, onnx_files(files, denoising, torch.get_num_threads())))
    return written


def _converted(
    graphs: Mapping[str, onnx.ModelProto],
    parts: Mapping[str, Part],
    denoising: Denoising,
    precision: FormatPrecision,
    material: Material,
) -> Mapping[str, onnx.ModelProto]:
    if precision == "fp16":
        return half(graphs, parts)
    if precision == "int8":
        return quantized(graphs, parts, calibration_feeds(parts, denoising, material.observations))
    return graphs


def _save(model: onnx.ModelProto, file: Path) -> Path:
    file.write_bytes(model.SerializeToString())
    return file


def _write_torch(
    policy: DiffusionPolicy,
    denoising: Denoising,
    wanted: FormatOptions,
    _material: Material,
    folder: Path,
    progress: Callable[[str], None],
) -> list[tuple[FormatPrecision, list[Path], Any]]:
    progress("tracing the policy")
    files = write_archives(policy, denoising, wanted.parts, folder)
    return [("fp32", files, torch_files(files, denoising))]


def _cost(
    exported: ExportedPolicy, precision: str, judge: Judge, progress: Callable[[str], None]
) -> dict[str, Any]:
    if precision == "fp32":
        return {"action_error": None, "episodes": None}
    progress(f"measuring what {precision} costs")
    return {"action_error": judge.action_error(exported), "episodes": judge.episodes(exported)}


def _description(
    policy: DiffusionPolicy, denoising: Denoising, wanted: FormatOptions, material: Material
) -> dict[str, Any]:
    packages = ["torch", *(("onnx", "onnxruntime") if wanted.format == "onnx" else ())]
    return {
        "format": wanted.format,
        "parts": wanted.parts,
        **({"opset": OPSET} if wanted.format == "onnx" else {}),
        "versions": {name: version(name) for name in packages},
        "policy": dict(material.about),
        "sampler": denoising.sampler,
        "steps": len(denoising.steps),
        "timesteps": [step.timestep for step in denoising.steps],
        "n_obs_steps": policy.n_obs_steps,
        "horizon": policy.horizon,
        "n_action_steps": policy.n_action_steps,
        "observations": [
            {
                "name": feature.name,
                "shape": [policy.n_obs_steps, *feature.shape],
                "type": "uint8" if feature.type is FeatureType.VISUAL else "float32",
            }
            for feature in policy.features.inputs
        ],
        "action_dim": policy.action_dim,
        "noise": _noise_shapes(policy, denoising),
        "step_inputs": step_inputs(denoising) if wanted.parts == "steps" else None,
        "step_outputs": step_outputs(denoising) if wanted.parts == "steps" else None,
        "compared_on": material.source,
        "notes": _notes(wanted, material),
        "allowed_share_of_range": ALLOWED,
        "variants": [],
    }


def _notes(wanted: FormatOptions, material: Material) -> list[str]:
    notes = list(material.notes)
    if not material.real:
        notes.append(f"Compared on random observations: {material.source}.")
    others = [precision for precision in wanted.precisions if precision != "fp32"]
    if others and not wanted.episodes:
        notes.append(f"What {' and '.join(others)} cost in success was not measured (--episodes).")
    return notes


def _noise_shapes(policy: DiffusionPolicy, denoising: Denoising) -> dict[str, list[int]]:
    shape = [policy.horizon, policy.action_dim]
    steps = {"step_noise": [len(denoising.steps), *shape]} if denoising.draws_noise else {}
    return {"noise": shape, **steps}


def _file(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"name": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _write_example(policy: DiffusionPolicy, denoising: Denoising, material: Material, file: Path) -> None:
    """Write one observation with noise, and the actions that the policy itself predicts."""
    observation = {name: value[:1] for name, value in material.observations.items()}
    shape = (policy.horizon, policy.action_dim)
    noise = draw_noise(denoising, [torch.Generator().manual_seed(0)], shape)
    action = policy.predict_action(observation, generator=[torch.Generator().manual_seed(0)])
    arrays: dict[str, Any] = {name: value.numpy() for name, value in observation.items()}
    arrays |= noise | {f"expected_{ACTION_CHUNK}": action.numpy()}
    np.savez_compressed(file, **arrays)
