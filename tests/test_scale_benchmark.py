"""The benchmark of large sweeps: every part gives a row for each mark, with what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

# MLflow and SQLAlchemy warn of their own habits.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_a_played_sweep_and_its_commands_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import scale

    results = tmp_path / "results.json"
    options = ["--trials", "12", "--reports", "20", "--only", "records", "commands", "--json", str(results)]
    monkeypatch.setattr("sys.argv", ["scale", *options])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    scale.main()

    found = json.loads(results.read_text())
    assert [row["trials"] for row in found["records"]] == [10, 12]
    for row in found["records"]:
        assert {"the suggestion, ms", "20 reports, ms", "early stopping, ms", "MLflow, ms"} <= row.keys()
        assert min(row.values()) > 0
    assert min(found["files"][0].values()) > 0
    assert [row["command"] for row in found["commands"]] == ["results", "results --json", "status", "list"]
    assert all(row["CPU s, no index"] > 0 and row["peak MB, index"] > 0 for row in found["commands"])
    assert "memory, MB" in capsys.readouterr().out


@pytest.mark.ray
def test_the_driver_of_a_real_sweep_is_followed() -> None:
    from benchmarks import scale

    rows = scale.follow_driver(4)

    assert [row["trials"] for row in rows] == [4]
    assert min(rows[0].values()) > 0
