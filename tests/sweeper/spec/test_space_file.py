"""Reading space files: what a good one becomes, and what is said about every kind of bad one."""

from __future__ import annotations

import contextlib
import json
import pickle
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.errors import SpecError, SpecFault
from sweeper.spec.expressions import Expression
from sweeper.spec.space_file import combinations
from sweeper.spec.space_file.load import find_space, load_spec, packaged_spaces
from sweeper.spec.sweep import EarlyStopSpec, Objective, ResourceSpec, SweepSpec

GOOD = (Path(__file__).parents[1] / "good_space.yaml").read_text()


@pytest.fixture(autouse=True)
def _fewer_combinations(monkeypatch):
    """A check looks at a few of the combinations; `test_golden.py` looks at as many as the user's."""
    monkeypatch.setattr(combinations, "RANDOM_DRAWS", 100)
    monkeypatch.setattr(combinations, "DRAWS_PER_VALUE", 1)


@pytest.fixture
def write(tmp_path):
    """Writes a space file and returns its path."""

    def write_space(text: str | bytes = GOOD, name: str = "space.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_space


def faults_of(path: Path, *overrides: str) -> list[SpecFault]:
    with pytest.raises(SpecError) as caught:
        load_spec(path, overrides)
    return list(caught.value.faults)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def swapped(old: str, new: str) -> str:
    """The good space with one part replaced."""
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


# What a good file becomes.


def test_a_good_space_says_everything(write):
    spec = load_spec(write())
    assert spec.name == "pusht-diffusion"
    assert spec.trainable == "diffusion_policy"
    assert spec.config["train.steps"] == 20000
    assert spec.space.names == (
        "policy.horizon",
        "policy.n_action_steps",
        "policy.beta_schedule",
        "policy.beta_end",
        "optimizer.lr",
    )
    horizon, actions, _, beta_end, lr = spec.space.parameters
    assert (horizon.kind, horizon.values) == ("categorical", (8, 16, 24, 32))
    assert (actions.kind, actions.low, actions.high) == ("int", 1, 16)
    assert beta_end.when == Expression("policy.beta_schedule != 'squaredcos_cap_v2'")
    assert (lr.kind, lr.low, lr.high, lr.log) == ("float", 1e-5, 1e-3, True)
    assert spec.objectives == (Objective("rollout/success_rate", "maximize"),)
    assert spec.early_stop == EarlyStopSpec("asha", "rollout/avg_max_reward", "maximize", 2000, 3, 20000)
    assert spec.early_stop.rungs() == (2000, 6000, 18000)
    assert (spec.budget.trials, spec.budget.hours, spec.budget.gpu_hours, spec.budget.max_failed) == (
        64,
        12,
        100,
        5,
    )
    assert spec.resources == ResourceSpec(1, 1.0, 4.0, "auto")
    assert (spec.tracking.uri, spec.tracking.experiment) == (None, "pusht-diffusion")
    assert spec.folder == Path("sweeps/pusht-diffusion")
    assert spec.source == GOOD
    assert spec.warnings == ()


def test_a_short_space_gets_the_defaults(write):
    short = """\
        trainable: diffusion_policy
        config: {dataset.repo_id: builtin/pusht}
        parameters:
          optimizer.lr: {min: 1e-5, max: 1e-3, log: true}
        metric: {name: eval/action_mse}
        budget: {trials: 4}
        """
    spec = load_spec(write(textwrap.dedent(short), "my_sweep.yaml"))
    assert spec.name == "my_sweep"
    assert spec.objectives == (Objective("eval/action_mse", "minimize"),)
    assert (spec.search.method, spec.search.seed, spec.search.startup_trials) == ("tpe", 0, 10)
    assert spec.early_stop is None
    assert spec.resources == ResourceSpec(1, "auto", "auto", "auto")
    assert (spec.tracking.uri, spec.tracking.experiment) == (None, "my_sweep")
    assert (spec.budget.hours, spec.budget.max_failed) == (None, None)


@pytest.mark.parametrize(
    "overrides", [(), ("early_stop=null", "search.method=random", "resources.workers=2")]
)
def test_a_sweep_survives_yaml_and_json(write, overrides):
    spec = load_spec(write(), overrides, "elsewhere")
    assert SweepSpec.from_dict(yaml.safe_load(yaml.safe_dump(spec.to_dict()))) == spec
    assert SweepSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert SweepSpec.from_dict(spec.to_dict(), Path("moved")) == replace(spec, folder=Path("moved"))
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_numbers_are_what_people_mean(write):
    text = swapped("{min: 1e-5, max: 1e-3, log: true}", "{min: 1e-5, max: 1E3, step: null}")
    text = text.replace("train.steps: 20000", "train.steps: 20_000")
    spec = load_spec(write(text))
    lr = spec.space.parameters[-1]
    assert (lr.low, lr.high, lr.step) == (1e-5, 1000.0, None)
    assert spec.config["train.steps"] == 20000


def test_words_that_yaml_took_for_truth_values_stay_texts(write):
    spec = load_spec(write(), ["config.dataset.revision=no", "name=010"])
    assert spec.config["dataset.revision"] == "no"
    assert spec.name == "010"


def test_values_have_the_fields_own_type(write):
    text = swapped("{values: [8, 16, 24, 32]}", "{values: [8.0, 16]}")
    text = text.replace("policy.n_obs_steps: 2", "policy.n_obs_steps: 2.0\n  optimizer.weight_decay: 1")
    spec = load_spec(write(text))
    assert [type(value) for value in spec.space.parameters[0].values] == [int, int]
    assert type(spec.config["policy.n_obs_steps"]) is int
    assert type(spec.config["optimizer.weight_decay"]) is float


def test_lerobots_names_are_accepted_and_shown_under_ours(write):
    text = swapped("train.steps: 20000", "steps: 20000\n  policy.scheduler_warmup_steps: 100")
    text = text.replace("  optimizer.lr:  ", "  policy.optimizer_lr:  ")
    text = text.replace("constraints:", "constraints:\n  - policy.optimizer_lr * steps < 1e9")
    spec = load_spec(write(text))
    assert spec.config["train.steps"] == 20000
    assert spec.config["lr_scheduler.warmup_steps"] == 100
    assert spec.space.names[-1] == "optimizer.lr"
    assert spec.space.constraints[0].names == ("optimizer.lr", "train.steps")


def test_a_single_value_is_fixed(write):
    spec = load_spec(write(swapped("{min: 1, max: 16}", "{value: 4}")))
    assert spec.config["policy.n_action_steps"] == 4
    assert "policy.n_action_steps" not in spec.space.names


@pytest.mark.slow
def test_parameters_come_in_the_order_that_their_conditions_need(write):
    text = GOOD.replace("  policy.beta_schedule:  {values: [squaredcos_cap_v2, linear, scaled_linear]}\n", "")
    text = text.replace(
        "constraints:", "  policy.beta_schedule:  {values: [squaredcos_cap_v2, linear]}\nconstraints:"
    )
    names = load_spec(write(text)).space.names
    assert names.index("policy.beta_schedule") < names.index("policy.beta_end")
    assert names[:2] == ("policy.horizon", "policy.n_action_steps")


def test_a_conditional_parameter_may_have_a_fixed_value_otherwise(write):
    spec = load_spec(
        write(swapped("policy.n_obs_steps: 2", "policy.n_obs_steps: 2\n  policy.beta_end: 0.02"))
    )
    values = {
        "policy.horizon": 16,
        "policy.n_action_steps": 8,
        "policy.beta_schedule": "squaredcos_cap_v2",
        "policy.beta_end": 0.05,
        "optimizer.lr": 1e-4,
    }
    assert spec.space.complete(values, spec.config)["policy.beta_end"] == 0.02
    values["policy.beta_schedule"] = "linear"
    assert spec.space.complete(values, spec.config)["policy.beta_end"] == 0.05


def test_several_objectives_make_a_multi_objective_sweep(write):
    objectives = "objectives: [{name: rollout/success_rate}, {name: eval/chunk_latency_ms, goal: minimize}]"
    spec = load_spec(write(swapped("metric: {name: rollout/success_rate, goal: maximize}", objectives)))
    assert [objective.goal for objective in spec.objectives] == ["maximize", "minimize"]


def test_a_grid_runs_all_of_its_points_unless_told_otherwise(write):
    text = GOOD.replace("  optimizer.lr:          {min: 1e-5, max: 1e-3, log: true}\n", "")
    text = text.replace("min: 0.01, max: 0.05,", "min: 0.01, max: 0.05, step: 0.02,")
    text = text.replace("budget: {trials: 64, ", "budget: {")
    spec = load_spec(write(text), ["search={method: grid}"])
    # 7, 15, 16 and 16 legal n_action_steps; one beta_end for the cosine, three for each of the others.
    assert spec.budget.trials == (7 + 15 + 16 + 16) * (1 + 3 + 3)


def test_a_relative_dataset_is_settled_where_the_user_stands(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = load_spec(write(), ["config.dataset.root=data/it's #1: mine"])
    assert spec.config["dataset.root"] == str(tmp_path / "data/it's #1: mine")
    spec = load_spec(write(), ["parameters.dataset.root={values: [one, ~/two]}"])
    (roots,) = (p.values for p in spec.space.parameters if p.name == "dataset.root")
    assert roots == (str(tmp_path / "one"), str(Path.home() / "two"))
    (fault,) = faults_of(write(), "parameters.dataset.root={values: [one, ~nobody-of-this-name/x]}")
    assert fault.problem == "'~nobody-of-this-name/x' has no home folder on this machine."


def test_several_datasets_are_settled_one_by_one(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = load_spec(write(), ["config.dataset.root=[one, ~/two]"])
    both = [str(tmp_path / "one"), str(Path.home() / "two")]
    assert spec.config["dataset.root"] == both
    spec = load_spec(write(), ["parameters.dataset.root={values: [one, [one, ~/two]]}"])
    (roots,) = (p.values for p in spec.space.parameters if p.name == "dataset.root")
    assert roots == (both[0], both)
    spec = load_spec(write(), ["config.dataset.root='[one]'"])
    assert spec.config["dataset.root"] == str(tmp_path / "[one]")
    (fault,) = faults_of(write(), "config.dataset.root=[one, 2024]")
    assert "2024 is not a text" in fault.problem


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0-99", "0-99"),
        ("0:100", "0:100"),
        ("7", 7),
        ("[0-4, 7, 9:11]", ["0-4", 7, "9:11"]),
        ("null", None),
    ],
)
def test_episodes_are_written_as_ranges(write, written, value):
    spec = load_spec(write(), [f"config.dataset.episodes={written}"])
    assert spec.config["dataset.episodes"] == value
    text = GOOD.replace("config:\n", f"config:\n  dataset.episodes: {written}\n", 1)
    assert load_spec(write(text)).config["dataset.episodes"] == value


def test_how_many_episodes_are_learned_from_can_be_searched(write):
    spec = load_spec(write(), ["parameters.dataset.episodes={values: [0-24, 0-49, [0-49, 60]]}"])
    (values,) = (p.values for p in spec.space.parameters if p.name == "dataset.episodes")
    assert values == ("0-24", "0-49", ["0-49", 60])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("config.dataset.episodes=9-3", "'9-3' ends before it begins"),
        ("config.dataset.episodes=-1", "-1 is negative"),
        ("config.dataset.episodes=[0-9, x]", "'x' is neither a whole number nor a range"),
        ("config.dataset.episodes=1.5", "1.5 is neither"),
        ("config.dataset.episodes=0-99999999999999999999", "larger than any number"),
        ("config.dataset.features={actions: [1]}", "'actions' becomes [1]"),
        ("parameters.dataset.episodes={min: 1, max: 9}", "a choice of numbers cannot have a range"),
    ],
)
def test_episodes_that_cannot_be_are_faults(write, override, words):
    (fault,) = faults_of(write(), override)
    assert fault.place == f"argument {override}"
    assert words in fault.problem


