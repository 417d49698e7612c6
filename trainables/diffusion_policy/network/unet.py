"""The conditional 1-D U-Net that predicts noise in a chunk of actions.

The architecture of Chi et al., "Diffusion Policy" (arXiv 2303.04137), section 3.1 and appendix A: residual
blocks of temporal convolutions, each modulated (FiLM) by one condition vector, which contains the diffusion
timestep and the observations. Parameter names are LeRobot's, so that checkpoints load both ways.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension, ``C`` channels, ``L`` steps
of a level (the horizon, halved from level to level), ``E`` size of the timestep's embedding, ``G`` size of
the observation condition, ``K`` size of both together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = ["ConditionalUnet1d", "ConvBlock", "FilmResidualBlock", "Mish", "StepEmbedding"]

FINAL_CONV_GROUPS = 8
"""Groups of the last GroupNorm: fixed in LeRobot and in the original code."""
LARGE = 8192
"""Elements from which on a Mish of several vectorised operations is faster than torch's single one."""


class _CpuMish(torch.autograd.Function):
    """Mish from one sigmoid: ``tanh(softplus(x)) = v / (2 - v)``, ``v = s (2 - s)``, ``s = sigmoid(x)``.

    torch's kernel spends a log1p, an exp and a tanh per element, which on a CPU takes about as long as the
    convolutions of a small network; this takes a third of that and agrees with it to rounding.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        v = (2 - s).mul_(s)
        gate = v.div_(2 - v)
        if ctx.needs_input_grad[0]:
            # The derivative, gate + x s (1 - gate²), here: one tensor to keep instead of three.
            slope = (gate * gate).neg_().add_(1).mul_(s)
            ctx.save_for_backward(slope.mul_(x).add_(gate))
        return x * gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grad * slope


class Mish(nn.Module):
    """``x · tanh(softplus(x))``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every element; keeps shape and dtype."""
        if torch.compiler.is_compiling():
            return F.mish(x)  # before the size is compared, which would bind the graph to it
        full_precision = x.dtype in (torch.float32, torch.float64)
        if x.device.type == "cpu" and full_precision and x.numel() >= LARGE:
            return _CpuMish.apply(x)
        return F.mish(x)


class StepEmbedding(nn.Module):
    """Sinusoidal embedding of a diffusion timestep; no parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, timesteps_B: Tensor) -> Tensor:
        """Embed timesteps (B,) as (B, dim): sines, then cosines."""
        half = self.dim // 2
        positions = torch.arange(half, device=timesteps_B.device)
        frequencies = torch.exp(positions * -(math.log(10_000) / (half - 1)))
        angles = timesteps_B.unsqueeze(-1) * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class ConvBlock(nn.Module):
    """Convolution over time, GroupNorm, Mish. Keeps the length."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(n_groups, out_channels),
            Mish(),
        )

    def forward(self, x_BCL: Tensor) -> Tensor:
        """Map (B, in_channels, L) to (B, out_channels, L)."""
        return self.block(x_BCL)


class FilmResidualBlock(nn.Module):
    """Two convolution blocks with a shortcut; the condition scales and shifts between them (FiLM)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        cond_dim: int,
        *,
        kernel_size: int,
        n_groups: int,
        use_film_scale_modulation: bool,
    ) -> None:
        super().__init__()
        self.use_film_scale_modulation = use_film_scale_modulation
        self.conv1 = ConvBlock(in_channels, out_channels, kernel_size, n_groups)
        film_channels = 2 * out_channels if use_film_scale_modulation else out_channels
        self.cond_encoder = nn.Sequential(Mish(), nn.Linear(cond_dim, film_channels))
        self.conv2 = ConvBlock(out_channels, out_channels, kernel_size, n_groups)
        self.residual_conv: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.residual_conv = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x_BCL: Tensor, activated_cond_BK: Tensor) -> Tensor:
        """Map (B, in_channels, L) to (B, out_channels, L).

        Args:
            x_BCL: The level's input.
            activated_cond_BK: The condition after Mish. ``cond_encoder.0`` is that Mish; it is the same in
                every block, so the network applies it once.
        """
        return self.modulated(x_BCL, self.cond_encoder[1](activated_cond_BK))

    def modulated(self, x_BCL: Tensor, film_BF: Tensor) -> Tensor:
        """Do what :meth:`forward` does, with the output of the condition's linear layer already computed."""
        hidden_BCL = self.conv1(x_BCL)
        film = film_BF.unsqueeze(-1)
        if self.use_film_scale_modulation:
            scale, bias = film.chunk(2, dim=1)
            hidden_BCL = scale * hidden_BCL + bias
        else:
            hidden_BCL = hidden_BCL + film
        return self.conv2(hidden_BCL) + self.residual_conv(x_BCL)


