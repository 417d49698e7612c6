"""Print what was written of a policy, and what was or would be uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from sweeper.text import describe_size

__all__ = ["print_published"]


def print_published(console: Console, published: Mapping[str, Any]) -> None:
    """Print the result of `sweeper export`.

    Args:
        console: Where to print.
        published: The result, as `sweeper export --json` has it.
    """

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True, markup=False)

    for note in published["notes"]:
        say(f"- {note}")
    if published["folder"] is not None:
        say(f"Exported to {published['folder']} in the format of {published['target']}.")
    if published["card"] is not None:
        say(f"The model card is {published['card']}.")
    bundle = published["bundle"]
    if bundle is not None:
        for part, reason in bundle["missing"].items():
            say(f"! The bundle has no {part}: {reason}", "yellow")
        say(f"The bundle is {bundle['file']} ({_size(bundle['bytes'])}), SHA-256 {bundle['sha256']}.")
    pushed = published["pushed"]
    if pushed is None:
        return
    if not pushed["dry_run"]:
        kind = "private" if pushed["private"] else "public"
        say(f"Uploaded {len(pushed['files'])} files to {pushed['repo']}, which is {kind}: {pushed['url']}")
        return
    say(f"Would upload to {pushed['url']}:")
    for name, size in pushed["files"].items():
        say(f"  {name} ({_size(size)})")
    visible = "a new model would be private, a public one refused"
    say(
        "Visibility: "
        + (visible if pushed["private"] else "as the owner's settings say for a new model")
        + "."
    )
    if not pushed["logged_in"]:
        say("! The hub's client has no token: `hf auth login`, or HF_TOKEN.", "yellow")


def _size(size_b: int) -> str:
    return f"{size_b:,} bytes" if size_b < 1_000_000 else describe_size(size_b / 1e9)