def test_features_are_renamed_in_a_space(write):
    spec = load_spec(write(), ["config.dataset.features={actions: action, state: observation.state}"])
    assert spec.config["dataset.features"] == {"actions": "action", "state": "observation.state"}


def test_a_metric_of_held_out_episodes_needs_some(write):
    metric, early_stop = "metric={name: eval/action_mse}", "early_stop=null"
    (fault,) = faults_of(write(), metric, early_stop, "config.dataset.holdout_fraction=0")
    assert fault.place == f"argument {metric}"
    assert "only reported when dataset.holdout_fraction is set and not 0" in fault.problem
    assert load_spec(write(), [metric, early_stop]).objectives == (Objective("eval/action_mse", "minimize"),)


# Overrides.


def test_overrides_change_any_part(write):
    spec = load_spec(
        write(),
        [
            "budget.trials=8",
            "parameters.optimizer.lr.max=3e-4",
            "parameters.policy.horizon.values=[16, 32]",
            "search.method=random",
            "resources={workers: 2}",
            "name=other",
            "tracking.experiment=shared: runs",
            "early_stop.reduction=2",
            "constraints=[policy.n_action_steps <= 7]",
            "metric.name=rollout/avg_max_reward",
        ],
    )
    assert spec.budget.trials == 8
    assert spec.space.parameters[-1].high == 3e-4
    assert spec.space.parameters[0].values == (16, 32)
    assert spec.search.method == "random"
    assert spec.resources == ResourceSpec(workers=2)
    assert (spec.name, spec.folder) == ("other", Path("sweeps/other"))
    assert spec.early_stop is not None
    assert spec.early_stop.reduction == 2
    assert [constraint.text for constraint in spec.space.constraints] == ["policy.n_action_steps <= 7"]
    assert spec.objectives[0].name == "rollout/avg_max_reward"
    assert spec.overrides[0] == "budget.trials=8"


