"""The folders of sweeps from strangers: what a command shows, or an error of ours. Never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE_TEXTS, as_json, damaged_bytes, damaged_trees, fuzz
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.errors import SweepDamagedError, SweeperError
from sweeper.layout import JOURNAL
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.expressions import Expression
from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import (
    BudgetSpec,
    EarlyStopSpec,
    Objective,
    ResourceSpec,
    SearchSpec,
    SweepSpec,
    TrackingSpec,
)
from trainables.interface import ConfigError, TrainableError

RUNNER = CliRunner()
COMMANDS = (
    ["results", "whole"],
    ["results", "whole", "--json"],
    ["list"],
    ["list", "--json"],
    ["status", "whole"],
    ["status", "whole", "--json"],
    ["status"],
    ["logs", "whole"],
    ["logs", "whole", "0"],
    ["export", "whole", "--to", "exported"],
    ["export", "whole:1", "--to", "exported", "--checkpoint", "last"],
)


def journal_of(folder: Path) -> list[dict[str, Any]]:
    """Every kind of event, as drivers write them."""
    spec = SweepSpec(
        name="whole",
        trainable="diffusion_policy",
        config={"train.steps": 100},
        space=Space(
            (
                Parameter("optimizer.lr", "float", 1e-5, 1e-3, log=True),
                Parameter("policy.horizon", "int", 8, 32, step=8, when=Expression("optimizer.lr > 0")),
            ),
            (Expression("policy.horizon >= 8"),),
        ),
        objectives=(Objective("eval/action_mse", "minimize"), Objective("rollout/success_rate", "maximize")),
        search=SearchSpec(),
        early_stop=EarlyStopSpec("asha", "train/loss", "minimize", min_steps=10, max_steps=100),
        budget=BudgetSpec(trials=4, hours=2.0, max_failed=3),
        resources=ResourceSpec(),
        tracking=TrackingSpec(None, "whole"),
        folder=folder,
        source="name: whole\n",
    )
    clock = iter(range(1_700_000_000, 1_700_001_000))

    def event(kind: str, **fields: Any) -> dict[str, Any]:
        return {"event": kind, "time": float(next(clock)), **fields}

    resources = {"workers": 1, "gpu_per_worker": 0.0, "cpu_per_worker": 1.0, "at_once": 2}
    values = {"optimizer.lr": 1e-4, "policy.horizon": 16}
    config = {**values, "train.steps": 100}
    metrics = {"eval/action_mse": 0.5, "rollout/success_rate": 0.25, "train/loss": "NaN"}
    final = {"eval/action_mse": 0.5, "rollout/success_rate": 0.25}
    checkpoint = str(folder / "trials" / "0" / "checkpoints" / "000050")
    end = {"step": 50, "final": final, "best": final, "sweep_best": final}
    return [
        event(
            "sweep_start",
            sweep="whole",
            sweep_id="0" * 32,
            spec=spec.to_dict(),
            space="name: whole\n",
            info={"versions": {"python": "3.11"}, "git": {}, "resources": resources, "steps": 100},
            driver={"host": "nowhere", "pid": 1, "started": 1e9},
        ),
        *(event("trial_start", trial=trial, config=config, values=values) for trial in range(4)),
        event("trial_wait", trial=3, needs="1 GPU"),
        event("trial_wait", trial=3, needs=""),
        event("report", trial=0, step=50, metrics=metrics, checkpoint=checkpoint, artifacts={"a/b": "/x"}),
        event("report", trial=1, step=50, metrics=metrics, checkpoint=checkpoint),
        event("trial_retry", trial=1, reason="lost", message="gone", step=50, retry=1, changes={"x": 2}),
        event("trial_start", trial=1, config=config, values=values),
        event("steer", action="budget", text="more", budget={**vars(spec.budget), "trials": 5}),
        event("steer", action="pause", text="Pausing."),
        event("steer", action="paused", text="Paused."),
        event("steer", action="resume", text="Going on."),
        event("steer", action="stop", text="Trial 2 stops.", trial=2),
        event("trial_end", trial=0, status="completed", reason="", message="", ended=1, **end),
        event("trial_end", trial=1, status="failed", reason="diverged", message="nan", ended=2, **end),
        event("trial_end", trial=2, status="stopped_early", reason="x", message="", ended=3, **end),
        event("checkpoints_dropped", trial=1, folders=[checkpoint]),
        event("note", text="all is well", trial=1),
        event("trial_end", trial=3, status="interrupted", reason="x", message="", ended=3, **end),
        event("sweep_end", status="interrupted", message="Interrupted."),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    (folder / "trials" / "0" / "checkpoints" / "000050").mkdir(parents=True)
    (folder / "trials" / "0" / "worker.log").write_text("works\n")
    (folder / "ray.log").write_text("runs\n")
    write(folder, journal_of(folder))
    sent = {"uri": "sqlite:///x", "experiment": "whole", "offset": 10, "artifacts": [], "runs": {"0": "a"}}
    (folder / "mlflow.json").write_text(json.dumps(sent))
    return folder


def write(folder: Path, events: list[Any]) -> None:
    (folder / JOURNAL).write_bytes(b"".join(as_json(event) + b"\n" for event in events))


def try_commands(sweeps: Path, commands: Any = COMMANDS) -> None:
    """Have commands look at a sweep; whatever they raise must be ours and say something."""
    for command in commands:
        made = [str(sweeps / "exported") if word == "exported" else word for word in command]
        result = RUNNER.invoke(app, [*made, "--sweeps", str(sweeps)])
        error = result.exception
        if error is None or isinstance(error, SystemExit):
            continue
        if not isinstance(error, (SweeperError, TrainableError)):
            raise error
        assert str(error).strip()


def copied(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "whole"
    shutil.copytree(whole, folder)
    return folder


@pytest.mark.slow
def test_a_whole_folder_is_read_by_every_command(whole: Path) -> None:
    sweep = read_sweep(whole)
    assert [trial.status for trial in sweep.trials.values()] == [
        "completed",
        "failed",
        "stopped_early",
        "interrupted",
    ]
    for command in COMMANDS:
        if command[0] != "export":
            result = RUNNER.invoke(app, [*command, "--sweeps", str(whole.parent)])
            assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_the_checkpoints_of_a_whole_folder_are_found(whole: Path, tmp_path: Path) -> None:
    """The commands that export get as far as the checkpoint, which is empty here."""
    exports = [command for command in COMMANDS if command[0] == "export"]
    assert len(exports) == 2
    found = []
    for command in exports:
        made = [str(tmp_path / "out") if word == "exported" else word for word in command]
        found.append(RUNNER.invoke(app, [*made, "--sweeps", str(whole.parent)]))
    assert "its last checkpoint, step 50" in found[0].output
    assert isinstance(found[0].exception, TrainableError)
    # What was dropped is said to be dropped.
    assert isinstance(found[1].exception, SweeperError)
    assert "were deleted: `keep`" in str(found[1].exception)


@pytest.mark.slow
@fuzz(1.0, 40)
@given(data=st.data())
def test_journals_with_damaged_values(whole, tmp_path_factory, data) -> None:
    folder = copied(whole, tmp_path_factory)
    events = journal_of(whole)
    index = data.draw(st.integers(0, len(events) - 1))
    events[index] = data.draw(damaged_trees(events[index]))
    write(folder, events)
    try_commands(folder.parent, data.draw(st.lists(st.sampled_from(COMMANDS), min_size=3, max_size=3)))
    shutil.rmtree(folder.parent)


@pytest.mark.slow
@fuzz(0.5, 20)
@given(data=st.data())
def test_journals_with_lines_lost_doubled_or_exchanged(whole, tmp_path_factory, data) -> None:
    folder = copied(whole, tmp_path_factory)
    events = journal_of(whole)
    picked = data.draw(st.lists(st.sampled_from(events), max_size=30))
    write(folder, picked)
    try_commands(folder.parent, data.draw(st.lists(st.sampled_from(COMMANDS), min_size=3, max_size=3)))
    shutil.rmtree(folder.parent)


@pytest.mark.slow
@fuzz(1.0, 30)
@given(data=st.data())
def test_files_with_damaged_bytes(whole, tmp_path_factory, data) -> None:
    folder = copied(whole, tmp_path_factory)
    name = data.draw(st.sampled_from((JOURNAL, JOURNAL, "mlflow.json")))
    (folder / name).write_bytes(data.draw(damaged_bytes((folder / name).read_bytes())))
    try_commands(folder.parent, data.draw(st.lists(st.sampled_from(COMMANDS), min_size=3, max_size=3)))
    shutil.rmtree(folder.parent)


@pytest.mark.slow
@fuzz(0.5, 15)
@given(data=st.data())
def test_what_was_sent_to_mlflow_with_damaged_values(whole, tmp_path_factory, data) -> None:
    folder = copied(whole, tmp_path_factory)
    sent = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_bytes(as_json(data.draw(damaged_trees(sent))))
    try_commands(folder.parent, (["status", "whole"], ["status", "whole", "--json"]))
    shutil.rmtree(folder.parent)


@pytest.mark.slow
def test_an_error_names_the_line_and_the_list_shows_the_folder_as_damaged(whole, tmp_path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole, folder)
    events = journal_of(whole)
    del events[9]["reason"]
    write(folder, events)
    with (folder / JOURNAL).open("rb+") as file:
        rest = file.read()
        file.seek(0)
        file.write(b"half a li\n" + rest)
    with pytest.raises(SweepDamagedError, match=r"journal\.jsonl, line 11: trial_retry: `reason` is missing"):
        read_sweep(folder)
    shutil.copytree(whole, tmp_path / "sound")
    shown = RUNNER.invoke(app, ["list", "--sweeps", str(tmp_path)])
    assert shown.exit_code == 0
    assert "! whole is damaged: " in shown.output
    listed = json.loads(RUNNER.invoke(app, ["list", "--json", "--sweeps", str(tmp_path)]).output)
    assert [one["status"] for one in listed] == ["interrupted", "damaged"]
    every = RUNNER.invoke(app, ["status", "--sweeps", str(tmp_path)])
    assert every.exit_code == 0
    assert "whole is damaged" in every.output


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["", ".x:y", ":", "os:system", "json:", "a b:c", *HOSTILE_TEXTS])
def test_a_trainable_of_a_stranger_is_refused(whole, tmp_path, trainable) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole, folder)
    events = journal_of(whole)
    events[0]["spec"]["trainable"] = trainable
    write(folder, events)
    result = RUNNER.invoke(app, ["export", "whole", "--to", str(tmp_path / "out"), "--sweeps", str(tmp_path)])
    assert isinstance(result.exception, ConfigError), result.output
    (fault,) = result.exception.faults
    assert fault.where == "trainable"
    assert repr(trainable) in fault.problem
    assert not (tmp_path / "out").exists()


def test_lines_nested_without_end_are_left_out(whole, tmp_path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole, folder)
    with (folder / JOURNAL).open("ab") as file:
        file.write(b'{"event": "note", "time": ' + b"[" * 200_000 + b"\n")
    assert read_sweep(folder).name == "whole"
