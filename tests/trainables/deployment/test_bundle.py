"""A bundle opens as the policy that went in, and one that was changed does not open."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainables.deployment.bundle import (
    FORMAT,
    MANIFEST,
    BundleError,
    Contents,
    bundle_entries,
    is_bundle,
    open_bundle,
    write_bundle,
)

SETTING = {"policy.num_inference_steps": 4, "policy.sampler": "DDIM"}
WEIGHTS = bytes(range(256)) * 9000


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    made = tmp_path / "made"
    for name in ("policy", "lerobot"):
        (made / name).mkdir(parents=True)
    files = {"config.json": made / "policy/config.json", "model.safetensors": made / "policy/weights"}
    files["config.json"].write_text("{}")
    files["model.safetensors"].write_bytes(WEIGHTS)
    (made / "lerobot/config.json").write_text('{"type": "diffusion"}')
    (made / "report.html").write_text("<html></html>")
    return Contents(
        trainable="diffusion_policy",
        policy=files,
        setting=SETTING,
        lerobot=made / "lerobot",
        target="lerobot==0.4.4",
        report=made / "report.html",
        card="# A policy\n",
        facts={"name": "pusht"},
        versions={"diffusion-policy-sweeper": "9.9"},
    )


@pytest.fixture
def bundle(contents: Contents, tmp_path: Path) -> Path:
    file = tmp_path / "bundles" / "pusht policy.zip"
    write_bundle(file, contents)
    return file


def unpacked(bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


def rewritten(bundle: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The same archive with other files."""
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(bundle, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return bundle


def described(content: dict[str, bytes], **changes: Any) -> None:
    content[MANIFEST] = json.dumps({**json.loads(content[MANIFEST]), **changes}).encode()


def opened(bundle: Path, tmp_path: Path) -> Any:
    return open_bundle(bundle, tmp_path / "cache")


def problem(bundle: Path, tmp_path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        opened(bundle, tmp_path)
    assert not list((tmp_path / "cache").rglob("*.json")), "nothing of it stays in the cache"
    return str(caught.value)


@pytest.mark.parametrize("packed", [True, False])
def test_what_went_in_comes_out(packed: bool, bundle: Path, tmp_path: Path) -> None:
    found = opened(bundle if packed else unpacked(bundle, tmp_path), tmp_path)
    assert (found.policy / "model.safetensors").read_bytes() == WEIGHTS
    assert sorted(path.name for path in found.policy.iterdir()) == ["config.json", "model.safetensors"]
    assert (found.trainable, dict(found.setting)) == ("diffusion_policy", SETTING)
    assert (found.lerobot / "config.json").read_text() == '{"type": "diffusion"}'
    assert found.report.read_text() == "<html></html>"
    assert found.card.read_text() == "# A policy\n"
    assert found.facts == {"name": "pusht"}
    assert found.described["versions"] == {"diffusion-policy-sweeper": "9.9"}


def test_parts_that_were_left_out_are_none_and_the_reason_is_kept(contents: Contents, tmp_path: Path) -> None:
    reason = {"lerobot": "it predicts velocities"}
    file = tmp_path / "small.zip"
    write_bundle(file, Contents("mine:TRAINABLE", contents.policy, missing=reason))
    found = opened(file, tmp_path)
    assert (found.lerobot, found.report, found.card) == (None, None, None)
    assert found.described["missing"] == reason


def test_any_unzip_gives_the_files_and_they_are_not_compressed(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    listed = json.loads((unpacked(bundle, tmp_path) / MANIFEST).read_text())["files"]
    assert set(listed) == {
        *("policy/config.json", "policy/model.safetensors", "lerobot/config.json"),
        *("report.html", "README.md"),
    }


def test_the_digest_is_that_of_the_file(contents: Contents, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    assert write_bundle(file, contents) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_archive_is_unpacked_once(bundle: Path, tmp_path: Path) -> None:
    first = opened(bundle, tmp_path)
    before = (first.policy / "model.safetensors").stat().st_mtime_ns
    assert opened(bundle, tmp_path).policy == first.policy
    assert (first.policy / "model.safetensors").stat().st_mtime_ns == before
    assert [(entry.dataset, entry.what) for entry in bundle_entries(tmp_path / "cache")] == [
        ("pusht-policy", "unpacked bundle")
    ]


def test_what_is_damaged_in_the_cache_is_unpacked_again(bundle: Path, tmp_path: Path) -> None:
    weights = opened(bundle, tmp_path).policy / "model.safetensors"
    weights.write_bytes(b"half")
    assert opened(bundle, tmp_path).policy.joinpath("model.safetensors").read_bytes() == WEIGHTS


def test_an_archive_that_changed_after_it_was_unpacked_does_not_open(bundle: Path, tmp_path: Path) -> None:
    opened(bundle, tmp_path)
    rewritten(bundle, lambda files: files.update({"policy/model.safetensors": WEIGHTS[:-1] + b"x"}))
    with pytest.raises(BundleError, match=r"changed since the bundle was made: policy/model\.safetensors"):
        opened(bundle, tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_all_files_that_are_wrong_are_named_at_once(packed: bool, bundle: Path, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["policy/model.safetensors"] += b"more"
        files["policy/ema.safetensors"] = b"other weights"
        del files["report.html"]

    rewritten(bundle, change)
    said = problem(bundle if packed else unpacked(bundle, tmp_path), tmp_path)
    assert "missing: report.html" in said
    assert "changed since the bundle was made: policy/model.safetensors" in said
    assert "added since the bundle was made: policy/ema.safetensors" in said
    assert "Copy the bundle again" in said


def test_a_file_of_the_same_size_with_another_content_is_found(bundle: Path, tmp_path: Path) -> None:
    folder = unpacked(bundle, tmp_path)
    (folder / "lerobot/config.json").write_text('{"type": "diffusioN"}')
    assert "changed since the bundle was made: lerobot/config.json" in problem(folder, tmp_path)


def test_files_of_a_file_manager_do_not_matter(bundle: Path, tmp_path: Path) -> None:
    folder = unpacked(bundle, tmp_path)
    (folder / "policy" / ".DS_Store").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    assert opened(folder, tmp_path).folder == folder


def test_a_newer_format_names_the_version_to_install(bundle: Path, tmp_path: Path) -> None:
    rewritten(bundle, lambda files: described(files, format=FORMAT + 1))
    said = problem(bundle, tmp_path)
    assert f"has format {FORMAT + 1}, and this version reads formats up to {FORMAT}" in said
    assert "Install a newer version of diffusion-policy-sweeper, at least 9.9." in said


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_half_a_copy_is_not_a_bundle(share: float, bundle: Path, tmp_path: Path) -> None:
    content = bundle.read_bytes()
    bundle.write_bytes(content[: int(share * len(content))])
    assert not is_bundle(bundle)
    assert "Copy it again, completely." in problem(bundle, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "policy/../../evil", "a\\..\\evil", "C:evil", "policy//a"]
)
def test_no_file_leaves_the_folder(name: str, bundle: Path, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        entry = {"sha256": "0" * 64, "size": 4}
        described(files, files={**json.loads(files[MANIFEST])["files"], name: entry})
        files[name] = b"evil"

    said = problem(rewritten(bundle, change), tmp_path)
    assert "lists a file that is not inside the bundle" in said
    assert not (tmp_path / "evil").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": {}}, "lists no file in policy/, so there is no policy"),
        ({"files": {"policy/a": {"size": 1}}}, "states no SHA-256 and size of policy/a"),
        ({"setting": None}, "does not contain `setting`"),
        ({"format": "1"}, "does not state the format of a bundle"),
    ],
)
def test_a_damaged_description_is_reported(
    changes: dict[str, Any], said: str, bundle: Path, tmp_path: Path
) -> None:
    rewritten(bundle, lambda files: described(files, **changes))
    assert said in problem(bundle, tmp_path)


def test_other_files_are_not_bundles(tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert not is_bundle(other)
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "nothing.zip")
    assert "does not contain bundle.json" in problem(other, tmp_path)
    assert "does not exist" in problem(tmp_path / "nothing.zip", tmp_path)


def test_only_a_bundle_is_replaced_and_only_if_asked(
    contents: Contents, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="or replace it with --force"):
        write_bundle(bundle, contents)
    write_bundle(bundle, Contents("other", contents.policy), replace=True)
    assert opened(bundle, tmp_path).trainable == "other"
    notes = tmp_path / "notes.zip"
    notes.write_text("mine")
    with pytest.raises(BundleError, match=r"is not a bundle\. Name a new file\."):
        write_bundle(notes, contents, replace=True)
    assert notes.read_text() == "mine"
    for name in (tmp_path / "folder", tmp_path / "bundle.tar"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(BundleError, match=r"ends? in \.zip"):
            write_bundle(name, contents)


def test_after_a_failure_nothing_remains(contents: Contents, tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.zip"
    shutil.rmtree(tmp_path / "made" / "policy")
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(file, contents)
    assert list(file.parent.iterdir()) == []


def test_the_room_names_it() -> None:
    from trainables import deployment

    assert deployment.open_bundle is open_bundle
    with pytest.raises(AttributeError, match="has no attribute 'close_bundle'"):
        _ = deployment.close_bundle
