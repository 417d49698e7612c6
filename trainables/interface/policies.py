"""What a trainable may do with a trained policy: open, judge, time, export, bundle and serve it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from trainables.episodes import EpisodeRecord, Purpose
from trainables.inspection import BenchRow, Comparison, DenoisingPicture, Latency
from trainables.interface.fields import Fault
from trainables.interface.training import silent

__all__ = [
    "BenchmarksPolicies",
    "BundlesPolicies",
    "EvaluatesPolicies",
    "EvaluationContext",
    "ExportsCheckpoints",
    "ExportsFormats",
    "FormatOptions",
    "FormatParts",
    "FormatPrecision",
    "GivesPolicies",
    "InspectablePolicy",
    "OpenPolicy",
    "RunningServer",
    "ServablePolicy",
    "ServeOptions",
]


@runtime_checkable
class ExportsCheckpoints(Protocol):
    """A trainable that can write its checkpoints in another system's format."""

    export_targets: Sequence[str]
    """Formats that can be written, the default first, e.g. ``lerobot==0.4.4``."""

    def export(
        self,
        checkpoint: Path,
        folder: Path,
        target: str,
        *,
        ema: bool = True,
        setting: Mapping[str, Any] | None = None,
        replace: bool = False,
        progress: Callable[[str], None] = silent,
    ) -> list[str]:
        """Write a checkpoint of this trainable into ``folder`` as ``target`` would have, and verify it.

        Args:
            checkpoint: Folder of the checkpoint.
            folder: The folder to create.
            target: One of ``export_targets``.
            ema: Write averaged weights if the checkpoint has them.
            setting: The inference setting to write: fields whose value differs from the training's.
            replace: Replace an earlier export in ``folder``; anything else there is still refused.
            progress: Receives a message for each step.

        Returns:
            Notes for the user: what was replaced, what was compared.

        Raises:
            TrainableError: If ``target`` cannot express it, with the reason; nothing is written then.
        """
        ...


@dataclass(frozen=True)
class EvaluationContext:
    """Where a trained policy is evaluated.

    Attributes:
        cache: Folder for what is shared on a machine: decoded frames, the built-in datasets.
        device: ``cpu`` or ``cuda:<index>``.
        threads: Threads that this process may use for computing; 0 leaves torch's setting alone.
        progress: Receives what a person would like to know while nothing is returned yet.
    """

    cache: Path
    device: str = "cpu"
    threads: int = 0
    progress: Callable[[str], None] = silent


class OpenPolicy(Protocol):
    """A trained policy that is ready to be evaluated, with any inference setting.

    An inference setting names fields whose phase is ``inference``; what it does not name stays as trained.

    Attributes:
        step: Optimiser steps of the policy; 0 if the checkpoint does not say.
        trained_setting: Every inference field with its value in the training.
        environment: The simulator, as ``rollout.env`` names it, or None.
        windows: Held-out moments that :meth:`action_errors` can be asked for; 0 if no dataset is named.
    """

    step: int
    trained_setting: Mapping[str, Any]
    environment: str | None

    @property
    def windows(self) -> int:
        """Held-out moments that :meth:`action_errors` can be asked for; 0 if no dataset is named."""
        ...

    def setting_faults(self, setting: Mapping[str, Any]) -> list[Fault]:
        """Say what is wrong with an inference setting for this policy; an empty list if nothing is."""
        ...

    def rollout(
        self,
        setting: Mapping[str, Any],
        purpose: Purpose,
        episodes: Sequence[int],
        *,
        film: Path | None = None,
        film_episodes: int = 4,
    ) -> list[EpisodeRecord]:
        """Roll out numbered episodes of a purpose, which start from seeds of that purpose alone.

        The same numbers give the same records, but for times, whichever other episodes are asked for.

        Args:
            setting: The inference setting.
            purpose: What the episodes are for.
            episodes: Their numbers, each once.
            film: The mp4 to write of some of them, failures first; None for no film.
            film_episodes: How many of them the film shows.

        Returns:
            One record per episode, by number.

        Raises:
            TrainableError: If there is no environment, or the policy or the simulator fails.
        """
        ...

    def metrics_of(self, records: Sequence[EpisodeRecord]) -> Mapping[str, float]:
        """Average episodes into the metrics that the trainable reports of them (``rollout/...``)."""
        ...

    def action_errors(self, setting: Mapping[str, Any], windows: Sequence[int]) -> list[float]:
        """The mean squared error of the next actions, at numbered held-out moments.

        As many actions are compared as in the training (``eval.window_steps``), whatever the setting.

        Args:
            setting: The inference setting.
            windows: Numbers below ``windows``.

        Returns:
            One error per moment, in the dataset's units squared.

        Raises:
            TrainableError: If no dataset is named, or it cannot be read.
        """
        ...

    def speed(self, setting: Mapping[str, Any]) -> Mapping[str, float]:
        """How fast the policy is with a setting, as metrics: the median latency of a chunk, and the rate.

        Returns:
            ``eval/chunk_latency_ms`` and ``eval/action_rate_hz``.
        """
        ...

    def latency_ms(self, setting: Mapping[str, Any], runs: int = 50, most_s: float = 10.0) -> list[float]:
        """Time the prediction of one action chunk for one observation, as on a robot.

        Args:
            setting: The inference setting.
            runs: Warm runs to time.
            most_s: Seconds after which no further run begins, once there are five.

        Returns:
            The time of each run, in ms.
        """
        ...


