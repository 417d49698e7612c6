"""A process between two trials is put back as it was, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TRIALS = """
import json, os, sys, threading, time
from pathlib import Path

import torch
from careless_trainable import DRAWN, LOSS, TRAINABLE

from sweeper.trial.process import begin, left_trial, vacate
from trainables.interface import TrainContext

context = TrainContext(folder=Path("trial"), cache=Path("cache").absolute())
rows = []
for mess in json.loads(sys.argv[1]):
    begin()
    reports = list(TRAINABLE.train({"lr": 0.1, "mess": mess}, context))
    state = [os.getcwd(), os.environ.get("CARELESS"), sys.path[0], str(torch.get_default_dtype())]
    assert not left_trial()
    fault = vacate(lambda: True, 1.0)
    assert left_trial()
    series = [report.metrics[LOSS] for report in reports]
    rows.append({"series": series, "drawn": reports[0].metrics[DRAWN], "fault": fault, "state": state})
threading.Thread(target=time.sleep, args=(60,), daemon=True, name="forgotten").start()
begin()
rows.append({"fault": vacate(lambda: True, 1.0)})
rows.append({"fault": vacate(lambda: False, 0.1)})
print(json.dumps(rows))
"""


LOADING = """
import gc

from sweeper.trial.process import loading

class Ring:
    def __init__(self):
        self.self = self

def collected():
    ring = Ring()
    del ring
    before = len([one for one in gc.get_objects() if isinstance(one, Ring)])
    gc.collect()
    return before - len([one for one in gc.get_objects() if isinstance(one, Ring)])

with loading():
    assert not gc.isenabled()
    modules = [Ring() for _ in range(10)]
assert gc.isenabled()
frozen = gc.get_freeze_count()
assert frozen > 1000
with loading():
    kept = [Ring() for _ in range(10)]
assert gc.get_freeze_count() <= frozen
del kept
print(collected())
gc.disable()
with loading():
    pass
print(gc.isenabled())
"""


def test_what_is_loaded_is_left_out_of_collections_and_what_comes_later_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", LOADING], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["11", "False"]


def trials(folder: Path, *messes: bool) -> list[dict[str, Any]]:
    """Run trials in one process; a row for each, and two more for faults at the end."""
    paths = [str(Path(__file__).parents[1]), str(Path.cwd())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRIALS, json.dumps(messes)]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_used_process_is_as_a_new_one(tmp_path: Path) -> None:
    first, messy, after, thread, stuck = trials(tmp_path, False, True, False)
    new = trials(tmp_path, False)[0]
    assert first["series"] == messy["series"] == after["series"] == new["series"]
    assert [row["fault"] for row in (first, messy, after)] == ["", "", ""]
    assert first["state"] == after["state"] == [str(tmp_path), None, "", "torch.float32"]
    assert messy["state"] == [str(tmp_path / "cache"), "yes", "/nowhere", "torch.float64"]
    # What nobody seeds differs, as it does between new processes.
    assert len({row["drawn"] for row in (first, messy, after, new)}) == 4
    assert thread["fault"] == "still running: forgotten"
    assert stuck["fault"] == "its trial did not leave within 0.1 s"
