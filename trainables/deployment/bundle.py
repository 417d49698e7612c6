"""A bundle: one file with a policy and everything that is needed to use it on another machine.

A bundle is a ZIP archive::

    bundle.json   format version, inference setting, what is known, versions, and the SHA-256 of every file
    policy/       the checkpoint, without what only a continued training needs
    lerobot/      the same policy in LeRobot's format, with the inference setting; missing if LeRobot cannot
                  express it
    report.html   the report of its sweep; missing for a checkpoint of no sweep
    README.md     the model card

It is a ZIP archive because a single file is copied completely or fails visibly, and because every system can
unpack one without this package. Files are stored, not compressed: weights do not become smaller. An unpacked
bundle is a bundle as well: a folder that contains ``bundle.json``.

Whoever opens a bundle checks every file first. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from trainables.files import put_in_place
from trainables.interface import CacheEntry, TrainableError, expanded, silent

__all__ = [
    "CARD",
    "FORMAT",
    "MANIFEST",
    "Bundle",
    "BundleError",
    "Contents",
    "bundle_entries",
    "check_place",
    "is_bundle",
    "open_bundle",
    "write_bundle",
]

FORMAT = 1
"""Version of the format. It rises if an older version of this package cannot use a new bundle."""

MANIFEST = "bundle.json"
POLICY, LEROBOT = "policy", "lerobot"
REPORT, CARD = "report.html", "README.md"

MOST_FILES = 1_000
MOST_MANIFEST_B = 8_000_000
MOST_NAMED = 5
BLOCK_B = 1 << 20
UNPACKED = "bundles"
"""Folder in the cache for bundles that were unpacked."""
_CREATED = (1980, 1, 1, 0, 0, 0)
"""Time of the files in the archive: with it, equal contents are equal bytes."""


class BundleError(TrainableError):
    """A bundle cannot be written, is damaged, or cannot be used by this version."""

    reason = "config"


@dataclass(frozen=True)
class Contents:
    """What a bundle is made of.

    Attributes:
        trainable: Name of the trainable that reads the policy.
        policy: The files of the checkpoint, by their names in ``policy/``.
        setting: The inference setting: fields whose value differs from the training's.
        lerobot: Folder of the policy in LeRobot's format, or None.
        target: The version of LeRobot that the folder is for; empty if there is none.
        report: The report of the sweep, or None.
        card: Text of the model card.
        facts: What is known of the policy, as JSON values.
        versions: Versions of the packages by name.
        missing: Parts that are not in the bundle, and why, in a sentence each.
    """

    trainable: str
    policy: Mapping[str, Path]
    setting: Mapping[str, Any] = field(default_factory=dict)
    lerobot: Path | None = None
    target: str = ""
    report: Path | None = None
    card: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked.

    Attributes:
        path: The file or the folder, as it was named.
        folder: The folder with its content.
        described: The content of ``bundle.json``.
    """

    path: Path
    folder: Path
    described: Mapping[str, Any]

    @property
    def policy(self) -> Path:
        """The folder of the checkpoint."""
        return self.folder / POLICY

    @property
    def trainable(self) -> str:
        """Name of the trainable that reads the policy."""
        return str(self.described["trainable"])

    @property
    def setting(self) -> Mapping[str, Any]:
        """The inference setting: fields whose value differs from the training's."""
        setting: Mapping[str, Any] = self.described["setting"]
        return setting

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of the policy, as JSON values."""
        facts: Mapping[str, Any] = self.described.get("facts", {})
        return facts

    @property
    def lerobot(self) -> Path | None:
        """The folder in LeRobot's format, or None."""
        return self._part(LEROBOT)

    @property
    def report(self) -> Path | None:
        """The report of the sweep, or None."""
        return self._part(REPORT)

    @property
    def card(self) -> Path | None:
        """The model card, or None."""
        return self._part(CARD)

    def _part(self, name: str) -> Path | None:
        place = self.folder / name
        return place if place.exists() else None


