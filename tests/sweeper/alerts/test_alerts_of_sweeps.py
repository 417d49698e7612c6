"""A real sweep tells of its best trials and its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import plain_console, printed
from hook_server import hook_server
from small_sweeps import choice, spec

from sweeper.driver.launch import run_sweep
from sweeper.records.spending import spending_of
from sweeper.spec.alerts import AlertsSpec
from sweeper.spec.cost import CostSpec

pytestmark = [
    pytest.mark.filterwarnings("default"),  # MLflow and Ray Data warn of their own habits
    pytest.mark.ray,
    pytest.mark.slow,
]


def test_a_sweep_tells_of_its_end_and_costs_what_it_held(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    prices = CostSpec("EUR", per_cpu_hour=3600.0)
    folder, console = tmp_path / "told", plain_console(width=200)
    with hook_server() as hook:
        receivers = AlertsSpec(hook.url, command="exit 5")
        small = spec(folder, choice("optimizer.lr", 0.1), trials=1, cost=prices, alerts=receivers)
        result = run_sweep(small, console=console)
    assert result.status == "done", printed(console)
    (told,) = hook.received
    assert (told["event"], told["title"]) == ("ended", "told is done")
    (trial,) = result.sweep.trials.values()
    spending = spending_of(result.sweep)
    assert spending is not None
    assert spending.so_far == pytest.approx(trial.duration_s(), rel=1e-3)  # a CPU for a second is one euro
