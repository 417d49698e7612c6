"""Several small policies of one shape trained as one, against one after the other, on a CPU.

``python -m benchmarks.stacked [--batches 16 64] [--rounds N] [--threads N] [--json FILE]``; about three
minutes. A step of K policies on K batches: forward, backward, clipping, AdamW and the average of the weights.
The U-Net computes all of them at once in two ways: with grouped convolutions, one group of channels for each
policy, and with `torch.func.stack_module_state` and `vmap`. Times are CPU time and the smallest of some
rounds, in which the ways alternate. The first losses must be those of the separate policies.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmarks import machine
from trainables.diffusion_policy.config.sections import OptimizerConfig
from trainables.diffusion_policy.network.unet import (
    ConditionalUnet1d,
    FilmResidualBlock,
    Mish,
    StepEmbedding,
)
from trainables.diffusion_policy.training.ema import Ema
from trainables.diffusion_policy.training.process import keep_freed_memory

COUNTS = (1, 2, 4, 8)
BATCHES = (16, 64)
ROUNDS = 6
NETWORKS = {"down_dims [32, 64]": ((32, 64), 32), "down_dims [64, 128, 256]": ((64, 128, 256), 64)}
HORIZON, ACTION_DIM, CONDITION = 16, 2, 36
CLIP = 10.0
GOAL = 2.0
TOLERANCE = 1e-3
Batch = tuple[Tensor, Tensor, Tensor]
"""Noisy actions (B, T, A), timesteps (B,) and the condition (B, G)."""


class Grouped(nn.Module):
    """K copies of a U-Net as one: a policy's channels are a group of every convolution and norm."""

    def __init__(self, unets: Sequence[ConditionalUnet1d]) -> None:
        super().__init__()
        self.count = len(unets)
        self.unet = copy.deepcopy(unets[0])
        self._replace(self.unet, unets)

    def _replace(self, module: nn.Module, unets: Sequence[nn.Module]) -> None:
        for name, child in module.named_children():
            theirs = [getattr(unet, name) for unet in unets]
            if isinstance(child, nn.Conv1d | nn.ConvTranspose1d):
                setattr(module, name, self._convolution(child, theirs))
            elif isinstance(child, nn.GroupNorm):
                norm = nn.GroupNorm(self.count * child.num_groups, self.count * child.num_channels, child.eps)
                setattr(module, name, _filled(norm, theirs))
            elif isinstance(child, nn.Linear):
                setattr(module, name, _StackedLinear(theirs))
            else:
                self._replace(child, theirs)

    def _convolution(self, one: nn.Conv1d | nn.ConvTranspose1d, theirs: Sequence[Any]) -> nn.Module:
        return _filled(
            type(one)(
                self.count * one.in_channels,
                self.count * one.out_channels,
                one.kernel_size,  # type: ignore[arg-type]
                one.stride,  # type: ignore[arg-type]
                one.padding,  # type: ignore[arg-type]
                groups=self.count,
            ),
            theirs,
        )

    def forward(self, noisy_KBTA: Tensor, timesteps_KB: Tensor, condition_KBG: Tensor) -> Tensor:
        """Predict (K, B, T, A)."""
        embedding_KBE = timesteps_KB
        for layer in self.unet.diffusion_step_encoder:
            if isinstance(layer, StepEmbedding):
                embedding_KBE = layer(timesteps_KB.flatten()).unflatten(0, timesteps_KB.shape)
            else:
                embedding_KBE = layer(embedding_KBE)
        cond_KBK = self.unet._mish(torch.cat((embedding_KBE, condition_KBG), dim=-1))
        count, size = noisy_KBTA.shape[:2]
        # (K, B, T, A) -> (B, K A, T)
        x_BCL = noisy_KBTA.permute(1, 0, 3, 2).reshape(size, -1, noisy_KBTA.shape[2])
        skips: list[Tensor] = []
        for level in self.unet.down_modules:
            first, second, downsample = level.children()
            x_BCL = self._block(second, self._block(first, x_BCL, cond_KBK), cond_KBK)
            skips.append(x_BCL)
            x_BCL = downsample(x_BCL)
        for middle in self.unet.mid_modules:
            x_BCL = self._block(middle, x_BCL, cond_KBK)
        for level in self.unet.up_modules:
            first, second, upsample = level.children()
            # Each policy's channels stay together.
            pair = [each.unflatten(1, (count, -1)) for each in (x_BCL, skips.pop())]
            x_BCL = torch.cat(pair, dim=2).flatten(1, 2)
            x_BCL = upsample(self._block(second, self._block(first, x_BCL, cond_KBK), cond_KBK))
        out_BCT = self.unet.final_conv(x_BCL)
        return out_BCT.unflatten(1, (count, -1)).permute(1, 0, 3, 2)

    def _block(self, block: nn.Module, x_BCL: Tensor, cond_KBK: Tensor) -> Tensor:
        assert isinstance(block, FilmResidualBlock)
        film_KBF = block.cond_encoder[1](cond_KBK)
        hidden_BCL = block.conv1(x_BCL)
        film = film_KBF.transpose(0, 1).unsqueeze(-1)
        if block.use_film_scale_modulation:
            scale, bias = (part.flatten(1, 2) for part in film.chunk(2, dim=2))
            hidden_BCL = scale * hidden_BCL + bias
        else:
            hidden_BCL = hidden_BCL + film.flatten(1, 2)
        return block.conv2(hidden_BCL) + block.residual_conv(x_BCL)


