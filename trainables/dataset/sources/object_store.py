"""A dataset in an object store, asked through fsspec: its files, their content, and why it cannot be had.

Every protocol of fsspec will do whose listing says how large files are: S3, Google Cloud Storage, Azure, a
mounted folder (``file://``). Logins come from the process's environment, as the store's own library takes
them; none is in the address, and none is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainables.addresses import address_faults, missing_package
from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.format.files import inside
from trainables.dataset.format.metadata import WHAT_A_DATASET_IS

__all__ = ["Store", "StoredFile"]

FIELD = "dataset.root"
FOLDERS = ("meta", "data", "videos", "video", "images")
"""What a LeRobot dataset is made of; whatever else lies beside is left there."""
PIECE_B = 8 * 1024 * 1024
NAMED = 8
"""How much of what lies in a folder is named if it is not a dataset."""
# What tells one content from another, the surest first: each store's listing has some of them.
STAMPS = ("md5Hash", "ETag", "etag", "blob_id", "generation", "mtime", "LastModified", "last_modified",
          "updated", "modified", "modify", "modificationTime", "created")  # fmt: skip
LOGINS: Mapping[str, str] = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
    "hf": "HF_TOKEN, or `hf auth login`",
}
_REFUSED = re.compile(
    r"credential|forbidden|unauthorized|access ?(?:denied|key)|\b40[13]\b|account_name|signature|permission"
)


@dataclass(frozen=True)
class StoredFile:
    """One file of a dataset in a store.

    Attributes:
        name: Its path in the dataset's folder, checked to stay there.
        place: Its path in the store.
        size_b: Its bytes.
        stamp: What changes with its content: a checksum where the store lists one, else a time.
    """

    name: str
    place: str
    size_b: int
    stamp: str


class Store:
    """One folder of a store.

    Attributes:
        address: The folder, as the user named it.

    Raises:
        DatasetError: If the address cannot be used, or its protocol's package is not installed.
    """

    def __init__(self, address: str) -> None:
        faults = address_faults(FIELD, address)
        if faults:
            raise DatasetError(faults)
        missing = missing_package(address)
        if missing is not None:
            problem = f"{address} needs the package {missing}, which is not installed."
            remedy = f"pip install {missing}; on a cluster: setup_node.sh --with {missing}."
            raise dataset_error(FIELD, problem, remedy)
        from fsspec.core import url_to_fs

        self.address = address
        with self._asked():
            # What an earlier listing said is not an answer: the dataset may have changed since.
            self._system, self._folder = url_to_fs(address, skip_instance_cache=True)

    def files(self) -> tuple[StoredFile, ...]:
        """List the dataset's files, by name, as they are now.

        Raises:
            DatasetError: If the store cannot be asked, there is no dataset, or a name cannot be one.
        """
        found: list[StoredFile] = []
        prefix = self._folder.rstrip("/") + "/"
        for part in FOLDERS:
            for place, info in self._listed(prefix + part).items():
                if info.get("type") == "directory" or place.endswith("/") or place == prefix + part:
                    continue
                found.append(self._checked(place, prefix, info))
        names = {file.name for file in found}
        if "meta/info.json" not in names:
            raise self._no_dataset(prefix)
        folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
        if len(names) < len(found) or names & folders:
            twice = sorted(names & folders)[:1] or [
                file.name for file in found if sum(file.name == other.name for other in found) > 1
            ]
            raise dataset_error(FIELD, f"{self.address}: {twice[0]!r} is there as two things.", "Repair it.")
        return tuple(sorted(found, key=lambda file: file.name))

    def read(self, file: StoredFile) -> Iterator[bytes]:
        """Give a file's content piece by piece.

        Raises:
            DatasetError: If it cannot be read.
        """
        with self._asked():
            if file.size_b <= PIECE_B:
                # One request in place of two: a set may have thousands of small files.
                yield self._system.cat_file(file.place, start=0, end=file.size_b) if file.size_b else b""
                return
            # Pieces are large and follow each other: what fsspec would read ahead is memory for nothing.
            with self._system.open(file.place, "rb", cache_type="none") as stream:
                while piece := stream.read(PIECE_B):
                    yield piece

    def _listed(self, folder: str) -> Mapping[str, Mapping[str, Any]]:
        with self._asked():
            try:
                self._system.invalidate_cache()
                if _walks(self._system):
                    return self._walked(folder)
                return dict(self._system.find(folder, detail=True))
            except FileNotFoundError:
                return {}

    def _walked(self, folder: str) -> Mapping[str, Mapping[str, Any]]:
        """List what lies below a folder. fsspec's own walk passes over folders that it cannot list."""
        found: dict[str, Mapping[str, Any]] = {}
        folders = [folder]
        while folders:
            place = folders.pop()
            for info in self._system.ls(place, detail=True):
                if info["type"] != "directory":
                    found[info["name"]] = info
                elif info["name"].rstrip("/") != place.rstrip("/"):
                    folders.append(info["name"])
        return found

    def _checked(self, place: str, prefix: str, info: Mapping[str, Any]) -> StoredFile:
        name = place.removeprefix(prefix)
        if not place.startswith(prefix) or "\0" in name or inside(name, self.address) != name:
            problem = f"{self.address}: {place!r} is not a valid name of a file."
            raise dataset_error(FIELD, problem, "Rename it.")
        if info.get("islink") and not Path(place).is_file():
            problem = f"{self.address}: {name} is a link, and leads to no file."
            raise dataset_error(FIELD, problem, "Name the folder without file://, or copy what it leads to.")
        size_b = info.get("size")
        if not isinstance(size_b, int) or size_b < 0:
            problem = f"{self.address}: its listing does not say how large {name} is."
            raise dataset_error(FIELD, problem, "Copy the dataset to S3 or the like, or to a shared folder.")
        stamp = next((f"{key} {info[key]}" for key in STAMPS if info.get(key) is not None), None)
        if stamp is None:
            problem = f"{self.address}: its listing says nothing by which a change of {name} could be seen."
            raise dataset_error(FIELD, problem, "Copy the dataset to S3 or the like, or to a shared folder.")
        return StoredFile(name, place, size_b, stamp)

    def _no_dataset(self, prefix: str) -> DatasetError:
        try:
            with self._asked():
                there = self._system.ls(prefix.rstrip("/"), detail=False)
        except FileNotFoundError:
            there = []
        places = {str(place).rstrip("/") for place in there} - {prefix.rstrip("/")}
        names = sorted(place.removeprefix(prefix) for place in places)
        if not names:
            remedy = "Check the bucket and the folder. " + WHAT_A_DATASET_IS
            return dataset_error(FIELD, f"{self.address} does not exist, or is empty.", remedy)
        more = ", ..." if len(names) > NAMED else ""
        problem = f"{self.address} has no meta/info.json; it has {', '.join(names[:NAMED])}{more}."
        return dataset_error(FIELD, problem, WHAT_A_DATASET_IS)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Say in our words why a store did not answer; what is not there stays a FileNotFoundError."""
        try:
            yield
        except (DatasetError, FileNotFoundError):
            raise
        # Each store's library raises errors of its own, with no base in common.
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> DatasetError:
        protocol = self.address.partition("://")[0]
        lines = str(error).strip().splitlines()
        reason = (lines[0] if lines else type(error).__name__).rstrip(".")
        text = f"{type(error).__name__} {error}".lower()
        if isinstance(error, PermissionError) or _REFUSED.search(text):
            where = f" ({LOGINS[protocol]})" if protocol in LOGINS else ""
            remedy = f"Logins come from the environment of each machine that trains{where}."
            return dataset_error(FIELD, f"{self.address} was refused: {reason}.", remedy)
        remedy = "Check the network, and the store's endpoint where it is not the provider's own."
        return dataset_error(FIELD, f"{self.address} cannot be read: {reason}.", remedy)


def _walks(system: Any) -> bool:
    """Whether a file system lists what lies below a folder by fsspec's own walk, from folder to folder."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if isinstance(system, AsyncFileSystem):
        return type(system)._find is AsyncFileSystem._find
    return type(system).find is AbstractFileSystem.find
