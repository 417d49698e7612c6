"""What the server remembers of a client between two messages: the last observations, and its randomness.

Shapes: To observation steps.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from trainables.deployment.server.batcher import Row
from trainables.deployment.server.observations import Request, RequestError

__all__ = ["Session"]

_RANDOM_SEED_BITS = 53
"""A random seed can be typed, and written as a number in JSON."""


@dataclass
class Session:
    """One connection.

    Attributes:
        number: Counts the connections of a server, from 1 on.
        address: Where the client is.
        n_obs_steps: Observations that the policy takes.
        seed: Of the noise.
        answers: Messages that were answered with actions.
        errors: Messages that were answered with an error.
        busy: Whether a message is being answered.
    """

    number: int
    address: str
    n_obs_steps: int
    seed: int = field(default_factory=lambda: secrets.randbits(_RANDOM_SEED_BITS))
    answers: int = 0
    errors: int = 0
    busy: bool = False

    def __post_init__(self) -> None:
        self._drawn = 0
        self._history: deque[Mapping[str, np.ndarray]] = deque(maxlen=self.n_obs_steps)

    def reset(self, seed: int | None) -> None:
        """Begin an episode: forget the observations, and start the noise again from a seed."""
        self._history.clear()
        self.seed = secrets.randbits(_RANDOM_SEED_BITS) if seed is None else seed
        self._drawn = 0

    @property
    def remembered(self) -> int:
        """Observations in the history."""
        return len(self._history)

    def observe(self, observation: Mapping[str, np.ndarray]) -> None:
        """Add an observation to the history."""
        self._history.append(observation)

    def rows(self, request: Request) -> list[Row]:
        """What the policy must answer for a request.

        Raises:
            RequestError: If the state of a generator is not one.
        """
        generators = self._generators(request)  # first: if a state is wrong, the history must not change
        if request.layout == "single":
            self.observe(request.values)
            observations: list[Mapping[str, np.ndarray]] = [self._window()]
        elif request.layout == "stacked":
            observations = [request.values]
        else:
            observations = [
                {name: value[row] for name, value in request.values.items()} for row in range(request.rows)
            ]
        known = [None] * request.rows if request.known is None else list(request.known)
        return [
            Row(observation, generator, before, request.kept)
            for observation, generator, before in zip(observations, generators, known, strict=True)
        ]

    def _window(self) -> dict[str, np.ndarray]:
        """The last observations (To, ...); at the start of an episode the first one is repeated."""
        missing = self.n_obs_steps - len(self._history)
        window = [self._history[0]] * missing + list(self._history)
        return {name: np.stack([one[name] for one in window]) for name in window[0]}

    def _generators(self, request: Request) -> list[torch.Generator]:
        if request.states:
            return [_generator_of(state) for state in request.states]
        if request.seeds:
            return [torch.Generator().manual_seed(seed) for seed in request.seeds]
        return [self._next_generator() for _ in range(request.rows)]

    def _next_generator(self) -> torch.Generator:
        """Keyed by the session's seed and the number of its predictions, and by nothing else."""
        key = np.random.SeedSequence([self.seed, self._drawn]).generate_state(2, np.uint32)
        self._drawn += 1
        return torch.Generator().manual_seed(int(key[0]) << 31 | int(key[1]) >> 1)


def _generator_of(state: np.ndarray) -> torch.Generator:
    generator = torch.Generator()
    try:
        generator.set_state(torch.from_numpy(state.copy()))
    except (RuntimeError, TypeError) as error:
        raise RequestError(
            f"generator: it is not the state of a generator of torch on a CPU: {error}"
        ) from error
    return generator
