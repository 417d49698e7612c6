"""A policy in MLflow is the policy: loaded where this package is not, it predicts the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ended, run_in
from exported_sweeps import write_sweep
from played_sweeps import client_of

from sweeper.layout import STATE
from sweeper.records.sweep_state import read_sweep
from sweeper.tracking.tracker import Tracker
from tests.arrays import read_arrays
from trainables.diffusion_policy import lerobot

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of MLflow's own imports

ASK = """
import sys
sys.modules["sweeper"] = sys.modules["trainables"] = None  # an import of this package fails
import mlflow, numpy as np
uri, model, values, out = sys.argv[1:]
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
loaded = mlflow.pyfunc.load_model(model)
observation = dict(np.load(values))
found = loaded.predict(observation, params={"seed": 5})
again = loaded.predict(observation, params={"seed": 5})
other = loaded.predict(observation)
assert np.array_equal(found["action"], again["action"])
assert not np.array_equal(found["action"], other["action"])
example = loaded.input_example
assert set(loaded.metadata.get_input_schema().input_names()) == set(observation)
np.savez(out, **found)
"""


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run_in(tmp_path, monkeypatch)
    folder = tmp_path / "sweeps" / "small"
    write_sweep(folder, random=True)
    return folder


def last_checkpoint(folder: Path) -> Path:
    trial = read_sweep(folder).trials[1]
    assert trial.checkpoint is not None
    return Path(trial.checkpoint)


def test_a_logged_policy_predicts_without_this_package_and_is_registered(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    tracker = Tracker(swept, None, "small")
    assert tracker.start() == ""
    assert tracker.close(120).complete
    uri = tracker.uri
    assert ended("export", "small", "--mlflow", "--register", "pusher", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mlflow"]["registered"] == "pusher/1"
    assert told["folder"] is None
    assert not [warning for warning in recwarn if "type hints" in str(warning.message)]

    client = client_of(swept)
    model = client.get_logged_model(told["mlflow"]["uri"].rpartition("/")[2])
    run = json.loads((swept / STATE).read_text())["runs"]["1"]
    assert (model.source_run_id, model.status, model.tags["sweep.trial"]) == (run, "READY", "1")
    assert client.get_run(run).info.status == "FINISHED"
    # What MLflow's pages show of the model, and of its version.
    assert model.tags["mlflow.note.content"].startswith("Trial 1 of small, the best of its ranking: ")
    assert model.params.keys() == read_sweep(swept).trial(1).values.keys()
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "pusher", "version": 1}]
    version = client.get_model_version("pusher", "1")
    assert version.description == model.tags["mlflow.note.content"]
    assert version.tags["sweep.trial"] == "1"

    values = {
        "observation.state": np.random.default_rng(1).uniform(-1, 1, (2, 2, 2)).astype("float32"),
        "observation.environment_state": np.random.default_rng(2).uniform(-1, 1, (2, 2, 3)).astype("float32"),
    }
    np.savez(tmp_path / "values.npz", **values)
    out = tmp_path / "out.npz"
    for address in ("models:/pusher/1", told["mlflow"]["uri"]):
        command = [sys.executable, "-c", ASK, uri, address, str(tmp_path / "values.npz"), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "type hints" not in done.stderr
        policy = lerobot.load(last_checkpoint(swept)).eval()
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        with torch.no_grad():
            expected = policy.predict_action(
                {name: torch.from_numpy(value) for name, value in values.items()}, generator=generators
            )
        found = read_arrays(out)
        assert found["action"].shape == (2, 4, 2)
        np.testing.assert_allclose(found["action"], expected.numpy(), atol=1e-5)
        np.testing.assert_array_equal(found["horizon"][:, 1:5], found["action"])
        assert np.abs(found["action"]).max() > 0.01

    assert ended("export", "small:1", "--mlflow", "--register", "pusher") == 0
    assert "Registered as models:/pusher/2" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_logged_is_told(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("export", "small", "--mlflow") == 2
    assert "MLflow has no run of trial 1. `sweeper sync small`" in " ".join(capsys.readouterr().err.split())
    assert ended("export", "small", "--register", "x") == 2
    assert "--register belongs to --mlflow" in capsys.readouterr().err
    apart = tmp_path / "apart"
    shutil.copytree(last_checkpoint(swept), apart)
    assert ended("export", str(apart), "--mlflow") == 2
    assert "only the policy of a trial can be logged" in " ".join(capsys.readouterr().err.split())
