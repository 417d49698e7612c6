"""Checkpoints: everything that training needs to continue exactly, either complete or absent.

A trial's ``checkpoints/`` folder holds a folder per kept step and pointers::

    checkpoints/
      000400/
        config.json             every field of the configuration, the features, the versions
        state.json              step, best value so far, the report that was due at this step
        model.safetensors       the weights as trained
        ema.safetensors         their moving average (if it is on)
        optimizer.safetensors   the optimiser's moments, by parameter name; see below
        statistics.safetensors  the normaliser's statistics
      last.json  best.json      {"step": 400, "folder": "000400", ...}
      evaluating.json           while an evaluation runs beside training: its checkpoint,
      reported.json             and the newest one before it

The optimiser's moments are as large as all weights together. A run continues from ``last`` alone, and not
after its last step: so the checkpoint of that step has none, and ``best`` loses them as soon as it is not
``last`` any more.

Sample order, noise and crops are pure functions of (seed, step), so no random state needs to be kept.
Safetensors and JSON only: nothing in a checkpoint can run code when it is loaded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.dataset.statistics import Statistics
from trainables.diffusion_policy.config.diffusion_config import FIELDS, DiffusionConfig
from trainables.diffusion_policy.training.ema import NUM_UPDATES
from trainables.features import PolicyFeatures
from trainables.files import put_in_place, share_like, write_json
from trainables.interface import TrainableError

__all__ = ["CheckpointError", "Checkpoints", "Snapshot"]

FORMAT = 1
EVALUATING, REPORTED = "evaluating", "reported"
_KEPT_BY_POINTER = ("last", "best", EVALUATING, REPORTED)
_OPTIMIZER = "optimizer.safetensors"


class CheckpointError(TrainableError):
    """A checkpoint cannot be read, or belongs to another run."""

    reason = "config"


@dataclass(frozen=True)
class Snapshot:
    """The state of a run at a step, as plain tensors and JSON values.

    Attributes:
        step: Optimiser steps done.
        config: The run's configuration.
        features: What the policy sees and does.
        statistics: The normaliser's statistics.
        model: The policy's state dict, under LeRobot's names.
        ema: The averaged weights and ``num_updates``, or None.
        optimizer: The optimiser's tensors as ``<parameter>/<name>``; None if the run is at its end.
        progress: JSON values that the loop needs to continue (best value, first loss, the report due).
        objective: Settings of what is minimised, by dotted name; empty for the denoising loss.
    """

    step: int
    config: DiffusionConfig
    features: PolicyFeatures
    statistics: Statistics
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    optimizer: Mapping[str, Tensor] | None
    progress: Mapping[str, Any]
    objective: Mapping[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one trial.

    Args:
        folder: The trial's ``checkpoints`` folder; created by the first checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, snapshot: Snapshot, *, best: bool, evaluating: bool = False) -> Path:
        """Write a checkpoint, point ``last`` (and ``best``) at it and delete those that nothing points at.

        Args:
            snapshot: Its content.
            best: Whether it is the best so far.
            evaluating: Whether its evaluation is still to come: it and the one before are kept until
                :meth:`release`.

        Returns:
            The checkpoint's folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder_of(snapshot.step)
        name = final.name
        beside = self.folder / f".{name}.{os.getpid()}.writing"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        _write(beside, snapshot)
        if final.exists():
            # The same step of the same run, written again after a restart: equal, but certainly complete.
            shutil.rmtree(final)
        put_in_place(beside, final)
        if evaluating:
            previous = self.find("last")
            if previous is not None and previous != final:
                self._point(REPORTED, int(previous.name), previous.name)
            self._point(EVALUATING, snapshot.step, name)
        if best:
            # Before `last`: if the process dies in between, the run repeats this step and is right again.
            self._point("best", snapshot.step, name)
        self._point("last", snapshot.step, name)
        self._drop_unused()
        return final

    def at(self, step: int) -> Path | None:
        """Folder of the checkpoint of a step, or None if there is none (any more)."""
        found = self.folder_of(step)
        return found if found.is_dir() else None

    def judge(self, step: int, changes: Mapping[str, Any], *, best: bool) -> None:
        """Record how the evaluation of a checkpoint ended that was saved before it.

        Args:
            step: The checkpoint's step.
            changes: New values of the progress in the last checkpoint, from which the run would continue.
            best: Whether it is the best so far.
        """
        if best:
            self._point("best", step, self.folder_of(step).name)
        last = self.find("last")
        if last is not None:
            state = json.loads((last / "state.json").read_text())
            write_json(last / "state.json", state | {"progress": state["progress"] | dict(changes)})

    def release(self) -> None:
        """Keep no longer what was kept for an evaluation; its own checkpoint stays until the next one."""
        (self.folder / f"{REPORTED}.json").unlink(missing_ok=True)
        self._drop_unused()
        (self.folder / f"{EVALUATING}.json").unlink(missing_ok=True)

    def folder_of(self, step: int) -> Path:
        """The folder of the checkpoint of a step, whether or not it exists."""
        return self.folder / f"{step:06d}"

    def find(self, pointer: str = "last") -> Path | None:
        """Folder of the checkpoint that ``last`` or ``best`` points at, or None if there is none."""
        try:
            name = json.loads((self.folder / f"{pointer}.json").read_text())["folder"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.folder / pointer}.json is damaged: {error}.") from error
        found = self.folder / Path(str(name)).name
        return found if found.is_dir() else None

    def _point(self, pointer: str, step: int, name: str) -> None:
        write_json(self.folder / f"{pointer}.json", {"step": step, "folder": name})

    def _drop_unused(self) -> None:
        last, best, *others = (self.find(pointer) for pointer in _KEPT_BY_POINTER)
        kept = {found.name for found in (last, best, *others) if found is not None}
        for entry in self.folder.iterdir():
            if entry.is_dir() and entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)
        if best is not None and best != last:
            (best / _OPTIMIZER).unlink(missing_ok=True)


