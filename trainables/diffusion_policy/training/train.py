"""Training of a Diffusion Policy: ``train(config, context)``, to be read top to bottom.

Everything random at an optimiser step is a pure function of (seed, step): the sample order, the noise, the
timesteps, the crops and the changes of the pictures. So a resumed run equals a straight one, and nothing
random is kept in a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainables.dataset.content import content_digest
from trainables.dataset.policy_statistics import policy_statistics
from trainables.dataset.windows import Windows
from trainables.diffusion_policy.config.clashes import batch_faults
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.data import OpenData, open_data
from trainables.diffusion_policy.finetuning.warm_start import START, WarmStart, read_warm_start, tell
from trainables.diffusion_policy.network.policy import DiffusionPolicy, assemble_policy, build_networks
from trainables.diffusion_policy.training import checkpoint as checkpoints
from trainables.diffusion_policy.training.augmentation.augment import Augmentation
from trainables.diffusion_policy.training.beside.evaluations import DueReport, Evaluations
from trainables.diffusion_policy.training.beside.evaluator import prepare_process
from trainables.diffusion_policy.training.evaluate import evaluate
from trainables.diffusion_policy.training.learner import Learner
from trainables.diffusion_policy.training.objective import DENOISING, Objective
from trainables.diffusion_policy.training.progress import DivergedError, Interval, Progress
from trainables.diffusion_policy.training.saver import CheckpointSaver
from trainables.diffusion_policy.training.stream import BatchStream
from trainables.evaluation.offline import chunk_latency
from trainables.features import PolicyFeatures
from trainables.files import write_json
from trainables.interface import ConfigError, Fault, Report, TrainableError, TrainContext

__all__ = ["OutOfMemoryError", "train"]

STOP_AGREED_EVERY = 10
_PLACES = ("dataset.root", "dataset.repo_id", "dataset.revision", "policy.path")
"""Fields that name the places of data and checkpoints, and do not change the result."""
_SAME_RESULT = ("train.gradient_accumulation_steps", "train.gradient_checkpointing", "train.evaluation")
"""Fields that decide how much memory or time a step takes, and do not change the result."""


class OutOfMemoryError(TrainableError):
    """The device's memory does not suffice."""

    reason = "out_of_memory"


def train(
    config: DiffusionConfig, context: TrainContext, objective: Objective = DENOISING
) -> Iterator[Report]:
    """Train a policy; yields a report at every logging step and at every evaluation.

    Every rank of a worker group runs this and yields as many reports; the metrics are rank 0's. Resumes from
    ``context.folder/checkpoints/last`` if ``context.resume`` is set and it exists; otherwise starts from
    ``policy.path`` if that is set.

    Args:
        config: The configuration to train.
        context: Folders, rank and device of this process.
        objective: What is minimised.

    Raises:
        ConfigError: If the configuration does not fit the worker group or the checkpoint found.
        DatasetError: If the dataset cannot be read.
        DivergedError: If the loss or a gradient is no longer finite, or the loss explodes.
        OutOfMemoryError: If the device's memory does not suffice.
    """
    store = checkpoints.Checkpoints(context.folder / "checkpoints")
    saver = CheckpointSaver(store, context.rank, context.world_size)
    try:
        with contextlib.ExitStack() as closing:
            closing.callback(saver.close)
            evaluations = closing.enter_context(Evaluations(config, context))
            try:
                yield from _train(config, context, objective, store, saver, evaluations, closing)
            except (TrainableError, torch.OutOfMemoryError) as error:
                yield from evaluations.passed(saver.release_at_error())
                if isinstance(error, DivergedError):
                    # What training reported until then, with an evaluation that was still running.
                    yield from evaluations.finished()
                raise
    except torch.OutOfMemoryError as error:
        batch, accumulation = config.train.batch_size, config.train.gradient_accumulation_steps
        remedy = (
            f"Halve train.batch_size ({batch}) or double train.gradient_accumulation_steps ({accumulation})."
        )
        raise OutOfMemoryError(f"{context.device} ran out of memory. {remedy} {error}") from error


