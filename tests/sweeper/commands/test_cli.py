"""The command line: output, exit codes, and packages that must not be loaded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from command_line import ended, plain_console, printed, run_in
from played_sweeps import Sweep
from small_sweeps import LR

from sweeper import __version__
from sweeper.cli import COMMANDS, load_command
from sweeper.errors import ResourceError, SpecError, SweeperError
from sweeper.machines.machine import Machine
from sweeper.machines.plan import make_plan
from sweeper.spec.space_file.load import load_spec, packaged_spaces
from sweeper.terminal.faults import print_config_error, print_spec_error
from sweeper.terminal.plan import print_plan
from trainables.interface import ConfigError, Fault, TrainableError

ROOT = Path(__file__).parents[3]

BAD = """\
name: my sweep
trainable: diffusion_policy
config:
  dataset.repo_id: builtin/pusht
  policy.n_obs_steps: two
parameters:
  policy.horizont: {values: [8, 16]}
  policy.n_action_steps: {min: 16, max: 1}
  policy.beta_schedule: {values: [squaredcos_cap_v2, scale_linear]}
  optimizer.lr: {min: 0, max: 1e-3, log: true}
  train.batch_size: {min: 32, max: 100, step: 32}
constraints:
  - policy.n_action_steps <= policy.horizon -
metric: {name: rollout/sucess_rate, goal: maximize}
early_stop: {method: asha, metric: eval/action_mse, min_steps: 2000}
budgte: {trials: 8}
resources: {workers: 2, gpu_per_worker: 0.5}
"""


@pytest.fixture(autouse=True)
def _separate_folder(tmp_path, monkeypatch):
    run_in(tmp_path, monkeypatch)


def test_all_faults_of_a_space_file_are_printed_and_the_exit_code_is_2(capsys, tmp_path, golden):
    Path("space.yaml").write_text(BAD)
    assert ended("check", "space.yaml", "search.method=bayes", "budget.trials=0") == 2
    out, err = capsys.readouterr()
    assert out == ""
    golden.compare("faults.txt", err, made_with=("rich",))
    assert list(tmp_path.iterdir()) == [tmp_path / "space.yaml"]


@pytest.mark.slow
def test_a_custom_trainable_is_found_in_the_current_folder(tmp_path):
    source = Path(__file__).parents[1].joinpath("small_trainable.py").read_text()
    Path("own_trainable.py").write_text(source)
    Path("space.yaml").write_text(
        "trainable: own_trainable:TRAINABLE\nparameters: {optimizer.lr: {min: 0.1, max: 0.2}}\n"
        "metric: {name: train/loss}\nsearch: {method: random}\nbudget: {trials: 2}\n"
    )
    sweeper = Path(sys.executable).with_name("sweeper")
    done = subprocess.run([sweeper, "check", "space.yaml"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_check_prints_the_plan_of_a_valid_space_and_exits_with_0(capsys):
    assert ended("check", "pusht_quick") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("✓ pusht-quick")
    assert "1,200" in out
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_check_names_the_trials_without_a_gain_that_end_a_sweep(capsys):
    assert ended("check", "pusht_quick", "budget.stagnation=7") == 0
    assert "or 7 in a row without a gain" in capsys.readouterr().out


@pytest.mark.slow
def test_a_printed_plan_matches_its_golden_file(golden):
    Path("space.yaml").write_text(
        """\
name: example
trainable: diffusion_policy
config:
  dataset.root: /data/none
  policy.down_dims: [256, 512]
  train.steps: 20000
  train.eval_every: 3000
  rollout.env: gym_pusht/PushT-v0
parameters:
  policy.horizon: {values: [8, 16, 24, 32]}
  policy.beta_schedule: {values: [squaredcos_cap_v2, linear, scaled_linear]}
  policy.beta_end: {min: 0.01, max: 0.05, when: "policy.beta_schedule != 'squaredcos_cap_v2'"}
  policy.n_action_steps: {min: 1, max: 16}
  optimizer.lr: {min: 1e-5, max: 1e-3, log: true}
