"""Datasets in object stores, as the service sees them: addresses stay as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import ended, run_in

from sweeper.errors import SpecError
from sweeper.spec.space_file.load import load_spec
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "search_spaces" / "pusht_quick.yaml"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    run_in(tmp_path, monkeypatch)


def test_an_address_is_no_path_of_this_machine(tmp_path):
    spec = load_spec(SPACE, ["config.dataset.root=[s3://bucket/set, here]"], tmp_path)
    assert spec.config["dataset.root"] == ["s3://bucket/set", str(tmp_path / "here")]
    searched = "parameters.dataset.root={values: [gs://bucket/a, gs://bucket/b]}"
    spec = load_spec(SPACE, ["config.dataset.repo_id=null", searched], tmp_path)
    (roots,) = [parameter.values for parameter in spec.space.parameters if parameter.name == "dataset.root"]
    assert list(roots) == ["gs://bucket/a", "gs://bucket/b"]


def test_a_checkpoint_in_a_store_is_refused_and_its_login_not_repeated(tmp_path):
    with pytest.raises(SpecError, match="from which checkpoints are not fetched") as refused:
        load_spec(SPACE, ["config.policy.path=s3://AKIA1:secret/key@bucket/policy"], tmp_path)
    assert "secret" not in str(refused.value)


@pytest.mark.slow
def test_check_of_an_address_is_quick_and_names_what_is_missing():
    heavy = {"torch", "ray", "mlflow", "optuna", "pyarrow", "av", "numpy", "s3fs"}
    program = (
        "import sys\n"
        "sys.modules['s3fs'] = None\n"
        "from sweeper.cli import main\n"
        f"sys.argv[1:] = ['check', {str(SPACE)!r}, 'config.dataset.root=s3://bucket/set']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "del sys.modules['s3fs']\n"
        f"print('LOADED', *sorted(set(sys.modules) & {heavy!r}))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].strip() == "LOADED"
    said = " ".join(run.stdout.split())
    assert "this machine lacks the package s3fs" in said
    assert "there is no s3:" not in said


@pytest.mark.slow
def test_the_doctor_looks_at_a_dataset_of_a_store(tmp_path, capsys):
    vector = DatasetFeature("float32", (2,), ["x", "y"])
    features = {"observation.state": vector, "action": vector}
    with DatasetWriter(tmp_path / "set", fps=10, features=features) as writer:
        for episode in range(5):
            angle = np.linspace(0, 5 + episode / 3, 31)[:, None] + [0, np.pi / 2]
            path = ((1 + episode / 10) * np.sin(angle)).astype(np.float32)
            writer.add_episode({"observation.state": path[:-1], "action": path[1:].copy()}, task="Draw.")
    address = f"file://{tmp_path}/set"
    assert ended("data", "check", address, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["root"], found["episodes"], found["counts"]["error"]) == (address, 5, 0)
    assert ended("data", "show", address, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sources"] == [address]
    assert len([path for path in (tmp_path / "cache" / "datasets").iterdir() if path.is_dir()]) == 1

    assert ended("data", "check", f"file://{tmp_path}/nothing") == 2
    assert "nothing does not exist, or is empty." in " ".join(capsys.readouterr().err.split())