def _train(
    config: DiffusionConfig,
    context: TrainContext,
    objective: Objective,
    store: checkpoints.Checkpoints,
    saver: CheckpointSaver,
    evaluations: Evaluations,
    closing: contextlib.ExitStack,
) -> Iterator[Report]:
    settings = config.train
    device = torch.device(context.device)
    prepare_process(config, context, closing)
    _check_group(config, context)

    # Data: windows of the training episodes, and of the held-out ones for the evaluation.
    context.progress("opening the dataset")
    opened = open_data(config, context.cache, context.progress)
    data = content_digest(opened.dataset)
    training, heldout = opened.training_windows(), opened.heldout_windows()
    cameras = opened.dataset.policy_features.cameras
    augmented = Augmentation(config.augment, [camera.name for camera in cameras])
    stream = _stream(config, context, training, augmented)
    closing.callback(stream.close)

    # The state at which an earlier process of this trial stopped, or else the checkpoint to fine-tune.
    snapshot = _last_snapshot(store, config, objective, data, context)
    start = None
    if snapshot is None and config.policy.path is not None:
        start = read_warm_start(config, opened.dataset.policy_features, context)
    context.progress("building the policy")
    policy, features, statistics = _first_policy(config, context, opened, snapshot, start)
    started = None if start is None else _start_from(start, policy, context)
    start = None  # its weights are in the policy now
    if snapshot is None:
        objective.prepare(policy)
    learner = Learner(config, context, objective, policy, features, statistics, augmented)
    progress = Progress(data=data)
    fresh = snapshot is None
    if snapshot is not None:
        learner.restore(snapshot)
        progress = Progress.from_json(snapshot.step, {**snapshot.progress, "data": data})
        snapshot = None
    # The process may have died after it wrote this checkpoint and before it returned its reports.
    yield from evaluations.begin(store, progress, saver.wait)
    learner.get_ready()

    def evaluated(step: int) -> tuple[dict[str, float], dict[str, Path]]:
        policy.eval()
        with torch.no_grad(), learner.averaged():
            measured = evaluate(policy, heldout, config, context, step)
        policy.train()
        return measured

    def timed() -> dict[str, float]:
        # While training waits: beside it a chunk would take longer than on the robot.
        policy.eval()
        with torch.no_grad():
            latency = {} if heldout is None else chunk_latency(policy, heldout, context.device)
        policy.train()
        return latency

    def saved(report: DueReport, *, best: bool) -> Path | None:
        progress.saved_step = progress.step
        progress.due = evaluations.due_at(report)
        state = learner.snapshot(progress) if context.rank == 0 else None
        return saver.save(state, best=best, evaluating=report.evaluating)

    policy.train()
    if fresh and config.evaluates_at_start:
        # The baseline: this checkpoint remains the best one if training makes it worse.
        with evaluations.inline():
            measured, artifacts = evaluated(0)
        metrics = {**measured, "trial/step": 0.0, "trial/epoch": 0.0}
        artifacts |= started or {}
        best = progress.improves(metrics, context.objective)
        written = saved(DueReport(0, metrics, artifacts), best=best)
        saver.hold(Report(0, metrics, artifacts, written))

    context.progress(f"training: steps {progress.step + 1} to {settings.steps}")
    interval = Interval(device)
    for step in range(progress.step + 1, settings.steps + 1):
        wait_start_s = time.perf_counter()
        batch = stream.batch(step - 1)
        interval.wait_s += time.perf_counter() - wait_start_s
        lr = learner.lr
        learner.step(step, batch, interval)
        with interval.paused():
            yield from evaluations.ready()

        stopping, release = _agreed(context, saver, step)
        if release:
            yield from evaluations.passed(saver.release())
        finished = step == settings.steps
        evaluating = finished or step % settings.eval_every == 0
        saving = (
            evaluating or stopping or (settings.checkpoint_every or math.inf) <= step - progress.saved_step
        )
        if not (saving or step % settings.log_every == 0):
            continue

        learner.check_finite(step, interval)
        interval.average_over(context.world_size)
        metrics = interval.metrics(step, settings.batch_size, len(training), lr)
        progress.step = step
        progress.check_loss(metrics["train/loss"])
        artifacts = {}
        if saving and saver.pending:
            yield from evaluations.passed(saver.release())
        if evaluating:
            # One runs at a time, and the last report has nothing after it.
            yield from evaluations.finished() if finished else evaluations.evaluated()
        beside = evaluating and not (finished or stopping) and evaluations.run_beside()
        if beside:
            metrics |= timed()
        elif evaluating:
            with evaluations.inline():
                measured, artifacts = evaluated(step)
            metrics |= measured
        report = DueReport(step, metrics, artifacts, evaluating=beside)
        if beside:
            evaluations.expect(step)
        written = None
        if saving:
            best = evaluating and not beside and progress.improves(metrics, context.objective)
            written = saved(report, best=best)
        saver.hold(Report(step, metrics, artifacts, written, final=finished))
        if stopping or finished or not saver.pending:
            yield from evaluations.passed(saver.release())
        if stopping:
            yield from evaluations.finished()
            return
        interval.restart()