def test_fixing_a_searched_field_says_so(write):
    spec = load_spec(write(), ["config.policy.optimizer_lr=1e-4"])
    assert spec.config["optimizer.lr"] == 1e-4
    assert "optimizer.lr" not in spec.space.names
    assert any("optimizer.lr is fixed" in note for note in spec.notes)


def test_searching_a_fixed_field_says_so(write):
    spec = load_spec(
        write(), ["parameters.train.batch_size={values: [32, 64]}", "parameters.steps.values=[9000, 12000]"]
    )
    assert "train.batch_size" in spec.space.names
    spec = load_spec(write(), ["parameters.steps={values: [9000, 12000]}"])
    assert "train.steps" not in spec.config
    assert any("train.steps is searched" in note for note in spec.notes)
    assert spec.early_stop is not None
    assert spec.early_stop.max_steps == 12000


def test_a_parameter_can_be_dropped(write):
    spec = load_spec(write(), ["parameters.policy.horizon=null"])
    assert "policy.horizon" not in spec.space.names


@pytest.mark.slow
def test_a_range_becomes_values_and_back(write):
    spec = load_spec(write(), ["parameters.optimizer.lr.values=[1e-4, 3e-4]"])
    assert spec.space.parameters[-1].values == (1e-4, 3e-4)
    changes = ["min=8", "max=32", "step=8"]
    spec = load_spec(write(), [f"parameters.policy.horizon.{change}" for change in changes])
    assert spec.space.parameters[0].grid() == range(8, 33, 8)
    assert faults_of(write(), "parameters.policy.horizon.min=8")[0].problem == "is missing."