class ConditionalUnet1d(nn.Module):
    """Predicts noise (or the clean actions, or the velocity) in noisy actions, given a condition.

    Args:
        action_dim: Numbers per action.
        global_cond_dim: Size of the observation condition.
        down_dims: Channels of the levels, the first level first.
        kernel_size: Kernel of the convolutions; odd.
        n_groups: Groups of GroupNorm; divides every one of ``down_dims``.
        diffusion_step_embed_dim: Size of the timestep's embedding; even, at least 4.
        use_film_scale_modulation: FiLM with scale and bias rather than bias alone.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        global_cond_dim: int,
        down_dims: Sequence[int],
        kernel_size: int,
        n_groups: int,
        diffusion_step_embed_dim: int,
        use_film_scale_modulation: bool,
    ) -> None:
        super().__init__()
        embed_dim = diffusion_step_embed_dim
        cond_dim = embed_dim + global_cond_dim
        self.global_cond_dim = global_cond_dim

        def block(in_channels: int, out_channels: int) -> FilmResidualBlock:
            return FilmResidualBlock(
                in_channels,
                out_channels,
                cond_dim,
                kernel_size=kernel_size,
                n_groups=n_groups,
                use_film_scale_modulation=use_film_scale_modulation,
            )

        self.checkpoint_blocks = False
        self.diffusion_step_encoder = nn.Sequential(
            StepEmbedding(embed_dim),
            nn.Linear(embed_dim, 4 * embed_dim),
            Mish(),
            nn.Linear(4 * embed_dim, embed_dim),
        )
        levels = list(pairwise((action_dim, *down_dims)))
        self.down_modules = nn.ModuleList()
        for depth, (fine, coarse) in enumerate(levels, start=1):
            downsample = (
                nn.Conv1d(coarse, coarse, 3, stride=2, padding=1) if depth < len(levels) else nn.Identity()
            )
            self.down_modules.append(nn.ModuleList([block(fine, coarse), block(coarse, coarse), downsample]))
        self.mid_modules = nn.ModuleList([block(down_dims[-1], down_dims[-1]) for _ in range(2)])
        self.up_modules = nn.ModuleList()
        for fine, coarse in reversed(levels[1:]):
            upsample = nn.ConvTranspose1d(fine, fine, 4, stride=2, padding=1)
            self.up_modules.append(nn.ModuleList([block(2 * coarse, fine), block(fine, fine), upsample]))
        self.final_conv = nn.Sequential(
            ConvBlock(down_dims[0], down_dims[0], kernel_size, FINAL_CONV_GROUPS),
            nn.Conv1d(down_dims[0], action_dim, 1),
        )
        self._mish = Mish()

    def forward(self, noisy_action_BTA: Tensor, timesteps_B: Tensor, global_cond_BG: Tensor) -> Tensor:
        """Predict, from noisy actions (B, T, A), timesteps (B,) and a condition (B, G), a (B, T, A)."""
        embedding_BE = self.diffusion_step_encoder(timesteps_B)
        cond_BK = self._mish(torch.cat((embedding_BE, global_cond_BG), dim=-1))
        return self._through(noisy_action_BTA, lambda block, x_BCL: self._run(block, x_BCL, cond_BK))

    def blocks(self) -> list[FilmResidualBlock]:
        """The residual blocks, in the order in which they compute."""
        return [module for module in self.modules() if isinstance(module, FilmResidualBlock)]

    def modulated(self, noisy_action_BTA: Tensor, films: Sequence[Tensor]) -> Tensor:
        """Predict as :meth:`forward` does, with the outputs of the blocks' linear layers already computed.

        Args:
            noisy_action_BTA: Noisy actions.
            films: For each of :meth:`blocks` its scale and bias, (B, F).
        """
        remaining = iter(films)
        return self._through(noisy_action_BTA, lambda block, x_BCL: block.modulated(x_BCL, next(remaining)))

    def _through(self, noisy_action_BTA: Tensor, run: Callable[[Any, Tensor], Tensor]) -> Tensor:
        x_BCL = noisy_action_BTA.transpose(1, 2)
        skips: list[Tensor] = []
        for level in self.down_modules:
            first, second, downsample = level.children()
            x_BCL = run(second, run(first, x_BCL))
            skips.append(x_BCL)
            x_BCL = downsample(x_BCL)
        for middle in self.mid_modules:
            x_BCL = run(middle, x_BCL)
        for level in self.up_modules:
            first, second, upsample = level.children()
            x_BCL = torch.cat((x_BCL, skips.pop()), dim=1)
            x_BCL = run(second, run(first, x_BCL))
            x_BCL = upsample(x_BCL)
        return self.final_conv(x_BCL).transpose(1, 2)

    def _run(self, block: nn.Module, x_BCL: Tensor, cond_BK: Tensor) -> Tensor:
        if self.checkpoint_blocks and torch.is_grad_enabled():
            # No block draws random numbers, so there is no generator state to keep.
            return checkpoint(block, x_BCL, cond_BK, use_reentrant=False, preserve_rng_state=False)
        return block(x_BCL, cond_BK)