def is_bundle(path: str | Path) -> bool:
    """Whether a path is a bundle: a ZIP archive, or a folder, with ``bundle.json``."""
    place = expanded(path)
    try:
        if place.is_dir():
            return (place / MANIFEST).is_file()
        if not place.is_file() or not zipfile.is_zipfile(place):
            return False
        with zipfile.ZipFile(place) as archive:
            return MANIFEST in archive.NameToInfo
    except (OSError, zipfile.BadZipFile):
        return False


# Reading


def open_bundle(
    path: str | Path, cache: Path | None = None, progress: Callable[[str], None] = silent
) -> Bundle:
    """Open a bundle and check every file.

    Args:
        path: The file, or the folder that it was unpacked to.
        cache: Folder in which an archive is unpacked, once; None: SWEEPER_CACHE, or below ``~/.cache``.
        progress: Receives a message for each step.

    Raises:
        BundleError: If it is not a bundle, a part is missing, a file was changed or added, or its format is
            newer than this version.
    """
    place = Path(path).expanduser()
    progress(f"checking {place}")
    if place.is_dir():
        return _open_folder(place)
    try:
        with zipfile.ZipFile(place) as archive:
            return _open_archive(place, archive, cache or _cache_folder(), progress)
    except FileNotFoundError as error:
        raise BundleError(f"{place} does not exist.") from error
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        # The last two: compressed or encrypted in a way that Python cannot read.
        raise BundleError(
            f"{place} cannot be read as a ZIP archive: {error}. Copy it again, completely."
        ) from error


def _open_folder(folder: Path) -> Bundle:
    file = folder / MANIFEST
    try:
        if file.stat().st_size > MOST_MANIFEST_B:
            raise BundleError(f"{file} is too large for the description of a bundle.")
        described = _described(file.read_bytes(), folder)
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is not a bundle: it does not contain {MANIFEST}.") from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}.") from error
    paths = {name: folder / name for name in described["files"]}
    there = {
        path.relative_to(folder).as_posix()
        for part in (POLICY, LEROBOT)
        for path in (folder / part).rglob("*")
        # A file manager may leave hidden files behind.
        if path.is_file() and not path.name.startswith(".")
    }

    def read(name: str) -> IO[bytes] | None:
        return paths[name].open("rb") if paths[name].is_file() else None

    _check_files(folder, described["files"], read, there - set(paths))
    return Bundle(folder, folder, described)


def _open_archive(
    place: Path, archive: zipfile.ZipFile, cache: Path, progress: Callable[[str], None]
) -> Bundle:
    known = archive.NameToInfo
    if MANIFEST not in known:
        raise BundleError(f"{place} is not a bundle: it does not contain {MANIFEST}.")
    if known[MANIFEST].file_size > MOST_MANIFEST_B:
        raise BundleError(f"{place}: {MANIFEST} is too large for the description of a bundle.")
    content = archive.read(MANIFEST)
    described = _described(content, place)
    files: Mapping[str, Mapping[str, Any]] = described["files"]

    def read(name: str) -> IO[bytes] | None:
        return archive.open(name) if name in known else None

    added = {name for name in known if not name.endswith("/")} - set(files) - {MANIFEST}
    folder = cache / UNPACKED / f"{_plain(place.stem)}-{hashlib.sha256(content).hexdigest()[:16]}"
    if _is_unpacked(folder, content, files):
        _check_files(place, files, read, added)
        return Bundle(place, folder, described)
    progress(f"unpacking {place}")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        _check_files(place, files, read, added, beside)
        (beside / MANIFEST).write_bytes(content)
        _put_unpacked(beside, folder, content, files)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Bundle(place, folder, described)


