"""The texts beside an export: how to call it, and a program that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["example_program", "readme"]

_START = """\"\"\"Predict a chunk of actions with {title}; needs {needs}.

Usage: python run.py [PRECISION]. It takes example.npz, and compares with the policy's own actions.
\"\"\"

import json
import sys
from pathlib import Path

import numpy as np
import {runtime}

folder = Path(__file__).resolve().parent
report = json.loads((folder / "report.json").read_text())
wanted = sys.argv[1] if len(sys.argv) > 1 else report["variants"][0]["precision"]
files = [f["name"] for v in report["variants"] if v["precision"] == wanted for f in v["files"]]
values = dict(np.load(folder / "example.npz"))  # raw observations and noise, by name
expected = values.pop("expected_action")
"""
_END = """
print(action.shape, "actions; largest difference to the policy:", np.abs(action - expected).max())
"""
_ONNX_RUN = """

def run(session, values):
    names = [output.name for output in session.get_outputs()]
    feed = {i.name: values[i.name] for i in session.get_inputs()}
    return dict(zip(names, session.run(names, feed)))


sessions = [onnxruntime.InferenceSession(str(folder / name)) for name in files]
"""
_ONNX_CHUNK = """action = run(sessions[0], values)["action"]
"""
_LOOP = """memory = [name for name in report["step_inputs"] if name in ("earlier", "before_that", "anchor")]
known = {**values, "condition": CONDITION, "noisy": values["noise"]}
known.update({name: np.zeros_like(values["noise"]) for name in memory})
for number in range(report["steps"]):
    known["step"] = np.array([number])
    if "step_noise" in values:
        known["noise"] = np.ascontiguousarray(values["step_noise"][:, number])
    found = STEP
    known.update({name: found[f"next_{name}"] for name in ["noisy", *memory]})
action = found["action"]
"""
_TORCH_RUN = """modules = [torch.export.load(folder / name).module() for name in files]
tensors = {name: torch.from_numpy(value) for name, value in values.items()}
observation = {o["name"]: tensors[o["name"]] for o in report["observations"]}
"""
_TORCH_CHUNK = """noises = [tensors[name] for name in ("noise", "step_noise") if name in tensors]
action, horizon = (value.detach().numpy() for value in modules[0](observation, *noises))
"""
_TORCH_STEP = """

def step(known):
    results = modules[1]([torch.as_tensor(known[name]) for name in report["step_inputs"]])
    return dict(zip(report["step_outputs"], (value.detach().numpy() for value in results)))


"""


def example_program(kind: str, parts: str) -> str:
    """A program that runs an export without this package."""
    if kind == "onnx":
        start = _START.format(title="ONNX Runtime", needs="numpy and onnxruntime only", runtime="onnxruntime")
        loop = _LOOP.replace("CONDITION", 'run(sessions[0], values)["condition"]')
        loop = loop.replace("STEP\n", "run(sessions[1], known)\n")
        return start + _ONNX_RUN + (_ONNX_CHUNK if parts == "chunk" else loop) + _END
    start = _START.format(title="torch", needs="torch only", runtime="torch")
    loop = _LOOP.replace("CONDITION", "modules[0](observation).detach().numpy()")
    loop = loop.replace("STEP\n", "step(known)\n")
    return start + _TORCH_RUN + (_TORCH_CHUNK if parts == "chunk" else _TORCH_STEP + loop) + _END


def readme(report: Mapping[str, Any]) -> str:
    """How to call an export, and what was measured of it."""
    runtime = f"ONNX (opset {report['opset']})" if report["format"] == "onnx" else "torch.export"
    lines = [
        f"# A diffusion policy in {runtime}",
        "",
        f"Sampler {report['sampler']}, {report['steps']} steps. Raw observations in, actions in original "
        "units out: scaling, resizing and cropping are inside.",
        "",
        "Run `python run.py`: it needs " + _needs(report["format"]) + ", and compares with the policy.",
        "",
        "| input | shape | type |",
        "|---|---|---|",
        *(f"| `{o['name']}` | {_shape(o['shape'])} | {o['type']} |" for o in report["observations"]),
        *(
            f"| `{name}` | {_shape(shape)} | float32, standard normal |"
            for name, shape in report["noise"].items()
        ),
        "",
        "B is the batch, of any size. The observation steps are the newest last; images are channels first.",
        "The same observations and noise give the same actions.",
    ]
    if "step_noise" in report["noise"]:
        lines.append("`step_noise` is what the sampler adds at every step; the last step uses none.")
    action = _shape([report["n_action_steps"], report["action_dim"]])
    horizon = _shape([report["horizon"], report["action_dim"]])
    lines += [
        "",
        f"Results: `action` {action}, the actions to execute, the first one now; `horizon` {horizon}, the "
        f"whole prediction, whose first action belongs to the oldest observation.",
    ]
    if report["parts"] == "steps":
        lines += [
            "",
            "The encoder gives `condition` once for an observation. The step is called for `step` = 0 to "
            f"{report['steps'] - 1}, each time with what the last one returned; see run.py. Its noise is "
            "`noise`, and its actions are meant after the last step.",
        ]
    lines += ["", f"Compared with the policy on {report['compared_on']}.", ""]
    lines += _table(report["variants"])
    lines += ["", *(f"- {note}" for note in report["notes"])]
    return "\n".join(lines).rstrip() + "\n"


def _needs(kind: str) -> str:
    return "numpy and onnxruntime, not torch" if kind == "onnx" else "torch"


def _shape(shape: list[int]) -> str:
    return "(" + ", ".join(["B", *map(str, shape)]) + ")"


def _table(variants: list[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| precision | files | MB | largest difference | share of the range | ms a chunk (policy) |",
        "|---|---|---|---|---|---|",
    ]
    for one in variants:
        names = ", ".join(f"`{file['name']}`" for file in one["files"])
        size = sum(file["bytes"] for file in one["files"]) / 1e6
        parity, latency = one["parity"], one["latency"]
        lines.append(
            f"| {one['precision']} | {names} | {size:.2f} | {parity['largest_difference']:.2g} | "
            f"{parity['share_of_range']:.1e} | "
            f"{latency['median_ms']:.1f} ({latency['policy_median_ms']:.1f}) |"
        )
    for one in variants:
        error, episodes = one["action_error"], one["episodes"]
        if error is not None:
            lines += ["", f"{one['precision']}: {error['words']}"]
        if episodes is not None:
            lines += ["", f"{one['precision']}: {episodes['words']}"]
    return lines
