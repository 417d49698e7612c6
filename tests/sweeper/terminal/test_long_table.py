"""A long table looks as Rich prints it, character by character."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.terminal import long_table
from sweeper.terminal.tables import Column, fitted_table, state_text

pytestmark = pytest.mark.slow

WORDS = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "0.125",
            "3.2e-05",
            "1:02:03",
            ":smile:",
            "[bold]x[/bold]",
            "a\nbb",
            "–",
            "x" * 30,
            "日本",
            "a b c",
        ]
    ),
    st.text("ab[]:/\\ \n.é", max_size=12),
)
STATES = st.builds(
    lambda state, reason: state_text(state).append(reason),
    st.sampled_from(["completed", "stopped_early", "failed"]),
    st.sampled_from(["", ": diverged", ": [red]lost[/red] worker"]),
)


def looks(table: Table, width: int) -> list[tuple[str, object]]:
    """Each character with its style; that of a space without a background cannot be seen."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    return [
        (character, (segment.style or None) if character.strip() else None)
        for segment in console.render(table)
        for character in segment.text
    ]


def looks_of_rich(table: Table, width: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    with monkeypatch.context() as patch:
        patch.setattr(long_table, "MANY", 10**9)
        return looks(table, width)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(WORDS, STATES, WORDS, WORDS), min_size=2, max_size=8),
    headers=st.lists(
        st.sampled_from(["lr", "rollout/\nrate ↑", "a b", "GPU-\nhours"]), min_size=3, max_size=3
    ),
    width=st.one_of(st.none(), st.integers(12, 80)),
    title=st.sampled_from(
        [None, "small: 3 completed", "a title that is longer than the table is wide, surely"]
    ),
)
def test_a_long_table_looks_as_rich_prints_it(rows, headers, width, title):
    columns = [
        Column(headers[0]),
        Column("state", "left", wraps=True),
        Column(headers[1], style="bold"),
        Column(headers[2], "left", style="dim", spare=1),
    ]
    table = fitted_table(columns, rows, width, title=title)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_table, "MANY", 0)
        printed = looks(table, width or 200)
        assert printed == looks_of_rich(table, width or 200, patch)


@pytest.mark.parametrize("width", [80, 200])
def test_the_rows_of_a_long_table_are_not_left_to_rich(width, monkeypatch):
    columns = [Column("trial"), Column("state", "left", wraps=True), *(Column(name) for name in "abcdefgh")]
    rows = [
        [str(number), Text("stopped early"), *(f"{number / n:.3g}" for n in range(1, 9))]
        for number in range(5000)
    ]
    table = fitted_table(columns, rows, width)
    console = Console(width=width, file=io.StringIO())
    render, rendered = Console.render_lines, []

    def counted(self, *arguments, **options):
        rendered.append(arguments)
        return render(self, *arguments, **options)

    monkeypatch.setattr(Console, "render_lines", counted)
    console.print(table)
    assert len(rendered) < 100  # Rich would render each of the 50,000 cells
    assert console.file.getvalue().count("\n") >= 5002
