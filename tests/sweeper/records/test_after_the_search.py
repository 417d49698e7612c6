"""What was found after the search is part of a sweep's state, whoever reads it."""

from __future__ import annotations

import json

import pytest
from played_sweeps import Sweep
from small_sweeps import SUCCESS

from sweeper.certainty.standing import standing_of
from sweeper.errors import SweepDamagedError
from sweeper.layout import JOURNAL
from sweeper.records import summary
from sweeper.records.summary import read_summary
from sweeper.records.sweep_state import read_sweep
from sweeper.terminal.as_json import to_csv, to_json

SETTING = {"policy.sampler": "DDIM", "policy.n_action_steps": 4}


@pytest.fixture
def played(tmp_path):
    made = Sweep(tmp_path)
    made.start()
    made.trial(0)
    made.trial(1)
    made.finish()
    return made


def test_a_trial_is_ranked_by_the_value_of_its_chosen_setting(played, tmp_path):
    assert [trial.number for trial in read_sweep(tmp_path).ranking()] == [1, 0]
    played.tuned(0, SETTING, value=1.5, untuned=0.3)
    sweep = read_sweep(tmp_path)
    assert [trial.number for trial in sweep.ranking()] == [0, 1]
    tuned = sweep.trials[0]
    assert (tuned.setting, tuned.final[SUCCESS], tuned.untuned) == (SETTING, 1.5, {SUCCESS: 0.3})
    assert tuned.metrics["eval/chunk_latency_ms"] == 12.5
    assert [one["mean"] for one in tuned.tried] == [0.3, 1.5]
    assert sweep.trials[1].setting == {}


def test_the_last_confirmation_counts(played, tmp_path):
    played.confirmed((1, 0.7, 0.8), (0, 0.6, 0.2), complete=False)
    assert read_sweep(tmp_path).confirmation["complete"] is False
    assert read_sweep(tmp_path).confirmed_trial() is None
    played.confirmed((0, 0.75, 0.9), (1, 0.6, 0.1))
    sweep = read_sweep(tmp_path)
    assert sweep.confirmation["complete"] is True
    assert sweep.confirmation["winner"] == 0
    assert sweep.confirmation["options"] == {"episodes": 400}
    assert sweep.confirmed_trial() is sweep.trials[0]
    assert sweep.trials[1].confirmed[SUCCESS] == 0.6
    plain = json.loads(json.dumps(to_json(sweep), allow_nan=False))
    assert plain["confirmation"]["verdict"] == "Trial 0 is the best."
    assert plain["trials"][1]["confirmed"][f"{SUCCESS}_low"] == pytest.approx(0.65)


def test_what_a_person_judged_is_kept_apart_from_what_was_confirmed(played, tmp_path):
    played.confirmed((0, 0.75, 0.9), (1, 0.6, 0.1))
    played.judged((1, 0.8, {"dropped it": 4}), (0, 0.4, {}))
    sweep = read_sweep(tmp_path)
    assert (sweep.judgement["winner"], sweep.judgement["complete"]) == (1, True)
    assert sweep.trials[1].judged["score"] == 0.8
    assert sweep.confirmed_trial() is sweep.trials[0]
    assert "score" not in sweep.trials[1].confirmed
    plain = json.loads(json.dumps(to_json(sweep), allow_nan=False))
    assert plain["judgement"]["finalists"][0]["tags"] == {"dropped it": 4}
    judged = {trial["trial"]: trial["judged"] for trial in plain["trials"]}
    assert judged[0]["score_low"] == pytest.approx(0.3)
    lines = to_csv(sweep, standing_of(sweep, sweep.ranking())).splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert {row["trial"]: row["real/score"] for row in rows} == {"0": "0.4", "1": "0.8"}


def test_the_csv_names_the_sweep_that_a_trial_comes_from(played, tmp_path):
    sweep = read_sweep(tmp_path)
    sweep.trials[1].origin = "trial 3 of old"
    lines = to_csv(sweep, standing_of(sweep, sweep.ranking())).splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert {row["trial"]: row["origin"] for row in rows} == {"0": "", "1": "trial 3 of old"}


def test_the_index_has_what_was_found(played, tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "WORTHWHILE_BYTES", 0)
    monkeypatch.setattr(summary, "SPARE_BYTES", 0)
    played.tuned(1, SETTING, value=1.5, untuned=0.3)
    played.confirmed((0, 0.75, 0.9), (1, 0.6, 0.1))
    played.judged((1, 0.8, {}), (0, 0.4, {}))
    first, again = read_summary(tmp_path), read_summary(tmp_path)
    assert first.confirmation == again.confirmation
    assert first.judgement == again.judgement != {}
    assert first.trials == again.trials
    assert again.trials[1].setting == SETTING


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"winner": 0', '"winner": 7', "trial 7 is not among the finalists"),
        ('"trial": 0, "setting": {}, "metrics"', '"trial": 5, "setting": {}, "metrics"', "finalists"),
        ('"p_best": 0.9', '"p_best": "high"', "`finalists` is not a list of finalists"),
        ('"complete": true', '"complete": 1', "`complete` is not true or false"),
        ('"winner": 1', '"winner": 7', "judged: trial 7 is not among the finalists"),
        ('"letter": "B"', '"letter": 2', "judged: `finalists` is not a list of finalists"),
        ('"dropped it": 4', '"dropped it": []', "judged: `finalists` is not a list of finalists"),
        ('"tried": [{', '"tried": [3, {', "`tried` is not a list of mappings"),
    ],
)
def test_a_journal_that_says_what_cannot_be_is_refused(played, tmp_path, old, new, message):
    played.tuned(0, SETTING, value=1.5, untuned=0.3)
    played.confirmed((0, 0.75, 0.9), (1, 0.6, 0.1))
    played.judged((1, 0.8, {"dropped it": 4}), (0, 0.4, {}))
    text = (tmp_path / JOURNAL).read_text()
    assert old in text
    (tmp_path / JOURNAL).write_text(text.replace(old, new))
    with pytest.raises(SweepDamagedError, match=message):
        read_sweep(tmp_path)