def _stream(
    config: DiffusionConfig, context: TrainContext, training: Windows, augmented: Augmentation
) -> BatchStream:
    policy, settings = config.policy, config.train
    return BatchStream(
        training,
        settings.batch_size,
        num_train_timesteps=policy.num_train_timesteps,
        time_sampling=policy.time_sampling if policy.is_flow else None,
        seed=settings.seed,
        rank=context.rank,
        world_size=context.world_size,
        device=torch.device(context.device),
        lots=augmented.lots,
    )


def _first_policy(
    config: DiffusionConfig,
    context: TrainContext,
    opened: OpenData,
    snapshot: checkpoints.Snapshot | None,
    start: WarmStart | None,
) -> tuple[DiffusionPolicy, PolicyFeatures, Any]:
    """A policy with weights by the seed alone, the same on every rank; also its features and statistics."""
    earlier = snapshot or start
    features = opened.dataset.policy_features if earlier is None else earlier.features
    torch.manual_seed(config.train.seed)
    if earlier is not None and config.policy.stats == "checkpoint":
        statistics = earlier.statistics
    else:
        imagenet = config.dataset.use_imagenet_stats
        statistics = policy_statistics(
            opened.dataset, opened.split.train, use_imagenet_stats=imagenet, frames=opened.frames
        )
    drawn = config.policy
    if earlier is not None and not (start is not None and start.fetches_backbone):
        # Weights that would be replaced at once are not fetched.
        drawn = dataclasses.replace(drawn, pretrained_backbone_weights=None)
    policy = assemble_policy(config.policy, features, statistics, build_networks(drawn, features))
    return policy.to(torch.device(context.device)), features, statistics


def _check_group(config: DiffusionConfig, context: TrainContext) -> None:
    faults = batch_faults(config.train, context.world_size)
    if faults:
        raise ConfigError(faults)


def _last_snapshot(
    store: checkpoints.Checkpoints,
    config: DiffusionConfig,
    objective: Objective,
    data: str,
    context: TrainContext,
) -> checkpoints.Snapshot | None:
    last = store.find("last") if context.resume else None
    if last is None:
        return None
    # Read into the host's memory: beside the policy's own tensors it might not fit on the device.
    snapshot = checkpoints.read(last)
    trained_on = snapshot.progress.get("data", "")
    if trained_on and trained_on != data:
        raise _other_data(last)
    before = {**snapshot.objective, **snapshot.config.to_flat()}
    now = {**objective.settings, **config.to_flat()}
    _check_same_run(before, now, last, moved=bool(trained_on))
    return snapshot


def _start_from(start: WarmStart, policy: DiffusionPolicy, context: TrainContext) -> dict[str, Path]:
    """Put a checkpoint's weights into the policy, and record from which checkpoint it started."""
    record = start.put_into(policy)
    if context.rank != 0:
        return {}
    tell(record, context)
    context.folder.mkdir(parents=True, exist_ok=True)
    path = context.folder / START
    write_json(path, record)
    return {"policy/start": path}


def _other_data(folder: Path) -> ConfigError:
    problem = f"the dataset is not the one that the run in {folder} was trained on: its content has changed."
    remedy = "Restore the dataset, name a copy of it as it was, or train in another folder."
    return ConfigError([Fault("dataset.root", problem, remedy)])


def _check_same_run(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path, *, moved: bool) -> None:
    """Refuse a checkpoint of other settings; ``moved``: the same data may be in another place."""
    free = (*_SAME_RESULT, *_PLACES) if moved else _SAME_RESULT
    changed = [
        name
        for name in now
        if before.get(name) != now[name] and not name.startswith("rollout.") and name not in free
    ]
    if changed:
        shown = ", ".join(f"{name} ({before.get(name)} -> {now[name]})" for name in changed[:5])
        remedy = "Use another folder, or the old configuration."
        raise ConfigError([Fault(str(folder), f"belongs to a run with other settings: {shown}.", remedy)])


def _agreed(context: TrainContext, saver: CheckpointSaver, step: int) -> tuple[bool, bool]:
    """Whether to stop after this step, and whether to release the reports that wait for a checkpoint.

    All ranks must do both at the same step. To agree they wait for the device, so they do it rarely.
    """
    wanted, writing = context.stop_requested(), not saver.is_written()
    if context.world_size > 1:
        if step % STOP_AGREED_EVERY:
            return False, False
        flags = torch.tensor([float(wanted), float(writing)], device=context.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        wanted, writing = (bool(flag) for flag in flags.tolist())
    return wanted, saver.pending and not writing
