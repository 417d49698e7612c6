"""The benchmark of distillation: its rows, its table in a page, and how it continues."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import distillation
from benchmarks.distillation import BEGIN, END, REFERENCE, Row, page_text, put_into, run

ROOT = Path(__file__).parent.parent


def row(name: str, reward: float, difference: float) -> Row:
    return Row(name, reward, reward - 0.1, reward + 0.1, 0.5, 0.3, 0.7, difference, -0.1, 0.2, 3.25, 2.5)


ROWS = [row(REFERENCE, 0.5, 0.0), row("student of 1", 0.4567, -0.0433)]


def test_the_table_of_a_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    text = page_text(ROWS, 192, 2400, {"cpu": "Xeon"})
    assert "students of 2,400 optimiser steps, 192 episodes" in " ".join(text.split())
    assert "| student of 1 | 0.457 (0.36 to 0.56) | 0.500 (0.30 to 0.70) | -0.043 (-0.10 to +0.20) |" in text
    assert f"| {REFERENCE} | 0.500 (0.40 to 0.60) | 0.500 (0.30 to 0.70) |  | 3.2, 2.5 |" in text
    for _ in range(2):
        put_into(page, text)
        assert page.read_text() == f"before\n\n{BEGIN}\n{text}\n{END}\n\nafter\n"


def test_a_page_without_a_place_for_the_table_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\nno end\n")
    with pytest.raises(SystemExit, match="the table has no place"):
        put_into(page, "text")
    assert page.read_text() == f"{BEGIN}\nno end\n"


def test_the_page_of_the_documentation_has_a_place_for_it() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


@pytest.mark.slow
def test_teacher_and_students_are_measured_and_a_second_run_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "LATENCY_RUNS", 2)
    monkeypatch.setattr(distillation, "DATA", {**distillation.DATA, "rollout.max_steps": 12})
    monkeypatch.setattr(distillation, "DATA_OF_EVALUATION", {**distillation.DATA_OF_EVALUATION})
    monkeypatch.setitem(distillation.DATA_OF_EVALUATION, "rollout.max_steps", 12)
    monkeypatch.setitem(distillation.TEACHER_CONFIG, "lr_scheduler.warmup_steps", 1)

    def measured() -> tuple[list[Row], str]:
        console = Console(width=200)
        with console.capture() as capture:
            rows = run(
                tmp_path / "runs",
                tmp_path / "cache",
                console,
                teacher=None,
                teacher_steps=4,
                steps=60,
                episodes=2,
                spacings=["trailing"],
            )
        return rows, capture.get()

    first, said = measured()
    names = [f"teacher, DDIM {steps}, trailing" for steps in (1, 2, 4, 8, 16)]
    assert [one.name for one in first] == [*names, "student of 1", "student of 2", "student of 4"]
    assert "training student-4: 60 steps" in said
    assert "student of 4: 2 episodes" in said
    (reference,) = [one for one in first if one.name == REFERENCE]
    assert (reference.difference, reference.difference_low) == (0.0, 0.0)
    for one in first:
        assert one.difference == pytest.approx(one.reward - reference.reward)
        assert 0 < one.fastest_ms <= one.latency_ms

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}

    trained = written()
    assert trained
    second, said = measured()
    assert "episodes …" not in said
    assert written() == trained, "nothing is trained again"
    assert [one.reward for one in second] == [one.reward for one in first]
