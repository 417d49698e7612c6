"""What the source of a draft does not decide, as the trainable proposes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sweeper.spec.space_file.draft.content import Draft, Written
from sweeper.text import describe_value
from trainables.interface import EVAL_EVERY, STEPS, Proposal, ProposedField, Trainable

__all__ = ["complete"]

DATASETS = ("dataset.root", "dataset.repo_id")
MY_DATASET = "my_dataset"
KEEP = 5


def _name_a_dataset(draft: Draft, trainable: Trainable) -> None:
    """Leave a place for the dataset, if the source names none."""
    if "dataset.root" in trainable.fields and not set(DATASETS) & {*draft.config, *draft.parameters}:
        named = Written(MY_DATASET, "<- your LeRobot dataset")
        draft.config = {"dataset.root": named, **draft.config}
        draft.note("dataset.root: the source names no dataset. Write yours in its place.")


def complete(draft: Draft, proposal: Proposal, trainable: Trainable) -> None:
    """Add what is missing: fixed values, parameters, metric, search, early stopping and budget."""
    _name_a_dataset(draft, trainable)
    draft.found += [sentence for sentence in proposal.found if sentence not in draft.found]
    for remark in proposal.remarks:
        if _concerns(draft, remark):
            draft.note(remark)
    for entry in proposal.config:
        _fix(draft, entry, proposal)
    if not draft.parameters:
        for entry in proposal.parameters:
            draft.config.pop(entry.name, None)
            draft.parameters[entry.name] = Written(entry.value, entry.why)
    _count_evaluations(draft)
    searched = set(draft.parameters)
    draft.constraints += [
        text
        for text in proposal.constraints
        if text not in (*draft.constraints, *draft.refused) and any(name in text for name in searched)
    ]
    _add_sections(draft, proposal, trainable)
    order = {name: number for number, name in enumerate(trainable.fields)}
    draft.config = dict(sorted(draft.config.items(), key=lambda entry: order.get(entry[0], len(order))))


def _fix(draft: Draft, entry: ProposedField, proposal: Proposal) -> None:
    """Take over a proposed value; one that the source decides is changed only if it cannot stay."""
    old = draft.config.get(entry.name)
    if entry.name in draft.parameters or (old is not None and old.value == entry.value):
        return
    if old is not None:
        change = f"{describe_value(old.value)} became {describe_value(entry.value)}"
        draft.note(f"{entry.name}: {change}: {entry.why}.")
    elif draft.decides and not proposal.found and not entry.needed:
        return  # the source says what is searched, and the trainable's defaults hold for the rest
    draft.config[entry.name] = Written(entry.value, entry.why)


def _count_evaluations(draft: Draft) -> None:
    """Begin early stopping after as many evaluations as in the source: the draft may evaluate more often."""
    before, stop = draft.evaluations, draft.sections.get("early_stop")
    every = draft.fixed.get(EVAL_EVERY)
    if before is None or not isinstance(stop, dict) or not isinstance(every, int) or every == before.every:
        return
    draft.evaluations = now = replace(before, every=every)
    stop["min_steps"] = now.steps
    draft.notes = [note.replace(before.sentence, now.sentence) for note in draft.notes]


def _concerns(draft: Draft, remark: str) -> bool:
    """Whether a remark holds for the draft: a source that says what is searched needs no reasons."""
    field = remark.partition(" ")[0].rstrip(":")
    return field not in draft.parameters and not (draft.decides and field not in draft.config)


def _add_sections(draft: Draft, proposal: Proposal, trainable: Trainable) -> None:
    sections, fixed = draft.sections, draft.fixed
    if "metric" not in sections and "objectives" not in sections:
        goal = trainable.metrics[proposal.metric].goal
        sections["metric"] = {"name": proposal.metric, **({"goal": goal} if goal else {})}
        draft.comments["metric"] = proposal.metric_why
    _correct_goal(draft, trainable)
    search = _settings(sections, "search")
    if not search:
        search |= {"method": "tpe", "seed": 0, "startup_trials": 10}
        draft.comments["search"] = "Optuna's TPE, after ten random trials"
    if not draft.is_search and "early_stop" not in sections:
        every = fixed.get(EVAL_EVERY, trainable.fields[EVAL_EVERY].default)
        steps = fixed.get(STEPS, trainable.fields[STEPS].default)
        if every * 3 <= steps:
            # A fifth to a third of a trial: an earlier rung stops good trials (docs/search.md).
            first = every * max(1, round(steps / (4 * every)))
            stop = {"method": "asha", "metric": proposal.stop_metric, "min_steps": first, "reduction": 3}
            sections["early_stop"] = stop
            draft.comments["early_stop"] = f"from step {first:,} on, the best third of the trials continues"
    budget = _settings(sections, "budget")
    if "trials" not in budget and search.get("method") != "grid":
        budget["trials"] = proposal.trials
        if draft.is_search:
            draft.note(f"budget.trials: the source has no number of trials. {proposal.trials} is a start.")
    if not draft.is_search:
        budget.setdefault("max_failed", 4)
    draft.comments.setdefault("budget", "the sweep ends when the first of these is reached")
    if not _settings(sections, "keep"):
        sections["keep"]["trials"] = KEEP
        draft.comments["keep"] = "checkpoints of the best five trials stay; null: of all"
    if not _settings(sections, "resources"):
        sections["resources"] |= {"workers": 1, "gpu_per_worker": "auto", "cpu_per_worker": "auto"}
        draft.comments["resources"] = "of each trial; auto: a GPU if there is one"


def _correct_goal(draft: Draft, trainable: Trainable) -> None:
    """A metric has its own direction: that of the source may be of another metric."""
    metric = draft.sections.get("metric")
    if not isinstance(metric, dict):
        return
    known = trainable.metrics.get(str(metric.get("name")))
    if known is None or known.goal is None or metric.get("goal") in (None, known.goal):
        return
    draft.note(f"metric.goal: {metric['goal']} became {known.goal}, the better direction of {known.name}.")
    metric["goal"] = known.goal


def _settings(sections: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = sections.setdefault(name, {})
    return found
