"""Sweeps whose events a test writes to a journal, and readers of their runs in MLflow."""

from __future__ import annotations

import time
from pathlib import Path

from small_sweeps import LR, SCHEDULE, SUCCESS, begin, sweep

from sweeper.layout import JOURNAL, trial_folder
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.tracking.tracker import Tracker, tracking_uri
from trainables.episodes import EPISODES, EpisodeFile, EpisodeRecord, Evaluated

INFO = {
    "versions": {"python": "3.11.7", "torch": "2.14.1"},
    "git": {"commit": "abc123", "dirty": False},
    "dataset": {"fingerprint": "f00d", "split_hash": "beef"},
}


class Sweep:
    """A sweep whose events a test writes to a journal."""

    def __init__(self, folder: Path, sweep_id: str = "0123") -> None:
        self.folder = folder
        self.journal = Journal(folder / JOURNAL)
        self.sweep_id = sweep_id

    def start(self, *parameters, info=None, **changes):
        spec = sweep(self.folder, *(parameters or (LR, SCHEDULE)), **changes)
        told = {**INFO, **(info or {})}
        begin(self.journal, spec, sweep_id=self.sweep_id, space="name: small\n", info=told)

    def trial(self, number, lr=1e-4, steps=3, status="completed", reason="", values=None, **config):
        values = {"optimizer.lr": lr, **(values or {})}
        self.journal.append(
            EventKind.TRIAL_START,
            trial=number,
            values=values,
            config={**values, "policy.down_dims": [32, 64], **config},
        )
        for step in range(1, steps + 1):
            self.report(number, step, {"train/loss": 1 / step, SUCCESS: 0.1 * step + number})
        if status:
            self.end(number, steps, status, reason)

    def report(self, number, step, metrics, **extra):
        self.journal.append(EventKind.REPORT, trial=number, step=step, metrics=metrics, **extra)

    def end(self, number, step, status="completed", reason=""):
        self.journal.append(
            EventKind.TRIAL_END,
            trial=number,
            status=status,
            reason=reason,
            message=f"{reason} at step {step}" if reason else "",
            step=step,
            final={SUCCESS: 0.1 * step + number},
            best={SUCCESS: 0.1 * step + number},
            sweep_best={SUCCESS: 0.1 * step + number},
            ended=number + 1,
        )

    def tuned(self, number, setting, value, untuned):
        self.journal.append(
            EventKind.TUNED,
            trial=number,
            setting=setting,
            metrics={SUCCESS: value, "eval/chunk_latency_ms": 12.5},
            untuned={SUCCESS: untuned},
            tried=[{"setting": {}, "mean": untuned}, {"setting": setting, "mean": value}],
        )

    def confirmed(self, *finalists, complete=True, settings=None, verdict=""):
        """Finalists as (trial, success rate, p_best), best first; settings by trial.

        Without a verdict, the first one is the best, and the others are worse.
        """
        settings = settings or {}
        described = [{"trial": trial, "setting": settings.get(trial, {})} for trial, _, _ in finalists]
        self.journal.append(EventKind.CONFIRM_START, finalists=described, options={"episodes": 400})
        found = [
            {
                "trial": trial,
                "setting": settings.get(trial, {}),
                "metrics": {SUCCESS: rate, f"{SUCCESS}_low": rate - 0.1, "episodes": 400},
                "p_best": p_best,
                "state": "left" if verdict else "out" if place else "best",
            }
            for place, (trial, rate, p_best) in enumerate(finalists)
        ]
        verdict = verdict or f"Trial {finalists[0][0]} is the best."
        fields = {"winner": finalists[0][0], "verdict": verdict, "complete": complete}
        self.journal.append(EventKind.CONFIRMED, finalists=found, **fields)

    def judged(self, *finalists, complete=True):
        """Finalists on the real robot as (trial or name of another policy, mean score, tags), best first."""
        found = [
            {
                **({"trial": None, "policy": which} if isinstance(which, str) else {"trial": which}),
                "letter": letter,
                "setting": {},
                "metrics": {
                    "score": score,
                    "score_low": score - 0.1,
                    "score_high": score + 0.1,
                    "success_rate": score,
                    "episodes": 30.0,
                    "void": 1.0,
                },
                "tags": tags,
                "p_best": 0.5,
                "state": "left",
            }
            for (which, score, tags), letter in zip(finalists, "BAC", strict=False)
        ]
        best = f"{'Policy' if isinstance(finalists[0][0], str) else 'Trial'} {finalists[0][0]}"
        self.journal.append(
            EventKind.JUDGED,
            finalists=found,
            winner=finalists[0][0],
            verdict=f"{best} leads after 30 starts.",
            complete=complete,
            options={"episodes": 30, "seed": 3},
        )

    def episodes(self, number, *outcomes, step=3, purpose="search", setting=None, first=100_000):
        """Record episodes beside a trial: of each the reward, and with a reward of 1 success."""
        folder = trial_folder(self.folder, number) / EPISODES
        records = [
            EpisodeRecord(episode, first + episode, outcome == 1, outcome, outcome, 10, chunk_ms=1.0)
            for episode, outcome in enumerate(map(float, outcomes))
        ]
        return EpisodeFile(folder, Evaluated(purpose, step, setting or {}, "reaching")).write(records)

    def finish(self, status="done"):
        self.journal.append(EventKind.SWEEP_END, status=status, message="")

    def tracker(self, uri=None):
        return Tracker(self.folder, uri, "small")

    def deliver(self, uri=None, deadline_s=300.0):
        tracker = self.tracker(uri)
        assert tracker.start() == ""
        return tracker, tracker.close(deadline_s)


def client_of(folder, uri=None):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri(folder, uri))


def history(client, run_id, metric):
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]


def wait_until(condition, seconds=300.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.1)