def test_the_last_of_two_overrides_counts(write):
    assert load_spec(write(), ["budget.trials=8", "budget.trials=9"]).budget.trials == 9


@pytest.mark.parametrize(
    "overrides",
    [
        ["parameters.steps={min: 1, max: .inf}"],
        ["parameters.steps={min: 1, max: 9" + "9" * 400 + "}"],
        ["parameters.train.eval_every={values: [0, 2]}"],
        ["config.train.steps=-3"],
        ["config.policy.down_dims=[1" + "0" * 400 + "]"],
        ["search.seed=1" + "0" * 400],
        ["parameters.policy.n_action_steps={min: .nan, max: 3}"],
    ],
)
def test_absurd_numbers_are_refused(write, overrides):
    assert faults_of(write(), *overrides)[0].place.startswith("argument")


def test_null_takes_a_setting_back(write):
    spec = load_spec(write(), ["early_stop.metric=null", "search.startup_trials=null", "budget.hours=null"])
    assert spec.early_stop is not None
    assert spec.early_stop.metric == "rollout/success_rate"
    assert (spec.search.startup_trials, spec.budget.hours) == (10, None)
    assert faults_of(write(), "budget.trials=null")[0].problem == "is missing."
    assert faults_of(write(), "early_stop.min_steps=null")[0].problem == "is missing."


def test_null_does_what_the_message_about_a_missing_value_says(write):
    spec = load_spec(write(), ["name=null", "config.train.steps=null", "tracking.experiment=null"])
    assert spec.name == "space"  # the name of the file
    assert "train.steps" not in spec.config
    assert spec.tracking.experiment == "space"
    assert "argument config.train.steps=null: train.steps has its default, 20000." in spec.notes
    assert load_spec(write(), ["name='null'"]).name == "null"
    assert faults_of(write(), "trainable=null")[0].problem == "is missing."


def test_a_number_may_name_a_sweep(write):
    assert load_spec(write(swapped("name: pusht-diffusion", "name: 2024"))).name == "2024"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "name", "words"),
    [
        ("budget.trials", "", "is not an override"),
        ("--budget.trials=3", "", "is not an override"),
        ("budget.trails=3", "budget.trails", "Did you mean trials?"),
        ("budgte.trials=3", "budgte.trials", "Did you mean budget?"),
        ("optimizer.lr=1e-4", "optimizer.lr", "Write config.optimizer.lr=0.0001."),
        ("budget.trials=0", "budget.trials", "too small"),
        ("budget.trials=many", "budget.trials", "is not an int"),
        ("config.policy.horizont=16", "config.policy.horizont", "Did you mean policy.horizon?"),
        ("parameters.optimzer.lr.max=1", "parameters.optimzer.lr", "Did you mean optimizer.lr?"),
        ("parameters.optimizer.lr.max=1e-6", "parameters.optimizer.lr", "Swap them"),
        ("parameters.optimizer.lr.maximum=1", "parameters.optimizer.lr.maximum", "is not a field"),
        ("constraints.0=x", "constraints.0", "has no settings"),
        ("name=a/b", "name", "is not a valid name"),
        ("config.dataset.root=", "config.dataset.root", "has no value. Write config.dataset.root=null"),
        ("config.dataset.root=~nobody-of-this-name/x", "config.dataset.root", "no home folder"),
        ("config.dataset.repo_id=builtin/push", "config.dataset.repo_id", "only one is builtin/pusht"),
        ("config=3", "config", "not a mapping"),
        ("budget.trials=+20", "budget.trials", "Write budget.trials=20"),
        (
            "parameters.optimizer.learning_rate={min: 1, max: 2}",
            "parameters.optimizer.learning_rate",
            "Write 'parameters.optimizer.lr={min: 1, max: 2}'.",
        ),
        ("trainable=diffusion", "trainable", "Did you mean 'diffusion_policy'?"),
        ("metric.name=rollout/sucess_rate", "metric.name", "Did you mean rollout/success_rate?"),
    ],
)
def test_a_faulty_override_is_named_as_it_was_typed(write, override, name, words):
    faults = faults_of(write(), override)
    assert faults[0].place == f"argument {override}"
    assert faults[0].name == name
    assert words in f"{faults[0].problem} {faults[0].remedy}"