constraints:
  - policy.n_action_steps <= policy.horizon - policy.n_obs_steps + 1
metric: {name: rollout/success_rate}
early_stop: {method: asha, min_steps: 2000}
budget: {trials: 64, hours: 12, max_failed: 5}
"""
    )
    spec = load_spec("space.yaml", ["parameters.steps={values: [10000, 20000]}"])
    console = plain_console()
    print_plan(console, make_plan(spec, Machine(64, 8, ("NVIDIA H100 80GB HBM3",) * 8, disk_gb=20.0)))
    golden.compare("plan.txt", printed(console), made_with=("rich",))


def test_faults_of_a_configuration_look_like_those_of_a_space_file(golden):
    fault = Fault(
        "dataset.root", "/data/x is not a LeRobot dataset: meta/info.json is missing.", "Check the path."
    )
    console = plain_console()
    print_config_error(console, ConfigError([fault]))
    golden.compare("config_fault.txt", printed(console), made_with=("rich",))


def test_markup_in_user_text_is_printed_literally(capsys):
    Path("[red]space.yaml").write_text("name: '[bold]x[/bold]'\n")
    assert ended("check", "[red]space.yaml") == 2
    err = capsys.readouterr().err
    assert "[red]space.yaml:1" in err
    assert "'[bold]x[/bold]'" in err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--policy.horizon=16"], "config.policy.horizon=16"),
        (["--policy.horizon", "16"], "config.policy.horizon=16"),
        (["--budget.trials=3"], "budget.trials=3"),
    ],
)
def test_an_override_with_dashes_is_answered_with_the_form_that_is_meant(capsys, typed, meant):
    assert ended("check", "pusht_quick", *typed) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{typed[0]} is not an option" in said
    assert f"Write {meant}, after the space file." in said


@pytest.mark.slow
def test_check_prints_json(capsys):
    assert ended("check", "pusht_quick", "budget.trials=3", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trials"] == 3
    assert plan["sweep"]["config"]["dataset.repo_id"] == "builtin/pusht"
    assert plan["rungs"] == [600, 1200]
    assert plan["warnings"] == [
        "All 3 trials are drawn at random: search.startup_trials is 4, so tpe never gets to learn."
    ]


def test_version_prints_the_version(capsys):
    assert ended("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [],
        ["check"],
        ["launch"],
        ["demo"],
        ["results"],
        ["list"],
        ["ui"],
        ["status"],
        ["watch"],
        ["logs"],
        ["pause"],
        ["resume"],
        ["stop"],
        ["cancel"],
        ["budget"],
    ],
)
def test_every_command_has_a_help_page(capsys, command):
    assert ended(*command, "--help") == 0
    assert "Usage: sweeper" in capsys.readouterr().out


def test_the_table_of_commands_agrees_with_their_docstrings():
    assert len(COMMANDS) > 15
    for name, entry in COMMANDS.items():
        assert load_command(name).help == entry.help, name


@pytest.mark.slow
def test_help_imports_no_module_of_a_command():
    program = (
        "import sys; sys.argv = ['sweeper', '--help']\n"
        "from sweeper.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print('LOADED', *sorted(name for name in sys.modules if name.startswith('sweeper.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    words, _, loaded = done.stdout.rpartition("LOADED ")
    assert all(f" {name} " in words for name in COMMANDS)
    modules = ["sweeper.cli", "sweeper.commands", "sweeper.commands.options", "sweeper.errors"]
    assert loaded.split() == modules


def test_a_misspelt_command_gets_the_nearest_name(capsys):
    assert ended("chekc") == 2
    assert "'check'" in capsys.readouterr().err


def test_an_unknown_command_gets_the_list_of_commands(capsys):
    assert ended("xyzzy") == 2
    told = capsys.readouterr().err
    assert all(name in told for name in ("check", "launch", "status", "resume", "results"))


@pytest.mark.parametrize(
    "command",
    [
        [command, "nobody"]
        for command in ("results", "ui", "status", "watch", "logs", "pause", "resume", "stop", "cancel")
    ],
)
def test_an_unknown_sweep_exits_with_2(capsys, command):
    assert ended(*command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no sweep is called 'nobody'" in err
    assert "Traceback" not in err


def test_the_budget_of_an_unknown_sweep_exits_with_2(capsys):
    assert ended("budget", "nobody", "trials=+1") == 2
    assert "no sweep is called 'nobody'" in capsys.readouterr().err


def test_an_empty_list_shows_how_to_start_a_sweep(capsys):
    assert ended("list") == 0
    assert "sweeper demo" in capsys.readouterr().out
    assert ended("list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [
        (ResourceError("8 GPUs wanted"), 2, False),
        (SweeperError("the cluster went away"), 1, False),
        (ConfigError([Fault("policy.horizon", "18 is not a multiple of 4.")]), 2, False),
        (TrainableError("something else"), 1, False),
        (PermissionError(errno.EACCES, "Permission denied", "/data/set"), 2, False),
        (OSError(errno.ENOSPC, "No space left on device", "/data/set"), 2, False),
        (OSError(errno.ENOSPC, "The output: No space left on device"), 2, False),
        (OSError(errno.EBADF, "Bad file descriptor"), 1, True),
        (ZeroDivisionError("a bug"), 1, True),
        (KeyboardInterrupt(), 130, False),
    ],
)
def test_each_error_has_its_exit_code_and_only_bugs_print_a_traceback(
    capsys, monkeypatch, error, code, traceback
):
    def fail(*_arguments: object) -> None:
        raise error

    # The command is real; planning is replaced by each kind of error in turn.
    monkeypatch.setattr("sweeper.commands.sweeps.make_plan", fail)
    assert ended("check", "pusht_quick") == code
    err = capsys.readouterr().err
    assert ("Traceback" in err) is traceback
    if code != 130:
        assert str(error).splitlines()[0].rpartition(":")[2].strip(" '") in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "x" * 300),
        ("results", "x" * 300),
        ("status", "x" * 300),
        ("export", "x" * 300, "--to", "exported"),
        ("report", "x" * 300),
        ("init", "new.yaml", "--dataset", "x" * 300),
        ("init", "--from-wandb", "x" * 300 + ".yaml"),
        ("init", "--from-lerobot", "x" * 300),
        ("list", "--sweeps", "x" * 300),
    ],
)
def test_a_name_that_no_disk_takes_is_not_a_bug(capsys, arguments):
    assert ended(*arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "x" * 300 in err.replace("\n", "")


def test_the_home_folder_is_filled_in_where_no_shell_does(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ended("list", "--sweeps=~/mine") == 0
    monkeypatch.setenv("SWEEPER_SWEEPS", "~/others")
    assert ended("list") == 0
    out = capsys.readouterr().out.replace("\n", "")
    assert f"No sweeps in {tmp_path}/mine." in out
    assert f"No sweeps in {tmp_path}/others." in out


def test_an_account_without_a_home_folder_is_told_to_set_one(capsys, monkeypatch):
    def fail(*_arguments: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("sweeper.commands.sweeps.make_plan", fail)
    assert ended("check", "pusht_quick") == 2
    err = capsys.readouterr().err
    assert "or set HOME" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_terminal_without_all_characters_shows_question_marks():
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "sweeper.cli", "check", "two_minutes", "config.dataset.root=."]
    command += ["--name", "another"]  # a command line of `launch` can be checked as it is
    run = subprocess.run(command, env=environment, capture_output=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr.decode("latin-1")
    assert b"? another" in run.stdout
    assert b"trials continue at step 20" in run.stdout


def test_the_text_of_a_spec_error_contains_all_faults():
    Path("space.yaml").write_text(BAD)
    with pytest.raises(SpecError) as caught:
        load_spec("space.yaml")
    assert len(str(caught.value).splitlines()) == len(caught.value.faults) > 8
    console = plain_console()
    print_spec_error(console, caught.value)
    page = " ".join(printed(console).split())
    assert [fault for fault in caught.value.faults if " ".join(fault.problem.split()) not in page] == []


@pytest.mark.slow
def test_the_wheel_contains_the_built_in_spaces(tmp_path):
    source = tmp_path / "source"
    for name in ("sweeper", "trainables", "search_spaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    program = "import setuptools.build_meta as build; print(build.build_wheel('..'))"
    built = subprocess.run(
        [sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=True
    )
    wheel = tmp_path / built.stdout.splitlines()[-1]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    assert len(packaged_spaces()) >= 5
    for name, path in packaged_spaces().items():
        carried = tmp_path / "installed" / "sweeper" / "search_spaces" / f"{name}.yaml"
        assert carried.read_bytes() == path.read_bytes()
    program = (
        "import sweeper.spec.space_file.load as load; "
        "print(load.__file__); print(load.packaged_spaces()['pusht_quick'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "installed",
        capture_output=True,
        text=True,
        check=True,
    )
    lines = found.stdout.splitlines()
    assert len(lines) == 2
    assert all(str(tmp_path / "installed") in line for line in lines)


def space_from(folder: Path) -> str:
    """A space file that takes from the sweep ``sweeps/old``, of which six trials completed; its path."""
    config = {"dataset.repo_id": "builtin/pusht", "train.steps": 1000}
    old = Sweep(folder / "sweeps" / "old")
    old.start(LR, config=config)
    for number in range(6):
        old.trial(number, lr=(number + 1) * 1e-4)
    text = {
        "trainable": "diffusion_policy",
        "config": {**config, "rollout.env": "gym_pusht/PushT-v0"},
        "parameters": {"optimizer.lr": {"min": 1e-5, "max": 5e-4, "log": True}},
        "metric": {"name": "rollout/success_rate"},
        "budget": {"trials": 20},
        "search": {"from": "old"},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(text))
    return str(folder / "space.yaml")


@pytest.mark.slow
def test_check_says_what_is_taken_from_earlier_sweeps(tmp_path, capsys):
    path = space_from(tmp_path)
    assert ended("check", path) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2 trials of earlier sweeps first, then tpe" in text
    assert "old: the best 2 of 5 trials tried first, values not used" in text
    assert "(rollout.env was null and is gym_pusht/PushT-v0); left out: 1 × optimizer.lr outside" in text
    assert ended("check", path, "search.from=nothing") == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "search.from: no sweep is called 'nothing' in sweeps. There are: old." in text


@pytest.mark.slow
def test_check_prints_json_of_what_is_taken(tmp_path, capsys):
    assert ended("check", space_from(tmp_path), "--json") == 0
    taken = json.loads(capsys.readouterr().out)["earlier"]
    assert [source["taken"] for source in taken["sources"]] == [2]
    assert taken["first"][0]["number"] == 4
    assert ended("check", "pusht_quick", "--json") == 0
    assert json.loads(capsys.readouterr().out)["earlier"] == {"sources": [], "known": [], "first": []}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "words"), [("pusht_image", "✓ pusht-image"), ("space.yaml", "old: the best 2 of 5 trials")]
)
def test_check_loads_no_heavy_package(tmp_path, space, words):
    space_from(tmp_path)
    program = (
        f"import sys; sys.argv = ['sweeper', 'check', {space!r}]\n"
        "from sweeper.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'pyarrow', 'diffusers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert words in " ".join(answer.stdout.split())


def test_python_ends_without_collecting_what_is_loaded():
    program = (
        "import atexit, gc, sys; sys.argv = ['sweeper', '--version']\n"
        "atexit.register(lambda: print('frozen' if gc.get_freeze_count() else 'not frozen'))\n"
        "from sweeper.cli import main\n"
        "main()\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[1:] == ["frozen"]
