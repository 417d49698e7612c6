"""The journal's events in MLflow: runs with their parameters, metrics, tags and files."""

from __future__ import annotations

import getpass
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sweeper.layout import ERROR_TEXT, trial_folder
from sweeper.machines.identity import data_of_all
from sweeper.records.events import Event, EventKind, winner_of
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.tracking.client import attempt, legal_key
from sweeper.tracking.state import State

__all__ = ["BEST_FINAL", "Batch"]

METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
BEST_FINAL = "best_final"
"""Of the sweep's run: the best final value of its trials. ``best/…`` is the best of a trial's evaluations."""
FIRST_GROUPS = ("final", "best", BEST_FINAL, "rollout", "eval", "train")
LAST_GROUP = "system"
FINAL_STEP = "final/step"
"""The step of the values ``final/…``. It makes a trial that was stopped early recognisable beside others."""
RUN_NAME = "mlflow.runName"
WHY = ("reason", "message")
"""Tags that say why a trial ended; one that completed has none."""

STATUS: dict[str, str] = {
    TrialStatus.COMPLETED: "FINISHED",
    TrialStatus.STOPPED_EARLY: "KILLED",
    TrialStatus.INTERRUPTED: "KILLED",
    TrialStatus.FAILED: "FAILED",
    SweepStatus.DONE: "FINISHED",
    SweepStatus.INTERRUPTED: "KILLED",
    SweepStatus.FAILED: "FAILED",
}
"""MLflow's status of a run for each final status of a trial or sweep, which the tag ``status`` contains."""

T = TypeVar("T")


