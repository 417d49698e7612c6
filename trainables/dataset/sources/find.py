"""Find a dataset: a folder, one of a store, or one of the hub, of which only what is needed is fetched."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from trainables.dataset.errors import dataset_error
from trainables.dataset.format.episodes import EpisodeRecord
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.shared_cache import repeating
from trainables.dataset.sources.fetch import fetch_dataset
from trainables.files import refusal
from trainables.interface import expanded, is_url, silent

__all__ = ["Source", "fetch_files", "fetch_source", "find_source"]

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Above so many files whole folders are asked for: the hub's client compares every file with every pattern.
MOST_PATTERNS = 500


@dataclass(frozen=True)
class Source:
    """Where a dataset lies.

    Attributes:
        root: The folder.
        repo_id: The hub's name of it, or None for a folder.
        revision: The commit that was fetched, or None for a folder.
        address: The address in a store that the folder was fetched from, or None.
    """

    root: Path
    repo_id: str | None = None
    revision: str | None = None
    address: str | None = None

    @property
    def field(self) -> str:
        """The configuration field that named it."""
        return "dataset.root" if self.repo_id is None else "dataset.repo_id"

    @property
    def name(self) -> str:
        """What a person calls it: the hub's name, the address, or the folder."""
        return self.repo_id or self.address or str(self.root)


def find_source(
    root_or_repo_id: str | Path | Source,
    *,
    revision: str | None,
    cache: Path | None,
    progress: Callable[[str], None] | None = None,
) -> Source:
    """Find a folder, fetch a dataset from a store, or the metadata of a hub dataset.

    Args:
        root_or_repo_id: A ``Path`` is a folder. A text is an address in a store (``s3://bucket/folder``), a
            folder if there is one of this name, else the name of a hub dataset (``owner/name``). A source
            that was found already stays as it is.
        revision: Branch, tag or commit on the hub; None: the newest.
        cache: Folder for what is fetched; None: Hugging Face's own cache, which is none for stores.
        progress: Told before the network is used.

    Raises:
        DatasetError: If there is neither such a folder nor such a dataset, or the hub or the store cannot
            be reached.
    """
    if isinstance(root_or_repo_id, Source):
        return root_or_repo_id
    if isinstance(root_or_repo_id, str) and is_url(root_or_repo_id):
        return fetch_source(root_or_repo_id, cache, progress)
    place = Path(root_or_repo_id)
    # A folder that cannot be looked at is reported as such, not taken for a name on the hub.
    if isinstance(root_or_repo_id, Path) or refusal(place) or place.is_dir():
        return Source(place)
    if not REPO_ID.fullmatch(root_or_repo_id):
        remedy = "Expected owner/name, such as lerobot/pusht; a folder belongs under dataset.root."
        remedy += _no_folder(root_or_repo_id)
        problem = f"{root_or_repo_id!r} is neither a folder nor a name on the hub."
        raise dataset_error("dataset.repo_id", problem, remedy)
    if progress is not None:
        progress(f"{root_or_repo_id}: fetching the metadata")
    root = _snapshot(root_or_repo_id, revision, ["meta/*"], cache)
    # A snapshot's folder is named after its commit, whatever branch or tag was asked for.
    return Source(root, root_or_repo_id, root.name)


def _no_folder(name: str) -> str:
    """The hint that a name may be that of a folder, if its parent folder exists here; begins with a space."""
    parent = expanded(name).parent
    if not parent.is_dir() or parent == Path():
        return ""
    folders = [path.name for path in parent.iterdir() if path.is_dir()]
    near = difflib.get_close_matches(Path(name).name, folders, n=1)
    meant = f" Did you mean {parent / near[0]}?" if near else ""
    return f" There is no folder {name} here either.{meant}"


def fetch_source(address: str, cache: Path | None, progress: Callable[[str], None] | None = None) -> Source:
    """Fetch a dataset from a store, or find it in the cache, with the errors of ``fetch_dataset``."""
    if cache is None:
        problem = f"{address} has to be fetched, and no folder is named for it."
        raise dataset_error("cache", problem, "Pass cache=, a folder that this machine's processes share.")
    return Source(fetch_dataset(address, cache, progress or silent), address=address)


def fetch_files(
    source: Source,
    metadata: Metadata,
    records: Collection[EpisodeRecord],
    cameras: Collection[str],
    *,
    cache: Path | None,
    progress: Callable[[str], None] | None = None,
) -> Metadata:
    """Fetch the data files of a hub dataset, and the videos of some cameras and episodes.

    Returns:
        The metadata, of the folder that has the files.

    Raises:
        DatasetError: If the hub cannot be reached and the files are not in the cache.
    """
    if source.repo_id is None or not records:
        return metadata
    data = ["data/*"] if metadata.version == "v3.0" else metadata.data_files(records)
    data += [path for record in records for path in record.other_data]
    places = [r.videos[camera] for r in records for camera in cameras if camera in r.videos]
    videos = {path for place in places for path in (place.path, *place.others)}
    patterns = [*data, *sorted(videos), *(path.replace("videos/", "video/", 1) for path in sorted(videos))]
    if len(patterns) > MOST_PATTERNS:
        keys = [metadata.recorded(camera) for camera in cameras]
        patterns = ["data/*", *(f"video*/*{glob.escape(key)}/*" for key in keys)]
    else:
        patterns = [path if path == "data/*" else glob.escape(path) for path in patterns]
    # The hub's client does not report its progress, and a worker that is silent for long is assumed to hang.
    with repeating(f"{source.repo_id}: fetching the files of {len(records):,} episodes", progress or silent):
        root = _snapshot(source.repo_id, source.revision, ["meta/*", *patterns], cache)
    return replace(metadata, root=root)


def _snapshot(repo_id: str, revision: str | None, patterns: list[str], cache: Path | None) -> Path:
    # Slow to import, and not needed for folders.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = repo_id if revision is None else f"{repo_id} at {revision}"
    try:
        folder = snapshot_download(
            repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns, cache_dir=cache
        )
    except RevisionNotFoundError as error:
        raise dataset_error("dataset.revision", f"{named} does not exist on the hub.") from error
    except GatedRepoError as error:
        remedy = "Ask for access on its page, and log in with `hf auth login`."
        raise dataset_error("dataset.repo_id", f"{named} asks for a permission you lack.", remedy) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        remedy = "Check the spelling; a private dataset needs `hf auth login`." + _no_folder(repo_id)
        raise dataset_error("dataset.repo_id", f"the hub has no dataset {repo_id!r}.", remedy) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        # Without a network and without a cached copy the client raises one of several kinds of OSError.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = reason.removeprefix("Got: ")
        remedy = "Without a network, set dataset.root to a folder that has the dataset." + _no_folder(repo_id)
        raise dataset_error("dataset.repo_id", f"{named} cannot be fetched: {reason}", remedy) from error
    return Path(folder)