class _StackedLinear(nn.Module):
    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]).unsqueeze(1))

    def forward(self, x_KBI: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x_KBI, self.weight)


def _filled(module: nn.Module, theirs: Sequence[nn.Module]) -> nn.Module:
    """Give a module the parameters of several, one after the other."""
    for name, parameter in module.named_parameters():
        parameter.data = torch.cat([getattr(each, name).detach() for each in theirs])
    return module


class Way:
    """A way of training K policies.

    Args:
        parameters: All that is trained.
        losses: The loss of each policy.
        module: What the average of the weights is taken of.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], losses: Callable[[], Tensor], module: nn.Module
    ) -> None:
        defaults = OptimizerConfig()
        self._parameters = list(parameters)
        self._losses = losses
        self._module = module
        self._ema = Ema(module, 1.0, 0.75, 0.9999)
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=defaults.lr,
            betas=(defaults.betas[0], defaults.betas[1]),
            weight_decay=defaults.weight_decay,
            fused=True,
        )

    def step(self) -> Tensor:
        """Do a step, and return the losses."""
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._losses()
        losses.sum().backward()
        # One norm for all, which costs at least as little as one for each.
        nn.utils.clip_grad_norm_(self._parameters, CLIP)
        self._optimizer.step()
        self._ema.update(self._module)
        return losses.detach()


def _unets(count: int, network: tuple[tuple[int, ...], int]) -> list[ConditionalUnet1d]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        down_dims, embed_dim = network
        found.append(
            ConditionalUnet1d(
                action_dim=ACTION_DIM,
                global_cond_dim=CONDITION,
                down_dims=down_dims,
                kernel_size=5,
                n_groups=8,
                diffusion_step_embed_dim=embed_dim,
                use_film_scale_modulation=True,
            )
        )
    return found


def _batch(count: int, size: int) -> tuple[Batch, Tensor]:
    """K batches, and what is to be predicted."""
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(count, size, HORIZON, ACTION_DIM, generator=generator)
    timesteps = torch.randint(100, (count, size), generator=generator)
    condition = torch.randn(count, size, CONDITION, generator=generator)
    return (noisy, timesteps, condition), torch.randn(noisy.shape, generator=generator)


def separate(unets: Sequence[ConditionalUnet1d], batch: Batch, target: Tensor) -> list[Way]:
    """Each policy with an optimiser of its own."""

    def loss_of(number: int, unet: ConditionalUnet1d) -> Callable[[], Tensor]:
        return lambda: F.mse_loss(unet(*(value[number] for value in batch)), target[number])

    return [Way(list(unet.parameters()), loss_of(n, unet), unet) for n, unet in enumerate(unets)]


def grouped(unets: Sequence[ConditionalUnet1d], batch: Batch, target: Tensor) -> Way:
    """All policies by grouped convolutions."""
    stacked = Grouped(unets)
    return Way(
        list(stacked.parameters()),
        lambda: F.mse_loss(stacked(*batch), target, reduction="none").mean(dim=(1, 2, 3)),
        stacked,
    )


class _Stacked(nn.Module):
    """Parameters by number: a name with a dot cannot be that of a parameter."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.values = nn.ParameterList([value.detach() for value in values])