class Batch:
    """Requests for a chunk of the journal, collected by run.

    Missing runs are created at once; everything else is sent by `send`. If `send` fails, the batch is
    discarded, and the same chunk is read again later.

    Attributes:
        sweep_id: The sweep's id in the journal.
        objectives: Names of its objectives.
        parent: MLflow's id of the sweep's run.
        runs: MLflow's id of each trial's run.
        artifacts: Files to upload later.
    """

    def __init__(
        self, state: State, client: Any, send: Callable[[Callable[[], object]], bool], folder: Path
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self.sweep_id = state.sweep_id
        self.objectives = state.objectives
        self.parent = state.parent
        self.runs = dict(state.runs)
        self.artifacts: list[dict[str, str]] = []
        self._experiment_id = state.experiment_id
        self._folder = folder
        self._client = client
        self._send = send
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._metrics: dict[str, list[Any]] = defaultdict(list)
        self._params: dict[str, dict[str, str]] = defaultdict(dict)
        self._tags: dict[str, dict[str, str]] = defaultdict(dict)
        self._status: dict[str, tuple[str, int]] = {}

    def add(self, event: Event) -> None:
        """Add one event. Events that are not recorded in MLflow are ignored."""
        match event["event"]:
            case EventKind.SWEEP_START:
                self._sweep_start(event)
            case EventKind.TRIAL_START:
                self._trial_start(event)
            case EventKind.REPORT:
                self._report(event)
            case EventKind.TRIAL_RETRY:
                self._trial_retry(event)
            case EventKind.CHECKPOINTS_DROPPED:
                self._tags[self.runs[str(event["trial"])]]["checkpoints.dropped"] = _text(event["folders"])
            case EventKind.TRIAL_END:
                self._trial_end(event)
            case EventKind.TUNED:
                self._tuned(event)
            case EventKind.CONFIRMED:
                self._confirmed(event)
            case EventKind.JUDGED:
                self._judged(event)
            case EventKind.SWEEP_END:
                self._status[self.parent] = (event["status"], _milliseconds(event))
                self._tags[self.parent] |= {"status": event["status"], "message": event["message"]}

    def _sweep_start(self, event: Event) -> None:
        spec, info = event["spec"], event["info"]
        first = not self.parent
        self.sweep_id = event["sweep_id"]
        self.objectives = [objective["name"] for objective in spec["objectives"]]
        tags = {"sweep.name": event["sweep"], "sweep.id": event["sweep_id"], "sweep.kind": "sweep"}
        parent = self._run(event["sweep"], tags, event)
        self.parent = parent
        self._tags[parent] |= {"status": SweepStatus.RUNNING, **_info_tags(_of_all_trials(info))}
        if first:
            # MLflow never changes the parameters of a run, but a resumed sweep may have a larger budget.
            self._params[parent] |= _sweep_params(spec)
        self._status[parent] = (SweepStatus.RUNNING, 0)
        self.artifacts += [
            {"trial": "", "name": "space.yaml", "text": event["space"]},
            {"trial": "", "name": "spec.json", "text": json.dumps(spec, indent=1)},
            {"trial": "", "name": "info.json", "text": json.dumps(info, indent=1)},
        ]

    def _trial_start(self, event: Event) -> None:
        number = str(event["trial"])
        tags = {
            "mlflow.parentRunId": self.parent,
            "sweep.id": self.sweep_id,
            "sweep.kind": "trial",
            "sweep.trial": number,
            **({"sweep.origin": event["origin"]} if event.get("origin") else {}),
        }
        first = number not in self.runs
        if not first:
            self._forget_why(self.runs[number])
        run = self.runs.get(number) or self._run(_run_name(event["trial"]), tags, event)
        self.runs[number] = run
        self._tags[run] |= {"status": TrialStatus.RUNNING, RUN_NAME: _run_name(event["trial"])}
        if first:
            # MLflow never changes parameters, so the changes of a retry are tags.
            self._params[run] |= {name: _text(value) for name, value in event["config"].items()}
            # MLflow's comparison starts with the first metric of a run, which should be the objective.
            self._add_metrics(run, _prefixed("final", dict.fromkeys(self.objectives, math.nan)), 0, event)
        self._status[run] = (TrialStatus.RUNNING, 0)
        self.artifacts.append(
            {"trial": number, "name": "config.json", "text": json.dumps(event["config"], indent=1)}
        )

    def _forget_why(self, run: str) -> None:
        """Delete what a trial that runs again said of its end."""
        sent: dict[str, str] = {}
        self._send(lambda: sent.update(self._client.get_run(run).data.tags))
        for name in WHY:
            self._tags[run].pop(name, None)
            if name in sent:
                self._send(partial(self._client.delete_tag, run, name))

    def _report(self, event: Event) -> None:
        number = str(event["trial"])
        self._add_metrics(self.runs[number], event["metrics"], event["step"], event)
        for name, path in event.get("artifacts", {}).items():
            folder = name.rpartition("/")[0]
            self.artifacts.append({"trial": number, "path": path, "folder": folder})

    def _trial_retry(self, event: Event) -> None:
        tags = self._tags[self.runs[str(event["trial"])]]
        tags["retries"] = str(event["retry"])
        tags[f"retry.{event['retry']}"] = f"{event['reason']}: {event['message']}"
        tags |= {f"changed.{name}": _text(value) for name, value in event["changes"].items()}

    def _trial_end(self, event: Event) -> None:
        number = str(event["trial"])
        run = self.runs[number]
        error = trial_folder(self._folder, event["trial"]) / ERROR_TEXT
        if event["status"] == TrialStatus.FAILED and error.exists():
            self.artifacts.append({"trial": number, "path": str(error), "folder": ""})
        # At step 0, so that MLflow draws them as bars for comparing runs, not as lines of one point.
        self._add_metrics(run, _prefixed("final", event["final"]), 0, event)
        self._add_metrics(run, {FINAL_STEP: event["step"]}, 0, event)
        self._add_metrics(run, _prefixed("best", event["best"]), 0, event)
        self._add_metrics(self.parent, _prefixed(BEST_FINAL, event["sweep_best"]), event["ended"], event)
        if "gpu_hours" in event:
            self._add_metrics(run, {"cost/gpu_hours": event["gpu_hours"]}, 0, event)
            taken = {"cost/gpu_hours": event["sweep_gpu_hours"]}
            self._add_metrics(self.parent, taken, event["ended"], event)
        if "cost" in event:
            self._add_metrics(run, {"cost/money": event["cost"]}, 0, event)
            self._add_metrics(self.parent, {"cost/money": event["sweep_cost"]}, event["ended"], event)
            self._tags[self.parent]["cost.currency"] = event["currency"]
        self._tags[run] |= {name: event[name] for name in ("status", *WHY) if event[name]}
        if event["status"] != TrialStatus.COMPLETED:
            self._tags[run][RUN_NAME] = _run_name(event["trial"], event["status"], event["step"])
        self._status[run] = (event["status"], _milliseconds(event))

    def _tuned(self, event: Event) -> None:
        run = self.runs[str(event["trial"])]
        self._add_metrics(run, _prefixed("tuned", event["metrics"]), 0, event)
        final = {name: event["metrics"][name] for name in self.objectives if name in event["metrics"]}
        self._add_metrics(run, _prefixed("final", final), 0, event)
        self._tags[run] |= {f"tuned.{name}": _text(value) for name, value in event["setting"].items()}

    def _confirmed(self, event: Event) -> None:
        for one in event["finalists"]:
            run = self.runs[str(one["trial"])]
            self._add_metrics(run, _prefixed("confirmed", one.get("metrics", {})), 0, event)
            if "p_best" in one:
                self._add_metrics(run, {"p_best": one["p_best"]}, 0, event)
        winner = next(one for one in event["finalists"] if one["trial"] == event["winner"])
        self._add_metrics(self.parent, _prefixed("confirmed", winner.get("metrics", {})), 0, event)
        self._tags[self.parent] |= {
            "confirmed.winner": str(event["winner"]),
            "confirmed.verdict": event["verdict"],
        }

    def _judged(self, event: Event) -> None:
        """Success on a real robot is not mixed with that of a simulator: it is called ``real/…``."""
        for one in event["finalists"]:
            if one["trial"] is None:
                continue  # a policy that is not a trial of this sweep has no run
            run = self.runs[str(one["trial"])]
            chance = {"p_best": one["p_best"]} if "p_best" in one else {}
            self._add_metrics(run, _prefixed("real", {**one.get("metrics", {}), **chance}), 0, event)
        winner = next(one for one in event["finalists"] if winner_of(one) == event["winner"])
        self._add_metrics(self.parent, _prefixed("real", winner.get("metrics", {})), 0, event)
        self._tags[self.parent] |= {
            "real.winner": str(event["winner"]),
            "real.verdict": event["verdict"],
            "real.judged_by": "a person",
        }

    def _run(self, name: str, tags: Mapping[str, str], event: Event) -> str:
        """The run with these tags, which is created if it is missing."""
        wanted = " and ".join(
            f"tags.`{key}` = '{tags[key]}'"
            for key in ("sweep.id", "sweep.kind", "sweep.trial")
            if key in tags
        )
        experiment = self._experiment_id
        found = attempt(lambda: self._client.search_runs([experiment], wanted, max_results=1))
        if found:
            return str(found[0].info.run_id)
        run = attempt(
            lambda: self._client.create_run(
                experiment, start_time=_milliseconds(event), tags={**tags, **_origin()}, run_name=name
            )
        )
        return str(run.info.run_id)

    def _add_metrics(self, run: str, metrics: Mapping[str, Any], step: int, event: Event) -> None:
        for name, value in sorted(metrics.items(), key=_prominence):
            number = float(value)
            # MLflow accepts NaN but turns an infinity into the largest number, which spoils the chart.
            number = number if math.isfinite(number) else math.nan
            self._metrics[run].append(self._metric(legal_key(name), number, _milliseconds(event), step))

    def send(self) -> None:
        """Send the collected requests, metrics first and the ends of runs last."""
        for run, metrics in self._metrics.items():
            for batch in _batches(metrics, METRICS_PER_BATCH):
                self._log(run, metrics=batch)
        for run, texts in self._params.items():
            params = [self._param(legal_key(name), text[:PARAM_LENGTH]) for name, text in texts.items()]
            for batch in _batches(params, PARAMS_PER_BATCH):
                self._log(run, params=batch)
        for run, texts in self._tags.items():
            tags = [self._tag(legal_key(name), text[:TAG_LENGTH]) for name, text in texts.items()]
            for batch in _batches(tags, PARAMS_PER_BATCH):
                self._log(run, tags=batch)
        for run, (status, end) in self._status.items():
            self._end(run, status, end)

    def _log(self, run: str, **entities: Sequence[Any]) -> None:
        self._send(lambda: self._client.log_batch(run, **entities))

    def _end(self, run: str, status: str, end: int) -> None:
        if status == TrialStatus.RUNNING:
            self._send(lambda: self._client.update_run(run, status="RUNNING"))
        else:
            self._send(lambda: self._client.set_terminated(run, STATUS[status], end_time=end))


def _run_name(trial: int, status: str = "", step: int = 0) -> str:
    """The name of a trial's run; it says at which step a trial ended that did not run to its end."""
    # Short, because MLflow's charts show about twenty characters.
    word = "stopped" if status == TrialStatus.STOPPED_EARLY else status
    return f"trial {trial} ({word} at {step:,})" if status else f"trial {trial}"


def _origin() -> dict[str, str]:
    """What MLflow's pages show as the user and the source of a run."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": "sweeper", "mlflow.source.type": "JOB"}


def _of_all_trials(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep was run with, without what holds for a part of its trials only, as their split may."""
    data = info.get("data")
    return {**info, "data": data_of_all(data)} if isinstance(data, Mapping) else dict(info)


def _info_tags(info: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the sweep's run: versions, commit, dataset. Nested names are joined by dots."""
    tags: dict[str, str] = {}
    for name, value in info.items():
        if isinstance(value, Mapping):
            tags |= {f"{name}.{inner}": text for inner, text in _info_tags(value).items()}
        elif value is not None:
            tags[name] = _text(value)
    if "git.commit" in tags:
        tags["mlflow.source.git.commit"] = tags["git.commit"]
    return tags


def _sweep_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of the sweep's run: its settings and its search space."""
    params = {"trainable": spec["trainable"]}
    for section in ("search", "early_stop", "budget", "resources"):
        for name, value in (spec[section] or {}).items():
            params[f"{section}.{name}"] = _text(value)
    for objective in spec["objectives"]:
        params[f"objective.{objective['name']}"] = objective["goal"]
    for parameter in spec["space"]["parameters"]:
        rest = {key: value for key, value in parameter.items() if key not in ("name", "kind")}
        params[f"space.{parameter['name']}"] = _text(rest)
    for number, text in enumerate(spec["space"]["constraints"]):
        params[f"constraint.{number}"] = text
    for name, value in spec["config"].items():
        params[f"config.{name}"] = _text(value)
    return params


def _prominence(metric: tuple[str, Any]) -> tuple[int, str]:
    """A key to sort metrics: MLflow's comparison starts with the first metric of a run."""
    name = metric[0]
    group = name.partition("/")[0]
    if group in FIRST_GROUPS:
        return (FIRST_GROUPS.index(group), "" if name == "train/loss" else name)
    return (len(FIRST_GROUPS) + (group == LAST_GROUP), name)


def _prefixed(prefix: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _milliseconds(event: Event) -> int:
    return int(event["time"] * 1000)


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
