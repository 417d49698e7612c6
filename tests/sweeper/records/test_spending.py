"""What a sweep costs in money: what trials and confirmations held, times the prices."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
from small_sweeps import LR, sweep

from sweeper.driver.recorder import Outcome, Recorder
from sweeper.errors import SpecError
from sweeper.finalists.evaluators import evaluators
from sweeper.layout import INDEX, JOURNAL
from sweeper.machines.machine import Machine
from sweeper.machines.node_types import kind_of_node, node_types_of_trials
from sweeper.machines.plan import make_plan
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal, read_journal
from sweeper.records.limits import limit_reached
from sweeper.records.spending import spending_of
from sweeper.records.status import TrialStatus
from sweeper.records.summary import _write_index, read_summary
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.search.study import Study
from sweeper.spec.cost import CostSpec, Price, money_text
from sweeper.spec.space_file.load import load_spec
from sweeper.spec.sweep import BudgetSpec, ResourceSpec, SweepSpec
from sweeper.steering.changes import changed_sweep
from sweeper.steering.status import status_of
from sweeper.terminal.as_json import to_json
from sweeper.terminal.plan import _lines
from sweeper.terminal.status import _budget_line, _cost_lines
from sweeper.terminal.tables import ranking_table
from trainables import registry

HOUR = 3600.0
EUROS = CostSpec("EUR", per_gpu_hour=2.0, per_cpu_hour=0.1, node_types={"spot": Price(per_gpu_hour=0.5)})


class Played:
    """A sweep with prices whose events happen at chosen hours. A trial holds two GPUs and eight CPUs."""

    def __init__(self, folder: Path, prices: CostSpec | None = EUROS, **budget: Any) -> None:
        spec = sweep(folder, LR, trials=4).to_dict()
        spec["cost"] = None if prices is None else prices.to_dict()
        spec["budget"] |= budget
        info = {"resources": {"workers": 2, "gpu_per_worker": 1.0, "cpu_per_worker": 4.0, "at_once": 2}}
        self.state = SweepState(folder)
        fields = {"sweep": "small", "sweep_id": "1", "spec": spec, "info": info, "driver": {}}
        self.at(0, EventKind.SWEEP_START, **fields)

    def at(self, hours: float, kind: EventKind, **fields: Any) -> None:
        self.state.apply({"event": kind, "time": hours * HOUR, **fields})

    def trial(self, number: int, start: float, end: float | None, *placed: str) -> None:
        self.at(start, EventKind.TRIAL_START, trial=number, config={}, values={})
        if placed:
            self.at(start, EventKind.TRIAL_PLACED, trial=number, node_types=list(placed))
        if end is not None:
            fields = {"reason": "", "message": "", "status": "completed"}
            self.at(end, EventKind.TRIAL_END, trial=number, **fields)


def test_a_trial_costs_what_it_holds_while_it_runs(tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.trial(0, 0, 1)
    played.trial(1, 0, None)
    played.at(0.5, EventKind.TRIAL_WAIT, trial=1, needs="2 GPUs")  # what it waits for, it does not hold
    found = spending_of(played.state, 2 * HOUR)
    assert found is not None
    hour = 2 * 2.0 + 8 * 0.1
    assert found.trials == pytest.approx({0: hour, 1: hour / 2})
    assert found.so_far == pytest.approx(1.5 * hour)
    # Two of four are to come, and the running one needs another half hour.
    assert found.expected == pytest.approx((1.5 + 2 + 0.5) * hour)
    assert money_text(found.so_far, found.currency) == "7.20 EUR"


def test_machines_of_a_kind_have_their_own_prices(tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.trial(0, 0, 1, "spot", "spot")
    played.trial(1, 0, 1, "spot", "")
    found = spending_of(played.state, HOUR)
    assert found is not None
    assert found.trials == pytest.approx({0: 2 * 0.5, 1: 0.5 + 2.0 + 4 * 0.1})


def test_a_trial_that_moves_to_another_machine_costs_each_part_of_its_time(tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.trial(0, 0, None, "spot", "spot")
    fields = {"reason": "preempted", "message": "", "step": 1, "retry": 1, "changes": {}}
    played.at(1, EventKind.TRIAL_RETRY, trial=0, **fields)
    played.trial(0, 3, None, "", "")
    found = spending_of(played.state, 3.5 * HOUR)
    assert found is not None
    assert found.so_far == pytest.approx(1.0 + 0.5 * 4.8)


def test_confirmations_are_shown_and_not_limited(tmp_path: Path) -> None:
    played = Played(tmp_path, cost=5.0)
    played.trial(0, 0, 1)
    held = {"gpu_hours": 1.0, "cpu_hours": 4.0}
    for _ in range(2):
        fields = {"finalists": [{"trial": 0}], "winner": 0, "verdict": "", "complete": True, "held": held}
        played.at(2, EventKind.CONFIRMED, **fields)
    found = spending_of(played.state, 2 * HOUR)
    assert found is not None
    assert found.confirmed == pytest.approx(2 * 2.4)
    assert found.so_far == pytest.approx(4.8 + 4.8)
    assert limit_reached(played.state.budget, played.state, 2 * HOUR) is None


def test_the_budget_ends_the_sweep_when_the_money_is_spent(tmp_path: Path) -> None:
    played = Played(tmp_path, cost=6.0)
    played.trial(0, 0, 1)
    played.trial(1, 1, None)
    assert limit_reached(played.state.budget, played.state, 1.2 * HOUR) is None
    reached = limit_reached(played.state.budget, played.state, 1.25 * HOUR)
    assert reached is not None
    assert (reached.name, reached.status) == ("cost", "done")
    assert reached.message == "budget.cost: the 6.00 EUR are used up."
    assert spending_of(played.state, 1.2 * HOUR).expected == pytest.approx(6.0)  # type: ignore[union-attr]


def test_a_sweep_without_prices_is_not_shown_in_money(tmp_path: Path) -> None:
    played = Played(tmp_path, prices=None)
    played.trial(0, 0, 1)
    assert spending_of(played.state) is None
    assert to_json(played.state)["cost"] is None
    assert _cost_lines(status_of(played.state)) == []


def test_status_and_results_show_the_money(tmp_path: Path) -> None:
    played = Played(tmp_path, cost=100.0)
    played.trial(0, 0, 1)
    played.at(1, EventKind.SWEEP_END, status="done", message="")
    assert to_json(played.state)["cost"]["so_far"] == pytest.approx(4.8)
    status = status_of(played.state)
    assert _budget_line(status) == "budget used: 1 of 4 trials, 4.8 of 100 EUR"
    assert _cost_lines(status)[0].startswith("cost: 4.80 EUR (idle and starting machines")
    table = ranking_table(played.state)
    assert str(table.title).endswith("4.80 EUR")
    assert [str(column.header) for column in table.columns][-1] == "cost\nEUR"


def test_the_index_keeps_what_a_trial_cost(tmp_path: Path) -> None:
    played = Played(tmp_path)
    state = played.state
    with Journal(tmp_path / JOURNAL) as journal:
        fields = {"sweep": "small", "sweep_id": "1", "spec": state.spec, "info": state.info, "driver": {}}
        journal.append(EventKind.SWEEP_START, **fields)
        journal.append(EventKind.TRIAL_START, trial=0, config={}, values={})
        journal.append(EventKind.TRIAL_PLACED, trial=0, node_types=["spot", ""])
        ended = {"reason": "", "message": "", "status": "completed"}
        journal.append(EventKind.TRIAL_END, trial=0, **ended)
    whole = read_sweep(tmp_path)
    summary = read_summary(tmp_path)
    _write_index(summary, hashlib.sha256((tmp_path / JOURNAL).read_bytes()).hexdigest())
    assert (tmp_path / INDEX).is_file()
    again = read_summary(tmp_path)
    assert again.trials[0]._ran_on == whole.trials[0]._ran_on
    assert set(again.trials[0]._ran_on) == {"spot", ""}
    assert spending_of(again).so_far == spending_of(whole).so_far > 0  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_plan_says_what_an_hour_costs_and_what_the_limits_allow(tmp_path: Path) -> None:
    machine = Machine(cpus=64, gpus=4, gpu_names=("L4",) * 4, disk_gb=500.0)
    prices = [
        "cost.per_gpu_hour=2",
        "cost.currency=EUR",
        "resources={gpu_per_worker: auto, cpu_per_worker: 8}",
    ]
    plan = make_plan(load_spec("pusht_quick", [*prices, "budget.hours=3"]), machine)
    lines = [text for _, text in _lines(plan)]
    assert "2.00 EUR per hour of a trial, up to 8.00 EUR per hour with 4 at once" in lines
    assert "at most 24.00 EUR (budget.hours)" in lines
    smaller = make_plan(load_spec("pusht_quick", [*prices, "budget.hours=3", "budget.cost=20"]), machine)
    assert "at most 20.00 EUR (budget.cost)" in [text for _, text in _lines(smaller)]
    assert smaller.to_dict()["cost"]["most"] == 20.0
    on_cpus = make_plan(load_spec("pusht_quick", prices), Machine(cpus=8, gpus=0, disk_gb=500.0))
    assert "cost: trials hold no GPU here, and CPUs have no price (cost.per_cpu_hour)." in on_cpus.warnings


def faults(*overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec("pusht_quick", list(overrides))
    return str(caught.value)


def test_faulty_prices_are_reported() -> None:
    assert "budget.cost: needs prices, and there are none." in faults("budget.cost=5")
    assert "cost: has no price." in faults("cost.currency=EUR")
    assert "cost.per_gpu_hour" in faults("cost.per_gpu_hour=-1")
    assert "cost.node_types.spot.per_gpu: is not a setting" in faults("cost.node_types={spot: {per_gpu: 1}}")
    assert "cost.node_types.spot: is 3, not a mapping." in faults("cost.node_types={spot: 3}")
    assert "'far too long' is not a currency" in faults("cost.per_cpu_hour=1", "cost.currency=far too long")


def test_prices_survive_in_the_specification() -> None:
    spec = load_spec("pusht_quick", ["cost={per_cpu_hour: 0.1, node_types: {spot: {per_gpu_hour: 1}}}"])
    assert SweepSpec.from_dict(spec.to_dict()).cost == spec.cost
    assert spec.cost == CostSpec("USD", 0.0, 0.1, {"spot": Price(1.0)})


def test_a_limit_in_money_needs_prices_also_later(tmp_path: Path) -> None:
    spec = sweep(tmp_path, LR)
    with pytest.raises(SpecError, match="started without a section cost"):
        changed_sweep(spec, ["budget.cost=5"], registry.load("diffusion_policy"))
    assert BudgetSpec(**spec.to_dict()["budget"]).cost is None


def test_the_kind_of_a_machine_is_its_node_type_or_its_gpu() -> None:
    labels = {"ray.io/node-group": "gpu-spot", "ray.io/accelerator-type": "L4"}
    assert kind_of_node({"Labels": labels}, {"gpu-spot", "L4"}) == "gpu-spot"
    assert kind_of_node({"Labels": labels}, {"L4"}) == "L4"
    assert kind_of_node({"Labels": labels}, {"A100"}) == ""
    assert kind_of_node({}, {"L4"}) == ""


@pytest.mark.slow
def test_the_end_of_a_trial_is_recorded_with_its_cost(tmp_path: Path) -> None:
    spec = dataclasses.replace(sweep(tmp_path, LR), cost=EUROS)
    with Study(spec) as study, Journal(tmp_path / JOURNAL) as journal:
        recorder = Recorder(study, journal, None, spec)
        recorder.start_sweep({"resources": {"workers": 1, "gpu_per_worker": 0.0, "cpu_per_worker": 360000.0}})
        suggestion = study.ask()
        assert suggestion is not None
        recorder.start_trial(suggestion.number, suggestion.config)
        recorder.place_trial(suggestion.number, [""])
        recorder.end_trial(suggestion.number, Outcome(TrialStatus.FAILED, "data", "no rows"))
    ended = next(e for e in read_journal(tmp_path / JOURNAL).events if e["event"] == EventKind.TRIAL_END)
    assert ended["currency"] == "EUR"
    assert ended["cost"] == ended["sweep_cost"] > 0


@pytest.mark.slow
def test_the_driver_finds_the_machines_of_its_trials(cluster: Any) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([{"CPU": 1}], name="sweeper/priced-1/ab12/1700-ab")
    try:
        assert group.wait(300)
        assert node_types_of_trials("priced-1", {3: "ab12", 4: "ab"}, {"spot"}) == {3: [""]}
    finally:
        remove_placement_group(group)


@pytest.mark.slow
def test_evaluators_count_what_they_hold(cluster: Any) -> None:
    with evaluators(ResourceSpec(1, 0, 2)) as made:
        assert made.held() == {"gpu_hours": 0.0, "cpu_hours": 0.0}
        actor = made._start()
        first = made.held()["cpu_hours"]
        actor.end()
        held = made.held()["cpu_hours"]
        assert 0 <= first <= held == 2 * actor.held_s() / 3600
        assert made.held()["cpu_hours"] == held  # what has ended holds nothing more
