"""Upload an exported policy to the Hugging Face hub, with the hub's own client.

The token is the client's: of `hf auth login`, or of the environment variable HF_TOKEN. It is never read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import SweeperError, UserError
from sweeper.masking import masked
from sweeper.text import first_line
from trainables.interface import silent

__all__ = ["Pushed", "check_repo", "push", "would_push"]

REPO = re.compile(r"[\w-][\w.-]*/[\w.-]+")
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Pushed:
    """The result of an upload, or of a dry run.

    Attributes:
        repo: The model on the hub.
        url: Address of the commit; of the model for a dry run.
        private: Whether the model is, or would be, private. A dry run does not know whether it exists.
        files: The files with their sizes in bytes.
        dry_run: Whether nothing was sent.
        logged_in: Whether the client has a token.
    """

    repo: str
    url: str
    private: bool
    files: dict[str, int]
    dry_run: bool
    logged_in: bool


def check_repo(repo: str, *, dry_run: bool) -> None:
    """Check what can be checked before anything is exported; contacts nothing.

    Raises:
        UserError: If the name is not one of the hub, or there is no token.
    """
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise UserError(f"--push {repo}: not a name on the hub. Write OWNER/NAME, e.g. my-lab/pusht-policy.")
    if not dry_run and not _has_token():
        raise UserError(f"--push {repo}: the hub's client has no token. {LOGIN}.")


def would_push(folder: Path, repo: str, *, private: bool) -> Pushed:
    """What :func:`push` would upload; contacts nothing."""
    from huggingface_hub import constants

    url = f"{constants.ENDPOINT}/{repo}"
    return Pushed(repo, url, private, _files(folder), dry_run=True, logged_in=_has_token())


def push(
    folder: Path, repo: str, *, private: bool, message: str, progress: Callable[[str], None] = silent
) -> Pushed:
    """Upload the files of an export in one commit; the model is created if it does not exist.

    Args:
        folder: The export, with its model card.
        repo: ``owner/name``.
        private: Create a private model. An existing public one is refused then, since others would see it.
        message: The title of the commit.
        progress: Receives a message for each step.

    Raises:
        UserError: If the hub refuses, or the model is public though ``private`` was asked for.
        SweeperError: If the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(library_name="diffusion-policy-sweeper")
    progress(f"uploading to {repo}")
    try:
        # None leaves the choice for a new model to the settings of its owner.
        api.create_repo(repo, repo_type="model", private=private or None, exist_ok=True)
        is_private = bool(api.repo_info(repo, repo_type="model").private)
        if private and not is_private:
            raise _public(repo)
        done = api.upload_folder(repo_id=repo, folder_path=folder, repo_type="model", commit_message=message)
    except HFValidationError as error:
        raise UserError(f"--push {repo}: {first_line(error)}") from error
    except HfHubHTTPError as error:
        raise _refused(repo, error) from error
    except UserError:
        raise
    except Exception as error:
        # Errors of the client's HTTP library, which differs between versions of the client.
        reason = masked(first_line(error))
        raise SweeperError(f"{repo} was not uploaded: {reason}. The same command tries again.") from error
    url = str(getattr(done, "commit_url", done))
    return Pushed(repo, url, is_private, _files(folder), dry_run=False, logged_in=True)


def _public(repo: str) -> UserError:
    return UserError(
        f"--private: {repo} exists and is public. Nothing was uploaded. Make it private in its settings "
        "on the hub, or name another model."
    )


def _refused(repo: str, error: Exception) -> SweeperError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = masked(first_line(error))
    if status == 401:
        return UserError(f"--push {repo}: the hub does not accept the token. {LOGIN}. ({reason})")
    if status == 403:
        remedy = (
            f"The token may not write to {repo}. Use a token with the permission to write, or another name."
        )
        return UserError(f"--push {repo}: {remedy} ({reason})")
    if status is not None and 400 <= status < 500:
        return UserError(f"--push {repo}: the hub refuses the upload: {reason}")
    return SweeperError(f"{repo} was not uploaded: {reason}. The same command tries again.")


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _files(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
