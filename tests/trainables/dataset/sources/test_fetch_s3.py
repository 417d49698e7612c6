"""A dataset on S3, as moto's server speaks it, read with s3fs: skipped where these are not installed.

pip install s3fs 'moto[server]'
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

import fsspec
import pytest
from small_sets import PICTURE

from trainables.dataset.errors import DatasetError
from trainables.dataset.open import open_dataset
from trainables.dataset.sources.fetch import fetch_dataset

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")

ADDRESS = "s3://bucket/arms/set"
OPEN = """
import pathlib, sys
from trainables.dataset.open import open_dataset
dataset = open_dataset(sys.argv[1], cache=pathlib.Path(sys.argv[2]), progress=print)
print(dataset.fingerprint, dataset.window(9, 2, 8)["observation.image"].mean())
"""


def ask(endpoint, what, content=b""):
    request = urllib.request.Request(f"{endpoint}/moto-api/{what}", data=content, method="POST")
    request.add_header("Content-Type", "text/plain")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


@pytest.fixture
def endpoint(monkeypatch):
    """A server of our own, with the login that is in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield f"http://{host}:{port}"
    # What it holds outlives it, and so does whom it lets in.
    ask(f"http://{host}:{port}", "reset-auth", b"inf")
    ask(f"http://{host}:{port}", "reset")
    server.stop()


@pytest.fixture
def store(endpoint):
    system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    system.mkdir("bucket")
    return system


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def root(make_dataset, store):
    root = make_dataset(cameras={"observation.image": PICTURE}, episodes_per_file=1)
    (root / "README.md").write_text("of no use to a policy")
    for path in root.rglob("*"):
        if path.is_file():
            store.pipe_file(f"bucket/arms/set/{path.relative_to(root).as_posix()}", path.read_bytes())
    store.pipe_file("bucket/arms/set/data/", b"")  # what a browser of buckets makes of an empty folder
    return root


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def message(address, cache):
    with pytest.raises(DatasetError) as caught:
        fetch_dataset(address, cache)
    return str(caught.value)


def test_processes_that_ask_at_once_fetch_once_and_see_the_dataset(root, cache):
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, ADDRESS, str(cache)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    told = []
    for process in asking:
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        told.append(out)
    local = open_dataset(root)
    expected = f"{local.fingerprint} {local.window(9, 2, 8)['observation.image'].mean()}"
    assert {out.splitlines()[-1] for out in told} == {expected}
    assert sum(": fetching " in out for out in told) == 1
    (fetched,) = [path for path in (cache / "datasets").iterdir() if path.is_dir()]
    assert files(fetched) == {name: content for name, content in files(root).items() if "/" in name}


def test_another_content_of_the_same_size_is_another_dataset(root, store, cache):
    old = fetch_dataset(ADDRESS, cache)
    assert fetch_dataset(ADDRESS + "/", cache) == old
    content = store.cat_file("bucket/arms/set/meta/info.json")
    store.pipe_file("bucket/arms/set/meta/info.json", content)
    assert fetch_dataset(ADDRESS, cache) == old, "the same content, written again, is the same dataset"
    store.pipe_file("bucket/arms/set/meta/info.json", content.replace(b'"fps": 10', b'"fps": 20'))
    new = fetch_dataset(ADDRESS, cache)
    assert new != old
    assert json.loads((old / "meta/info.json").read_text())["fps"] == 10
    assert json.loads((new / "meta/info.json").read_text())["fps"] == 20


def test_a_listing_of_several_pages_and_files_of_several_pieces_are_fetched_whole(root, store, cache):
    many = {f"bucket/arms/set/images/{number:05}.png": b"x" for number in range(1010)}
    store.pipe(many)
    large = bytes(range(256)) * 40_000 + b"end"  # more than one piece
    store.pipe_file("bucket/arms/set/videos/large.mp4", large)
    found = fetch_dataset(ADDRESS, cache)
    assert len(list((found / "images").iterdir())) == 1010
    assert (found / "videos" / "large.mp4").read_bytes() == large


def test_what_is_not_there_is_told_apart(root, cache):
    assert "s3://nothing/set does not exist, or is empty." in message("s3://nothing/set", cache)
    assert "s3://bucket/nothing does not exist, or is empty." in message("s3://bucket/nothing", cache)
    assert "s3://bucket/arms has no meta/info.json; it has set." in message("s3://bucket/arms", cache)
    assert "s3://bucket has no meta/info.json; it has arms." in message("s3://bucket", cache)


def test_without_a_login_the_error_says_where_it_comes_from(root, cache, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    said = message(ADDRESS, cache)
    assert "s3://bucket/arms/set was refused" in said
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said


def test_a_login_that_is_refused_is_said_so_and_not_repeated(root, endpoint, cache, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    ask(endpoint, "reset-auth", b"0")
    said = message(ADDRESS, cache)
    assert "was refused" in said
    assert "wrong-and-secret" not in said


def test_a_store_that_is_not_there_is_an_error_of_one_line(endpoint, cache, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = message(ADDRESS, cache)
    assert "s3://bucket/arms/set cannot be read: " in said
    assert "Check the network, and the store's endpoint" in said
    assert len(said.splitlines()) == 1
