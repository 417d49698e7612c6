"""Films and pictures of trials, inside the page as long as it stays small, else as links."""

from __future__ import annotations

import base64
import os
import urllib.parse
from pathlib import Path

from sweeper.records.trial_state import TrialState
from sweeper.report.markup import Html, tag

__all__ = ["Media"]

MOST_BYTES = 15_000_000
"""Bytes of all embedded files together, before they become text, which is a third longer."""
MOST_BYTES_OF_ONE = 4_000_000

TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


class Media:
    """The films and pictures of a page.

    Args:
        sweep: The sweep's folder. A file outside of it is not shown: the journal may name any path.
        page: The file that links to them.
    """

    def __init__(self, sweep: Path, page: Path) -> None:
        self._sweep = sweep.resolve()
        self._page = page.absolute().parent
        self._left = MOST_BYTES

    def of(self, trial: TrialState) -> list[Html]:
        """The films and pictures that a trial reported last, pictures first."""
        files = {name: Path(path) for name, path in trial.artifacts.items()}
        shown = sorted(
            (TYPES.get(path.suffix.lower(), ""), name, path)
            for name, path in files.items()
            if path.suffix.lower() in TYPES and self._is_ours(path)
        )
        return [self._shown(kind, f"trial {trial.number}: {name}", path) for kind, name, path in shown]

    def _is_ours(self, path: Path) -> bool:
        return path.is_file() and path.resolve().is_relative_to(self._sweep)

    def _shown(self, kind: str, label: str, path: Path) -> Html:
        size = path.stat().st_size
        link = urllib.parse.quote(os.path.relpath(path.absolute(), self._page))
        caption = tag("figcaption", label)
        if size > min(self._left, MOST_BYTES_OF_ONE):
            note = f"{label} ({size / 1e6:.1f} MB, in the sweep's folder)"
            return tag("figure", tag("figcaption", tag("a", note, href=link)))
        self._left -= size
        data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        if kind.startswith("video/"):
            film = tag("video", src=data, controls=True, loop=True, muted=True, playsinline=True)
            return tag("figure", film, caption)
        picture = tag("div", tag("img", src=data, alt=label), class_="scrolls", tabindex="0")
        return tag("figure", picture, caption, class_="picture")