# Faults of a file: each by its line.

BAD = yaml.safe_load((Path(__file__).parents[1] / "bad_spaces.yaml").read_text())


def made_bad(text: str, case: str) -> str:
    assert text.count(BAD[case]["replace"]) == 1, case
    return text.replace(BAD[case]["replace"], BAD[case]["by"])


def test_there_are_many_kinds_of_bad_spaces():
    assert len(BAD) > 90


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_a_fault_says_where_what_and_what_to_do(write, case):
    text = made_bad(GOOD, case)
    path = write(text)
    faults = faults_of(path)
    name, words = BAD[case]["fault"], BAD[case]["words"]
    mine = [fault for fault in faults if fault.name == name and words in f"{fault.problem} {fault.remedy}"]
    assert mine, [str(fault) for fault in faults]
    line = mine[0].line
    assert mine[0].place == (f"{path}:{line}" if line else str(path))
    # The line that is named is the one that was changed, or holds the field or section in question.
    section, _, field = name.partition(".")
    rows = text.splitlines()
    changed = {row for row in rows if row not in GOOD.splitlines()}
    starts = (f"  {field}:", f"{section}:")
    expected = [n for n, row in enumerate(rows, 1) if row in changed or row.startswith(starts)]
    assert line in expected


def test_n_action_steps_that_never_fit_are_a_fault(write):
    path = write(swapped("{min: 1, max: 16}", "{values: [4, 40]}").replace("constraints:\n  - ", "#"))
    (fault,) = faults_of(path)
    assert fault.name == "parameters.policy.n_action_steps"
    assert fault.problem.startswith("40 actions cannot be executed")
    assert fault.line == line_of(GOOD, "policy.n_action_steps")


def test_whole_numbers_that_never_fit_come_with_those_that_do(write):
    (fault,) = faults_of(write(), "parameters.policy.horizon.min=8", "parameters.policy.horizon.max=32")
    assert fault.name == "parameters.policy.horizon"
    assert "9: 9 is not a multiple of 4" in fault.problem
    assert fault.remedy == "Use {min: 8, max: 32, step: 4}."


def test_illegal_numbers_that_a_constraint_excludes_are_no_fault(write):
    text = GOOD.replace("{values: [8, 16, 24, 32]}", "{min: 8, max: 32}")
    spec = load_spec(write(text.replace("constraints:", "constraints:\n  - policy.horizon % 4 == 0")))
    assert spec.warnings == ()


def test_a_value_that_clashes_with_everything_else_is_a_fault_at_its_line(write, monkeypatch):
    monkeypatch.undo()  # With fewer combinations, every value of another parameter might clash as well.
    text = swapped("[8, 16, 24, 32]", "[8, 16]").replace(
        "policy.down_dims: [32, 64]", "policy.kernel_size: 5"
    )
    text = text.replace(
        "constraints:", "  policy.down_dims: {values: [[32, 64], [8, 16, 24, 32, 40]]}\nconstraints:"
    )
    (fault,) = faults_of(write(text))
    assert fault.line == line_of(text, "policy.down_dims")
    assert fault.problem.startswith("[8, 16, 24, 32, 40] cannot be used: policy.horizon:")


@pytest.mark.slow
def test_a_fault_of_every_trial_does_not_hide_those_of_single_values(write):
    text = swapped("[8, 16, 24, 32]", "[8, 10, 16]").replace("train.steps: 20000", "train.steps: 200")
    text = text.replace("train.eval_every: 1000", "train.eval_every: 100").replace(
        "min_steps: 2000", "min_steps: 100"
    )
    warmup, horizon = faults_of(write(text))
    assert warmup.name == "config.lr_scheduler.warmup_steps"
    assert warmup.remedy.endswith("Not set here, lr_scheduler.warmup_steps is 500.")
    assert horizon.line == line_of(text, "policy.horizon:")
    assert horizon.problem.startswith("10 is not a multiple of 4")


def test_a_batch_that_the_workers_cannot_share_is_a_fault_before_any_trial(write):
    (fault,) = faults_of(write(), "resources.workers=2", "config.train.batch_size=33")
    assert fault.place == "argument config.train.batch_size=33"
    (fault,) = faults_of(write(), "resources.workers=2", "parameters.train.batch_size={values: [32, 33]}")
    assert fault.problem.startswith("33 samples cannot be split evenly among 2 workers")


def test_combinations_that_clash_now_and_then_are_a_warning_that_says_what_to_write(write):
    spec = load_spec(write(), ["constraints=null"])
    (warning,) = spec.warnings
    assert "of the checked combinations cannot be trained" in warning
    assert "policy.n_action_steps" in warning
    assert "policy.n_action_steps <= policy.horizon - policy.n_obs_steps + 1" in warning