def mapped(unets: Sequence[ConditionalUnet1d], batch: Batch, target: Tensor) -> Way:
    """All policies by `vmap` over stacked parameters."""
    parameters, buffers = stack_module_state(list(unets))
    names, module = list(parameters), _Stacked(list(parameters.values()))
    base = copy.deepcopy(unets[0])
    for block in [each for each in base.modules() if isinstance(each, Mish)]:
        # Our Mish for CPUs is not written for vmap.
        block.forward = F.mish  # type: ignore[method-assign]

    def loss(own: dict[str, Tensor], state: dict[str, Tensor], one: Batch, wanted: Tensor) -> Tensor:
        return F.mse_loss(functional_call(base, (own, state), one), wanted)

    def losses() -> Tensor:
        own = dict(zip(names, module.values, strict=True))
        return torch.vmap(loss)(own, buffers, batch, target)

    return Way(list(module.parameters()), losses, module)


def measure(network: tuple[tuple[int, ...], int], count: int, size: int, rounds: int) -> dict[str, float]:
    """CPU-milliseconds of a step of all policies, by way, and how much the first losses differ."""
    batch, target = _batch(count, size)
    ways: dict[str, list[Way]] = {
        "separate": separate(_unets(count, network), batch, target),
        "grouped": [grouped(_unets(count, network), batch, target)],
        "vmap": [mapped(_unets(count, network), batch, target)],
    }
    least: dict[str, float] = {}
    losses: dict[str, Tensor] = {}
    for turn in range(rounds + 1):
        for name, several in ways.items():
            start_s = time.process_time()
            found = torch.cat([way.step().reshape(-1) for way in several])
            took_ms = (time.process_time() - start_s) * 1e3
            if turn == 0:
                losses[name] = found
            else:
                least[name] = min(took_ms, least.get(name, took_ms))
    for name in ("grouped", "vmap"):
        difference = float(((losses[name] - losses["separate"]) / losses["separate"]).abs().max())
        if difference > TOLERANCE:
            raise RuntimeError(f"{name}: the losses differ by {difference:.2g} from those of separate steps")
    return least


def main() -> None:
    """Measure, print a table, and write JSON if it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stacked", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="samples per step and policy")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="policies trained as one")
    parser.add_argument("--only", default="", help="networks whose name contains this text")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the smallest time of so many counts")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    info = machine.describe() | {"load": f"{os.getloadavg()[0]:.1f}"}
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in info.items()), style="dim")
    table = Table(title="CPU-ms of a step of all policies")
    for column in ("network", "batch", "policies", "separate", "grouped", "vmap", "gain"):
        table.add_column(column, justify="left" if column == "network" else "right")
    results = []
    for name, network in NETWORKS.items():
        if arguments.only not in name:
            continue
        for size in arguments.batches:
            for count in arguments.counts:
                found = measure(network, count, size, arguments.rounds)
                gain = found["separate"] / min(found["grouped"], found["vmap"])
                results.append({"network": name, "batch": size, "policies": count, **found, "gain": gain})
                times = [f"{found[way]:.1f}" for way in ("separate", "grouped", "vmap")]
                table.add_row(name, str(size), str(count), *times, f"{gain:.2f}")
    console.print(table)
    console.print(
        f"Gain: trials per CPU-hour against separate ones. Worth building from {GOAL:g} on.", style="dim"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": info, "steps": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
