"""What a distillation minimises: the distance of the student's actions from those of the teacher.

For each observation and each noise the teacher's DDIM gives one action chunk (of a flow: Euler's method). The
student learns this map (Luhman and Luhman, "Knowledge Distillation in Iterative Generative Models",
arXiv 2101.02388): at each of its own steps it predicts the teacher's chunk for the noise that it started
from. The states in which it learns the later steps are those that its own sampler reaches, so that it learns
to correct its own errors.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension, ``E`` size of the timestep's
embedding, ``N`` steps of the student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.diffusion_policy.network.inference_settings import with_setting
from trainables.diffusion_policy.network.noise import NoiseProcess
from trainables.diffusion_policy.network.policy import PAD, DiffusionPolicy
from trainables.diffusion_policy.network.unet import ConditionalUnet1d
from trainables.diffusion_policy.pretrained.read import policy_of, read_checkpoint
from trainables.diffusion_policy.training.stream import NOISE, TIMESTEPS
from trainables.diffusion_policy_distilled.settings import DistillSettings
from trainables.interface import silent

__all__ = ["Distillation", "DistillationLoss", "even_timesteps", "relabel_timesteps"]

HUBER_DELTA = 0.05
"""Normalised distance from which on the loss ``huber`` grows linearly: 2.5 % of the actions' range."""


class Distillation:
    """Learning a teacher's actions, as the objective of a training.

    Args:
        settings: How the student is distilled.
        teacher: The teacher's checkpoint.
        progress: Receives a message while it is read.
    """

    def __init__(
        self, settings: DistillSettings, teacher: str, progress: Callable[[str], None] = silent
    ) -> None:
        self.settings: Mapping[str, Any] = settings.to_flat()
        self.recordable = False
        self._distill = settings
        self._path = teacher
        self._progress = progress

    def prepare(self, policy: DiffusionPolicy) -> None:
        """Let each step of the student begin as the teacher's step at about the same noise."""
        teacher = self._read(torch.device("cpu"))
        relabel_timesteps(policy.diffusion.unet, even_timesteps(teacher.process, self._distill.steps))

    def loss_of(self, policy: DiffusionPolicy) -> nn.Module:
        """The loss of a student; reads the teacher.

        Raises:
            ConfigError: If the teacher's checkpoint cannot be read.
        """
        self._progress(f"reading the teacher {self._path}")
        return DistillationLoss(policy, self._read(policy.device), self._distill)

    def _read(self, device: torch.device) -> DiffusionPolicy:
        teacher = policy_of(read_checkpoint(self._path)).to(device).requires_grad_(False)
        # Trailing timesteps start at the largest noise of its training, others below.
        return with_setting(teacher, {"policy.timestep_spacing": "trailing"})


class DistillationLoss(nn.Module):
    """The loss of a batch as a forward pass.

    Args:
        student: The policy that is trained.
        teacher: The trained policy; it is in evaluation mode, and its process has trailing timesteps.
        settings: How the student is distilled.
    """

    def __init__(self, student: DiffusionPolicy, teacher: DiffusionPolicy, settings: DistillSettings) -> None:
        super().__init__()
        self.student = student
        # In a list, so that it is not a submodule: it is neither trained nor synchronised.
        self._teacher = [teacher]
        self._settings = settings

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """The loss of a batch; its timesteps say at which step of the student each sample is."""
        student, labels_B = self.student, batch[TIMESTEPS]
        offsets = student.draw_crop_offsets(len(labels_B), generator)
        condition_BG = student.condition(batch, offsets)
        with torch.no_grad():
            taught_BTA = self._taught(batch, offsets)
            state_BTA = self._states(batch[NOISE], labels_B, condition_BG)
        predicted_BTA = student.diffusion.unet(state_BTA, labels_B, condition_BG).float()
        error_BTA = _distance(predicted_BTA, taught_BTA, self._settings.loss)
        if not student.config.do_mask_loss_for_padding:
            return error_BTA.mean()
        valid_BT1 = batch[PAD].logical_not().unsqueeze(-1)
        return (error_BTA * valid_BT1).sum() / (valid_BT1.sum() * student.action_dim).clamp(min=1)

    def _taught(self, batch: Mapping[str, Tensor], offsets: Tensor | None) -> Tensor:
        """The teacher's chunks for the batch's noise, (B, T, A) in normalised units."""
        teacher = self._teacher[0]
        condition_BG = teacher.condition(batch, offsets)
        return _denoised(teacher, batch[NOISE], condition_BG, self._settings.teacher_steps)

    def _states(self, noise_BTA: Tensor, labels_B: Tensor, condition_BG: Tensor) -> Tensor:
        """The states (B, T, A) of the student's own sampler at the given steps."""
        steps = self._settings.steps
        if steps == 1:
            return noise_BTA
        reached: list[Tensor] = []
        _denoised(self.student, noise_BTA, condition_BG, steps, reached)
        states_NBTA = torch.stack(reached)
        return states_NBTA[steps - 1 - labels_B, torch.arange(len(labels_B), device=labels_B.device)]


def _denoised(
    policy: DiffusionPolicy,
    noise_BTA: Tensor,
    condition_BG: Tensor,
    steps: int,
    states: list[Tensor] | None = None,
) -> Tensor:
    """The actions of DDIM in normalised units; ``states`` receives what it is at before each step."""

    def predict(noisy_BTA: Tensor, timestep: float) -> Tensor:
        timesteps_B = torch.full((len(noisy_BTA),), timestep, device=noisy_BTA.device)
        return policy.diffusion.unet(noisy_BTA, timesteps_B, condition_BG)

    return policy.process.denoise(
        predict,
        noise_BTA,
        sampler="DDIM",
        num_inference_steps=steps,
        watch=None if states is None else lambda noisy_BTA, _: states.append(noisy_BTA),
    )


def _distance(predicted_BTA: Tensor, taught_BTA: Tensor, kind: str) -> Tensor:
    if kind == "mse":
        return F.mse_loss(predicted_BTA, taught_BTA, reduction="none")
    return F.huber_loss(predicted_BTA, taught_BTA, reduction="none", delta=HUBER_DELTA)


def even_timesteps(process: NoiseProcess, steps: int) -> list[float]:
    """The timestep of a long process at the end of each of so many equal parts."""
    ends = [(step + 1) * process.num_train_timesteps / steps for step in range(steps)]
    return ends if process.is_flow else [round(end) - 1 for end in ends]


@torch.no_grad()
def relabel_timesteps(unet: ConditionalUnet1d, timesteps: Sequence[float]) -> None:
    """Change a U-Net so that timestep ``i`` does what ``timesteps[i]`` did.

    The smallest change of the first layer after the embedding that does it. The embedding has at least as
    many numbers as there are timesteps, and its vectors are linearly independent.
    """
    embed, linear = unet.diffusion_step_encoder[0], unet.diffusion_step_encoder[1]
    new_NE = embed(torch.arange(len(timesteps), dtype=torch.float64))
    old_NE = embed(torch.tensor(timesteps, dtype=torch.float64))
    weight = linear.weight
    change = torch.linalg.pinv(new_NE) @ ((old_NE - new_NE) @ weight.double().cpu().T)
    weight += change.T.to(weight)
