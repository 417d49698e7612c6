"""What looking into one trained policy finds, as plain types. Standard library only.

Actions are in the dataset's units throughout. *Steps ahead* count from the current step, which is 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any, Literal

from trainables.episodes import EpisodeRecord

__all__ = [
    "BenchRow",
    "Benched",
    "BenchedRow",
    "Comparison",
    "DenoisingPicture",
    "HardStart",
    "Inspection",
    "Latency",
    "Played",
    "Rollouts",
    "TrainedOn",
    "WorstMoment",
]

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

    @property
    def relative_in_words(self) -> str:
        """The squared error beside the variance of the demonstrated actions; empty if they do not vary."""
        share = self.relative_mse
        if share is None:
            return ""
        amount = f"{share:.1%} of" if share < 2 else f"{share:,.4g} times"
        return f"{amount} the actions' variance"

    @property
    def modes_in_words(self) -> str:
        """At how many moments there are several modes."""
        several = {count: moments for count, moments in self.modes.items() if count > 1}
        if not several:
            return f"one at each of the {self.moments:,} moments"
        words = ", ".join(f"{count} at {moments:,}" for count, moments in several.items())
        return f"{words} of {self.moments:,} moments, one at the others"


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

    @property
    def p50_ms(self) -> float:
        """The median."""
        return self._percentile_ms(50)

    @property
    def p95_ms(self) -> float:
        """The time that 95 % of the runs keep."""
        return self._percentile_ms(95)

    def _percentile_ms(self, percent: int) -> float:
        if len(self.times_ms) < 2:
            return self.times_ms[0]
        return quantiles(self.times_ms, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True)
class BenchRow:
    """How fast one way to compute a policy's chunks is, and how far its actions are from the reference.

    Attributes:
        backend: What computes, e.g. ``plain``, ``onnx``, ``lerobot``.
        precision: Of the network, e.g. ``fp32``.
        sampler: The sampler.
        steps: Denoising steps.
        setting: The inference setting.
        latency: How long a chunk for one observation takes.
        memory_mb: Memory that it took in addition to the policy; None if it was not measured.
        difference: The largest difference of an action to the plain loop with the same setting and noise, as
            a share of the action's range.
        why: Why this backend computed, if another one was asked for; empty if it was asked for.
        compared: The observations of the difference, in words; LeRobot is compared at the first of them.
    """

    backend: str
    precision: str
    sampler: str
    steps: int
    setting: Mapping[str, Any]
    latency: Latency
    memory_mb: float | None
    difference: float
    why: str = ""
    compared: str = ""

    @property
    def chunks_per_s(self) -> float:
        """Chunks per second, at the median."""
        return 1e3 / self.latency.p50_ms


@dataclass(frozen=True)
class Played:
    """Episodes with one way; intervals are at 95 %.

    Attributes:
        episodes: How many.
        success_rate: Share that succeeded.
        success_interval: Wilson's interval of that.
        max_reward: Mean of the largest rewards.
        difference: Mean difference of the largest reward to the first row, on the same starts; None for it.
        difference_interval: Interval of that; None if all differences are equal.
        success_difference: Difference of the success rate to the first row, on the same starts; None for it.
        success_difference_interval: Interval of that (Tango's); None for it.
    """

    episodes: int
    success_rate: float
    success_interval: tuple[float, float]
    max_reward: float
    difference: float | None
    difference_interval: tuple[float, float] | None
    success_difference: float | None = None
    success_difference_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class BenchedRow:
    """One row of the table.

    Attributes:
        speed: How fast it is.
        played: Its episodes; None if there are none.
        front: Whether no other row is both faster and better; None without episodes.
    """

    speed: BenchRow
    played: Played | None = None
    front: bool | None = None


@dataclass(frozen=True)
class Benched:
    """The rows, and where they were measured.

    Attributes:
        label: What the policy is called.
        checkpoint: Its folder.
        machine: ``host``, ``cpus``, ``busy_share``: the share of the CPUs in use just before.
        rows: The rows; the first is the reference of the episodes.
    """

    label: str
    checkpoint: str
    machine: Mapping[str, Any]
    rows: tuple[BenchedRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        for plain, row in zip(values["rows"], self.rows, strict=True):
            speed = row.speed
            plain["speed"] |= {
                "p50_ms": speed.latency.p50_ms,
                "p95_ms": speed.latency.p95_ms,
                "chunks_per_s": speed.chunks_per_s,
            }
        return values


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
    timesteps: tuple[float, ...]
    observation: str


@dataclass(frozen=True)
class HardStart:
    """A start that the policy failed at, and how it did there with other noise.

    Attributes:
        episode: Number of the episode.
        seed: The environment's seed that it starts from.
        max_reward: Largest reward of the run that failed.
        runs: Further runs from the same start, each with other noise.
        failures: How many of these failed as well. The first run chose the start, so it does not count.
    """

    episode: int
    seed: int
    max_reward: float
    runs: int
    failures: int


@dataclass(frozen=True)
class Rollouts:
    """Episodes of one policy in a simulator. Intervals are at 95 %.

    Attributes:
        environment: The simulator.
        records: The episodes, each from its own start.
        success_rate: Share that succeeded.
        success_interval: Wilson's interval of that.
        max_reward: Mean of the largest rewards.
        max_reward_interval: Interval of that mean (Student's t, corrected for skewness); None if all are
            equal.
        sum_reward: Mean of the summed rewards.
        sum_reward_interval: Likewise.
        length: Mean control steps.
        hard: Starts with the least largest reward among those that failed.
        film: The mp4 of some episodes, the same starts first; None if there is none.
        filmed: Numbers of the episodes in the film.
    """

    environment: str
    records: tuple[EpisodeRecord, ...]
    success_rate: float
    success_interval: tuple[float, float]
    max_reward: float
    max_reward_interval: tuple[float, float] | None
    sum_reward: float
    sum_reward_interval: tuple[float, float] | None
    length: float
    hard: tuple[HardStart, ...] = ()
    film: Path | None = None
    filmed: tuple[int, ...] = ()


@dataclass
class Inspection:
    """Everything that was found out about one policy.

    Attributes:
        label: What the policy is called.
        checkpoint: Its folder.
        step: Optimiser steps; 0 if the checkpoint does not say.
        setting: Every inference field with its value.
        changed: The fields among them whose value is not the one of the training.
        command: The command line that repeats it.
        machine: Where it was measured: ``host``, ``cpus``, ``busy_share`` (share of the CPUs that was in use
            just before the latency was measured), ``versions``.
        rollouts: Episodes in the simulator; None if there is none.
        comparison: Predicted beside demonstrated actions; None without a dataset.
        latency: How long a prediction takes; None until it was measured.
        denoising: The picture of the denoising; None if there was no observation.
        notes: What was left out, and why.
    """

    label: str
    checkpoint: str
    step: int
    setting: Mapping[str, Any]
    changed: tuple[str, ...] = ()
    command: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    rollouts: Rollouts | None = None
    comparison: Comparison | None = None
    latency: Latency | None = None
    denoising: DenoisingPicture | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        if self.latency is not None:
            values["latency"] |= {"p50_ms": self.latency.p50_ms, "p95_ms": self.latency.p95_ms}
        return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
