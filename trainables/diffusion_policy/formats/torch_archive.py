"""Policies as archives of torch.export (.pt2), which torch loads without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.diffusion_policy.formats.errors import FormatError, first_line
from trainables.diffusion_policy.formats.onnx_graphs import BATCH, quiet
from trainables.diffusion_policy.formats.parts import (
    CONDITION,
    STEP,
    Chunk,
    Denoising,
    Encoder,
    Step,
    example_observation,
    policy_parts,
    step_inputs,
)
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.interface import FormatParts

__all__ = ["write_archives"]


def write_archives(
    policy: DiffusionPolicy, denoising: Denoising, parts: FormatParts, folder: Path
) -> list[Path]:
    """Write a policy, in evaluation mode on a CPU, as one archive or as encoder and step.

    Returns:
        The files.

    Raises:
        FormatError: If torch cannot trace it.
    """
    observation = example_observation(policy)
    batch = torch.export.Dim(BATCH, min=1)
    free = {0: batch}
    shapes = dict.fromkeys(observation, free)
    rows = len(next(iter(observation.values())))
    action = (rows, policy.horizon, policy.action_dim)
    if parts == "chunk":
        noises = [torch.zeros(action)]
        if denoising.draws_noise:
            noises.append(torch.zeros(rows, len(denoising.steps), *action[1:]))
        arguments = (observation, *noises)
        return [
            _write(
                "policy",
                Chunk(policy, denoising),
                arguments,
                (shapes, *(free for _ in noises)),
                folder / "policy.pt2",
            )
        ]
    encoder = Encoder(policy)
    with torch.no_grad():
        condition_BG = encoder(observation)
    values = {name: torch.zeros(action) for name in step_inputs(denoising)}
    values |= {STEP: torch.zeros(1, dtype=torch.long), CONDITION: condition_BG}
    step_shapes = [{} if name == STEP else free for name in values]
    step = Step(policy_parts(policy, denoising), denoising)
    return [
        _write("encoder of the observations", encoder, (observation,), (shapes,), folder / "encoder.pt2"),
        _write("denoising step", step, (list(values.values()),), (step_shapes,), folder / "step.pt2"),
    ]


def _write(name: str, module: nn.Module, arguments: Any, shapes: Any, file: Path) -> Path:
    with quiet():
        try:
            program = torch.export.export(module.eval(), arguments, dynamic_shapes=shapes)
            torch.export.save(program, file)
        except OSError:
            raise
        except Exception as error:  # torch raises what its many stages raise
            raise FormatError(
                f"the {name} cannot be exported with torch.export: {first_line(error)}"
            ) from error
    return file
