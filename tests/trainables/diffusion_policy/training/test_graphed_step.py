"""Steps as a CUDA graph: equal to plain ones, and plain if there can be no graph.

Without a GPU nothing can be recorded. `Repeating` takes the place of a recording there: it repeats the work
when it is replayed, with the memory and the settings of the optimiser that the work had when it was recorded.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from small_policy import small_batch, small_policy
from training_runs import context, run, tensors_of

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.config.sections import OptimizerConfig, TrainConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.training import graphed_step, learner
from trainables.diffusion_policy.training.graphed_step import WARM_UP, GraphedStep, why_no_graph
from trainables.diffusion_policy.training.objective import DENOISING, Denoising
from trainables.diffusion_policy.training.optimizer import build_optimizer
from trainables.diffusion_policy.training.stream import NOISE, TIMESTEPS, Batch
from trainables.diffusion_policy.training.train import OutOfMemoryError
from trainables.interface import Report, TrainContext

GPU = "cuda:0"
on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here"),
]
GRAPH = {"train.compile": "graph"}
CAMERA: dict[str, Any] = {"cameras": 1, "image": (40, 40), "crop_shape": (32, 32)}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Repeating:
    """See above."""

    recorded: ClassVar[list[Repeating]] = []

    def __init__(self, work: Any, device: torch.device) -> None:
        self._work = work
        self._groups = work.__self__._optimizer.param_groups
        self._then = [dict(group) for group in self._groups]
        self.replayed = 0
        Repeating.recorded.append(self)

    def replay(self) -> None:
        self.replayed += 1
        now = [dict(group) for group in self._groups]
        for group, then in zip(self._groups, self._then, strict=True):
            group.update(then)
        self._work()
        for group, values in zip(self._groups, now, strict=True):
            group.update(values)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Repeating]:
    """What is recorded in a test, in which a CPU counts as a GPU."""
    monkeypatch.setattr(Repeating, "recorded", [])
    monkeypatch.setattr(graphed_step, "record", Repeating)
    monkeypatch.setattr(learner, "why_no_graph", lambda *_: "")
    return Repeating.recorded


def on(device: str, world_size: int = 1) -> TrainContext:
    return dataclasses.replace(context(Path("folder")), device=device, world_size=world_size)


class Drawing(Denoising):
    """An objective that draws numbers within its loss."""

    recordable = False


@pytest.mark.parametrize(
    ("settings", "where", "objective", "reason"),
    [
        ({}, on("cpu"), DENOISING, "a CUDA graph needs a GPU, and the device is cpu"),
        ({}, on(GPU, 2), DENOISING, "the gradients of 2 workers are exchanged within a step"),
        ({"gradient_accumulation_steps": 4}, on(GPU), DENOISING, "a step has 4 passes"),
        ({"precision": "fp16"}, on(GPU), DENOISING, "the loss scale of train.precision: fp16"),
        ({}, on(GPU), Drawing(), "what this trainable minimises draws numbers"),
        ({"precision": "bf16"}, on(GPU), DENOISING, "^$"),
        ({}, on(GPU), DENOISING, "^$"),
    ],
)
def test_a_run_whose_steps_cannot_be_recorded_has_a_reason(
    settings: dict[str, Any], where: TrainContext, objective: Denoising, reason: str
) -> None:
    assert re.search(reason, why_no_graph(TrainConfig(compile="graph", **settings), where, objective))


def test_only_true_false_and_graph_are_values_of_compile(small_config: dict[str, Any]) -> None:
    for value in (True, False, "graph"):
        assert TRAINABLE.faults(small_config | {"train.compile": value}) == []
    (fault,) = TRAINABLE.faults(small_config | {"train.compile": "graphs"})
    assert fault.remedy == "Expected true or false, or graph."


def test_a_check_warns_of_settings_that_prevent_a_graph(small_config: dict[str, Any]) -> None:
    prevented = "train.compile: graph has no effect with train.precision: fp16."
    assert prevented in TRAINABLE.remarks(small_config | GRAPH | {"train.precision": "fp16"})
    for changes in (GRAPH, {"train.precision": "fp16"}):
        assert [said for said in TRAINABLE.remarks(small_config | changes) if "graph" in said] == []


@pytest.mark.slow
def test_a_cpu_trains_with_plain_steps_and_says_why(small_config: dict[str, Any], tmp_path: Path) -> None:
    told: list[str] = []
    run(small_config, tmp_path / "plain")
    run(small_config | GRAPH, tmp_path / "graph", progress=told.append)

    assert "training without a CUDA graph: a CUDA graph needs a GPU, and the device is cpu" in told
    expected, found = (tensors_of(tmp_path / name) for name in ("plain", "graph"))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def close(found: list[Report], expected: list[Report], rel: float) -> None:
    assert [report.step for report in found] == [report.step for report in expected]
    for report, other in zip(found, expected, strict=True):
        for name in ("train/loss", "train/grad_norm", "train/lr", "eval/action_mse"):
            if name in other.metrics:
                assert report.metrics[name] == pytest.approx(other.metrics[name], rel=rel), name


def close_tensors(folder: Path, other: Path, tolerance: float) -> None:
    found, expected = tensors_of(folder), tensors_of(other)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.precision": "bf16"},
        {"ema.every": 3, "lr_scheduler.name": "linear"},
        {"policy.do_mask_loss_for_padding": True, "optimizer.grad_clip_norm": 0.1},
        {"train.gradient_checkpointing": True, "optimizer.name": "adam"},
    ],
)
def test_replayed_steps_equal_plain_ones(
    small_config: dict[str, Any], tmp_path: Path, recorded: list[Repeating], changes: dict[str, Any]
) -> None:
    config = small_config | changes
    plain = run(config, tmp_path / "plain")
    assert recorded == []
    graphed = run(config | GRAPH, tmp_path / "graph")

    # Evaluations at steps 6 and 12 need no other recording.
    assert [recording.replayed for recording in recorded] == [12 - WARM_UP]
    # The learning rate is a float32 in a recording; rounding grows from step to step.
    close(graphed, plain, rel=1e-4)
    close_tensors(tmp_path / "graph", tmp_path / "plain", 1e-4)


@pytest.mark.slow
def test_replayed_steps_train_on_changed_pictures(
    small_config: dict[str, Any], pictures: Path, tmp_path: Path, recorded: list[Repeating]
) -> None:
    config = small_config | {
        "dataset.root": str(pictures),
        "dataset.holdout_fraction": 0.34,
        "policy.spatial_softmax_num_keypoints": 4,
        "policy.crop_shape": [56, 56],
        "train.batch_size": 4,
        "train.steps": WARM_UP + 2,
        "train.eval_every": WARM_UP + 2,
        "train.log_every": 1,
        "lr_scheduler.warmup_steps": 1,
        "eval.windows": 4,
    }
    changed = config | {"augment.brightness": 0.5, "augment.erasing": 1.0}
    graphed = run(changed | GRAPH, tmp_path / "graph")
    assert [recording.replayed for recording in recorded] == [2]
    close(graphed, run(changed, tmp_path / "plain"), rel=1e-4)
    untouched = run(config, tmp_path / "untouched")
    assert graphed[0].metrics["train/loss"] != pytest.approx(untouched[0].metrics["train/loss"], rel=1e-3)


@pytest.mark.slow
def test_a_resumed_run_with_a_graph_equals_a_straight_one(
    small_config: dict[str, Any], tmp_path: Path, recorded: list[Repeating]
) -> None:
    config = small_config | GRAPH
    straight = run(config, tmp_path / "straight")
    list(itertools.islice(TRAINABLE.train(config, context(tmp_path / "cut")), 2))
    resumed = run(config, tmp_path / "cut")

    # The resumed run, from step 6 on, warms up again. The cut one may have gone some steps further.
    assert len(recorded) == 3
    assert (recorded[0].replayed, recorded[2].replayed) == (12 - WARM_UP, 6 - WARM_UP)
    close(resumed, straight[-len(resumed) :], rel=1e-4)
    close_tensors(tmp_path / "cut", tmp_path / "straight", 1e-4)


def batches(policy: DiffusionPolicy, count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    found = []
    for number in range(count):
        values = small_batch(policy, seed=number)
        values[NOISE] = torch.randn(values["action"].shape, generator=generator)
        values[TIMESTEPS] = torch.randint(20, (len(values["action"]),), generator=generator)
        found.append(Batch(values, torch.Generator().manual_seed(number)))
    return found


def graphed(policy: DiffusionPolicy, recorder: Any, told: list[str]) -> GraphedStep:
    optimizer = build_optimizer(policy, OptimizerConfig(lr=1e-2, vision_encoder_lr_multiplier=0.5))
    loss = DENOISING.loss_of(policy)
    autocast = torch.autocast("cpu", enabled=False)
    return GraphedStep(policy, loss, optimizer, autocast, 1.0, told.append, recorder)


@pytest.mark.slow
def test_every_step_has_its_own_batch_and_crops() -> None:
    one, other = small_policy(**CAMERA).train(), small_policy(**CAMERA).train()
    told: list[str] = []
    steps = batches(one, WARM_UP + 3)
    work, expected = graphed(one, Repeating, told), graphed(other, None, told)

    for batch, again in zip(steps, batches(one, WARM_UP + 3), strict=True):
        loss, norm = work(batch.values, batch.generator)
        plain_loss, plain_norm = expected._step(again.values, again.generator)
        torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm, plain_norm, rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert told == []


@pytest.mark.slow
def test_a_learning_rate_that_changes_reaches_the_recorded_step() -> None:
    policy = small_policy()
    work = graphed(policy, Repeating, [])
    steps = batches(policy, WARM_UP + 2)
    for batch in steps[:-1]:
        work(batch.values, batch.generator)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    for group in work._optimizer.param_groups:
        assert isinstance(group["lr"], float)
        group["lr"] = 0.0
    work(steps[-1].values, steps[-1].generator)
    assert all(torch.equal(*pair) for pair in zip(before, policy.parameters(), strict=True))


@pytest.mark.slow
def test_a_step_that_cannot_be_recorded_is_done_without() -> None:
    def fails(work: Callable[[], None], device: torch.device) -> Any:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    one, other = small_policy(), small_policy()
    told: list[str] = []
    work, expected = graphed(one, fails, told), graphed(other, None, [])
    for batch in batches(one, WARM_UP + 3):
        loss, _ = work(batch.values, batch.generator)
        assert torch.equal(loss, expected._step(batch.values, batch.generator)[0])
    assert told == [
        "training without a CUDA graph: the step cannot be recorded: operation not permitted when stream is "
        "capturing"
    ]


@pytest.mark.slow
def test_a_number_that_is_drawn_within_a_step_prevents_its_recording() -> None:
    class DrawsCrops(torch.nn.Module):
        def __init__(self, policy: DiffusionPolicy) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
            return self.policy.loss(batch, batch[NOISE], batch[TIMESTEPS], generator)

    def records(work: Callable[[], None], device: torch.device) -> Any:
        work()
        raise AssertionError("it was recorded")

    policy = small_policy(**CAMERA).train()
    told: list[str] = []
    work = graphed(policy, records, told)
    work._loss_of = DrawsCrops(policy)
    for batch in batches(policy, WARM_UP + 2):
        work(batch.values, batch.generator)
    assert told == [
        "training without a CUDA graph: the step cannot be recorded: a number is drawn within the step"
    ]


@pytest.mark.slow
def test_memory_that_runs_out_while_a_step_is_recorded_ends_the_run(
    small_config: dict[str, Any], tmp_path: Path, recorded: list[Repeating], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(work: Callable[[], None], device: torch.device) -> Any:
        raise torch.OutOfMemoryError("as a GPU says it")

    monkeypatch.setattr(graphed_step, "record", full)
    with pytest.raises(OutOfMemoryError, match=r"double train\.gradient_accumulation_steps"):
        run(small_config | GRAPH, tmp_path)


# On a GPU


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=on_a_gpu)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_on_a_gpu_equals_plain_steps(
    small_config: dict[str, Any], tmp_path: Path, device: str, precision: str
) -> None:
    told: list[str] = []
    config = small_config | {"train.precision": precision}
    expected = run(config, tmp_path / "plain", device=device)
    found = run(config | GRAPH, tmp_path / "graph", device=device, progress=told.append)

    assert [message for message in told if "CUDA graph" in message] == []
    close(found, expected, rel=1e-3 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=on_a_gpu)])
def test_a_graph_on_a_gpu_is_resumed(small_config: dict[str, Any], tmp_path: Path, device: str) -> None:
    config = small_config | GRAPH
    straight = run(config, tmp_path / "straight", device=device)
    list(itertools.islice(TRAINABLE.train(config, context(tmp_path / "cut", device=device)), 2))
    resumed = run(config, tmp_path / "cut", device=device)
    close(resumed, straight[-len(resumed) :], rel=1e-3)


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=on_a_gpu)])
@pytest.mark.parametrize("compiled", [False, "graph"])
def test_steps_on_a_gpu_are_not_waited_for(
    small_config: dict[str, Any], tmp_path: Path, device: str, compiled: bool | str
) -> None:
    """Noise, timesteps and crops come from the CPU; neither they nor anything else makes the loop wait."""
    ended = 0

    def after_a_step() -> bool:
        nonlocal ended
        ended += 1
        # Reports come after steps 1 and 12, the recording is made in step 4.
        if ended in (5, 10):
            torch.cuda.set_sync_debug_mode("error" if ended == 5 else "default")
        return False

    config = small_config | {"train.log_every": 12, "train.eval_every": 12, "train.compile": compiled}
    try:
        run(config, tmp_path, device=device, stop_requested=after_a_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ended >= 12


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=on_a_gpu)])
def test_crops_reach_a_gpu_without_waiting_and_are_those_of_a_cpu(device: str) -> None:
    policy, other = small_policy(**CAMERA).to(device).train(), small_policy(**CAMERA).train()
    batch = {name: value.to(device) for name, value in small_batch(policy).items()}
    noise = torch.randn(batch["action"].shape, generator=torch.Generator().manual_seed(1)).to(device)
    timesteps = torch.tensor([0, 5, 10, 19]).to(device)
    policy.loss(batch, noise, timesteps, torch.Generator().manual_seed(0)).backward()
    try:
        torch.cuda.set_sync_debug_mode("error")
        policy.loss(batch, noise, timesteps, torch.Generator().manual_seed(0)).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    drawn = [each.draw_crop_offsets(4, torch.Generator().manual_seed(0)) for each in (policy, other)]
    assert torch.equal(drawn[0].cpu(), drawn[1])
