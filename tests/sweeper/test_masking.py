"""Passwords and tokens are never written: not into the sweep's folder, not to MLflow, not into a log."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from small_sweeps import LR, sweep

from sweeper import cli
from sweeper.driver.opening import write_spec
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.errors import SpecError
from sweeper.layout import DATABASE, JOURNAL, trial_folder
from sweeper.machines.identity import as_typed, information
from sweeper.masking import masked, masked_command, safe_uri
from sweeper.records.journal import Journal, read_journal
from sweeper.search.study import Study
from sweeper.spec.space_file.load import load_spec
from sweeper.tracking.tracker import Tracker
from sweeper.trial.failure import Failure, read_failure, write_failure

TOKEN, PASSWORD = "hf_Wm3rTq81Zs", 'pa"ss\\wörd-9'
SECRETS = (TOKEN, PASSWORD, json.dumps(PASSWORD)[1:-1], json.dumps(PASSWORD, ensure_ascii=False)[1:-1])
LOGIN = "s3cr3t-in-address"


@pytest.fixture(autouse=True)
def _secret_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["sweeper", "launch", "x.yaml", "budget.trials=3"], "sweeper launch x.yaml budget.trials=3"),
        (["sweeper", "sync", "x", "--to", "http://me:pw@host:5000"], "'http://***@host:5000'"),
        (["a", "tracking.password=abc"], "tracking.password=***"),
        (["a", "--token", "abc", "b"], "a --token *** b"),
        (["a", "--api-key=abc"], "a '--api-key=***'"),
        (["a", f"note={TOKEN}"], "note=***"),
    ],
)
def test_a_command_is_shown_without_secrets(words: list[str], shown: str) -> None:
    command = masked_command(words)
    assert shown.replace("'", "") in command.replace("'", "")
    assert "pw" not in command
    assert "abc" not in command


@pytest.mark.parametrize(
    ("first", "shown"),
    [
        (cli.__file__, "sweeper"),
        (str(Path(cli.__file__).with_name("__main__.py")), "sweeper"),
        (".venv/bin/sweeper", ".venv/bin/sweeper"),
        ("cli.py", "cli.py"),  # another program
    ],
)
def test_a_command_shows_this_program_by_its_name(first: str, shown: str) -> None:
    assert as_typed([first, "launch", "cli.py"]) == [shown, "launch", "cli.py"]
    assert as_typed([]) == []


@pytest.mark.parametrize(
    "text",
    ["sqlite:////home/a@b/mlflow.db", "mail me@home.org", "file:///x@y", "/a//b@c/d", "http://host:5000/@x"],
)
def test_what_is_no_login_stays(text: str) -> None:
    assert masked(text) == text
    assert safe_uri(text) == text


def test_an_address_is_shown_without_its_login() -> None:
    assert safe_uri("postgresql://me:secret@host/runs") == "postgresql://host/runs"
    assert safe_uri("postgresql://me:sec'r\\et\"@host/runs") == "postgresql://host/runs"
    assert safe_uri("http://host:5000") == "http://host:5000"
    # Keys of stores hold slashes.
    assert masked("in s3://AKIA1:ab/cd+e@bucket/set of gs://bucket/a@b") == (
        "in s3://***@bucket/set of gs://bucket/a@b"
    )


def test_a_login_in_a_space_or_an_override_is_refused_without_repeating_it(tmp_path: Path) -> None:
    space = Path(__file__).parents[2] / "search_spaces" / "pusht_quick.yaml"
    with pytest.raises(SpecError, match="MLFLOW_TRACKING_USERNAME") as refused:
        load_spec(space, [f"tracking.uri=http://me:{LOGIN}@host:5000"], tmp_path)
    assert LOGIN not in str(refused.value)
    with pytest.raises(SpecError, match="contains credentials") as refused:
        load_spec(space, [f"config.dataset.root=s3://AKIA1:a/{LOGIN}@bucket/set"], tmp_path)
    assert LOGIN not in str(refused.value)
    plain = yaml.safe_load(space.read_text())
    plain["tracking"] = {"uri": f"postgresql://me:{LOGIN}@host/runs"}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(SpecError, match="contains credentials") as refused:
        load_spec(tmp_path / "space.yaml", (), tmp_path)
    assert LOGIN not in str(refused.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_nothing_secret_is_in_the_folder_of_a_sweep_nor_in_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeper.machines.cluster import Cluster, Node

    # Wherever a secret may come from: the command line, the space's text, what training raised and said.
    monkeypatch.setattr(sys, "argv", ["sweeper", "launch", f"https://me:{LOGIN}@host/x", f"token={TOKEN}"])
    folder = tmp_path / "small"
    made = sweep(folder, LR)
    spec = type(made)(**{**vars(made), "source": f"# {PASSWORD}\nname: small\n", "notes": (TOKEN,)})
    with Study(spec) as study, Journal(folder / JOURNAL) as journal:
        tracker = Tracker(folder, None, "small")
        tracker.start()
        write_spec(folder, spec.to_dict())
        recorder = Recorder(study, journal, tracker, spec)
        recorder.start_sweep(information({"hub": TOKEN}, Cluster((Node(2, 0),))))
        suggestion = study.ask()
        assert suggestion is not None
        recorder.start_trial(suggestion.number, suggestion.config)
        said = f"401 for https://me:{LOGIN}@host/x with Bearer {TOKEN} and {PASSWORD}"
        failure = Failure("data", said, f"Traceback ...\n{said}")
        write_failure(trial_folder(folder, suggestion.number), failure)
        recorder.end_trial(suggestion.number, Outcome("failed", "data", said))
        recorder.end_sweep("failed", said)
        assert tracker.close(60.0).complete
    assert "401 for https://***@host/x" in read_journal(folder / JOURNAL).events[-1]["message"]
    assert read_failure(trial_folder(folder, suggestion.number)) is not None
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {JOURNAL, "spec.yaml", DATABASE, "error.json", "error.txt", "space.yaml", "info.json"} <= names
    for path in files:
        data = path.read_bytes()
        leaked = [secret for secret in (*SECRETS, LOGIN) if secret.encode() in data]
        assert not leaked, path


def test_where_the_runs_go_is_kept_and_shown_without_the_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{LOGIN}@127.0.0.1:9")
    tracker = Tracker(tmp_path, None, "small")
    assert tracker.uri == "http://127.0.0.1:9"
    tracker._save_state()
    assert LOGIN not in (tmp_path / "mlflow.json").read_text()
