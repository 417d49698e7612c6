"""Exported files are the policy, and run without torch or without this package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_policy import small_policy

from trainables.diffusion_policy.config.sections import FLOW_SAMPLERS, SAMPLERS
from trainables.diffusion_policy.formats.checks import ALLOWED, parity
from trainables.diffusion_policy.formats.onnx_graphs import (
    chunk_model,
    encoder_model,
    graph_of,
    step_model,
)
from trainables.diffusion_policy.formats.parts import denoising_of, example_observation, policy_parts
from trainables.diffusion_policy.formats.running import ExportedPolicy, onnx_files
from trainables.diffusion_policy.formats.write import Material, write_format
from trainables.interface import FormatOptions

pytestmark = pytest.mark.slow
CAMERAS: Mapping[int, Mapping[str, Any]] = {
    0: {"environment": 2},
    1: {"image": (40, 48), "crop_shape": (33, 40)},
    2: {"image": (40, 48), "resize_shape": (34, 42), "use_separate_rgb_encoder_per_camera": True},
}


class Costs:
    """A judge that says the same of every variant."""

    def action_error(self, exported: ExportedPolicy) -> Mapping[str, Any]:
        return {"words": "error of the variant."}

    def episodes(self, exported: ExportedPolicy) -> None:
        return None


@pytest.fixture(scope="module")
def shared_graphs() -> dict[tuple[int, str], Any]:
    """Graphs that do not depend on the sampler, by cameras and part."""
    return {}


@pytest.mark.parametrize("cameras", CAMERAS)
@pytest.mark.parametrize("sampler", [*SAMPLERS, *FLOW_SAMPLERS])
def test_onnx_is_the_policy(
    tmp_path: Path, shared_graphs: dict[tuple[int, str], Any], sampler: str, cameras: int
) -> None:
    kind = {"prediction_type": "flow" if sampler in FLOW_SAMPLERS else "epsilon", **CAMERAS[cameras]}
    policy = small_policy(cameras=cameras, sampler=sampler, num_inference_steps=6, **kind).eval()
    denoising = denoising_of(policy)
    graphs = {}
    for name, part in policy_parts(policy, denoising).items():
        key = (cameras, name)
        if name in ("predict", "update") or key not in shared_graphs:
            shared_graphs[key] = graph_of(part)
        graphs[name] = shared_graphs[key]
    models = {
        "chunk": chunk_model(graphs, denoising),
        "encoder": encoder_model(graphs),
        "step": step_model(graphs, denoising),
    }
    for name, model in models.items():
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    for names in (["chunk"], ["encoder", "step"]):
        run = onnx_files([tmp_path / f"{name}.onnx" for name in names], denoising, threads=1)
        exported = ExportedPolicy(run, policy, denoising)
        found = parity(exported, policy, denoising, example_observation(policy, 5), "fp32")
        assert found["share_of_range"] <= ALLOWED
        print(f"PARITY {cameras} {sampler} {'+'.join(names)} {found['share_of_range']:.1e}")


def run_alone(folder: Path, *arguments: str, without: tuple[str, ...]) -> str:
    """Run the example beside an export in a process that cannot import some packages."""
    program = (
        f"import sys, runpy\nfor name in {without!r}: sys.modules[name] = None\n"
        f"sys.argv = ['run.py', *{arguments!r}]\nrunpy.run_path({str(folder / 'run.py')!r})\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def difference_of(said: str) -> float:
    found = re.search(r"largest difference to the policy: (\S+)", said)
    assert found is not None, said
    return float(found[1])


def test_an_onnx_export_runs_without_torch_in_every_precision(tmp_path: Path) -> None:
    policy = small_policy(environment=2, num_inference_steps=4).eval()
    observations = example_observation(policy, 6)
    material = Material(observations, "six moments", True, Costs(), {"checkpoint": "here"})
    options = FormatOptions("onnx", precisions=("fp32", "fp16", "int8"), episodes=0)
    said: list[str] = []
    report = write_format(policy, tmp_path / "out", options, material, said.append)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert "exporting the denoising network" in said

    sizes, shares = {}, {}
    for variant in report["variants"]:
        sizes[variant["precision"]] = variant["files"][0]["bytes"]
        shares[variant["precision"]] = variant["parity"]["share_of_range"]
        assert variant["latency"]["median_ms"] > 0
    assert sizes["fp16"] < 0.8 * sizes["fp32"]
    assert sizes["int8"] < 0.8 * sizes["fp32"]
    assert shares["fp32"] <= ALLOWED < shares["fp16"] < shares["int8"] < 0.2

    without = ("torch", "trainables", "sweeper", "onnx")
    for precision, most in (("fp32", 200 * ALLOWED), ("fp16", 5.0), ("int8", 40.0)):
        assert difference_of(run_alone(tmp_path / "out", precision, without=without)) <= most
    assert len((tmp_path / "out" / "run.py").read_text().splitlines()) <= 32
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "`step_noise` | (B, 4, 8, 2)" in readme
    assert "int8: error of the variant." in readme

    with pytest.raises(Exception, match="already contains an export"):
        write_format(policy, tmp_path / "out", options, material)


@pytest.mark.parametrize(
    ("name", "parts", "sampler", "cameras"),
    [
        ("onnx", "steps", "UniPC", 1),
        ("torch", "chunk", "DDPM", 2),
        ("torch", "steps", "DPM-Solver++", 1),
    ],
)
def test_an_export_runs_without_this_package(
    tmp_path: Path, name: str, parts: Any, sampler: str, cameras: int
) -> None:
    policy = small_policy(cameras=cameras, sampler=sampler, num_inference_steps=3, **CAMERAS[cameras]).eval()
    material = Material(example_observation(policy, 3), "three moments", True, Costs(), {})
    report = write_format(policy, tmp_path / "out", FormatOptions(name, parts), material)
    assert report["variants"][0]["parity"]["share_of_range"] <= ALLOWED
    without = ("trainables", "sweeper", *(("torch",) if name == "onnx" else ()))
    assert difference_of(run_alone(tmp_path / "out", without=without)) <= 200 * ALLOWED
    files = report["variants"][0]["files"]
    assert len(files) == (1 if parts == "chunk" else 2)
    # Every weight is in one file, once.
    weights_b = 4 * sum(parameter.numel() for parameter in policy.parameters())
    assert sum(file["bytes"] for file in files) < weights_b + 2_000_000


def test_half_precision_is_close_with_cameras(tmp_path: Path) -> None:
    policy = small_policy(cameras=1, sampler="DDIM", num_inference_steps=3, **CAMERAS[1]).eval()
    torch.manual_seed(0)
    material = Material(example_observation(policy, 6), "six moments", True, Costs(), {})
    options = FormatOptions("onnx", precisions=("fp16", "int8"), episodes=0)
    report = write_format(policy, tmp_path / "out", options, material)
    fp16, int8 = (variant["parity"]["share_of_range"] for variant in report["variants"])
    assert fp16 < 0.02
    assert int8 < 0.3