def test_constraints_that_exclude_each_other_are_a_fault(write):
    constraints = "constraints=[policy.horizon > 16, policy.horizon < 16]"
    (fault,) = faults_of(write(), constraints)
    assert "each alone can be satisfied" in fault.problem


def test_conditions_that_wait_for_each_other_are_a_fault(write):
    text = swapped("{values: [8, 16, 24, 32]}", '{values: [8, 16], when: "optimizer.lr > 0"}')
    text = text.replace(
        "{min: 1e-5, max: 1e-3, log: true}", '{min: 1e-5, max: 1e-3, when: "policy.horizon > 8"}'
    )
    (fault,) = faults_of(write(text))
    assert "policy.horizon → optimizer.lr → policy.horizon" in fault.problem


def test_nothing_to_search_is_a_fault(write):
    text = GOOD[: GOOD.index("parameters:")] + GOOD[GOOD.index("metric:") :]
    (fault,) = faults_of(write(text))
    assert (fault.name, fault.problem) == ("parameters", "no field is searched.")


def test_a_space_without_a_metric_or_a_trainable_says_so(write):
    faults = faults_of(write("name: x\n"))
    assert "trainable" in [fault.name for fault in faults]
    assert "metric" in [fault.name for fault in faults]


def test_an_unusual_goal_is_a_warning(write):
    spec = load_spec(write(), ["metric.goal=minimize"])
    assert any("is usually maximize" in warning for warning in spec.warnings)


def test_settings_of_another_method_are_noted_and_left_out(write):
    text = swapped("startup_trials: 10}", "startup_trials: 10, options: {multivariate: true}}")
    spec = load_spec(write(text), ["search.method=random"])
    assert spec.search.options == {}
    assert len(spec.notes) == 2


@pytest.mark.parametrize("option", ["use_separable_cma", "lr_adapt"])
def test_an_option_of_cmaes_does_not_clash_with_a_default(write, option):
    text = (
        GOOD[: GOOD.index("parameters:")]
        + (
            "parameters:\n  policy.n_action_steps: {min: 1, max: 8}\n"
            "  optimizer.lr: {min: 1e-5, max: 1e-3, log: true}\n"
        )
        + GOOD[GOOD.index("metric:") :]
    )
    text = text.replace("method: tpe", "method: cmaes")
    options = load_spec(write(text), [f"search.options.{option}=true"]).search.options
    assert options == {option: True}  # what is not written is left to the sampler
    (fault,) = faults_of(write(text), f"search.options={{{option}: true, with_margin: true}}")
    assert fault.name == "search.options.with_margin"


def test_all_faults_come_at_once_in_the_order_of_the_file(write):
    text = GOOD
    for case in (
        "config value illegal",
        "min above max",
        "value illegal",
        "constraint on an unknown field",
        "no trials",
    ):
        text = made_bad(text, case)
    faults = faults_of(write(text), "resources.workers=0")
    assert len(faults) == 6
    assert [fault.line for fault in faults] == sorted(fault.line for fault in faults)


def test_what_is_wrong_elsewhere_hides_nothing_of_what_cannot_be_trained():
    (warmup, early_stop) = faults_of(Path("pusht_quick"), "config.train.steps=20")
    assert warmup.name == "config.lr_scheduler.warmup_steps"
    assert early_stop.name == "early_stop.min_steps"


# Files that are no space.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- a\n- b\n", "contains a list"),
        (b"just words\n", "contains a single value"),
        (b"name: x\n\tconfig: y\n", "spaces, not tabs"),
        (b"name: x: y\n", "is not valid YAML"),
        (b"name: [x\n", "is not valid YAML"),
        (b"name: x\n---\nname: y\n", "is not valid YAML"),
        (b"name: \xff\xfe\n", "is not text"),
        (b"name: a\x00b\n", "is not valid YAML"),
        (b"name: !!python/object/apply:os.system [ls]\n", "is not supported"),
        (b"name: !mine x\n", "is not supported"),
        (b"name: !!int x\n", "cannot be read"),
        (b"[a, b]: 3\n", "must be a text"),
        (b"budget: &b {trials: *b}\n", "refers to itself"),
        (b"a: " + b"[" * 500 + b"]" * 500, "levels deep"),
        (b"a: " + b"9" * 5000, "cannot be read"),
        (b"#" * 1_000_001, "too large"),
    ],
)
def test_a_file_that_is_no_space_is_refused_with_a_reason(write, content, words):
    faults = faults_of(write(content))
    assert words in f"{faults[0].problem} {faults[0].remedy}"


@pytest.mark.slow
def test_aliases_cannot_blow_up(write):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (fault,) = faults_of(write("\n".join(lines)))
    assert "aliases" in fault.problem


def test_a_missing_file_comes_with_its_neighbour(write, tmp_path):
    write()
    (fault,) = faults_of(tmp_path / "spaec.yaml")
    assert fault.problem == "the file does not exist."
    assert fault.remedy == f"Did you mean {tmp_path / 'space.yaml'}?"
    (fault,) = faults_of(tmp_path)
    assert fault.problem == "is not a file."
    (fault,) = faults_of(tmp_path / "no" / "space.yaml")
    assert "does not exist either" in fault.remedy