@runtime_checkable
class InspectablePolicy(Protocol):
    """What an open policy has if it can also be looked into (`sweeper eval`)."""

    def compare(self, setting: Mapping[str, Any]) -> Comparison:
        """Compare the predicted actions with demonstrations that the policy was not trained on, if there are.

        Args:
            setting: The inference setting.

        Raises:
            TrainableError: If no dataset is named, it cannot be read, or does not fit the policy.
        """
        ...

    def check_demonstrations(self) -> bool:
        """Open the dataset, so that what is wrong with it is found before anything is measured.

        Returns:
            Whether there is one.

        Raises:
            TrainableError: As :meth:`compare`.
        """
        ...

    def latency(self, setting: Mapping[str, Any], runs: int = 50, most_s: float = 10.0) -> Latency:
        """Time predictions as :meth:`OpenPolicy.latency_ms` does, and say what computed them."""
        ...

    def draw_denoising(
        self, setting: Mapping[str, Any], picture: Path, film: Path | None = None
    ) -> DenoisingPicture | None:
        """Draw how noise becomes action chunks for one observation.

        The observation is a demonstration's if there is a dataset, or else the first of an episode in the
        environment.

        Args:
            setting: The inference setting.
            picture: The PNG to write.
            film: The mp4 to write; None for no film.

        Returns:
            What was drawn; None if there is neither a dataset nor an environment.

        Raises:
            TrainableError: If the observation cannot be had.
        """
        ...

    def repeat(
        self, setting: Mapping[str, Any], purpose: Purpose, episodes: Sequence[int], run: int
    ) -> list[EpisodeRecord]:
        """Roll out episodes again from the same starts with other noise.

        Args:
            setting: The inference setting.
            purpose: What the episodes are for.
            episodes: Their numbers, each once.
            run: Number of the repetition, from 1 on: each has its own noise.

        Returns:
            One record per episode, by number.

        Raises:
            TrainableError: If there is no environment, or the policy or the simulator fails.
        """
        ...


@runtime_checkable
class BenchmarksPolicies(Protocol):
    """What an open policy has if there are several ways to compute its chunks (`sweeper bench`).

    Attributes:
        backends: The ways, the reference first.
        precisions: The precisions of the network, the default first.
    """

    backends: Sequence[str]
    precisions: Sequence[str]

    def bench(
        self,
        settings: Sequence[Mapping[str, Any]],
        backends: Sequence[str],
        precision: str,
        runs: int,
        lerobot: Path | None = None,
    ) -> list[BenchRow]:
        """Time every backend with every setting, in turns, so that a busy machine slows down all alike.

        Args:
            settings: Inference settings.
            backends: Some of ``backends``.
            precision: One of ``precisions``.
            runs: Warm runs of each.
            lerobot: A Python with LeRobot, which is timed on an export of the policy as well.

        Returns:
            The rows, setting by setting. A backend that cannot be used here is replaced, with the reason.

        Raises:
            TrainableError: If a setting is not possible, or LeRobot cannot take the policy.
        """
        ...

    def rollout_with(
        self,
        backend: str,
        precision: str,
        setting: Mapping[str, Any],
        purpose: Purpose,
        episodes: Sequence[int],
    ) -> list[EpisodeRecord]:
        """Roll out episodes as `OpenPolicy.rollout` does, computed by a backend.

        Raises:
            TrainableError: If there is no environment, or the policy or the simulator fails.
        """
        ...


@runtime_checkable
class EvaluatesPolicies(Protocol):
    """A trainable whose trained policies can be evaluated again, with other inference settings too."""

    def open_policy(
        self, checkpoint: Path, config: Mapping[str, Any], context: EvaluationContext
    ) -> OpenPolicy:
        """Load the policy of a checkpoint.

        Args:
            checkpoint: Folder of the checkpoint, or whatever else the trainable reads as one.
            config: Values by dotted name that are to hold in place of those of the training: another dataset,
                another environment.
            context: Where it is evaluated.

        Raises:
            ConfigError: If the checkpoint cannot be read, or the policy does not fit the environment.
        """
        ...

    def trained_for(
        self, config: Mapping[str, Any], searched: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, Any]:
        """Return the configuration that is trained if values of inference fields are examined afterwards.

        Args:
            config: Values by dotted name.
            searched: The values of each inference field that will be examined.
        """
        ...


