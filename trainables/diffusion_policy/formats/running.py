"""Exported files as policies: what they predict is compared, timed and rolled out like the policy itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.formats.errors import FormatError, first_line, need_onnx
from trainables.diffusion_policy.formats.parts import (
    ACTION_CHUNK,
    CONDITION,
    HORIZON,
    NEXT,
    NOISE,
    NOISY,
    STEP,
    STEP_NOISE,
    Denoising,
    step_inputs,
    step_outputs,
)
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.features import PolicyFeatures

__all__ = ["ExportedPolicy", "Run", "draw_noise", "onnx_files", "torch_files"]

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]
"""Takes observations, ``noise`` and, if the sampler draws some, ``step_noise``; returns both results."""


class ExportedPolicy:
    """Exported files in the place of the policy that they were made from.

    Args:
        run: Runs the files.
        policy: What they were made from.
        denoising: Its denoising.
    """

    def __init__(self, run: Run, policy: DiffusionPolicy, denoising: Denoising) -> None:
        self.run = run
        self._denoising = denoising
        self.features: PolicyFeatures = policy.features
        self.n_obs_steps = policy.n_obs_steps
        self.n_action_steps = policy.n_action_steps
        self.horizon = policy.horizon

    def predict_action(
        self, observation: Mapping[str, Tensor], *, generator: list[torch.Generator]
    ) -> Tensor:
        """Predict (B, n_action_steps, A) with the noise that the policy itself would draw."""
        return self._predicted(observation, generator)[ACTION_CHUNK]

    def predict_horizon(
        self,
        observation: Mapping[str, Tensor],
        *,
        generator: list[torch.Generator],
        sampler: str | None = None,
        num_inference_steps: int | None = None,
    ) -> Tensor:
        """Predict (B, T, A) likewise; sampler and steps are those of the export."""
        assert sampler in (None, self._denoising.sampler), sampler
        assert num_inference_steps is None or num_inference_steps >= len(self._denoising.steps)
        return self._predicted(observation, generator)[HORIZON]

    def _predicted(
        self, observation: Mapping[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        values = {feature.name: observation[feature.name].cpu().numpy() for feature in self.features.inputs}
        shape = (self.horizon, self.features.action_dim)
        found = self.run(values | draw_noise(self._denoising, generators, shape))
        return {name: torch.from_numpy(value) for name, value in found.items()}


def draw_noise(
    denoising: Denoising, generators: Sequence[torch.Generator], shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The noise of one sample per generator: the numbers that the policy draws, in the same order.

    Returns:
        ``noise`` (B, T, A) and, if the sampler draws some, ``step_noise`` (B, S, T, A), which is 0 for a step
        that needs none.
    """
    noise = [torch.randn(shape, generator=generator) for generator in generators]
    drawn = {NOISE: torch.stack(noise).numpy()}
    if denoising.draws_noise:
        steps = torch.zeros(len(generators), len(denoising.steps), *shape)
        for row, generator in enumerate(generators):
            for number, step in enumerate(denoising.steps):
                if step.draws_noise:
                    steps[row, number] = torch.randn((1, *shape), generator=generator)[0]
        drawn[STEP_NOISE] = steps.numpy()
    return drawn


def onnx_files(files: Sequence[Path], denoising: Denoising, threads: int = 0) -> Run:
    """Run a chunk, or an encoder and a step, with ONNX Runtime on the CPU.

    Args:
        files: One file, or the encoder's and the step's.
        denoising: The denoising that was exported.
        threads: Threads to compute with; 0 for ONNX Runtime's choice.

    Raises:
        FormatError: If ONNX Runtime is not installed, or cannot load a file; the run, if it cannot run one.
    """
    need_onnx()
    import onnxruntime

    def fault(file: Path, verb: str, error: Exception) -> FormatError:
        version = onnxruntime.__version__
        return FormatError(f"ONNX Runtime {version} cannot {verb} {file.name}: {first_line(error)}")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3

    def runner(file: Path) -> Run:
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has an exception for each of its status codes
            raise fault(file, "load", error) from error
        outputs = [output.name for output in session.get_outputs()]
        inputs = [value.name for value in session.get_inputs()]

        def run(values: Arrays) -> dict[str, np.ndarray]:
            given = {name: values[name] for name in inputs}
            try:
                results = session.run(None, given)
            except Exception as error:
                raise fault(file, "run", error) from error
            return dict(zip(outputs, results, strict=True))

        return run

    return _whole([runner(file) for file in files], denoising)


def torch_files(files: Sequence[Path], denoising: Denoising) -> Run:
    """Run archives of torch.export, as `onnx_files` does."""
    modules = [torch.export.load(file).module() for file in files]

    def chunk(values: Arrays) -> dict[str, np.ndarray]:
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        noises = [tensors.pop(name) for name in (NOISE, STEP_NOISE) if name in tensors]
        with torch.no_grad():
            action, horizon = modules[0](tensors, *noises)
        return {ACTION_CHUNK: action.numpy(), HORIZON: horizon.numpy()}

    def encoder(values: Arrays) -> dict[str, np.ndarray]:
        noises = (NOISE, STEP_NOISE, NOISY)
        observation = {name: torch.from_numpy(value) for name, value in values.items() if name not in noises}
        with torch.no_grad():
            return {CONDITION: modules[0](observation).numpy()}

    def step(values: Arrays) -> dict[str, np.ndarray]:
        names = step_inputs(denoising)
        with torch.no_grad():
            results = modules[1]([torch.from_numpy(values[name]) for name in names])
        return {name: value.numpy() for name, value in zip(step_outputs(denoising), results, strict=True)}

    return chunk if len(files) == 1 else _whole([encoder, step], denoising)


def _whole(runs: Sequence[Run], denoising: Denoising) -> Run:
    """One run, or an encoder and a loop over steps."""
    if len(runs) == 1:
        return runs[0]
    encoder, step = runs

    def run(values: Arrays) -> dict[str, np.ndarray]:
        known = {**values, **encoder(values)}
        known |= {name: np.zeros_like(values[NOISE]) for name in denoising.memory}
        known[NOISY] = values[NOISE]
        results: dict[str, np.ndarray] = {}
        for number in range(len(denoising.steps)):
            known[STEP] = np.array([number])
            if denoising.draws_noise:
                known[NOISE] = np.ascontiguousarray(values[STEP_NOISE][:, number])
            results = step(known)
            known |= {name: results[f"{NEXT}{name}"] for name in (NOISY, *denoising.memory)}
        return {name: results[name] for name in (ACTION_CHUNK, HORIZON)}

    return run
