"""The report of a sweep: complete, escaped, without a network, and small."""

from __future__ import annotations

import json
import re
import sqlite3
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest
from command_line import ended, plain_console, printed, run_in
from played_sweeps import Sweep
from reported_sweeps import REWARD, large_sweep
from small_sweeps import LR, SUCCESS, choice, spec, sweep

from sweeper.driver.launch import launch
from sweeper.layout import REPORT, trial_folder
from sweeper.records.sweep_state import read_sweep
from sweeper.report import dashboard, remake
from sweeper.report.dashboard import serve_study
from sweeper.report.markup import join, raw, table, tag
from sweeper.report.sweep.figures import slice_figures
from sweeper.report.sweep.media import Media
from sweeper.report.sweep.standings import standings
from sweeper.report.sweep.write import write_report
from sweeper.search.study import Study

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
LARGEST = 8_000_000
"""Bytes of a report of 1,000 trials without films; 4.8 million of them are plotly.js."""


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its texts, and the data of its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.figures: list[dict] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        found = (name, {key: value or "" for key, value in attributes})
        self.elements.append(found)
        self._open.append(found)

    def handle_endtag(self, name):
        while self._open and self._open.pop()[0] != name:
            pass

    def handle_data(self, text):
        name, attributes = self._open[-1] if self._open else ("", {})
        if name == "script" and attributes.get("type") == "application/json":
            self.figures.append(json.loads(text))
        elif name not in ("script", "style"):
            self.words += f" {text}"

    def named(self, name):
        return [attributes for found, attributes in self.elements if found == name]


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text())


@pytest.fixture(scope="module")
def thirty(tmp_path_factory) -> Page:
    return page_of(large_sweep(tmp_path_factory.mktemp("thirty") / "thirty", 30))


@pytest.mark.slow
def test_the_answer_comes_first(thirty):
    first = thirty.words.partition("Ranking")[0]
    for question in ("Best policy: trial 20", "Is it sure?", "Which parameters matter?", "How fast is it?"):
        assert question in first
    assert "70 %" in first
    assert "95 % interval 56 % to 81 %" in first
    assert "14 of 20 other completed trials may be as good" in first
    assert re.search(r"lr\s+75 %", first)
    assert "ms" in first
    assert "export" in first
    assert "not confirmed" in first


@pytest.mark.slow
def test_searched_data_are_listed_by_what_decides_them(tmp_path: Path) -> None:
    entries = [
        {"fields": {"dataset.fraction": part}, "dataset": ["lab/a", "lab/b"], "train_episodes": count}
        for part, count in ((0.5, 93), (1.0, 185))
    ]
    made = page_of(large_sweep(tmp_path / "data", 2, data={"searched": entries}))
    words = " ".join(made.words.split())
    assert "dataset lab/a, lab/b" in words
    assert "dataset.fraction train_episodes 0.5 93 1 185" in words
    assert "sweeper data check lab/a" in words
    assert "sweeper data check lab/b" in words


@pytest.mark.slow
def test_every_part_is_there(thirty):
    for title in (
        "Ranking",
        "Value and latency",
        "Parameters",
        "Importance",
        "One parameter at a time",
        "All parameters together",
        "Learning",
        "Early stops and failures",
        "the loss is NaN",
        "Data",
        "The command that repeats it",
        "Versions",
    ):
        assert title in thirty.words
    assert len(thirty.figures) == len([one for one in thirty.named("div") if "data-figure" in one]) >= 10
    assert all(figure["data"] for figure in thirty.figures)


@pytest.mark.slow
def test_figures_leave_their_ground_to_the_page(thirty):
    for figure in thirty.figures:
        layout = figure["layout"]
        assert {"plot_bgcolor", "paper_bgcolor", "width"}.isdisjoint(layout)
        assert not any("color" in note.get("font", {}) for note in layout.get("annotations", ()))
    assert "@media (prefers-color-scheme: dark)" in thirty.text