def test_a_missing_file_of_a_strange_name_is_not_said_to_be_another_file(write, tmp_path):
    write()
    (fault,) = faults_of(tmp_path / "robot.yaml")
    assert fault.remedy == f"In {tmp_path}: space.yaml."
    (fault,) = faults_of(tmp_path)
    assert fault.remedy == f"In {tmp_path}: space.yaml."


def test_a_misspelt_name_of_a_shipped_space_comes_with_the_right_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for misspelt in ("pusht_quik", "pusht_quik.yaml"):
        (fault,) = faults_of(Path(misspelt))
        assert fault.remedy == "Did you mean pusht_quick, which comes with the package?"


_scalars = st.none() | st.booleans() | st.integers(-5, 50) | st.floats()
_words = st.sampled_from(["linear", "auto", "asha", "x"])
_entries = st.sampled_from(["min", "max", "values", "when", "name", "goal", "log", "step"])
_values = st.recursive(
    _scalars | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_entries, inner, max_size=3),
    max_leaves=6,
)
KEYS = """
    config.policy.horizon config.train.steps parameters.optimizer.lr parameters.policy.horizon.values
    parameters.optimizer.lr.min parameters.policy.beta_end.when constraints metric objectives search
    search.options early_stop early_stop.min_steps budget budget.trials resources config parameters
    resources.gpu_per_worker tracking.uri name trainable
"""


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS.split()), _values), min_size=1, max_size=3))
def test_whatever_stands_in_a_space_it_is_read_or_refused(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(GOOD)
    # A refusal is an answer; any other error fails the test.
    with contextlib.suppress(SpecError):
        load_spec(path, [f"{key}={json.dumps(value)}" for key, value in changes])


# The spaces that come with the package.


@pytest.mark.slow
def test_every_shipped_space_is_good_and_searches_what_matters():
    spaces = packaged_spaces()
    assert set(spaces) == {
        "pusht_quick",
        "pusht_state",
        "pusht_image",
        "real_robot",
        "finetune",
        "two_minutes",
        "pusht_distilled",
    }
    for path in spaces.values():
        spec = load_spec(path)
        wanted = {"policy.horizon", "policy.n_action_steps", "policy.beta_schedule", "optimizer.lr"}
        if spec.trainable == "diffusion_policy_distilled":
            wanted = {"distill.steps", "distill.loss", "optimizer.lr"}
        examined = set() if spec.inference is None else set(spec.inference.parameters)
        assert wanted <= set(spec.space.names) | examined, path
        assert spec.warnings == (), path
        assert spec.early_stop is not None


@pytest.mark.parametrize(
    "name", ["real_robot", "real-robot", "real_robot.yaml", "real-robot.yml", "search_spaces/real_robot.yaml"]
)
def test_a_shipped_space_is_found_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_space(name) == packaged_spaces()["real_robot"]


@pytest.mark.parametrize("name", ["other/real_robot.yaml", "real_robot.json", "/real_robot.yaml"])
def test_a_file_in_another_folder_is_not_a_shipped_space(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_space(name) == Path(name)


def test_a_file_is_found_without_its_suffix_before_a_shipped_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yml").touch()
    (tmp_path / "real_robot.yaml").touch()
    assert find_space("own") == Path("own.yml")
    assert find_space(tmp_path / "own") == tmp_path / "own.yml"
    assert find_space("real_robot") == Path("real_robot.yaml")
    assert find_space("real-robot") == packaged_spaces()["real_robot"]


def test_a_file_is_preferred_to_a_shipped_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_space("no_such_space") == Path("no_such_space")
    (tmp_path / "pusht_quick").touch()
    assert find_space("pusht_quick") == Path("pusht_quick")


def test_a_folder_hides_no_space_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real_robot").mkdir()
    assert find_space("real_robot") == packaged_spaces()["real_robot"]
    (tmp_path / "own").mkdir()
    assert find_space("own") == Path("own")
    (tmp_path / "own.yaml").touch()
    assert find_space("own") == Path("own.yaml")


def test_a_dataset_in_place_of_a_space_is_answered_with_the_commands_for_it(tmp_path):
    (tmp_path / "set" / "meta").mkdir(parents=True)
    (tmp_path / "set" / "meta" / "info.json").touch()
    (fault,) = faults_of(tmp_path / "set")
    assert fault.problem == "is not a file."
    assert f"`sweeper launch real_robot config.dataset.root={tmp_path}/set`" in fault.remedy


def test_every_line_of_a_shipped_space_is_explained():
    for path in packaged_spaces().values():
        lines = path.read_text().splitlines()
        fields = [
            line for line in lines if line.startswith("  ") and ":" in line and not line.startswith("    {")
        ]
        assert len(fields) > 15
        bare = [line for line in fields if "#" not in line]
        # A line may share the comment of the one above it; constraints have theirs on the heading.
        assert len(bare) <= len(fields) // 4, (path, bare)


def test_a_local_folder_replaces_the_built_in_demonstrations(tmp_path):
    spec = load_spec(packaged_spaces()["pusht_state"], [f"config.dataset.root={tmp_path}"])
    assert spec.config["dataset.root"] == str(tmp_path)


# Trials that are tried first.


def first_of(text: str) -> str:
    """The good space with ``search.try_first``."""
    rest = yaml.safe_load(GOOD)
    return yaml.safe_dump({**rest, "search": {"method": "random", "try_first": yaml.safe_load(text)}})


def test_listed_trials_are_values_of_parameters(write):
    spec = load_spec(
        write(first_of("[{optimizer.lr: 1.0e-4, policy.horizon: 16.0}, {policy.n_action_steps: 3}]"))
    )
    lr, horizon, actions = "optimizer.lr", "policy.horizon", "policy.n_action_steps"
    assert spec.search.try_first == ({lr: 1e-4, horizon: 16}, {actions: 3})
    assert isinstance(spec.search.try_first[0]["policy.horizon"], int)
    plain = json.loads(json.dumps(spec.to_dict()))
    assert SweepSpec.from_dict(plain, spec.folder).search == spec.search
    assert "try_first" not in load_spec(write()).to_dict()["search"], "as older versions recorded it"


def test_a_preset_is_tried_with_its_values(write):
    (values,) = load_spec(write(first_of("[paper-lowdim]"))).search.try_first
    assert values == {
        "policy.horizon": 16,
        "policy.n_action_steps": 8,
        "policy.beta_schedule": "squaredcos_cap_v2",
        "optimizer.lr": 1e-4,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("[lerobot-06]", "'lerobot-06' is not a preset"),
        ("[lerobot-0.6]", "policy.horizon of lerobot-0.6: 64 is not in the range"),
        ("[3]", "3 is not a trial"),
        ("[{}]", "{} is not a trial"),
        ("[{optimizer.lrr: 1.0e-4}]", "optimizer.lrr is not searched"),
        ("[{policy.crop_ratio: 1.0}]", "policy.crop_ratio is not searched"),
        ("[{optimizer.lr: 1}]", "1 is not in the range that is searched: 1e-05 … 0.001 (log)"),
        ("[{optimizer.lr: fast}]", "'fast' is not a float"),
        ("[{policy.horizon: 12}]", "12 is not in the range that is searched: 8, 16, 24, 32 (choice)"),
        ("[{optimizer.lr: 1.0e-4}, {optimizer.lr: 0.0001}]", "has the values of an earlier one"),
        (
            "[{optimizer.lr: 1.0e-4, policy.horizon: 8, policy.n_action_steps: 8, "
            "policy.beta_schedule: squaredcos_cap_v2}]",
            "the values violate `policy.n_action_steps <= ",
        ),
        (
            "[{optimizer.lr: 1.0e-4, policy.horizon: 16, policy.n_action_steps: 8, "
            "policy.beta_schedule: squaredcos_cap_v2, policy.beta_end: 0.02}]",
            "policy.beta_end is not searched with these values",
        ),
        ("paper-lowdim", "'paper-lowdim' is not a list"),
    ],
)
def test_a_listed_trial_that_cannot_be_tried_is_refused(write, listed, words):
    faults = faults_of(write(first_of(listed)))
    names = {fault.name.partition("[")[0] for fault in faults if words in fault.problem}
    assert names == {"search.try_first"}, faults


@pytest.mark.slow
@pytest.mark.parametrize("written", ["old", "[old]"])
def test_earlier_sweeps_are_named_alone_or_in_a_list(write, written):
    spec = load_spec(write(), [f"search.from={written}"])
    assert spec.search.from_sweeps == ("old",)
    plain = json.loads(json.dumps(spec.to_dict()))
    assert plain["search"]["from"] == ["old"]
    assert SweepSpec.from_dict(plain, spec.folder).search == spec.search
    assert "from" not in load_spec(write()).to_dict()["search"], "as older versions recorded it"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("[a, b, a]", "a is listed twice."),
        ("pusht-diffusion", "pusht-diffusion is this sweep itself."),
        ("['']", "an empty text is not a sweep."),
        ("{old: 1}", "{'old': 1} is not a text."),
        ("[3]", "3 is not a text."),
    ],
)
def test_what_is_not_an_earlier_sweep_is_refused(write, written, problem):
    (fault,) = faults_of(write(), f"search.from={written}")
    assert (fault.name, fault.problem) == ("search.from", problem)


def test_more_listed_trials_than_the_budget_has_are_refused(write):
    (fault,) = faults_of(
        write(first_of("[{optimizer.lr: 1.0e-4}, {optimizer.lr: 2.0e-4}]")), "budget.trials=1"
    )
    assert fault.problem == "2 trials are listed, and budget.trials is 1."