def _put_unpacked(beside: Path, folder: Path, content: bytes, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Give an unpacked bundle its name in the cache; another process may have unpacked the same."""
    if folder.exists() and not _is_unpacked(folder, content, files):
        shutil.rmtree(folder)
    try:
        put_in_place(beside, folder)
    except OSError:
        if not _is_unpacked(folder, content, files):
            raise


def _is_unpacked(folder: Path, content: bytes, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the cache has a bundle; its files were checked while they were written."""
    try:
        return (folder / MANIFEST).read_bytes() == content and all(
            (folder / name).stat().st_size == entry["size"] for name, entry in files.items()
        )
    except OSError:
        return False


def _described(content: bytes, place: Path) -> dict[str, Any]:
    """The description of a bundle.

    Raises:
        BundleError: If it is damaged, or of a newer format.
    """

    def fail(problem: str) -> NoReturn:
        raise BundleError(f"{place}: {MANIFEST} {problem}. Make the bundle again, or copy it again.")

    try:
        described = json.loads(content)
    except (ValueError, RecursionError) as error:
        fail(f"is damaged: {error}")
    if not isinstance(described, dict) or type(described.get("format")) is not int:
        fail("does not state the format of a bundle")
    if described["format"] > FORMAT:
        by = described.get("versions", {})
        version = by.get("diffusion-policy-sweeper", "") if isinstance(by, dict) else ""
        least = f", at least {version}" if version else ""
        raise BundleError(
            f"{place} has format {described['format']}, and this version reads formats up to {FORMAT}. "
            f"Install a newer version of diffusion-policy-sweeper{least}."
        )
    for name, kind in (("trainable", str), ("setting", dict), ("files", dict)):
        if not isinstance(described.get(name), kind):
            fail(f"does not contain `{name}`")
    files = described["files"]
    if len(files) > MOST_FILES:
        fail(f"lists {len(files)} files, more than {MOST_FILES}")
    for name, entry in files.items():
        if not _is_safe(name):
            fail(f"lists a file that is not inside the bundle: {name!r}")
        fits = isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
        if not fits or type(entry.get("size")) is not int:
            fail(f"states no SHA-256 and size of {name}")
    if not any(name.startswith(f"{POLICY}/") for name in files):
        fail(f"lists no file in {POLICY}/, so there is no policy")
    return described


def _is_safe(name: str) -> bool:
    """Whether a name stays inside the folder that it is unpacked to."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and name == "/".join(parts) and not re.search(r"[\\:\0]", name)
    return plain and not PurePosixPath(name).is_absolute() and ".." not in parts and name != MANIFEST


def _check_files(
    place: Path,
    files: Mapping[str, Mapping[str, Any]],
    read: Callable[[str], IO[bytes] | None],
    added: set[str],
    to: Path | None = None,
) -> None:
    """Compare all files with the description, and write them to a folder if one is given.

    Raises:
        BundleError: With every file that is missing, was changed, or was added.
    """
    missing, changed = [], []
    for name, entry in files.items():
        try:
            file = read(name)
            if file is None:
                missing.append(name)
                continue
            with file:
                found = _digest(file, entry["size"], None if to is None else to / name)
        except (zipfile.BadZipFile, EOFError):
            found = ""
        if found != entry["sha256"]:
            changed.append(name)
    problems = [
        f"{what}: {_listed(names)}"
        for what, names in (
            ("missing", missing),
            ("changed since the bundle was made", changed),
            ("added since the bundle was made", sorted(added)),
        )
        if names
    ]
    if problems:
        raise BundleError(
            f"{place} is not the bundle that was made. Files {'; '.join(problems)}. Copy the bundle again, "
            "or make it again with `sweeper export --bundle`."
        )


def _digest(file: IO[bytes], size: int, to: Path | None) -> str:
    """The SHA-256 of a file; empty if it does not have the expected size."""
    digest, left = hashlib.sha256(), size
    with contextlib.ExitStack() as opened:
        out = None
        if to is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            out = opened.enter_context(to.open("wb"))
        # At most the expected size is written, whatever the archive contains.
        while left and (block := file.read(min(left, BLOCK_B))):
            digest.update(block)
            left -= len(block)
            if out is not None:
                out.write(block)
    return "" if left or file.read(1) else digest.hexdigest()


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# The cache


def bundle_entries(cache: Path) -> list[CacheEntry]:
    """List the bundles that were unpacked in a cache folder."""
    folders = sorted(path for path in (cache / UNPACKED).glob("*") if path.is_dir())
    return [CacheEntry(_without_digest(path.name), "unpacked bundle", (path,)) for path in folders]


def _without_digest(name: str) -> str:
    return re.sub(r"-[0-9a-f]{16}$", "", name)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "bundle"


def _cache_folder() -> Path:
    """The cache of this machine, as the service finds it."""
    named = os.environ.get("SWEEPER_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or f"{base}/diffusion-policy-sweeper").expanduser().absolute()


# Writing


def check_place(file: Path, *, replace: bool) -> None:
    """Check that a bundle may be written, before anything is computed for it.

    Raises:
        BundleError: If the name does not end in ``.zip``, or something else is there.
    """
    if file.is_dir():
        raise BundleError(f"{file} is a folder. A bundle is one file: name one that ends in .zip.")
    if file.suffix != ".zip":
        raise BundleError(f"{file}: a bundle is a ZIP archive. Name a file that ends in .zip.")
    if file.exists() and not is_bundle(file):
        raise BundleError(f"{file} exists and is not a bundle. Name a new file.")
    if file.exists() and not replace:
        raise BundleError(f"{file} exists. Name a new file, or replace it with --force.")


def write_bundle(file: Path, contents: Contents, *, replace: bool = False) -> str:
    """Write a bundle, and read it back.

    It is written beside ``file`` and then renamed. After a failure nothing remains.

    Args:
        file: The file to create; its name ends in ``.zip``.
        contents: What goes into it.
        replace: Replace a bundle in ``file``; anything else there is still refused.

    Returns:
        The SHA-256 of the file, to compare copies with.

    Raises:
        BundleError: If it cannot be written.
    """
    check_place(file, replace=replace)
    beside = file.with_name(f".{file.name}.{os.getpid()}.writing")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
            files = {name: _add(archive, name, path) for name, path in _files_of(contents)}
            if contents.card:
                files[CARD] = _add_bytes(archive, CARD, contents.card.encode())
            described = _description(contents, files)
            _add_bytes(archive, MANIFEST, (json.dumps(described, indent=2) + "\n").encode())
        with zipfile.ZipFile(beside) as archive:
            _described(archive.read(MANIFEST), file)
            _check_files(file, files, archive.open, set())
        digest = _file_digest(beside)
        put_in_place(beside, file)
    except OSError as error:
        raise BundleError(f"{file} cannot be written: {error.strerror or error}.") from error
    finally:
        beside.unlink(missing_ok=True)
    return digest


def _description(contents: Contents, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "trainable": contents.trainable,
        "setting": dict(contents.setting),
        "lerobot": contents.target or None,
        "missing": dict(contents.missing),
        "facts": dict(contents.facts),
        "versions": dict(contents.versions),
        "files": dict(files),
    }


def _files_of(contents: Contents) -> Iterator[tuple[str, Path]]:
    """The files of a bundle by their names in it, but for those that are made for it."""
    for name, path in sorted(contents.policy.items()):
        yield f"{POLICY}/{name}", path
    if contents.lerobot is not None:
        for path in sorted(path for path in contents.lerobot.rglob("*") if path.is_file()):
            yield f"{LEROBOT}/{path.relative_to(contents.lerobot).as_posix()}", path
    if contents.report is not None:
        yield REPORT, contents.report


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source, archive.open(_entry(name), "w", force_zip64=True) as out:
        while block := source.read(BLOCK_B):
            digest.update(block)
            size += len(block)
            out.write(block)
    return {"sha256": digest.hexdigest(), "size": size}


def _add_bytes(archive: zipfile.ZipFile, name: str, content: bytes) -> dict[str, Any]:
    archive.writestr(_entry(name), content)
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _CREATED)
    entry.external_attr = 0o644 << 16
    return entry


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