@pytest.mark.slow
def test_the_legend_of_the_learning_curves_has_the_best_first(thirty):
    curves = [figure["data"] for figure in thirty.figures if figure["data"][0].get("name") == "others"]
    assert curves
    for drawn in curves:
        legend = [line["name"] for line in sorted(drawn, key=lambda line: line.get("legendrank", 1000))]
        assert len(legend) > 1
        assert legend[-1] == "others"


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(thirty):
    for name, attributes in thirty.elements:
        for key in ("src", "href", "poster", "srcset", "action"):
            assert not attributes.get(key, "").startswith(("http:", "https:", "//")), name
        assert name not in ("link", "iframe", "object", "embed", "base")
    (policy,) = [one["content"] for one in thirty.named("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


@pytest.mark.slow
def test_the_marks_are_those_of_the_evidence(tmp_path):
    folder = large_sweep(tmp_path / "a", 30)
    found = standings(read_sweep(folder))
    assert [one.leads for one in found] == [True, *[False] * (len(found) - 1)]
    assert sum(one.told_apart is False for one in found[1:]) == 14
    assert found[-1].told_apart is True
    assert sum(one.p_best or 0 for one in found) == pytest.approx(1)
    assert all(one.low is not None and one.low < one.value < one.high for one in found)


@pytest.mark.slow
def test_everything_is_escaped(tmp_path):
    played = Sweep(tmp_path / "evil<b>&")
    played.start(LR, choice("policy.kind", EVIL, "plain"))
    for number in range(12):
        values = {LR.name: 1e-4 * (1 + number / 20), "policy.kind": EVIL if number % 2 else "plain"}
        played.journal.append("trial_start", trial=number, values=values, config=values)
        played.report(number, 1, {SUCCESS: number / 20})
        played.end(number, 1)
    played.journal.append("trial_start", trial=12, values={}, config={})
    played.end(12, 0, "failed", EVIL)
    played.tuned(3, {"policy.kind": EVIL}, 0.9, 0.1)
    played.confirmed((3, 0.9, 0.9), (2, 0.1, 0.1))
    played.judged((3, 0.9, {EVIL: 2}), (2, 0.1, {}))
    page = page_of(played.folder)
    scripts = page.named("script")
    assert len(scripts) == len(page.figures) + 2
    assert page.named("img") == []
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert EVIL in page.words
    drawn = json.dumps(page.figures)
    assert "<script" not in drawn.lower()
    assert "&lt;script" in drawn.lower()


@pytest.mark.slow
def test_a_confirmation_is_the_answer(tmp_path):
    page = page_of(large_sweep(tmp_path / "a", 30, confirmed=True))
    first = page.words.partition("Ranking")[0]
    assert "Best policy: trial 0" in first
    assert "confirmed in 400 episodes on fresh starts" in first
    assert "95 % interval 62 % to 77 %" in first
    assert "The search had measured 80 %; on fresh starts it is 70 %." in first
    assert "num_inference_steps = 8" in first
    assert "sweeper confirm" not in first
    assert "confirmed best" in page.words


@pytest.mark.slow
def test_a_finalist_without_a_setting_shows_what_it_was_trained_with(tmp_path):
    played = Sweep(tmp_path / "small")
    played.start()
    one, other = "policy.num_inference_steps", "policy.sampler"
    played.trial(0, **{one: 100, other: "DDPM"})
    played.trial(1, **{one: 100})
    played.confirmed((0, 0.9, 0.9), (1, 0.5, 0.1), settings={0: {one: 8, other: "DDIM"}})
    words = page_of(played.folder).words
    assert "num_inference_steps = 8, sampler = DDIM" in words
    assert "num_inference_steps = 100" in words


@pytest.mark.slow
def test_success_on_the_real_robot_is_shown_apart_from_the_simulated(tmp_path):
    folder = large_sweep(tmp_path / "a", 30, confirmed=True)
    assert "real robot" not in page_of(folder).words
    Sweep(folder).judged((1, 0.8, {"dropped it": 4}), (0, 0.4, {}))
    words = page_of(folder).words
    section = words.partition("On the real robot, judged by a person")[2].partition("Inference settings")[0]
    assert "Trial 1 leads after 30 starts." in section
    assert "0.7 to 0.9" in section
    assert "dropped it" in section
    assert "Nothing of this is part of the simulated success above." in section
    assert "Best policy: trial 0" in words.partition("Ranking")[0], "the confirmation stays the answer"


@pytest.mark.slow
def test_settings_are_shown_with_their_front(tmp_path):
    folder = large_sweep(tmp_path / "a", 12)
    played = Sweep(folder)
    tried = [
        {"setting": {}, "state": "left", "value": 0.4, "latency_ms": 60.0, "episodes": 32, "front": True},
        {"setting": {"policy.sampler": "DDIM"}, "state": "chosen", "value": 0.5, "latency_ms": 20.0,
         "episodes": 32, "front": True},
    ]  # fmt: skip
    best = read_sweep(folder).best_trial()
    metrics = {SUCCESS: 0.95, "eval/chunk_latency_ms": 20.0}
    setting, untuned = {"policy.sampler": "DDIM"}, {SUCCESS: 0.5}
    found = {"setting": setting, "metrics": metrics, "untuned": untuned, "tried": tried}
    played.journal.append("tuned", trial=best.number, **found)
    page = page_of(folder)
    first, _, rest = page.words.partition("Ranking")
    assert "sampler = DDIM" in first
    assert "20 ms" in first
    assert "Inference settings" in rest
    assert "on the front" in rest
    assert "50 % with the setting of the training" in rest


@pytest.mark.slow
def test_settings_that_a_policy_does_not_allow_are_named_without_a_table_of_gaps(tmp_path: Path) -> None:
    played = Sweep(tmp_path / "small")
    played.start()
    played.trial(0)
    none = {"value": None, "latency_ms": None, "episodes": 0, "front": False}
    others = [
        {**none, "setting": {"policy.n_action_steps": steps}, "state": "impossible"} for steps in (8, 12)
    ]
    found = {"setting": {}, "metrics": {SUCCESS: 0.3}, "untuned": {SUCCESS: 0.3}}
    chosen = {**none, "setting": {}, "state": "chosen"}
    played.journal.append("tuned", trial=0, **found, tried=[chosen, *others])
    part = page_of(played.folder).words.partition("Inference settings")[2]
    words = "This policy allows none of the other settings: n_action_steps = 8; n_action_steps = 12."
    assert words in part
    assert "impossible" not in part


@pytest.mark.slow
def test_a_confirmation_that_is_not_sure_says_how_to_continue(tmp_path: Path) -> None:
    played = Sweep(tmp_path / "sweeps" / "small")
    played.start()
    played.trial(0)
    played.trial(1)
    verdict = "Trial 0 leads after 96 episodes. Not told apart from it: trial 1. --episodes 192 continues."
    played.confirmed((0, 0.9, 0.6), (1, 0.8, 0.4), verdict=verdict)
    page = page_of(played.folder)
    assert page.words.count(f"`sweeper confirm {played.folder} --episodes 192` continues.") == 2
    assert "undecided" in page.words
    assert "leads on fresh starts" in page.words
    assert "confirmed best" not in page.words
    assert "60 %" in page.words


@pytest.mark.slow
def test_several_objectives_have_a_front(tmp_path):
    folder = large_sweep(tmp_path / "a", 40, objectives={SUCCESS: "maximize", "eval/action_mse": "minimize"})
    page = page_of(folder)
    assert "This sweep has 2 objectives" in page.words
    assert "no other trial is better in all objectives" in page.words
    assert all(one.p_best is None for one in standings(read_sweep(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["eval/action_mse", REWARD])
def test_a_sweep_without_episodes_says_that_nothing_is_sure(tmp_path, metric):
    page = page_of(large_sweep(tmp_path / "a", 20, episodes=False, objectives={metric: "minimize"}))
    assert "Unknown. There are no records of episodes" in page.words
    # Without a simulator nothing can be confirmed.
    assert ("sweeper judge" in page.words, "sweeper confirm" in page.words) == (
        metric != REWARD,
        metric == REWARD,
    )
    assert "not told apart" not in page.words


def test_rewards_have_intervals_too(tmp_path):
    folder = large_sweep(tmp_path / "a", 12, objectives={REWARD: "maximize"})
    found = standings(read_sweep(folder))
    assert found[0].told_apart is False
    assert all(one.low is not None and one.low < one.high for one in found)


@pytest.mark.slow
def test_a_sweep_without_completed_trials_has_a_report(tmp_path):
    played = Sweep(tmp_path / "a")
    played.start()
    assert "No policy yet" in page_of(played.folder).words
    played.trial(0, status="failed", reason="diverged")
    page = page_of(played.folder)
    assert "1 of 1 failed" in page.words
    assert "diverged at step 3" in page.words
    played.trial(1, status="")
    assert "No trial has completed" in page_of(played.folder).words


@pytest.mark.slow
def test_one_completed_trial_is_not_compared(tmp_path):
    played = Sweep(tmp_path / "a")
    played.start()
    played.trial(0)
    page = page_of(played.folder)
    assert page.words.count("Only one trial completed") == 2
    assert "no records of episodes" not in page.words
    assert "Too few completed trials" in page.words


@pytest.mark.slow
def test_a_running_sweep_is_read_without_its_study_and_its_lock(tmp_path):
    folder = large_sweep(tmp_path / "a", 12, ended=False)
    before = {path.name for path in folder.iterdir()}
    write_report(folder)
    assert {path.name for path in folder.iterdir()} - before == {REPORT}


def test_films_are_embedded_until_the_page_is_full(tmp_path, monkeypatch):
    folder = large_sweep(tmp_path / "a", 12)
    rollouts = trial_folder(folder, 1) / "rollouts"
    rollouts.mkdir(parents=True)
    artifacts = {}
    for name, size in (
        ("small.mp4", 1000),
        ("picture.png", 500),
        ("a #large.mp4", 5_000_000),
        ("log.txt", 9),
    ):
        (rollouts / name).write_bytes(bytes(size))
        artifacts[name] = str(rollouts / name)
    (tmp_path / "outside.png").write_bytes(b"secret")
    artifacts["outside"] = str(tmp_path / "outside.png")
    artifacts["up"] = str(rollouts / ".." / ".." / ".." / ".." / "outside.png")
    trial = read_sweep(folder).trials[1]
    trial.artifacts = artifacts
    shown = Page(join(Media(folder, folder / REPORT).of(trial)))
    assert [one["src"][:15] for one in shown.named("video")] == ["data:video/mp4;"]
    assert [one["src"][:15] for one in shown.named("img")] == ["data:image/png;"]
    assert [one["href"] for one in shown.named("a")] == ["trials/1/rollouts/a%20%23large.mp4"]
    assert "outside" not in shown.words
    monkeypatch.setattr("sweeper.report.sweep.media.MOST_BYTES", 600)
    assert Page(join(Media(folder, folder / REPORT).of(trial))).named("video") == []


def test_texts_are_escaped_unless_they_are_html():
    made = tag("p", "<b>", raw("<i>"), ["&", tag("br")], class_='"x"', hidden=True)
    assert made == '<p class="&quot;x&quot;" hidden>&lt;b&gt;<i>&amp;<br></p>'
    assert "<td>&lt;</td>" in table(["a"], [["<"]])


@pytest.mark.slow
def test_the_command_writes_the_file_that_is_named(tmp_path, monkeypatch, capsys):
    run_in(tmp_path, monkeypatch)
    large_sweep(tmp_path / "sweeps" / "a", 3)
    assert ended("report", "a", "--to", "page.html") == 0
    assert "Report: page.html" in capsys.readouterr().out
    assert (tmp_path / "page.html").stat().st_size > 4_000_000
    assert ended("report", "a") == 0
    assert "sweeper export a:" in (tmp_path / "sweeps" / "a" / REPORT).read_text()
    assert ended("report", "a", "--to", "missing/page.html") != 0
    assert "missing/page.html cannot be written" in capsys.readouterr().err


def have_reports_hang(folder, monkeypatch):
    """Have the process that writes a report wait as soon as it starts: Python imports this module first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import time; time.sleep(3600)")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.slow
def test_a_report_is_made_in_a_process_of_its_own(tmp_path, monkeypatch):
    folder = large_sweep(tmp_path / "a", 5)
    assert remake.remake_report(folder) == (None, "")  # switched off
    monkeypatch.delenv(remake.SWITCH)
    assert remake.remake_report(folder) == (folder / REPORT, "")
    (folder / REPORT).unlink()
    file, fault = remake.remake_report(tmp_path / "none")
    assert file is None
    assert "none" in fault
    have_reports_hang(tmp_path / "hangs", monkeypatch)
    assert remake.remake_report(folder, 0.01)[1] == "it took longer than 0 s"
    assert not (folder / REPORT).exists()


@pytest.mark.slow
def test_a_thousand_trials_stay_small_and_legible(tmp_path):
    folder = large_sweep(tmp_path / "a", 1000)
    page = page_of(folder)
    assert (folder / REPORT).stat().st_size < LARGEST
    assert "The best 100 of 1000 trials" in page.words
    ranking = page.figures[0]
    assert sum(len(trace["y"]) for trace in ranking["data"]) == 30
    assert max(len(figure["data"]) for figure in page.figures) <= 8


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_receives_the_report_and_every_newer_one(tmp_path):
    played = Sweep(tmp_path / "a")
    played.start()
    played.trial(0)
    played.finish()
    (played.folder / REPORT).write_text("first")
    tracker, delivery = played.deliver()
    assert delivery.complete
    run = tracker._state.parent
    (place,) = (tmp_path / "a").glob(f"artifacts/**/{run}/artifacts/{REPORT}")
    assert place.read_text() == "first"
    (played.folder / REPORT).write_text("second")
    assert not played.tracker().delivery().complete
    assert played.deliver()[1].complete
    assert place.read_text() == "second"
    assert sqlite3.connect(tmp_path / "a" / "mlflow.db").execute("select count(*) from runs").fetchone() == (
        2,
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("broken", [False, True])
def test_a_sweep_ends_with_its_report(tmp_path, monkeypatch, cluster, broken):
    monkeypatch.delenv(remake.SWITCH)
    if broken:
        monkeypatch.setattr(remake, "LIMIT_S", 0.01)
        have_reports_hang(tmp_path / "hangs", monkeypatch)
    console = plain_console(200)
    made = spec(tmp_path / "a", choice("optimizer.lr", 0.1, 0.2), trials=2)
    assert launch(made, console=console) == 0
    said = printed(console)
    file = tmp_path / "a" / REPORT
    if broken:
        assert not file.exists()
        assert "The report was not written: it took longer than 0 s." in said
        return
    assert f"Report: {file}" in said
    page = Page(file.read_text())
    assert "done: All 2 trials ended." in page.words
    uploaded = list((tmp_path / "a" / "artifacts").rglob(REPORT))
    assert len(uploaded) == 1
    assert uploaded[0].read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_optunas_pages_show_a_copy_that_follows_the_study(tmp_path, settles):
    pytest.importorskip("optuna_dashboard", reason="the extra `dashboard` is not installed")
    study = Study(sweep(tmp_path / "a", LR))
    asked = study.ask()
    with serve_study(tmp_path / "a", 8123) as (pages, refresh):
        assert pages.url.startswith("http://127.0.0.1:")

        def trials():
            with urllib.request.urlopen(f"{pages.url}/api/studies/1?after=0") as answer:
                return [trial["state"] for trial in json.load(answer)["trials"]]

        assert trials() == ["Running"]
        study.complete(asked.number, {SUCCESS: 0.5})
        refresh()
        # The server reads its copy again after some seconds.
        assert settles(lambda: trials() == ["Complete"])
    assert not pages.runs
    study.close()


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch, capsys):
    run_in(tmp_path, monkeypatch)
    large_sweep(tmp_path / "sweeps" / "a", 1)
    monkeypatch.setattr(dashboard, "PACKAGE", "not_installed_here")
    assert ended("ui", "a", "--search") == 2
    assert "pip install 'diffusion-policy-sweeper[dashboard]'" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setattr(dashboard, "PACKAGE", "json")
    assert ended("ui", "a", "--search") == 2
    assert "contains no study" in capsys.readouterr().err


@pytest.mark.slow
def test_films_of_the_best_trials_are_on_the_page(tmp_path):
    played = Sweep(tmp_path / "a")
    played.start()
    for number in range(5):
        film = trial_folder(played.folder, number) / "rollouts" / "4.mp4"
        film.parent.mkdir(parents=True)
        film.write_bytes(b"film")
        played.trial(number, status="")
        played.report(number, 4, {SUCCESS: number / 10}, artifacts={"rollout/video": str(film)})
        played.end(number, 4)
    page = page_of(played.folder)
    assert len(page.named("video")) == 3
    assert "trial 4: rollout/video" in page.words
    assert "trial 1: rollout/video" not in page.words


@pytest.mark.parametrize(
    ("rates", "ticks"),
    [
        ((4e-4, 9e-4), ["0.0004", "0.0009"]),  # within a decade: its ends
        ((3e-4, 3e-3), ["0.0005", "0.001", "0.002"]),
        ((5e-4, 5e-4), ["0.0005"]),
        ((1e-5, 1e-3), None),  # plotly's own, one for each decade
    ],
)
def test_an_axis_always_has_numbers_and_categories_as_in_a_space_file(rates, ticks):
    rate = optuna.distributions.FloatDistribution(1e-6, 1.0, log=True)
    kind = optuna.distributions.CategoricalDistribution(["mse", None, True])
    study = optuna.create_study()
    for value, (lr, loss) in enumerate(zip(rates, ("mse", None), strict=True)):
        params, distributions = {"lr": lr, "loss": loss}, {"lr": rate, "loss": kind}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=float(value)))
    made = {name: json.loads(one.json) for name, one in slice_figures(study, ["lr", "loss"], "error").items()}
    assert made["lr"]["layout"]["xaxis"].get("ticktext") == ticks
    assert made["loss"]["data"][0]["x"] == ["mse", "null"]
    assert made["loss"]["layout"]["xaxis"]["categoryarray"] == ["mse", "null", "true"]
