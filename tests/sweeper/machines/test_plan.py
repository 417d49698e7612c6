"""What a sweep would do: sizes, resources, disk and the warnings."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from sweeper.machines.machine import Machine, bf16_among_flags, find_machine
from sweeper.machines.plan import make_plan, without_likes
from sweeper.spec.space import Parameter, describe_range, describe_scale
from sweeper.spec.space_file.load import load_spec, packaged_spaces
from sweeper.spec.sweep import ResourceSpec
from sweeper.terminal.plan import _lines
from sweeper.text import describe_value

LAPTOP = Machine(cpus=8, gpus=0, disk_gb=100.0)
NODE = Machine(cpus=64, gpus=8, gpu_names=("NVIDIA H100",) * 8, disk_gb=5000.0)


LR_OF_1E_4 = ("parameters.optimizer.lr={values: [1e-4]}",)


def plan(*overrides, machine=LAPTOP, space="pusht_quick"):
    return make_plan(load_spec(packaged_spaces()[space], overrides), machine)


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "expected"),
    [
        # workers, GPUs and CPUs per worker, trials at once
        (ResourceSpec(), 2, 0, (1, 0, 1, 2)),
        (ResourceSpec(), 16, 0, (1, 0, 2, 8)),
        (ResourceSpec(), 1, 0, (1, 0, 1, 1)),
        (ResourceSpec(), 64, 8, (1, 1, 8, 8)),
        (ResourceSpec(), 8, 8, (1, 1, 1, 8)),
        (ResourceSpec(), 4, 8, (1, 1, 1, 4)),
        (ResourceSpec(gpu_per_worker=0.5), 64, 8, (1, 0.5, 4, 16)),
        (ResourceSpec(gpu_per_worker=0.4), 64, 8, (1, 0.4, 3, 16)),
        (ResourceSpec(gpu_per_worker=0.33), 64, 1, (1, 0.33, 8, 3)),
        (ResourceSpec(workers=4), 64, 8, (4, 1, 8, 2)),
        (ResourceSpec(workers=3), 64, 8, (3, 1, 8, 2)),
        (ResourceSpec(workers=2), 16, 0, (2, 0, 1, 8)),
        (ResourceSpec(workers=16), 64, 8, (16, 1, 8, 0)),
        (ResourceSpec(gpu_per_worker=1), 64, 0, (1, 1, 8, 0)),
        (ResourceSpec(gpu_per_worker=0, cpu_per_worker=2), 7, 4, (1, 0, 2, 3)),
        (ResourceSpec(cpu_per_worker=0.5, gpu_per_worker=0), 2, 0, (1, 0, 0.5, 4)),
        (ResourceSpec(max_concurrent=3), 64, 8, (1, 1, 8, 3)),
    ],
)
def test_auto_is_settled_so_that_trials_fit(resources, cpus, gpus, expected):
    settled = resources.settled(cpus, gpus)
    got = (settled.workers, settled.gpu_per_worker, settled.cpu_per_worker, settled.at_once)
    assert got == expected
    assert settled.at_once * settled.cpu_per_trial <= cpus
    assert settled.at_once * settled.gpu_per_trial <= max(gpus, 0) + 1e-9


def test_no_more_trials_run_at_once_than_there_are():
    assert ResourceSpec().settled(64, 0, trials=3).at_once == 3


@pytest.mark.slow
def test_the_demo_fits_a_laptop():
    made = plan()
    assert made.resources.at_once >= 2
    assert made.resources.gpu_per_trial == 0
    assert made.warnings == ()
    assert made.rungs == (600, 1200)
    assert made.steps == (1800, 1800)
    assert 0 < made.disk_per_trial_gb < 0.2
    running, ended = made.disk_per_trial_gb, made.disk_per_ended_gb[2]
    at_once = made.resources.at_once
    assert made.disk_gb == pytest.approx(at_once * running + (made.trials - at_once) * ended)
    assert made.smaller_keep is None, "so little disk is not worth a word"
    assert made.combinations is None
    assert made.kept_share == 1.0
    assert 0.5 < plan(space="pusht_state").kept_share < 0.95


@pytest.mark.slow
def test_the_paper_setting_fills_a_node():
    made = plan(machine=NODE, space="pusht_image")
    assert (made.resources.at_once, made.resources.gpu_per_trial) == (8, 1)
    assert made.disk_per_trial_gb > 1
    assert made.spec.keep.trials == 5
    assert made.smaller_keep is None
    # Running: the best, and the last and a new one with the moments of the optimiser, which are as large as
    # weights and average together: five parts. Ended: the best and the last without moments, two parts.
    assert made.disk_per_ended_gb[2] == pytest.approx(made.disk_per_trial_gb * 2 / 5, rel=0.01)
    assert made.disk_gb == pytest.approx(8 * made.disk_per_trial_gb + 5 * made.disk_per_ended_gb[2])


@pytest.mark.slow
def test_a_smaller_keep_is_proposed_with_what_it_saves():
    made = plan("keep.trials=null", machine=NODE, space="pusht_image")
    keep, needed = made.smaller_keep
    assert keep.trials == 5
    assert needed == pytest.approx(plan(machine=NODE, space="pusht_image").disk_gb)
    lines = dict(text for text in _lines(made) if text[0] in ("disk", ""))
    assert "keep.trials=5 would save" in lines[""]


@pytest.mark.slow
def test_a_discrete_space_is_counted():
    constraint = "constraints=['policy.horizon >= 12 or optimizer.lr < 5e-4']"
    made = plan("parameters.optimizer.lr.values=[1e-4, 1e-3]", "budget.trials=9999", constraint)
    # horizon 8 with the lower rate, 12 and 16 with both; two beta schedules each
    assert made.combinations == (1 + 2 + 2) * 2
    assert made.size == 3 * 2 * 2
    assert made.trials == 10
    assert any("only 10 combinations" in warning for warning in made.warnings)


@pytest.mark.slow
def test_searched_steps_are_a_range():
    assert plan("parameters.train.steps={values: [900, 2000]}").steps == (900, 2000)
    assert plan("parameters.train.steps={min: 900, max: 2000}").steps == (900, 2000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "machine", "words"),
    [
        (["resources.gpu_per_worker=1"], LAPTOP, "needs 1 GPU, and this machine has 0"),
        (
            ["resources={workers: 9}", "config.train.batch_size=63"],
            NODE,
            "9 GPUs, and this machine has 8",
        ),
        (["resources.cpu_per_worker=9"], LAPTOP, "needs 9 CPUs, and this machine has 8"),
        (["budget.trials=900"], Machine(8, 0, disk_gb=0.5), "500 MB are free"),
        (["budget.gpu_hours=3"], LAPTOP, "no effect"),
        (["search.startup_trials=8"], LAPTOP, "drawn at random"),
        (["constraints=[optimizer.lr > 0.009]"], LAPTOP, "keep the constraints"),
        (
            ["metric={name: train/loss}", "inference=null", "confirm=null", "config.policy.n_action_steps=4"],
            LAPTOP,
            "cannot be compared",
        ),
        (["config.dataset.root=/no/such/folder"], LAPTOP, "there is no /no/such/folder"),
        (["metric.goal=minimize"], LAPTOP, "is usually maximize"),
    ],
)
def test_what_is_legal_and_probably_not_meant_is_a_warning(overrides, machine, words):
    warnings = plan(*overrides, machine=machine).warnings
    assert any(words in warning for warning in warnings), warnings


@pytest.mark.slow
def test_a_plan_is_plain_json():
    plain = json.loads(json.dumps(plan().to_dict(), allow_nan=False))
    assert plain["trials"] == 6
    assert plain["resources"]["at_once"] == 6
    assert plain["sweep"]["name"] == "pusht-quick"
    assert plain["machine"]["cpus"] == 8
    assert json.dumps(make_plan(plan().spec, Machine(2, 0)).to_dict(), allow_nan=False)


def test_this_machine_has_cpus_and_a_disk(tmp_path):
    machine = find_machine(tmp_path / "not" / "there" / "yet")
    assert 1 <= machine.cpus <= (os.cpu_count() or 1)
    assert 0 < machine.disk_gb < 1e9
    assert machine.gpus == len(machine.gpu_names)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f avx512bw", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("Features\t: fp asimd", False),
        ("isa\t\t: rv64imafdc", None),
    ],
)
def test_instructions_for_bf16_are_read_from_the_flags_of_the_cpu(line, expected):
    assert bf16_among_flags(f"processor\t: 0\n{line}\nbugs\t\t: bf16_none\n") is expected


@pytest.mark.slow
def test_bf16_on_a_cpu_without_its_instructions_is_warned_of():
    slow, fast = replace(LAPTOP, fast_bf16=False), replace(LAPTOP, fast_bf16=True)

    def warned(*overrides, machine=slow, space="pusht_quick"):
        return [text for text in plan(*overrides, machine=machine, space=space).warnings if "fp32" in text]

    bf16 = ("config.train.precision=bf16", "resources.gpu_per_worker=auto")
    (warning,) = warned(*bf16)
    assert warning.endswith("Set config.train.precision=fp32.")
    (searched,) = warned("parameters.train.precision.values=[bf16, fp32]")
    assert searched.endswith("Set parameters.train.precision.values=[fp32].")
    # These spaces ask for a GPU, which this machine does not have.
    (both,) = warned(space="real_robot")
    assert both.endswith("train on CPUs: resources.gpu_per_worker=0 config.train.precision=fp32.")
    (on_cpu,) = warned("resources.gpu_per_worker=0", space="real_robot")
    assert on_cpu.startswith("train.precision: the CPU")

    assert warned() == []
    for machine in (fast, LAPTOP, replace(NODE, fast_bf16=False)):  # it has them, may have them, or has GPUs
        assert warned(*bf16, machine=machine) == []


def test_what_only_trials_of_one_worker_do_is_warned_of():
    beside, graph = "config.train.evaluation=beside", "config.train.compile=graph"

    def warned(*overrides):
        return [text for text in plan(*overrides).warnings if "has no effect with resources.workers" in text]

    assert warned(beside, graph) == []
    assert warned("resources.workers=2") == []  # auto means inline then
    on_one, as_graph = warned(beside, graph, "resources.workers=2")
    assert on_one.startswith("train.evaluation: beside has no effect with resources.workers = 2")
    assert as_graph.startswith("train.compile: graph has no effect with resources.workers = 2")
    assert len(warned("parameters.train.evaluation.values=[inline, beside]", "resources.workers=2")) == 1


def test_values_are_described_as_they_are_written():
    assert describe_value([True, None, 1e-5, 3, "x"]) == "[true, null, 1e-05, 3, x]"
    assert describe_value({"actions": "action", "n": [1]}) == "{actions: action, n: [1]}"
    lr = Parameter("lr", "float", 1e-5, 1e-3, log=True)
    assert (describe_range(lr), describe_scale(lr)) == ("1e-05 … 0.001", "log")
    steps = Parameter("steps", "int", 100, 900, step=100)
    assert (describe_range(steps), describe_scale(steps)) == ("100 … 900", "integer, step 100")
    choice = Parameter("widths", "categorical", values=([32, 64], None))
    assert (describe_range(choice), describe_scale(choice)) == ("[32, 64], null", "choice")


def test_remarks_that_differ_in_a_number_only_are_shown_once():
    remarks = ["range: 0.5 is small.", "range: 0.7 is small.", "loss: other", "range: 0.5 is small."]
    first, second = without_likes(remarks)
    assert first.startswith("range: 0.5 is small. (1 other value")
    assert second == "loss: other"


@pytest.mark.slow
def test_a_space_that_searches_the_normalisation_is_warned_of_the_clip():
    found = plan(
        "parameters.policy.normalization_action={values: [MIN_MAX, MEAN_STD]}",
        "parameters.policy.clip_sample_range={min: 1.0, max: 2.0}",
    )
    (warning,) = [text for text in found.warnings if text.startswith("policy.clip_sample_range")]
    assert "MEAN_STD" in warning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["config.rollout.final_episodes=50"], (50, "50 episodes tell about 28 points of success apart; 20")),
        (
            ["config.rollout.final_episodes=98"],
            (98, "20 points of success apart; 10 points need about 392"),
        ),
        (["config.rollout.final_episodes=null", "config.rollout.episodes=20"], (20, "tell about 44 points")),
        (["config.rollout.final_episodes=5000"], (5000, "5000 episodes tell about 3 points")),
    ],
)
def test_the_plan_has_what_the_last_episodes_can_tell_apart(overrides, expected):
    made = plan(*overrides, space="pusht_state")
    lines = dict(_lines(made))
    assert made.final_episodes == expected[0]
    assert expected[1] in lines["evidence"]
    assert made.to_dict()["evidence"]["confirm_tells_apart"] == pytest.approx(0.101)


@pytest.mark.slow
def test_without_rollouts_nothing_is_planned_about_episodes():
    made = plan(space="real_robot")
    assert made.final_episodes is None
    assert "evidence" not in dict(_lines(made))
    assert made.to_dict()["evidence"] is None


@pytest.mark.slow
def test_the_plan_has_the_episodes_of_each_fraction():
    made = plan("parameters.dataset.fraction={values: [0.1, 0.5, 1.0]}", "config.dataset.split_seed=3")
    assert dict(_lines(made))["trained on"] == "18 to 180 of 180 training episodes"
    (derived,) = made.to_dict()["derived"]
    assert (derived["low"], derived["high"]) == (18, 180)
    assert dict(_lines(plan("config.dataset.fraction=0.5")))["trained on"] == "90 of 180 training episodes"


@pytest.mark.slow
def test_the_plan_has_the_learning_rate_that_follows_from_the_batch_size():
    fixed = plan("config.optimizer.lr_batch_rule=sqrt", "config.train.batch_size=256", *LR_OF_1E_4)
    assert dict(_lines(fixed))["learning rate"] == "0.0002 by optimizer.lr_batch_rule"
    searched = plan(
        "config.optimizer.lr_batch_rule=linear",
        "parameters.train.batch_size={values: [32, 64, 128]}",
        *LR_OF_1E_4,
    )
    assert dict(_lines(searched))["learning rate"] == "5e-05 to 0.0002 by optimizer.lr_batch_rule"


@pytest.mark.slow
def test_a_plan_shows_only_what_follows_from_fields_that_are_named():
    assert plan().derived == ()
    assert plan(space="real_robot").derived == ()
