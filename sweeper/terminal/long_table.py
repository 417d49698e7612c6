"""A table that prints thousands of rows quickly.

Rich measures, wraps and aligns every cell, which takes a millisecond for a row. Almost all cells of a ranking
are plain words and numbers that fit their column, and need none of this.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

__all__ = ["LongTable"]

MANY = 100
"""Shorter tables are printed by Rich alone."""

PLAIN = re.compile(r"[A-Za-z0-9_.,:+/%–-]*")
"""Cells of one word whose width is their length."""

Lines = list[list[Segment]]


class LongTable(Table):
    """A table of Rich with columns separated by a space, which looks the same as Rich prints it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Print title and headers as Rich does, and the rows quickly."""
        cells: list[list[Any]] = [list(column.cells) for column in self.columns]
        widths = self._fitted(console, cells, options.max_width) if self._is_long(cells) else None
        if widths is None:
            yield from super().__rich_console__(console, options)
            return
        yield from self._head(widths).__rich_console__(console, options)
        printers = [
            _Printer(console, options, column, width)
            for column, width in zip(self.columns, widths, strict=True)
        ]
        divider, end = Segment(" "), Segment.line()
        for row in zip(*cells, strict=True):
            printed = [printer.lines(cell) for printer, cell in zip(printers, row, strict=True)]
            for number in range(max(map(len, printed))):
                for position, (lines, printer) in enumerate(zip(printed, printers, strict=True)):
                    if position:
                        yield divider
                    yield from lines[number] if number < len(lines) else printer.blank
                yield end

    def _is_long(self, cells: Sequence[Sequence[object]]) -> bool:
        """Whether it has many rows, and only what is printed here: texts in rows without a style."""
        return (
            len(self.rows) > MANY
            and self.box is not None
            and not any(row.style for row in self.rows)
            and all(isinstance(cell, Text) for column in cells for cell in column)
        )

    def _fitted(self, console: Console, cells: Sequence[Sequence[Text]], width: int) -> list[int] | None:
        """The width of each column; None if Rich has to decide.

        If the columns do not fit, the only one that may be wrapped becomes narrower.
        """
        headers = [console.render_str(str(column.header)) for column in self.columns]
        widths = [
            max(column.min_width or 1, _width(header), *map(_width, of_column))
            for column, header, of_column in zip(self.columns, headers, cells, strict=True)
        ]
        excess = sum(widths) + len(widths) - 1 - width
        if excess <= 0:
            return widths
        wrapped = [number for number, column in enumerate(self.columns) if not column.no_wrap]
        if len(wrapped) != 1 or widths[wrapped[0]] - excess < (self.columns[wrapped[0]].min_width or 1):
            return None
        widths[wrapped[0]] -= excess
        return widths

    def _head(self, widths: Sequence[int]) -> Table:
        head = Table(
            title=self.title,
            title_justify=self.title_justify,
            header_style=self.header_style,
            box=self.box,
            show_edge=self.show_edge,
            pad_edge=self.pad_edge,
            padding=self.padding,
        )
        for column, width in zip(self.columns, widths, strict=True):
            head.add_column(
                column.header,
                justify=column.justify,
                style=column.style,
                vertical=column.vertical,
                overflow=column.overflow,
                no_wrap=column.no_wrap,
                width=width,
            )
        return head


class _Printer:
    """Prints the cells of a column; equal cells are printed once."""

    def __init__(self, console: Console, options: ConsoleOptions, column: Column, width: int) -> None:
        self._console = console
        self._options = options.update(
            width=width,
            justify=column.justify,
            no_wrap=column.no_wrap,
            overflow=column.overflow,
            height=None,
            highlight=column.highlight,
        )
        self._style: Style = console.get_style(column.style)
        self._width = width
        self._right = column.justify == "right"
        self._known: dict[tuple[object, ...], Lines] = {}
        self.blank = [Segment(" " * width, self._style)]

    def lines(self, cell: Text) -> Lines:
        """The lines of a cell."""
        text, spans = cell.plain, cell.spans
        plain = self._right and not spans and not cell.style and len(text) <= self._width
        if plain and PLAIN.fullmatch(text):
            return [[Segment(text.rjust(self._width), self._style)]]
        key = (text, tuple(spans), cell.style)
        if key not in self._known:
            self._known[key] = self._console.render_lines(cell, self._options, style=self._style)
        return self._known[key]


def _width(text: Text) -> int:
    """The width of the longest line of a cell."""
    plain = text.plain
    return len(plain) if PLAIN.fullmatch(plain) else max(map(cell_len, plain.split("\n")))
