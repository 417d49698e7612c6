"""Print the plan of a sweep, for `sweeper check`."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.evidence.planning import detectable_difference, episodes_needed
from sweeper.machines.plan import Plan
from sweeper.records.spending import NOT_INCLUDED
from sweeper.spec.alerts import AlertsSpec
from sweeper.spec.cost import money_text
from sweeper.spec.space import describe_range, describe_scale
from sweeper.spec.stopper_options import complete_stopper_options
from sweeper.spec.sweep import ConfirmSpec, InferenceSpec
from sweeper.spec.taken import Taken
from sweeper.terminal.faults import indented
from sweeper.text import counted, describe_size, describe_value

__all__ = ["print_plan"]

TARGETS = (0.2, 0.1, 0.05)
"""Differences of success rates, of which the first one that the planned episodes cannot show is explained."""

NOTHING = Taken()
"""What a sweep without ``search.from`` takes."""


def print_plan(console: Console, plan: Plan, taken: Taken = NOTHING) -> None:
    """Print what a sweep would do, and what it takes from earlier sweeps."""
    spec = plan.spec
    objectives = ", ".join(f"{objective.goal} {objective.name}" for objective in spec.objectives)
    console.print(
        Text.assemble(("✓ ", "bold green"), (spec.name, "bold"), f"  {spec.trainable}, {objectives}")
    )
    console.print()
    console.print(indented(_parameters(plan), 2))
    console.print()
    console.print(indented(_facts(plan, taken), 2))
    if spec.config:
        console.print()
        console.print(indented(_config(plan), 2))
    for note in plan.notes:
        _remark(console, "·", "cyan", note)
    for warning in plan.warnings:
        _remark(console, "!", "bold yellow", warning)


def _remark(console: Console, sign: str, style: str, text: str) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(sign, style=style), Text(text))
    console.print()
    console.print(indented(grid, 2))


def _parameters(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("parameter", no_wrap=True)
    table.add_column("range or values", overflow="fold")
    table.add_column("scale", no_wrap=True)
    conditional = any(parameter.when is not None for parameter in plan.spec.space.parameters)
    if conditional:
        table.add_column("only when", overflow="fold")
    for parameter in plan.spec.space.parameters:
        row: list[RenderableType] = [
            Text(parameter.name, style="bold"),
            describe_range(parameter),
            describe_scale(parameter),
        ]
        if conditional:
            row.append("" if parameter.when is None else parameter.when.text)
        table.add_row(*row)
    return table


def _facts(plan: Plan, taken: Taken) -> Table:
    grid = Table.grid(padding=(0, 2))
    for title, text in _lines(plan, taken):
        grid.add_row(Text(title, style="dim"), Text(text))
    return grid


def _lines(plan: Plan, taken: Taken = NOTHING) -> Iterable[tuple[str, str]]:
    spec, resources, machine = plan.spec, plan.resources, plan.machine
    yield "space", _space(plan)
    for number, constraint in enumerate(spec.space.constraints):
        yield "" if number else "constraints", constraint.text
    yield "search", _search(plan, taken)
    for number, source in enumerate(taken.sources):
        yield "" if number else "earlier sweeps", source.words
    yield "trials", _trials(plan)
    if plan.steps is not None:
        low, high = plan.steps
        yield "steps per trial", f"{low:,}" if low == high else f"{low:,} to {high:,}"
    for one in plan.derived:
        least, most = (
            f"{value:,.0f}" if value == int(value) else f"{value:.3g}" for value in (one.low, one.high)
        )
        yield one.name, f"{least if least == most else f'{least} to {most}'} {one.words}"
    yield "early stopping", _early_stop(plan)
    if spec.inference is not None:
        yield "inference", _inference(spec.inference)
    if spec.confirm is not None:
        yield "confirmation", _confirmation(spec.confirm)
    if plan.final_episodes is not None:
        yield "evidence", _told_apart(plan.final_episodes)
        episodes = plan.confirm_episodes
        confirmed = f"{100 * detectable_difference(episodes):.0f} points"
        yield "", f"{episodes} episodes (`sweeper confirm`) tell about {confirmed} apart"
    workers = "1 worker" if resources.workers == 1 else f"{resources.workers} workers"
    each = f"{workers}, {_count(resources.gpu_per_trial, 'GPU')}, {_count(resources.cpu_per_trial, 'CPU')}"
    yield "each trial gets", each
    if plan.share.why:
        yield "", plan.share.why
    if plan.share.trials > 1:
        runs = "runs: they compute at the same time" if plan.share.mps else "does not run: they take turns"
        yield "", f"NVIDIA's MPS {runs}"
    yield "parallel trials", _at_once(plan)
    yield from _cost(plan)
    yield (
        "disk",
        (
            f"up to {describe_size(plan.disk_gb)} ({describe_size(plan.disk_per_trial_gb)} per trial), "
            f"{describe_size(machine.disk_gb)} free"
        ),
    )
    if plan.smaller_keep is not None:
        keep, needed = plan.smaller_keep
        saved = describe_size(plan.disk_gb - needed)
        yield "", f"keep.trials={keep.trials} would save {saved}: up to {describe_size(needed)}"
    yield "folder", str(spec.folder)
    if spec.alerts is not None:
        yield "alerts", _alerts(spec.alerts)
    yield "tracking", _tracking(plan)


def _cost(plan: Plan) -> Iterable[tuple[str, str]]:
    """What trials cost per hour, and the most that the sweep may cost if a limit says so."""
    prices = plan.prices
    if prices is None:
        return
    trial, together = (money_text(amount, prices.currency) for amount in (prices.trial, prices.together))
    words = f"{trial} per hour of a trial"
    if plan.resources.at_once > 1:
        words += f", up to {together} per hour with {plan.resources.at_once} at once"
    yield "cost", words
    if prices.most is not None:
        yield "", f"at most {money_text(prices.most, prices.currency)} (budget.{prices.limit})"
    for name, amount in prices.node_types.items():
        yield "", f"{money_text(amount, prices.currency)} per hour of a trial on {name}"
    yield "", f"held by trials, evaluations included; {NOT_INCLUDED}"


def _told_apart(episodes: int) -> str:
    """Which difference of two success rates near 50 % the last evaluations of trials can tell."""
    difference = detectable_difference(episodes)
    words = f"{counted(episodes, 'episode')} tell about {100 * difference:.0f} points of success apart"
    smaller = next((target for target in TARGETS if target < 0.95 * difference), None)
    if smaller is None:
        return words
    return f"{words}; {100 * smaller:.0f} points need about {episodes_needed(smaller)}"


def _at_once(plan: Plan) -> str:
    machine = plan.machine
    named = f"{machine.gpus:g} × {machine.gpu_names[0]}" if machine.gpu_names else _count(machine.gpus, "GPU")
    has = f"{named}, {_count(machine.cpus, 'CPU')}"
    return f"{plan.resources.at_once or 'none'} on this machine ({has})"


def _space(plan: Plan) -> str:
    if plan.combinations is None:
        words = "continuous"
    elif plan.size is not None and plan.size != plan.combinations:
        words = f"{plan.combinations:,} combinations, of {plan.size:,} before conditions and constraints"
    else:
        words = f"{plan.combinations:,} combinations"
    if plan.spec.space.constraints:
        words += f"; {plan.kept_share:.0%} of random combinations satisfy the constraints"
    return words


def _search(plan: Plan, taken: Taken) -> str:
    search = plan.spec.search
    words = f"{search.method}, seed {search.seed}"
    if search.method not in ("random", "grid"):
        at_random = search.startup_trials - len(taken.known)
        words += f", first {at_random} trials random" if at_random > 0 or not taken.known else ""
    if taken.first:
        words = f"{counted(len(taken.first), 'trial')} of earlier sweeps first, then {words}"
    if search.try_first:
        words = f"{counted(len(search.try_first), 'listed trial')} first, then {words}"
    options = ", ".join(f"{name} {value}" for name, value in search.options.items())
    return f"{words}, {options}" if options else words


def _trials(plan: Plan) -> str:
    budget = plan.spec.budget
    limits = [f"{plan.trials}"]
    if budget.hours is not None:
        limits.append(f"or {budget.hours:g} hours")
    if budget.gpu_hours is not None:
        limits.append(f"or {budget.gpu_hours:g} GPU-hours")
    if budget.cost is not None and plan.spec.cost is not None:
        limits.append(f"or {money_text(budget.cost, plan.spec.cost.currency)}")
    if budget.max_failed is not None:
        limits.append(f"or {budget.max_failed} failed trials")
    if budget.stagnation is not None:
        limits.append(f"or {budget.stagnation} in a row without a gain")
    return ", ".join(limits)


def _confirmation(confirm: ConfirmSpec) -> str:
    seeds = f", each trained with {confirm.seeds} seeds" if confirm.seeds > 1 else ""
    return f"the best {confirm.top} trials{seeds}, on at most {confirm.most_episodes} fresh episodes each"


def _inference(inference: InferenceSpec) -> str:
    count = len(inference.settings())
    limits = "".join(f", {name} limited to {bound:g}" for name, bound in inference.limits.items())
    return (
        f"{counted(count, 'setting')} of each trained policy, compared by {inference.metric} on at most "
        f"{inference.episodes} episodes{limits}"
    )


def _early_stop(plan: Plan) -> str:
    stop = plan.spec.early_stop
    if stop is None:
        return "none"
    options = complete_stopper_options(stop)
    rungs = ", ".join(f"{rung:,}" for rung in plan.rungs)
    steps = "step" if len(plan.rungs) == 1 else "steps"
    match stop.method:
        case "asha" | "successive_halving":
            words = f"the best 1 in {stop.reduction} trials continue at {steps} {rungs}"
            if stop.confidence is not None:
                words += f", and all that are not worse with {100 * stop.confidence:g} % confidence"
        case "hyperband":
            words = (
                f"the best 1 in {stop.reduction} trials of a bracket continue; the brackets begin at {rungs}"
            )
        case "patient":
            patience = counted(options["patience"], "report")
            words = f"from step {stop.min_steps:,} on, {patience} may pass without improvement"
        case "wilcoxon":
            words = (
                f"from step {stop.min_steps:,} on, trials continue unless their episodes are worse than "
                f"those of the best trial (p < {options['p_threshold']:g})"
            )
        case _:
            share = options.get("percentile", 50.0)
            words = (
                f"from step {stop.min_steps:,} on, trials continue whose best is among the best {share:g} % "
                "of completed trials"
            )
    return f"{stop.method} on {stop.metric}: {words}"


def _count(number: float, what: str) -> str:
    return f"no {what}" if number == 0 else counted(number, what)


def _alerts(alerts: AlertsSpec) -> str:
    to = [f"webhook {alerts.webhook}"] if alerts.webhook is not None else []
    to += ["a command"] if alerts.command is not None else []
    events = [f"silent for {alerts.silent_minutes:g} min" if name == "silent" else name for name in alerts.on]
    return f"{' and '.join(to)}: {', '.join(events).replace('_', ' ')}"


def _tracking(plan: Plan) -> str:
    tracking = plan.spec.tracking
    where = (
        "MLflow, in the sweep's folder (or at MLFLOW_TRACKING_URI)" if tracking.uri is None else tracking.uri
    )
    also = f"; also {', '.join(tracking.also)}" if tracking.also else ""
    return f"{where}, experiment {tracking.experiment}{also}"


def _config(plan: Plan) -> Table:
    grid = Table.grid(padding=(0, 2))
    for number, (name, value) in enumerate(plan.spec.config.items()):
        title = "" if number else "fixed"
        grid.add_row(Text(title, style="dim"), name, Text(describe_value(value)))
    return grid
