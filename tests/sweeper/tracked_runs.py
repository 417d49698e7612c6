"""What trackers beside MLflow have of a sweep, read from their own files, without a network."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.records.sweep_state import read_sweep
from sweeper.spec import search_methods

TRACKERS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(
                importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
            ),
        ],
    )
    for name, package in search_methods.TRACKERS.items()
]


def be_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use neither a network nor a login of the person who runs the tests."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


def records(path: Path) -> Iterator[bytes]:
    """The records of a file of TensorBoard: a length, a checksum, the data, a checksum."""
    data = path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]


def tensorboard_scalars(folder: Path, run: str, name: str) -> list[tuple[int, float]]:
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((folder / "tensorboard" / run).glob("events.*")):
        for record in records(path):
            event = Event.FromString(record)
            found += [(event.step, v.simple_value) for v in event.summary.value if v.tag == name]
    return found


def wandb_records(folder: Path) -> Iterator[list[Any]]:
    """The records of each offline run: blocks of LevelDB's log after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        data, at, part, found = path.read_bytes(), 7, b"", []
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768  # what is left of a block is too small for a header
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            part += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # the whole of a record, or its last part
                found.append(Record.FromString(part))
                part = b""
        yield found


def wandb_history(folder: Path, run: str, name: str) -> list[tuple[int, float]]:
    """The values of a metric in the offline runs, without those that the server would refuse: by step."""
    found: dict[int, tuple[int, float]] = {}
    for listed in wandb_records(folder):
        if not any(record.run.display_name == run for record in listed):
            continue
        for record in listed:
            items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            if name in items:
                at = int(json.loads(items["trial/step"]))
                found.setdefault(record.history.step.num, (at, json.loads(items[name])))
    return list(found.values())


def trackio_logs(folder: Path, trial: int) -> list[dict[str, Any]]:
    sweep = read_sweep(folder)
    run = f"{sweep.name} trial {trial} ({sweep.sweep_id[:12]})"
    program = (
        "import json, sys; from trackio.sqlite_storage import SQLiteStorage as S\n"
        "print(json.dumps(S.get_logs(*sys.argv[1:]), default=str))"
    )
    command = [sys.executable, "-c", program, sweep.spec["tracking"]["experiment"], run]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def values(tracker: str, folder: Path, trial: int, name: str) -> list[tuple[int, float]]:
    """The values of a metric of a trial that a tracker has: steps, and values rounded to five places."""
    match tracker:
        case "tensorboard":
            found = tensorboard_scalars(folder, str(trial), name)
        case "wandb":
            found = wandb_history(folder, f"{folder.name} trial {trial}", name)
        case _:
            logs = trackio_logs(folder, trial)
            found = [(log["step"], log[name]) for log in logs if name in log]
    return [(step, round(value, 5)) for step, value in found]
