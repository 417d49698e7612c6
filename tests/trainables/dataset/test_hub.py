"""Datasets of the hub, from a cache laid out as the hub's client lays it out, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from small_sets import PICTURE

COMMIT = "0123456789abcdef0123456789abcdef01234567"

CODE = """
import json, sys
from pathlib import Path
from trainables.dataset.lerobot import open_dataset, preflight
from trainables.dataset.errors import DatasetError
cache, told = Path(sys.argv[1]), []
found = {"faults": [str(fault) for fault in preflight("somebody/set", cache=cache)]}
dataset = open_dataset("somebody/set", cache=cache, episodes=[1, 2], progress=told.append)
found |= {
    "revision": dataset.revision, "repo_id": dataset.repo_id, "frames": len(dataset), "told": told,
    "picture": list(dataset.window(3, 2, 8)["observation.image"].shape), "fingerprint": dataset.fingerprint,
}
for name, options in {"somebody/nothing": {}, "somebody/set": {"revision": "v9.9"}, "no name": {}}.items():
    try:
        open_dataset(name, cache=cache, **options)
    except DatasetError as error:
        found[name + str(options)] = str(error)
print(json.dumps(found))
"""


@pytest.fixture
def cache(make_dataset, tmp_path):
    """The files are links into a folder of blobs, as in a real cache."""
    root = make_dataset(cameras={"observation.image": PICTURE}, lengths=(4, 5, 6), episodes_per_file=1)
    repository = tmp_path / "hub" / "datasets--somebody--set"
    snapshot = repository / "snapshots" / COMMIT
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        blob = repository / "blobs" / str(number)
        blob.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blob)
        link = snapshot / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    shutil.rmtree(root)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def test_a_dataset_in_the_cache_opens_without_a_network(cache):
    import json

    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(cache)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == []
    assert (found["repo_id"], found["revision"], found["frames"]) == ("somebody/set", COMMIT, 11)
    assert found["picture"] == [2, 3, 32, 48]
    assert len(found["fingerprint"]) == 64
    assert found["told"][-1] == "somebody/set: fetching the files of 2 episodes"
    assert "dataset.repo_id: somebody/nothing cannot be fetched" in found["somebody/nothing{}"]
    assert "set dataset.root to a folder" in found["somebody/nothing{}"]
    assert "somebody/set at v9.9" in found["somebody/set{'revision': 'v9.9'}"]
    assert "dataset.repo_id: 'no name' is no folder and no name of the hub" in found["no name{}"]
