"""HTML in which every text is escaped: only `Html` is taken as it is, and only this module makes it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["Child", "Html", "join", "raw", "table", "tag"]

VOID = ("img", "input", "meta", "br")
"""Elements without content."""


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


Child = str | Iterable[str]
"""Content of an element: HTML, a text that is escaped, or several of them."""


def raw(text: str) -> Html:
    """Take a text as HTML. Nothing that a user or a journal wrote may be in it unescaped."""
    return Html(text)


def join(*children: Child) -> Html:
    """Several contents after each other."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(child))
        else:
            parts += [join(one) for one in child]
    return Html("".join(parts))


def tag(name: str, *children: Child, **attributes: str | bool) -> Html:
    """An element.

    Args:
        name: Its name.
        children: Its content.
        attributes: Its attributes; an underscore at the end of a name is dropped (``class_``), others become
            hyphens. True gives an attribute without a value, False none.
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not False:
            words.append(f'{key}="{html.escape(value)}"')
    if name in VOID:
        return Html(f"<{' '.join(words)}>")
    return Html(f"<{' '.join(words)}>{join(*children)}</{name}>")


def table(heads: Sequence[Child], rows: Iterable[Sequence[Child]], *, numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls sideways if it is wider than the page.

    Args:
        heads: The headers of its columns.
        rows: Its cells.
        numbers: Positions of the columns that are aligned to the right.
    """

    def cells(kind: str, row: Sequence[Child]) -> Html:
        return join(
            tag(kind, cell, class_="number" if at in numbers else False) for at, cell in enumerate(row)
        )

    head = tag("thead", tag("tr", cells("th", heads)))
    body = tag("tbody", [tag("tr", cells("td", row)) for row in rows])
    return tag("div", tag("table", head, body), class_="scrolls tall", tabindex="0")
