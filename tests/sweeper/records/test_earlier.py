"""What a sweep takes from earlier ones: what is learned from, what is tried first, what is left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from played_sweeps import Sweep
from small_sweeps import BETA_END, ERROR, HORIZON, LR, N_ACTION_STEPS, SCHEDULE, SUCCESS, choice, sweep

from sweeper.errors import SweepNotFoundError, UserError
from sweeper.layout import EARLIER, JOURNAL, LOCK
from sweeper.records.earlier import earlier_for_plan, read_taken, store_taken, take_earlier
from sweeper.spec.space import Parameter
from sweeper.spec.sweep import InferenceSpec, SweepSpec
from sweeper.spec.taken import Taken
from trainables import registry

TRAINABLE = registry.load("diffusion_policy")
DATA = {"dataset.repo_id": "builtin/pusht", "train.steps": 1000}
RATES = (1e-4, 2e-4, 3e-4, 4e-4, 5e-4)


def played(folder: Path, *parameters: Parameter, **changes: Any) -> Sweep:
    """An earlier sweep without trials."""
    old = Sweep(folder, sweep_id=folder.name)
    old.start(*(parameters or (LR,)), **{"config": DATA, **changes})
    return old


@pytest.fixture
def old(tmp_path: Path) -> Sweep:
    """An earlier sweep of five trials, each better than the one before it."""
    old = played(tmp_path / "old")
    for number, rate in enumerate(RATES):
        old.trial(number, lr=rate)
    return old


def new(folder: Path, *parameters: Parameter, named: tuple[str, ...] = ("old",), **changes: Any) -> SweepSpec:
    """A sweep in the folder of the earlier ones that takes from them."""
    parts = {"config": DATA, "trials": 40, **changes}
    return sweep(folder / "new", *(parameters or (LR,)), from_sweeps=named, **parts)


def taken(*arguments: Any, **changes: Any) -> Taken:
    return take_earlier(new(*arguments, **changes), TRAINABLE)


def rates(trials: Any) -> list[float]:
    return [trial.values["optimizer.lr"] for trial in trials]


def test_the_sampler_learns_from_completed_trials_of_the_same_question(tmp_path, old):
    old.trial(5, status="failed", reason="diverged")
    old.trial(6, status="")  # it runs
    found = taken(tmp_path)
    (source,) = found.sources
    assert [trial.number for trial in found.known] == [0, 1, 2, 3, 4]
    assert rates(found.known) == list(RATES)
    assert [trial.objectives for trial in found.known] == [(pytest.approx(0.3 + n),) for n in range(5)]
    assert found.first == ()
    assert (source.ended, source.fitting, source.taken, source.differs) == (5, 5, 5, ())
    assert source.words == "old: the sampler learns from 5 trials"


def test_values_outside_the_space_are_left_out_with_the_reason(tmp_path, old):
    narrow = dataclasses.replace(LR, high=3e-4)
    found = taken(tmp_path, narrow, SCHEDULE)
    assert rates(found.known) == [1e-4, 2e-4, 3e-4]
    assert found.sources[0].words == (
        "old: the sampler learns from 3 trials; left out: 2 × optimizer.lr outside"
    )


def test_a_parameter_that_is_new_has_the_value_that_the_earlier_sweep_trained_with(tmp_path, old):
    fixed = played(tmp_path / "fixed", config={**DATA, "policy.horizon": 24})
    fixed.trial(0, lr=6e-4)
    horizon = Parameter("policy.horizon", "int", 16, 24, step=8)
    found = taken(tmp_path, LR, horizon, named=("old", "fixed"))
    assert TRAINABLE.fields["policy.horizon"].default == 16
    assert [trial.values["policy.horizon"] for trial in found.known] == [16] * 5 + [24]
    # A space without that value has no place for these trials.
    with pytest.raises(UserError, match=r"none of the 5 trials of old is in this space: 5 × policy\.horizon"):
        taken(tmp_path, LR, dataclasses.replace(horizon, low=24))


def test_a_parameter_that_is_fixed_now_must_have_had_this_value(tmp_path):
    old = played(tmp_path / "old", LR, HORIZON)
    for number, horizon in enumerate((8, 16, 24, 16)):
        old.trial(number, values={"policy.horizon": horizon})
    found = taken(tmp_path, config={**DATA, "policy.horizon": 16})
    assert [trial.number for trial in found.known] == [1, 3]
    assert found.sources[0].left_out == {"policy.horizon not 16": 2}


def test_conditions_decide_which_values_a_trial_has(tmp_path):
    old = played(tmp_path / "old", LR, SCHEDULE, BETA_END)
    old.trial(0, values={"policy.beta_schedule": "squaredcos_cap_v2"})
    old.trial(1, values={"policy.beta_schedule": "linear", "policy.beta_end": 0.03})
    old.trial(2, values={"policy.beta_schedule": "linear", "policy.beta_end": 0.2})
    found = taken(tmp_path, LR, SCHEDULE, BETA_END)
    assert [trial.values.get("policy.beta_end") for trial in found.known] == [None, 0.03]
    # If the end is not searched, the trial with another one than the default has no place.
    found = taken(tmp_path, LR, SCHEDULE)
    assert [trial.number for trial in found.known] == [0]


def test_what_the_constraints_or_the_trainable_refuse_is_left_out(tmp_path):
    old = played(tmp_path / "old", LR, HORIZON, N_ACTION_STEPS)
    for number, actions in enumerate((4, 8, 16)):
        old.trial(number, values={"policy.horizon": 16, "policy.n_action_steps": actions})
    found = taken(tmp_path, LR, HORIZON, N_ACTION_STEPS, constraints=("policy.n_action_steps <= 4",))
    assert found.sources[0].left_out == {
        "`policy.n_action_steps <= 4` violated": 2,
    }
    found = taken(tmp_path, LR, HORIZON, N_ACTION_STEPS)
    assert [trial.number for trial in found.known] == [0, 1]
    assert found.sources[0].left_out == {"policy.n_action_steps cannot be trained": 1}


def test_tpe_also_learns_from_trials_that_were_stopped_early(tmp_path, old):
    old.trial(5, lr=9e-4, steps=2, status="stopped_early", reason="asha")
    found = taken(tmp_path, method="tpe")
    assert [trial.stopped_at for trial in found.known] == [None] * 5 + [2]
    assert found.known[-1].objectives == (pytest.approx(5.2),)
    assert len(taken(tmp_path, method="gp").known) == 5
    # How far it came says nothing about the best.
    assert len(taken(tmp_path, config={**DATA, "train.steps": 2000}).first) == 2


INFERENCE = InferenceSpec({"policy.num_inference_steps": (4, 8)}, SUCCESS, "maximize")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {**DATA, "train.steps": 2000}}, "train.steps was 1000 and is 2000"),
        (
            {"config": {**DATA, "dataset.repo_id": "lerobot/pusht"}},
            "dataset.repo_id was builtin/pusht and is lerobot/pusht",
        ),
        ({"config": {**DATA, "policy.kernel_size": 3}}, "policy.kernel_size was 5 and is 3"),
        ({"objectives": {ERROR: "minimize"}}, f"it optimised {SUCCESS}"),
        ({"objectives": {SUCCESS: "maximize", ERROR: "minimize"}}, f"it optimised {SUCCESS}"),
        ({"method": "random"}, "random learns from no trial"),
        ({"method": "cmaes"}, "cmaes learns only from its own trials"),
        ({"inference": INFERENCE}, "other inference settings are examined"),
    ],
)
def test_the_best_of_another_question_are_tried_first(tmp_path, old, changes, reason):
    inference = changes.pop("inference", None)
    spec = dataclasses.replace(new(tmp_path, **changes), inference=inference)
    found = take_earlier(spec, TRAINABLE)
    (source,) = found.sources
    assert found.known == ()
    assert source.differs == (reason,)
    assert rates(found.first) == [5e-4, 4e-4], "the best quarter, rounded up, of five"
    assert [trial.objectives for trial in found.first] == [(), ()], "their values are not used"
    assert source.words == f"old: the best 2 of 5 trials tried first, values not used ({reason})"


@pytest.mark.parametrize("name", ["train.seed", "train.log_every", "train.eval_every", "policy.preset"])
def test_fields_that_do_not_change_what_a_value_means_may_differ(tmp_path, old, name):
    value = "small" if name == "policy.preset" else 7
    assert len(taken(tmp_path, config={**DATA, name: value}).known) == 5


def test_the_content_of_the_data_counts_if_it_is_known_and_else_its_place(tmp_path, old):
    moved = new(tmp_path, config={**DATA, "dataset.repo_id": "lerobot/pusht"})
    assert take_earlier(moved, TRAINABLE, lambda sweep: False).sources[0].differs == ()
    asked = []

    def changed(sweep):
        asked.append(sweep.sweep_id)
        return True

    (source,) = take_earlier(new(tmp_path), TRAINABLE, changed).sources
    assert source.differs == ("its data have another content",)
    assert asked == ["old"]
    # A checkpoint that there was not is not the same one in another place.
    tuned = new(tmp_path, config={**DATA, "policy.path": "/there"})
    (source,) = take_earlier(tuned, TRAINABLE, lambda sweep: False).sources
    assert source.differs == ("policy.path was null and is /there",)


def test_several_sweeps_take_turns_and_no_configuration_is_tried_twice(tmp_path, old):
    other = played(tmp_path / "other")
    for number, rate in enumerate((7e-4, 8e-4, 4e-4, 9e-4, 5e-4)):
        other.trial(number, lr=rate)
    named = ("old", "other")
    found = taken(tmp_path, named=named, method="random")
    assert [str(trial) for trial in found.first] == [
        "trial 4 of old",
        "trial 3 of old",
        "trial 3 of other",
    ], "trial 4 of other has the values of trial 4 of old"
    assert [source.taken for source in found.sources] == [2, 1]


@pytest.mark.slow
def test_the_trials_that_are_tried_first_are_few(tmp_path):
    old = played(tmp_path / "old")
    for number in range(80):
        old.trial(number, lr=1e-4 + number * 1e-6)
    for trials, expected in ((1, 1), (8, 1), (20, 4), (50, 10), (500, 10)):
        assert len(taken(tmp_path, method="random", trials=trials).first) == expected
    listed = ({"optimizer.lr": 1e-4}, {"optimizer.lr": 2e-4})
    assert taken(tmp_path, method="random", trials=2, try_first=listed).first == (), "no place is left"


def test_one_sweep_may_be_learned_from_and_the_best_of_another_be_tried(tmp_path, old):
    longer = played(tmp_path / "longer", config={**DATA, "train.steps": 9000})
    longer.trial(0, lr=7e-4)
    found = taken(tmp_path, named=("longer", "old"))
    assert rates(found.first) == [7e-4]
    assert len(found.known) == 5
    assert [source.taken for source in found.sources] == [1, 5]
    assert found.sources[0].words == (
        "longer: the best of 1 trial tried first, values not used (train.steps was 9000 and is 1000)"
    )


def test_a_sweep_is_found_by_its_path_too(tmp_path, old, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in (str(old.folder), "~/old"):
        spec = sweep(tmp_path / "sweeps" / "new", LR, from_sweeps=(named,), config=DATA)
        assert len(take_earlier(spec, TRAINABLE).known) == 5


# What cannot be taken


def test_a_sweep_that_does_not_exist_is_named_with_a_near_one(tmp_path, old):
    with pytest.raises(SweepNotFoundError, match=r"^search\.from: no sweep is called 'ol'.*mean 'old'"):
        taken(tmp_path, named=("ol",))


def test_a_sweep_that_is_starting_or_damaged_cannot_be_taken_from(tmp_path, old):
    (tmp_path / "young").mkdir()
    with (
        FileLock(tmp_path / "young" / LOCK),
        pytest.raises(SweepNotFoundError, match=r"^search\.from: .*young is starting"),
    ):
        taken(tmp_path, named=("young",))
    with (old.folder / JOURNAL).open("a") as file:
        file.write('{"event": "report", "time": 1.0, "trial": 99, "step": 1, "metrics": {}}\n')
    with pytest.raises(UserError, match=r"^search\.from: old: .*line \d+: report: trial 99 never started"):
        taken(tmp_path)


def test_a_sweep_without_completed_trials_is_refused(tmp_path):
    old = played(tmp_path / "old")
    old.trial(0, status="failed", reason="diverged")
    with pytest.raises(UserError, match=r"search\.from: old has no completed trial\. Wait until"):
        taken(tmp_path)
    old.finish("failed")
    with pytest.raises(UserError, match=r"search\.from: old has no completed trial\. Remove it\."):
        taken(tmp_path)


def test_another_trainable_is_refused(tmp_path, old):
    spec = dataclasses.replace(new(tmp_path), trainable="small_trainable:TRAINABLE")
    with pytest.raises(
        UserError, match=r"old trains diffusion_policy, and this sweep trains small_trainable"
    ):
        take_earlier(spec, registry.load(spec.trainable))


def test_a_sweep_that_searched_nothing_of_this_space_is_refused(tmp_path, old):
    with pytest.raises(
        UserError, match=r"old searched optimizer\.lr, and this sweep searches policy\.horizon"
    ):
        taken(tmp_path, HORIZON)


def test_the_same_objective_with_the_opposite_goal_is_refused(tmp_path, old):
    with pytest.raises(UserError, match=rf"the goal of {SUCCESS} was maximize in old, and is minimize here"):
        taken(tmp_path, objectives={SUCCESS: "minimize"})


def test_a_sweep_does_not_take_from_itself_nor_twice_from_another(tmp_path, old):
    itself = dataclasses.replace(new(tmp_path, named=(str(old.folder),)), folder=old.folder)
    with pytest.raises(UserError, match=r"is this sweep itself\. To continue it, launch it without"):
        take_earlier(itself, TRAINABLE)
    with pytest.raises(UserError, match=r"names old again\. Remove one of them\."):
        taken(tmp_path, named=("old", str(old.folder)))


# What is kept


def test_what_was_taken_is_read_back_equal(tmp_path):
    old = played(tmp_path / "old", LR, choice("policy.down_dims", [32, 64], [64, 128]))
    old.trial(0, values={"policy.down_dims": [64, 128]})
    old.trial(1, lr=2e-4, values={"policy.down_dims": [32, 64]}, steps=1, status="stopped_early")
    other = played(tmp_path / "other", config={**DATA, "train.steps": 7000})
    other.trial(0, **{"policy.down_dims": [32, 64]})
    dims = choice("policy.down_dims", [32, 64], [64, 128], [512, 1024, 2048])
    spec = new(tmp_path, LR, dims, named=("old", "other"))
    spec.folder.mkdir()
    found = take_earlier(spec, TRAINABLE)
    assert (len(found.known), len(found.first)) == (2, 1)
    store_taken(spec.folder, found)
    assert read_taken(spec) == found
    assert sorted(path.name for path in spec.folder.iterdir()) == [EARLIER]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is damaged: Expecting"),
        ("{}", "is damaged: 'sources'"),
        ('{"sources": 1, "known": [], "first": []}', "is damaged: 'int' object"),
        ("[]", "is damaged: list indices"),
        ('{"sources": [], "known": [{"objectives": []}], "first": []}', "is damaged: .*missing"),
    ],
)
def test_a_begun_sweep_does_not_continue_without_what_it_took(tmp_path, text, problem):
    spec = new(tmp_path)
    spec.folder.mkdir()
    if text is not None:
        (spec.folder / EARLIER).write_text(text)
    with pytest.raises(UserError, match=rf"earlier\.json {problem}.*Restore the file"):
        read_taken(spec)
    assert read_taken(new(tmp_path, named=())) == Taken(), "a sweep without `from` needs no file"


def test_the_plan_of_a_begun_sweep_shows_what_it_took(tmp_path, old):
    spec = new(tmp_path)
    before = earlier_for_plan(spec, TRAINABLE)
    spec.folder.mkdir()
    store_taken(spec.folder, before)
    old.trial(5, lr=6e-4)
    assert len(earlier_for_plan(spec, TRAINABLE).known) == 6, "its launch recorded nothing: it begins again"
    Sweep(spec.folder).start(LR, config=DATA, from_sweeps=("old",))
    assert earlier_for_plan(spec, TRAINABLE) == before
    other = new(tmp_path, named=(str(old.folder),))
    assert len(earlier_for_plan(other, TRAINABLE).known) == 6, "another list is another sweep"
    assert json.loads((spec.folder / EARLIER).read_text())["known"][0]["sweep"] == "old"