def read(folder: Path) -> Snapshot:
    """Read a checkpoint into the host's memory.

    Raises:
        CheckpointError: If a file is missing, damaged, or of a newer format.
    """
    try:
        described = json.loads((folder / "config.json").read_text())
        state = json.loads((folder / "state.json").read_text())
        if state["format"] != FORMAT:
            problem = f"has format {state['format']}; this version reads format {FORMAT}"
            raise CheckpointError(f"the checkpoint {folder} {problem}.")
        recorded = described["config"]
        config = {name: value for name, value in recorded.items() if name in FIELDS}
        ema = folder / "ema.safetensors"
        return Snapshot(
            step=int(state["step"]),
            config=DiffusionConfig.from_flat(config),
            features=PolicyFeatures.from_json(described["features"]),
            statistics=_unflatten(load_arrays(folder / "statistics.safetensors")),
            model=load_file(folder / "model.safetensors"),
            ema=load_file(ema) if ema.exists() else None,
            optimizer=load_file(folder / _OPTIMIZER) if state.get("continues", True) else None,
            progress=state["progress"],
            objective={name: value for name, value in recorded.items() if name not in FIELDS},
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {folder} cannot be read: {error}.") from error


@dataclass(frozen=True)
class StoredPolicy:
    """The part of a checkpoint that its policy consists of.

    Attributes:
        features: What the policy sees and does.
        statistics: The normaliser's statistics.
        weights: The averaged weights if they were asked for and exist, else the weights as trained.
    """

    features: PolicyFeatures
    statistics: Statistics
    weights: Mapping[str, Tensor]


def read_policy(folder: Path, *, averaged: bool) -> StoredPolicy:
    """Read the policy of a checkpoint into the host's memory.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    try:
        described = json.loads((folder / "config.json").read_text())
        ema = folder / "ema.safetensors"
        weights = load_file(ema if averaged and ema.exists() else folder / "model.safetensors")
        return StoredPolicy(
            PolicyFeatures.from_json(described["features"]),
            _unflatten(load_arrays(folder / "statistics.safetensors")),
            {name: value for name, value in weights.items() if name != NUM_UPDATES},
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {folder} cannot be read: {error}.") from error


def load_weights(policy: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a state dict whose names and shapes must all fit.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape; lists them.
    """
    try:
        policy.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's weights do not fit its configuration: {error}") from error


def optimizer_tensors(policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's own tensors, not copies, as ``<parameter>/<name>`` -> tensor."""
    return {
        f"{name}/{key}": torch.as_tensor(value).detach()
        for name, parameter in policy.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    policy: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Restore the tensors that ``optimizer_tensors`` returned."""
    parameters = dict(policy.named_parameters())
    for joined, value in tensors.items():
        name, _, key = joined.rpartition("/")
        parameter = parameters[name]
        # Adam keeps its step beside the parameter only in its fused and capturable forms.
        on_device = key != "step" or bool(optimizer.defaults.get("fused"))
        optimizer.state[parameter][key] = value.to(parameter.device if on_device else "cpu")


def _write(folder: Path, snapshot: Snapshot) -> None:
    described = {
        "config": {**snapshot.config.to_flat(), **snapshot.objective},
        "features": [
            {"name": feature.name, "type": feature.type.value, "shape": list(feature.shape)}
            for feature in snapshot.features.all()
        ],
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    write_json(folder / "config.json", described)
    save_file(_ready(snapshot.model), folder / "model.safetensors")
    if snapshot.ema is not None:
        save_file(_ready(snapshot.ema), folder / "ema.safetensors")
    if snapshot.optimizer is not None:
        save_file(_ready(snapshot.optimizer), folder / _OPTIMIZER)
    save_arrays(_flatten(snapshot.statistics), folder / "statistics.safetensors")
    share_like(folder / "config.json", *folder.glob("*.safetensors"))
    state = {
        "format": FORMAT,
        "step": snapshot.step,
        "continues": snapshot.optimizer is not None,
        "progress": dict(snapshot.progress),
    }
    write_json(folder / "state.json", state)


def _ready(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _flatten(statistics: Statistics) -> dict[str, np.ndarray]:
    return {
        f"{feature}/{name}": np.ascontiguousarray(value)
        for feature, values in statistics.items()
        for name, value in values.items()
    }


def _unflatten(flat: Mapping[str, np.ndarray]) -> Statistics:
    statistics: Statistics = {}
    for joined, value in flat.items():
        feature, _, name = joined.rpartition("/")
        statistics.setdefault(feature, {})[name] = value
    return statistics
