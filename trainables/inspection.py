"""What looking into one trained policy finds, as plain types. Standard library only.

Actions are in the dataset's units throughout. *Steps ahead* count from the current step, which is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Comparison", "DenoisingPicture", "Latency", "TrainedOn", "WorstMoment"]

TrainedOn = Literal["no", "unknown", "yes"]
"""Whether a policy was trained on the episodes that it is compared with."""


@dataclass(frozen=True)
class WorstMoment:
    """A moment at which the predicted actions are far from the demonstrated ones.

    Attributes:
        episode: Index of the episode in the dataset.
        frame: Frame of that episode.
        mse: Mean squared error of the executed actions there.
    """

    episode: int
    frame: int
    mse: float


@dataclass(frozen=True)
class Comparison:
    """Predicted actions beside those of demonstrations.

    At each moment several action chunks are drawn for the same observation. Errors, but for ``mse_nearest``,
    are means over all of them. Actions beyond the end of an episode are not compared.

    Attributes:
        dataset: The dataset, as it was named.
        episodes: Indices of the episodes from which the moments are.
        trained_on: Whether the policy was trained on these episodes.
        provenance: The same in a sentence or two.
        moments: Moments that were compared.
        wanted_moments: Moments that were to be compared; more than ``moments`` if the time was used up.
        samples: Chunks drawn at each moment.
        dimensions: Names of the action's dimensions.
        executed_steps: Actions of a chunk that are executed.
        mse: Mean squared error of the executed actions.
        mae: Mean absolute error of the executed actions.
        relative_mse: Mean over dimensions of the squared error as a share of the variance of the demonstrated
            actions: 0 is perfect, 1 is what the mean action would reach. None if none of them varies.
        mse_nearest: Mean squared error of the chunk that is nearest to the demonstration at each moment.
        mse_by_dimension: ``mse`` of each dimension.
        mae_by_dimension: ``mae`` of each dimension.
        action_std_by_dimension: Standard deviation of the demonstrated actions.
        mse_by_step: Mean squared error by steps ahead, of all that are predicted.
        mae_by_step: Mean absolute error likewise.
        std: Standard deviation of the chunks that are drawn at one moment, mean over moments, executed
            steps and dimensions.
        std_by_step: The same by steps ahead and dimension.
        modes: How many moments have so many modes, by the number of modes.
        jerk: Mean norm of the third difference of the predicted actions, per step; None below four actions.
        demonstrated_jerk: The same of the demonstrated actions.
        step: Mean distance of successive actions in a chunk that is executed; None if it has one action.
        seam: Mean distance from the last executed action of a chunk to the first of the next chunk, which
            is drawn with other noise at the demonstration's observation; None if no episode is long enough.
        demonstrated_step: Mean distance of successive demonstrated actions.
        worst: The moments with the largest errors, the largest first.
    """

    dataset: str
    episodes: tuple[int, ...]
    trained_on: TrainedOn
    provenance: str
    moments: int
    wanted_moments: int
    samples: int
    dimensions: tuple[str, ...]
    executed_steps: int
    mse: float
    mae: float
    relative_mse: float | None
    mse_nearest: float
    mse_by_dimension: tuple[float, ...]
    mae_by_dimension: tuple[float, ...]
    action_std_by_dimension: tuple[float, ...]
    mse_by_step: tuple[float, ...]
    mae_by_step: tuple[float, ...]
    std: float
    std_by_step: tuple[tuple[float, ...], ...]
    modes: Mapping[int, int]
    jerk: float | None
    demonstrated_jerk: float | None
    step: float | None
    seam: float | None
    demonstrated_step: float | None
    worst: tuple[WorstMoment, ...]


@dataclass(frozen=True)
class Latency:
    """How long the prediction of one action chunk for one observation takes.

    Attributes:
        times_ms: The time of each run, in ms, after warm-up runs.
        device: What computed, e.g. ``cpu`` or ``NVIDIA H100 80GB HBM3``.
        threads: Threads that computed on the CPU.
        executed_steps: Actions of a chunk that are executed.
    """

    times_ms: tuple[float, ...]
    device: str
    threads: int
    executed_steps: int


@dataclass(frozen=True)
class DenoisingPicture:
    """How noise becomes action chunks for one observation, drawn.

    Attributes:
        picture: The PNG.
        film: The mp4; None if none was asked for.
        samples: Chunks that are shown.
        timesteps: Diffusion timesteps of the picture's panels before the last, which shows the result.
        observation: Where the observation is from, in words.
    """

    picture: Path
    film: Path | None
    samples: int
    timesteps: tuple[int, ...]
    observation: str
