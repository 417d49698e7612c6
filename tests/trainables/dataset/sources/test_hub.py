"""Datasets of the hub, without a network: from a cache laid out as the hub's client lays it out, and from a
server on this machine that answers that client as the hub does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

import pytest
from small_sets import PICTURE

from tests.http_server import http_server

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"

CODE = """
import json, sys
from pathlib import Path
from trainables.dataset import open_dataset
from trainables.dataset.doctor.preflight import preflight
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
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(cache)], env=environment, capture_output=True, text=True, timeout=400
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
    assert "dataset.repo_id: 'no name' is neither a folder nor a name on the hub" in found["no name{}"]


def hub(root, fetched, clients):
    """A server with one dataset, ``somebody/set``; counts the files that are fetched from it.

    It answers the first question when all ``clients`` have asked it, and takes its time with each file.
    """
    together = threading.Barrier(clients)

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_content=False)

        def do_GET(self):
            self.answer(with_content=True)

        def answer(self, with_content):
            path = unquote(urlsplit(self.path).path)
            if path == "/api/datasets/somebody/set/revision/main":
                together.wait(300)
                return self.send(json.dumps({"id": "somebody/set", "sha": COMMIT, "siblings": []}).encode())
            if path.startswith(f"/api/datasets/somebody/set/tree/{COMMIT}"):
                files = [path for path in sorted(root.rglob("*")) if path.is_file()]
                listed = [
                    {
                        "type": "file",
                        "path": path.relative_to(root).as_posix(),
                        "size": path.stat().st_size,
                        "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                    }
                    for path in files
                ]
                return self.send(json.dumps(listed).encode())
            name = path.removeprefix(f"/datasets/somebody/set/resolve/{COMMIT}/")
            if name == path or not (root / name).is_file():
                return self.send_error(404)
            if with_content:
                fetched[name] += 1
                time.sleep(0.1)
            return self.send((root / name).read_bytes(), with_content)

        def send(self, content, with_content=True):
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if with_content:
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    return http_server(Answers)


def test_processes_that_ask_at_once_fetch_from_the_hub_once(make_dataset, tmp_path):
    root = make_dataset(cameras={"observation.image": PICTURE}, episodes_per_file=1)
    fetched = Counter()
    code = (
        "from trainables.dataset.open import open_dataset\n"
        "dataset = open_dataset('somebody/set')\n"
        "print(len(dataset), dataset.revision)\n"
    )
    with hub(root, fetched, 3) as server:
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            # Processes start one after the other on a busy machine, and the first question waits for all.
            "HF_HUB_ETAG_TIMEOUT": "300",
            "HF_HUB_DOWNLOAD_TIMEOUT": "300",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        asking = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in asking:
            out, err = process.communicate(timeout=400)
            assert process.returncode == 0, err
            assert out.split() == ["38", COMMIT]
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert fetched == dict.fromkeys(files, 1)
