"""The moving average of the weights, which is what a Diffusion Policy is evaluated with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Ema", "ema_decay"]

NUM_UPDATES = "num_updates"
"""Name of the count of updates among the tensors of a state dict."""


def ema_decay(step: int, inv_gamma: float, power: float, max_decay: float) -> float:
    """Decay at a step: ``1 - (1 + step / inv_gamma) ** -power``, at most ``max_decay``, at least 0.

    With inv_gamma 1 and power 0.75 the average covers about the last ``step ** 0.75`` steps.
    """
    return max(0.0, min(1.0 - (1.0 + step / inv_gamma) ** -power, max_decay))


class Ema:
    """Exponential moving average of a module's trainable parameters.

    Buffers that are part of the state dict (BatchNorm's running statistics) and frozen parameters are copied,
    not averaged. As in the original code of Diffusion Policy the first two updates copy the weights as they
    are; from then on ``step`` counts 1, 2, ...

    If ``every`` is k, the average changes at every k-th step, with the product of the k decays. The weights
    of the k - 1 steps between do not enter it.

    Args:
        module: The module whose weights are averaged; the average starts as a copy of them.
        inv_gamma: Inverse multiplicative factor of the warmup.
        power: Exponent of the warmup.
        max_decay: Largest decay.
        every: Steps between updates of the average.
    """

    def __init__(
        self, module: nn.Module, inv_gamma: float, power: float, max_decay: float, every: int = 1
    ) -> None:
        self.inv_gamma = inv_gamma
        self.power = power
        self.max_decay = max_decay
        self.every = every
        self.num_updates = 0
        self._applied = False
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        state = module.state_dict()
        self._averaged = {name: value.clone() for name, value in state.items() if name in trained}
        self._copied = {name: value.clone() for name, value in state.items() if name not in trained}
        self._owners: tuple[nn.Module, list[tuple[nn.Module, str]]] = (module, _owners(module, self._names))

    @property
    def decay(self) -> float:
        """The decay of the next step's update: of all steps since the last one that moved the average."""
        steps = range(self.num_updates // self.every * self.every, self.num_updates + 1)
        return math.prod(
            ema_decay(max(0, step - 1), self.inv_gamma, self.power, self.max_decay) for step in steps
        )

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Add the module's weights to the average after an optimiser step, or count the step.

        Raises:
            RuntimeError: While the average is swapped into the module.
        """
        if self._applied:
            raise RuntimeError("the average is in the module; update it after `applied` has ended")
        if (self.num_updates + 1) % self.every:
            self.num_updates += 1
            return
        tensors = self._tensors_of(module)
        averaged, copied = list(self._averaged.values()), list(self._copied.values())
        torch._foreach_lerp_(averaged, tensors[: len(averaged)], 1.0 - self.decay)
        if copied:
            torch._foreach_copy_(copied, tensors[len(averaged) :])
        self.num_updates += 1

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Put the average into the module, and restore the module's own weights afterwards.

        Memory is swapped, not copied. The module must not be trained meanwhile.

        Raises:
            RuntimeError: If the average is in a module already.
        """
        if self._applied:
            raise RuntimeError("the average is in the module already; `applied` cannot be nested")
        pairs = list(zip(self._tensors_of(module), self._all.values(), strict=True))
        self._applied = True
        _swap(pairs)
        try:
            yield
        finally:
            _swap(pairs)
            self._applied = False

    def state_dict(self) -> dict[str, Tensor]:
        """Every averaged and copied tensor by its name in the module, and ``num_updates`` (int64)."""
        return {**self._all, NUM_UPDATES: torch.tensor(self.num_updates)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: If names or shapes are not those of the module.
        """
        mine = self._all
        given = {name: tensor for name, tensor in state.items() if name != NUM_UPDATES}
        if NUM_UPDATES not in state or mine.keys() != given.keys():
            wrong = sorted(mine.keys() ^ given.keys()) or [NUM_UPDATES]
            raise ValueError(f"not the averages of this module: missing or unknown {', '.join(wrong[:5])}")
        for name, tensor in mine.items():
            if tensor.shape != given[name].shape:
                shapes = f"{tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
                raise ValueError(f"not the averages of this module: {name} has shape {shapes}")
            tensor.copy_(given[name])
        self.num_updates = int(state[NUM_UPDATES])

    @property
    def _all(self) -> dict[str, Tensor]:
        return {**self._averaged, **self._copied}

    @property
    def _names(self) -> list[str]:
        return [*self._averaged, *self._copied]

    def _tensors_of(self, module: nn.Module) -> list[Tensor]:
        """The module's own tensors, in the order of the names here."""
        if self._owners[0] is not module:
            self._owners = (module, _owners(module, self._names))
        return [getattr(owner, name) for owner, name in self._owners[1]]


def _owners(module: nn.Module, names: list[str]) -> list[tuple[nn.Module, str]]:
    """For each dotted name the submodule that has the tensor, and the tensor's name there.

    Found once: walking the module costs more than averaging a small one.
    """
    parted = [name.rpartition(".") for name in names]
    return [(module.get_submodule(path), name) for path, _, name in parted]


def _swap(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for first, second in pairs:
        first.data, second.data = second.data, first.data
