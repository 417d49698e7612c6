"""The command that chooses inference settings."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.commands.options import Address, Json, Policy, SweepsFolder, field_values, open_console
from sweeper.commands.trained.delivery import deliver
from sweeper.driver.signals import interrupted_by_sigterm
from sweeper.errors import INTERRUPTED, UserError
from sweeper.finalists.candidates import Candidate, finalists, find_candidate
from sweeper.finalists.evaluators import Evaluators, evaluators
from sweeper.finalists.recording import Recording, recording
from sweeper.finalists.tuning import Described, RayMeasures, Tuned, default_values, describe
from sweeper.finalists.tuning import tune as choose
from sweeper.records.events import EventKind
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.spec.space_file.read_inference import EPISODE_METRICS, ERROR_METRICS, read_settings
from sweeper.spec.sweep import InferenceSpec, Objective, ResourceSpec
from sweeper.terminal.finalists.tuning import print_tuned
from sweeper.trial.inference import InferencePlan
from trainables import registry

__all__ = ["tune"]


def tune(
    policy: Policy,
    values: Annotated[
        list[str] | None,
        field_values(
            "policy.num_inference_steps=4,8,16",
            "the sweep's section `inference`, else a set for few denoising steps",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Tune the best N trials.", metavar="N")] = 1,
    episodes: Annotated[
        int | None,
        typer.Option(
            min=2, help="Most episodes of each setting. Default: of `inference`, else 100.", metavar="N"
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="Bound of a setting, e.g. eval/chunk_latency_ms=50.", metavar="METRIC=BOUND"),
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="Environment in place of that of the training.", metavar="ID")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset in place of that of the training.", metavar="ROOT")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder for the episodes of a checkpoint. Default: not kept.", metavar="DIR"),
    ] = None,
    address: Address = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Choose the inference setting of trained policies, without training: value against latency."""
    console = open_console(stderr=as_json)
    report = partial(console.print, style="dim", soft_wrap=True, markup=False)
    config = {
        name: value for name, value in (("rollout.env", env), ("dataset.root", dataset)) if value is not None
    }
    wanted, sweep = _policies(policy, sweeps, top, config, report)
    # With another environment or dataset the values are not those of the sweep, and are not recorded there.
    recorded = sweep is not None and not config
    if recorded and to is not None:
        raise UserError("--to: the episodes of a trial are kept in its own folder. Leave it out.")
    resources = ResourceSpec() if sweep is None else ResourceSpec(**sweep.spec["resources"])
    options = _Asked(values or (), limit or (), episodes)
    tuned: list[dict[str, Any]] = []
    try:
        with contextlib.ExitStack() as opened:
            opened.enter_context(interrupted_by_sigterm())
            record = opened.enter_context(recording(sweep)) if sweep is not None and recorded else None
            # Faults of arguments that need no policy are reported before anything starts.
            options.check(wanted[0])
            folder = None if recorded else opened.enter_context(_folder(to))
            report("Starting Ray …")
            cluster = opened.enter_context(evaluators(resources, address=address, report=report))
            # Ray replaces the handler of SIGTERM when it starts.
            opened.enter_context(interrupted_by_sigterm())
            for one in wanted:
                found = _tuned(one, sweep, options, cluster, record, folder, report)
                tuned.append(found)
                if not as_json:
                    print_tuned(console, found)
    except KeyboardInterrupt:
        kept = recorded or to is not None
        console.print(
            "Stopped. "
            + ("The same command continues." if kept else "Nothing was kept (--to DIR keeps it)."),
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if sweep is not None and recorded and tuned:
            deliver(sweep.folder, console)
    if as_json:
        typer.echo(json.dumps(tuned, indent=2))
    elif sweep is not None and recorded:
        console.print(
            f"Ranking, confirm and export use it from now on:\n  sweeper confirm {sweep.name}\n"
            f"  sweeper export {sweep.name}:{tuned[0]['trial']} --to DIR",
            soft_wrap=True,
            markup=False,
        )
    else:
        where = "Its episodes were not kept (--to DIR)." if to is None else f"Its episodes are in {to}."
        console.print(
            f"Nothing was recorded of this choice in a sweep. {where}", soft_wrap=True, markup=False
        )


class _Asked:
    """What is asked of the command, before a policy is opened."""

    def __init__(self, values: Sequence[str], limits: Sequence[str], episodes: int | None) -> None:
        self.values, self.limits, self.episodes = values, limits, episodes

    def check(self, candidate: Candidate) -> None:
        """Find faults of the arguments, as far as they do not depend on the policy."""
        if self.values:
            config = {"rollout.env": "any", "dataset.root": "any"}
            trainable = registry.load(candidate.trainable)
            metric = next(name for name in (*EPISODE_METRICS, *ERROR_METRICS) if name in trainable.metrics)
            goal = trainable.metrics[metric].goal or "maximize"
            read_settings(trainable, config, Objective(metric, goal), self.values, self.limits)

    def spec(self, candidate: Candidate, described: Described, sweep: SweepState | None) -> InferenceSpec:
        """The settings of a policy: from the arguments, else from its sweep, else the default."""
        trainable = registry.load(candidate.trainable)
        section = None if sweep is None else _section_of(sweep)
        objective = _objective(candidate, described, sweep, section)
        values = list(self.values)
        if not values and section is not None:
            values = [f"{name}={json.dumps(list(listed))}" for name, listed in section.parameters.items()]
            if objective.name not in EPISODE_METRICS:
                values = [value for value in values if not value.startswith("policy.n_action_steps=")]
        values = values or default_values(trainable.fields, episodes=described.environment is not None)
        if not values:
            known = [field.name for field in trainable.fields.values() if field.phase == "inference"]
            raise UserError(
                f"{candidate.label}: nothing to search. Name values, e.g. FIELD=A,B,C. Inference fields of "
                f"{candidate.trainable}: {', '.join(known) or 'none'}."
            )
        limits = list(self.limits)
        if not limits and section is not None:
            limits = [f"{name}={bound}" for name, bound in section.limits.items()]
        return read_settings(
            trainable,
            {"rollout.env": described.environment, "dataset.root": "its own" if described.windows else None},
            objective,
            values,
            limits,
            episodes=self.episodes or (100 if section is None else section.episodes),
            reward_range=(0.0, 1.0) if section is None else section.reward_range,
        )


def _section_of(sweep: SweepState) -> InferenceSpec | None:
    """The section `inference` of a sweep."""
    section = sweep.spec.get("inference")
    return None if section is None else InferenceSpec.from_dict(section)


def _objective(
    candidate: Candidate, described: Described, sweep: SweepState | None, section: InferenceSpec | None
) -> Objective:
    """What settings are compared by: as in the sweep, else the success rate, else the held-out error."""
    usable = EPISODE_METRICS if described.environment is not None else ERROR_METRICS
    if described.environment is None and not described.windows:
        raise UserError(
            f"{candidate.label}: the policy has no environment and no held-out episodes to compare settings "
            "by. Name one: --env ID or --dataset ROOT."
        )
    named = [] if section is None else [Objective(section.metric, section.goal)]
    named += [] if sweep is None else sweep.objectives
    default = Objective("rollout/success_rate", "maximize")
    if usable is ERROR_METRICS:
        default = Objective("eval/action_mse", "minimize")
    return next((one for one in named if one.name in usable), default)


def _policies(
    named: str, sweeps: Path, top: int, config: dict[str, Any], report: Any
) -> tuple[list[Candidate], SweepState | None]:
    """The policies that are meant, and their sweep."""
    found = find_candidate(named, sweeps, config)
    unknown = [name for name in config if name not in registry.load(found.trainable).fields]
    if unknown:
        raise UserError(f"the trainable {found.trainable} has no field {unknown[0]}.")
    sweep = None if found.records is None else read_sweep(found.records.parents[2])
    if top == 1:
        return [found], sweep
    if sweep is None or named.rpartition(":")[2] == str(found.trial):
        raise UserError(f"--top {top}: {named} is one policy. Name a sweep, without a trial.")
    best, missing = finalists(sweep, top)
    for reason in missing:
        report(f"! {reason}")
    return [find_candidate(f"{sweep.folder}:{one.trial}", sweeps, config) for one in best], sweep


def _tuned(
    candidate: Candidate,
    sweep: SweepState | None,
    asked: _Asked,
    cluster: Evaluators,
    record: Recording | None,
    folder: Path | None,
    report: Any,
) -> dict[str, Any]:
    """Choose for one policy, and record it; what the output has of it."""
    described = describe(candidate, cluster)
    spec = asked.spec(candidate, described, sweep)
    records = candidate.records if folder is None else folder / _folder_name(candidate)
    assert records is not None
    measures = RayMeasures(candidate, described, cluster, records)
    found = choose(candidate, measures, InferencePlan(**spec.as_plan()), report)
    if record is not None:
        record.append(EventKind.TUNED, trial=candidate.trial, **asdict(found.choice))
    return _plain(found, spec)


def _plain(found: Tuned, spec: InferenceSpec) -> dict[str, Any]:
    gain = found.gain
    return {
        "policy": found.candidate.label,
        "trial": found.candidate.trial,
        "checkpoint": str(found.candidate.checkpoint),
        "metric": spec.metric,
        "goal": spec.goal,
        **asdict(found.choice),
        "gain": None
        if gain is None
        else {
            "difference": gain.difference,
            "low": gain.interval.low,
            "high": gain.interval.high,
            "p_value": gain.p_value,
            "count": gain.episodes[0],
        },
    }


def _folder_name(candidate: Candidate) -> str:
    return "episodes" if candidate.trial is None else f"{candidate.trial}/episodes"


@contextlib.contextmanager
def _folder(to: Path | None) -> Iterator[Path]:
    """The folder of the episodes of a checkpoint; a temporary one if they are not kept."""
    if to is not None:
        yield to
        return
    with tempfile.TemporaryDirectory(prefix="sweeper-tune-") as temporary:
        yield Path(temporary)