@runtime_checkable
class BundlesPolicies(Protocol):
    """A trainable whose checkpoints can be packed into a bundle (`trainables.deployment.bundle`)."""

    def policy_files(self, checkpoint: Path) -> Mapping[str, Path]:
        """The files of a checkpoint that its policy needs, without what only a continued training needs.

        Args:
            checkpoint: Folder of the checkpoint, or whatever else the trainable reads as one.

        Returns:
            The files by their names in the folder from which the trainable will read the policy.

        Raises:
            TrainableError: If the checkpoint cannot be found.
        """
        ...


FormatParts = Literal["chunk", "steps"]
"""What is exported: the whole prediction of a chunk, or the encoder and one denoising step."""


FormatPrecision = Literal["fp32", "fp16", "int8"]
"""Numbers that the networks of an export compute with."""


@dataclass(frozen=True)
class FormatOptions:
    """What is to be exported in a format of another runtime, and how it is checked.

    Attributes:
        format: One of `ExportsFormats.formats`.
        parts: The whole chunk, or encoder and step.
        precisions: The variants to write, each once; never empty.
        episodes: Episodes of the policy and of each variant that is not fp32, from the same starts and with
            the same noise; None if not stated.
        ema: Use averaged weights if the checkpoint has them.
        setting: The inference setting: fields whose value differs from the training's.
        config: Values that replace those of the training: another dataset or environment.
        replace: Replace an earlier export in the folder.
    """

    format: str
    parts: FormatParts = "chunk"
    precisions: tuple[FormatPrecision, ...] = ("fp32",)
    episodes: int | None = None
    ema: bool = True
    setting: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    replace: bool = False


@runtime_checkable
class ExportsFormats(Protocol):
    """A trainable that can export its policies to other runtimes, such as ONNX Runtime."""

    formats: Sequence[str]
    """Formats that can be written."""

    def export_format(
        self, checkpoint: Path, folder: Path, wanted: FormatOptions, context: EvaluationContext
    ) -> Mapping[str, Any]:
        """Write a policy into a folder, with a report and an example, and compare it with the policy.

        Args:
            checkpoint: What the trainable reads as a checkpoint.
            folder: The folder to create. It appears only when everything in it was checked.
            wanted: What to write.
            context: Folders, threads and progress; the device is the CPU.

        Returns:
            The content of ``report.json``: ``format``, ``notes``, and for every variant its ``files``,
            ``parity``, ``latency``, and what it costs (``action_error``, ``episodes``), None if that was not
            measured.

        Raises:
            TrainableError: If the policy cannot be exported, or a variant differs too much. Nothing is left.
        """
        ...


@dataclass(frozen=True)
class ServeOptions:
    """Where a policy is served, and for whom.

    Attributes:
        host: Address to listen at.
        port: Port; 0 for any that is free.
        token: What clients must send; None: a random one, or none if only this machine can connect.
        name: What the policy is called in its description.
        max_sessions: Most clients at once.
        max_message_b: The largest message in bytes; None for what the policy's observations need.
        idle_s: Seconds without a message after which a session ends.
        batch: Rows of an inference batch; None for a number that is found by measuring.
        batch_wait_ms: How long the first row of a batch waits for others.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    name: str = "policy"
    max_sessions: int = 64
    max_message_b: int | None = None
    idle_s: float = 300.0
    batch: int | None = None
    batch_wait_ms: float = 2.0


class RunningServer(AbstractContextManager["RunningServer"], Protocol):
    """A server that clients can connect to. Leaving its context closes it.

    Attributes:
        url: What clients connect to.
        token: What they must send; None if they need none.
        description: What they receive first, as JSON values: ``inputs``, ``action``, ``n_obs_steps``,
            ``n_action_steps``, ``limits``, ``batch`` (``rows``, ``chunk_ms``, and ``alike``: whether a
            client's actions are the same to the last bit, whichever other clients there are).
    """

    url: str
    token: str | None
    description: Mapping[str, Any]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many ``sessions``, ``answers`` and ``errors`` there have been."""
        ...

    def wait(self) -> None:
        """Wait until the server ends by itself, which is a failure.

        Raises:
            TrainableError: If it has failed.
        """
        ...

    def close(self) -> None:
        """Answer what is being answered, close all connections, and end."""
        ...


@runtime_checkable
class ServablePolicy(Protocol):
    """What an open policy has if it can also be served to robots (`sweeper serve`)."""

    def serve(
        self, setting: Mapping[str, Any], options: ServeOptions, report: Callable[[str], object] = silent
    ) -> RunningServer:
        """Serve the policy in another thread, until the returned server is closed.

        Args:
            setting: The inference setting.
            options: Where and for whom.
            report: Receives a sentence whenever a session begins, ends or is refused; from another thread.

        Raises:
            TrainableError: If the setting is not possible, a package is missing, or the port cannot be used.
        """
        ...


@runtime_checkable
class GivesPolicies(Protocol):
    """What an open policy has if it can be used in Python, e.g. in a control loop."""

    def policy(self, setting: Mapping[str, Any]) -> Any:
        """Return the policy with an inference setting, ready for `trainables.deployment.Controller`.

        Args:
            setting: The inference setting; what it does not name stays as trained.

        Raises:
            TrainableError: If the setting is not possible.
        """
        ...
