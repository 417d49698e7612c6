"""The model that MLflow loads: it predicts with torch alone, and needs nothing of this package.

MLflow copies this file into the model and runs it when the model is loaded; nothing here imports it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

__all__ = ["PolicyModel"]


class PolicyModel(mlflow.pyfunc.PythonModel):
    """A policy: observations in, the actions to execute and the whole prediction out, in original units."""

    # The signature has the types. Without this MLflow warns of a `predict` without type hints, at each load.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Load the archive of torch.export."""
        folder = Path(context.artifacts["policy"])
        self._report = json.loads((folder / "report.json").read_text())
        (file,) = self._report["variants"][0]["files"]
        self._policy = torch.export.load(folder / file["name"]).module()
        example = np.load(folder / "example.npz")
        # The noise of a step that needs none is 0.
        self._steps = (
            [bool(noise.any()) for noise in example["step_noise"][0]] if "step_noise" in example else []
        )

    # MLflow would take the type of `model_input`, if it had one, for the signature. It prescribes the names.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, ARG002
        """Predict; row i of the batch gets the noise of the seed plus i, or new noise without a seed."""
        names = [(one["name"], one["type"]) for one in self._report["observations"]]
        observation = {
            name: torch.from_numpy(np.array(model_input[name]).astype(kind, copy=False))
            for name, kind in names
        }
        rows = len(next(iter(observation.values())))
        seed = int((params or {}).get("seed", -1))
        generators = [torch.Generator() for _ in range(rows)]
        for row, generator in enumerate(generators):
            generator.seed() if seed < 0 else generator.manual_seed(seed + row)
        with torch.no_grad():
            action, horizon = self._policy(observation, *self._noise(generators))
        return {"action": action.numpy(), "horizon": horizon.numpy()}

    def _noise(self, generators: list[torch.Generator]) -> list[Any]:
        """The noise that the policy itself draws from these generators, in the same order."""
        shape = (self._report["horizon"], self._report["action_dim"])
        noises = [torch.stack([torch.randn(shape, generator=generator) for generator in generators])]
        if self._steps:
            of_steps = torch.zeros(len(generators), len(self._steps), *shape)
            for row, generator in enumerate(generators):
                for number, draws in enumerate(self._steps):
                    if draws:
                        of_steps[row, number] = torch.randn((1, *shape), generator=generator)[0]
            noises.append(of_steps)
        return noises


mlflow.models.set_model(PolicyModel())
