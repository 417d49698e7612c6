"""Distillation: what a student learns from its teacher, and the promises of its training."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from small_policy import small_batch, small_policy, small_settings

from trainables import registry
from trainables.diffusion_policy import TRAINABLE as PLAIN
from trainables.diffusion_policy import lerobot
from trainables.diffusion_policy.network.policy import DiffusionPolicy, assemble_policy
from trainables.diffusion_policy.training import checkpoint as checkpoints
from trainables.diffusion_policy.training.checkpoint import Checkpoints
from trainables.diffusion_policy.training.stream import NOISE, TIMESTEPS
from trainables.diffusion_policy_distilled import TRAINABLE
from trainables.diffusion_policy_distilled.distillation import (
    Distillation,
    DistillationLoss,
    even_timesteps,
    relabel_timesteps,
)
from trainables.diffusion_policy_distilled.settings import DistillSettings, settings_of
from trainables.interface import ConfigError, Fault, Report, StartsFromCheckpoints, TrainContext

ROOT = Path(__file__).parents[4]
TIMED = {"train/samples_per_s", "train/data_wait_fraction", "eval/chunk_latency_ms", "eval/action_rate_hz"}
TEACHER_STEPS = 60


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def teacher(circles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained policy of twenty timesteps; its folder must not be changed."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    torch.set_num_threads(1)
    config = small_settings(circles) | {
        "train.steps": TEACHER_STEPS,
        "train.log_every": TEACHER_STEPS,
        "train.eval_every": TEACHER_STEPS,
        "optimizer.lr": 3e-3,
        "policy.beta_schedule": "linear",
        "policy.beta_end": 0.4,
    }
    list(PLAIN.train(config, context(folder)))
    return folder


@pytest.fixture
def student(circles: Path, teacher: Path) -> dict[str, Any]:
    """A student of two steps that trains for a second or two."""
    training = {
        name: value
        for name, value in small_settings(circles).items()
        if not name.startswith("policy.") and name != "eval.num_inference_steps"
    }
    return training | {
        "policy.path": str(teacher),
        "distill.steps": 2,
        "distill.teacher_steps": 4,
        "train.eval_at_start": False,
    }


def context(folder: Path, **changes: Any) -> TrainContext:
    return TrainContext(folder=folder, cache=folder / "cache", threads=1, **changes)


def run(config: Mapping[str, Any], folder: Path) -> list[Report]:
    return list(TRAINABLE.train(config, context(folder)))


def untimed(report: Report) -> dict[str, float]:
    return {name: value for name, value in report.metrics.items() if name not in TIMED}


def last(folder: Path) -> Path:
    found = Checkpoints(folder / "checkpoints").find("last")
    assert found is not None
    return found


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    snapshot = checkpoints.read(last(folder))
    groups = {"model": snapshot.model, "ema": snapshot.ema or {}, "optimizer": snapshot.optimizer or {}}
    return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def faults_at(config: Mapping[str, Any], where: str) -> list[Fault]:
    return [fault for fault in TRAINABLE.faults(config) if fault.where == where]


# The configuration


def test_it_is_found_by_its_name() -> None:
    assert registry.load("diffusion_policy_distilled") is TRAINABLE
    assert isinstance(TRAINABLE, StartsFromCheckpoints)


@pytest.mark.slow
def test_the_student_has_the_teachers_network_and_a_process_of_its_own_steps(
    student: dict[str, Any],
) -> None:
    policy = TRAINABLE.resolved(student).policy

    assert (policy.down_dims, policy.horizon, policy.n_action_steps) == ((16, 32), 8, 4)
    assert (policy.num_train_timesteps, policy.inference_steps, policy.inference_sampler) == (2, 2, "DDIM")
    assert (policy.prediction_type, policy.stats) == ("sample", "checkpoint")
    assert policy.beta_schedule == "squaredcos_cap_v2", "the teacher's is for many timesteps"


@pytest.mark.slow
def test_the_teachers_warm_start_is_not_the_students(
    student: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    warm = tmp_path / "warm"
    shutil.copytree(last(teacher), warm)
    stored = json.loads((warm / "config.json").read_text())
    stored["config"]["policy.warm_start_steps"] = 3
    (warm / "config.json").write_text(json.dumps(stored))
    config = student | {"policy.path": str(warm)}
    assert TRAINABLE.resolved(config).policy.warm_start_steps == 0
    assert TRAINABLE.resolved(config | {"policy.warm_start_steps": 1}).policy.warm_start_steps == 1
    assert TRAINABLE.faults(config) == []


@pytest.mark.slow
def test_what_the_distillation_decides_is_not_taken_from_the_teacher(student: dict[str, Any]) -> None:
    # As a space file does: fields that are searched are named, without a value.
    found = TRAINABLE.inherited({**student, "distill.steps": None})

    assert found["policy.down_dims"] == [16, 32]
    assert not {"policy.num_train_timesteps", "policy.num_inference_steps", "policy.beta_end"} & set(found)
    for steps in (1, 4):
        assert TRAINABLE.faults({**student, **found, "distill.steps": steps}) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"policy.path": None}, "policy.path", "no teacher is named"),
        ({"distill.steps": 5}, "distill.steps", "5 is too large"),
        ({"distill.loss": "kl"}, "distill.loss", "'kl' is not a known value"),
        ({"distill.teacher_steps": 1}, "distill.teacher_steps", "fewer than the student's"),
        ({"distill.teacher_steps": 21}, "distill.teacher_steps", "21 is too many for the teacher"),
        ({"policy.num_inference_steps": 8}, "policy.num_inference_steps", "8 is not possible"),
        ({"policy.prediction_type": "epsilon"}, "policy.prediction_type", "epsilon is not possible"),
        ({"policy.horizon": 16}, "policy.horizon", "16 differs from the teacher's, 8"),
        ({"policy.down_dims": [16, 64]}, "policy.down_dims", "does not fit the checkpoint"),
        ({"distill.step": 1}, "distill.step", "no field has this name"),
    ],
)
def test_what_cannot_be_distilled_is_refused(
    student: dict[str, Any], changes: dict[str, Any], where: str, words: str
) -> None:
    assert TRAINABLE.faults(student) == []
    assert [fault for fault in faults_at(student | changes, where) if words in str(fault)]
    with pytest.raises(ConfigError, match=re.escape(words)):
        TRAINABLE.resolved(student | changes)


@pytest.mark.slow
def test_a_check_needs_no_torch(student: dict[str, Any]) -> None:
    program = (
        "import json, sys\n"
        "from trainables import registry\n"
        "config = json.loads(sys.argv[1])\n"
        "it = registry.load('diffusion_policy_distilled')\n"
        "assert it.faults(config) == [] and it.inherited(config) and it.memory_gb(config) > 0\n"
        "assert it.disk_gb(config) > 0 and it.remarks(config) == []\n"
        "print(sorted({'torch', 'diffusers'} & set(sys.modules)))\n"
    )
    arguments = [sys.executable, "-c", program, json.dumps(student)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.slow
def test_the_teacher_counts_in_the_memory_that_a_process_needs(student: dict[str, Any]) -> None:
    plain = {name: value for name, value in student.items() if not name.startswith("distill.")}
    assert TRAINABLE.memory_gb(student) == pytest.approx(PLAIN.memory_gb(plain) * 24 / 20)


# The loss


def settings(steps: int, teacher_steps: int, loss: str = "mse") -> DistillSettings:
    return DistillSettings(steps, teacher_steps, loss)


def few_steps(teacher: DiffusionPolicy, steps: int) -> DiffusionPolicy:
    """The same weights with a process of so many timesteps, in training mode."""
    config = dataclasses.replace(
        teacher.config, num_train_timesteps=steps, num_inference_steps=steps, prediction_type="sample"
    )
    return assemble_policy(config, teacher.features, teacher.statistics(), teacher.diffusion).train()


def batch_of(policy: DiffusionPolicy, labels: list[int]) -> dict[str, torch.Tensor]:
    batch = small_batch(policy, len(labels))
    shape = (len(labels), policy.horizon, policy.action_dim)
    batch[NOISE] = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    batch[TIMESTEPS] = torch.tensor(labels)
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_a_teacher_of_one_step_is_its_own_student(kind: str) -> None:
    # With random crops: the teacher must see what the student sees.
    teacher = small_policy(
        cameras=1, crop_shape=(32, 32), num_train_timesteps=1, prediction_type="sample", clip_sample=False
    ).eval()
    loss_of = DistillationLoss(few_steps(teacher, 1), teacher, settings(1, 1, kind))

    batch = batch_of(teacher, [0, 0, 0, 0])
    assert loss_of(batch, torch.Generator().manual_seed(1)).item() == pytest.approx(0.0, abs=1e-10)
    apart = few_steps(small_policy(cameras=1, crop_shape=(32, 32), prediction_type="sample", seed=1), 1)
    assert DistillationLoss(apart, teacher, settings(1, 1, kind))(batch, torch.Generator()).item() > 1e-3


@pytest.mark.slow
def test_each_step_learns_the_teachers_chunk_at_the_states_of_the_students_own_sampler() -> None:
    teacher = small_policy(seed=1, prediction_type="epsilon", timestep_spacing="trailing").eval()
    student = few_steps(small_policy(seed=2), 3)
    batch = batch_of(student, [2, 1, 0, 1])
    states: dict[int, torch.Tensor] = {}
    student.predict_horizon(
        batch, batch[NOISE], sampler="DDIM", watch=lambda state, label: states.update({label: state})
    )
    taught = teacher.predict_horizon(batch, batch[NOISE], sampler="DDIM", num_inference_steps=5)

    loss = DistillationLoss(student, teacher, settings(3, 5))(batch, torch.Generator())

    normalize, condition = student.normalizer.normalize, student.condition(batch)
    errors = []
    for row, label in enumerate(batch[TIMESTEPS].tolist()):
        state = normalize("action", states[label][row : row + 1])
        predicted = student.diffusion.unet(state, torch.tensor([label]), condition[row : row + 1])
        errors.append((predicted - normalize("action", taught[row : row + 1])).square().mean())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)


@pytest.mark.slow
def test_only_the_student_is_trained() -> None:
    teacher, student = small_policy(seed=1).eval().requires_grad_(False), few_steps(small_policy(seed=2), 2)
    loss_of = DistillationLoss(student, teacher, settings(2, 2))

    loss_of(batch_of(student, [1, 0]), torch.Generator()).backward()

    assert {id(one) for one in loss_of.parameters()} == {id(one) for one in student.parameters()}
    assert all(one.grad is not None for one in student.parameters())
    assert all(one.grad is None for one in teacher.parameters())


@pytest.mark.slow
def test_padded_actions_are_left_out_where_the_policy_leaves_them_out() -> None:
    teacher = small_policy(seed=1).eval()
    student = few_steps(small_policy(seed=2, do_mask_loss_for_padding=True), 1)
    loss_of = DistillationLoss(student, teacher, settings(1, 2))
    batch = batch_of(student, [0, 0])
    whole = loss_of(batch, torch.Generator()).item()
    batch["action_is_pad"][0] = True

    masked = loss_of(batch, torch.Generator()).item()
    alone = {name: value[1:] for name, value in batch.items()}
    assert masked == pytest.approx(loss_of(alone, torch.Generator()).item(), rel=1e-5)
    assert masked != pytest.approx(whole, rel=1e-3)


def test_a_relabelled_network_does_at_each_step_what_it_did_at_a_timestep_of_the_teacher() -> None:
    policy, timesteps = small_policy(), [4, 9, 14, 19]
    noisy = torch.randn((4, policy.horizon, policy.action_dim), generator=torch.Generator().manual_seed(0))
    condition = policy.condition(small_batch(policy))
    unet = policy.diffusion.unet
    before = unet(noisy, torch.tensor(timesteps), condition)

    relabel_timesteps(unet, timesteps)

    torch.testing.assert_close(unet(noisy, torch.arange(4), condition), before, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(unet(noisy, torch.tensor(timesteps), condition), before, atol=1e-3)


# The training


@pytest.mark.slow
def test_a_student_comes_closer_to_its_teacher(student: dict[str, Any], tmp_path: Path) -> None:
    reports = run(student | {"train.steps": 40, "train.eval_every": 40, "train.log_every": 10}, tmp_path)
    losses = [report.metrics["train/loss"] for report in reports]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_distillation_equals_a_straight_one_bit_for_bit(
    student: dict[str, Any], tmp_path: Path, stop_after: int
) -> None:
    straight = run(student, tmp_path / "straight")
    early = list(itertools.islice(TRAINABLE.train(student, context(tmp_path / "cut")), stop_after))
    resumed = run(student, tmp_path / "cut")

    by_step = {report.step: untimed(report) for report in [*early, *resumed]}
    assert by_step == {report.step: untimed(report) for report in straight}
    expected, found = tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "cut")
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.slow
def test_a_run_is_not_continued_with_another_loss_or_without_its_teacher(
    student: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "teacher"
    shutil.copytree(teacher, mine)
    student |= {"policy.path": str(mine), "train.checkpoint_every": 3}
    student |= TRAINABLE.inherited(student)  # as the service does
    next(iter(TRAINABLE.train(student, context(tmp_path / "run"))))

    with pytest.raises(ConfigError, match=r"other settings: .*distill\.loss \(mse -> huber\)"):
        run(student | {"distill.loss": "huber"}, tmp_path / "run")
    shutil.rmtree(mine)
    with pytest.raises(ConfigError, match=r"policy\.path: .*teacher"):
        run(student, tmp_path / "run")


@pytest.mark.slow
def test_a_checkpoint_records_how_it_was_distilled_and_is_read_by_everything_else(
    student: dict[str, Any], tmp_path: Path
) -> None:
    run(student | {"train.steps": 3, "train.eval_every": 3}, tmp_path)

    recorded = json.loads((last(tmp_path) / "config.json").read_text())["config"]
    assert settings_of(recorded) == DistillSettings(2, 4, "mse")
    assert lerobot.read_checkpoint(tmp_path).config.notes == ()
    assert lerobot.load(tmp_path).config.inference_steps == 2


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_lerobots_format_expresses_a_student_exactly(
    student: dict[str, Any], tmp_path: Path, steps: int
) -> None:
    process = (
        *("prediction_type", "noise_scheduler_type", "num_train_timesteps", "beta_schedule"),
        *("sampler", "num_inference_steps", "timestep_spacing"),
    )
    config = TRAINABLE.resolved(student | {"distill.steps": steps}).policy
    policy = small_policy(environment=4, **{name: getattr(config, name) for name in process}).eval()
    notes = lerobot.save(policy, tmp_path / "exported", "lerobot==0.4.4")

    # Saving compares the actions. LeRobot has one process, and every one of its timesteps is a step.
    assert [note for note in notes if "sampler" in note or "spacing" in note] == []
    written = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert written["noise_scheduler_type"] == "DDIM"
    assert written["num_train_timesteps"] == written["num_inference_steps"] == steps


@pytest.mark.slow
def test_two_workers_distil_what_one_does(student: dict[str, Any], tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    together.mkdir()
    expected = {report.step: report.metrics for report in run(student, alone)}

    multiprocessing.spawn(_worker, args=(2, student, together), nprocs=2, join=True)

    ranks = [json.loads((together / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [step for step, _ in ranks[0]] == [step for step, _ in ranks[1]] == list(expected)
    for step, metrics in ranks[0]:
        assert metrics["train/loss"] == pytest.approx(expected[step]["train/loss"], rel=1e-4)
    assert ranks[0][-1][1]["eval/action_mse"] == pytest.approx(expected[12]["eval/action_mse"], rel=1e-3)


def _worker(rank: int, world_size: int, config: dict[str, Any], folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    reports = TRAINABLE.train(config, context(folder, rank=rank, world_size=world_size))
    numbers = [(report.step, dict(report.metrics)) for report in reports]
    (folder / f"rank{rank}.json").write_text(json.dumps(numbers))
    dist.destroy_process_group()


def test_a_teacher_that_is_gone_is_named(tmp_path: Path) -> None:
    distillation = Distillation(settings(1, 4), str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="gone"):
        distillation.loss_of(few_steps(small_policy(), 1))


# A teacher of flow matching


@pytest.mark.slow
def test_a_flow_teaches_the_actions_of_eulers_method() -> None:
    teacher = small_policy(prediction_type="flow", num_train_timesteps=20, clip_sample=False).eval()
    batch = batch_of(teacher, [0, 0, 0])
    taught = DistillationLoss(few_steps(teacher, 1), teacher, settings(1, 4))._taught(batch, None)

    state, condition = batch[NOISE], teacher.condition(batch)
    for time in (20.0, 15.0, 10.0, 5.0):
        velocity = teacher.diffusion.unet(state, torch.full((3,), time), condition)
        state = state - velocity / 4
    torch.testing.assert_close(taught, state, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_students_steps_begin_as_the_flows_at_their_noise() -> None:
    teacher = small_policy(prediction_type="flow", num_train_timesteps=20).eval()
    student = few_steps(teacher, 2)
    before = teacher.diffusion.unet.diffusion_step_encoder(torch.tensor([10.0, 20.0]))
    relabel_timesteps(student.diffusion.unet, even_timesteps(teacher.process, 2))
    after = student.diffusion.unet.diffusion_step_encoder(torch.tensor([0, 1]))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
