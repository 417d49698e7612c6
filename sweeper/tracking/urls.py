"""Where MLflow's pages show the runs of a sweep."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence

from sweeper.spec.sweep import Objective
from sweeper.tracking.client import legal_key

__all__ = ["EXPERIMENT_TAGS", "charts_url", "comparison_url"]

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""So that MLflow's pages show an experiment as training runs, not as conversations with a language model."""
PAGES_MODE = "workflowType=machine_learning"
"""The same, for the menus beside the page."""


def comparison_url(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The address at which MLflow's pages compare runs.

    Args:
        base: Where the pages are served, e.g. ``http://127.0.0.1:5000``.
        experiment_id: The experiment of the runs.
        run_ids: The runs, best first.
    """
    runs = urllib.parse.quote(json.dumps(list(run_ids), separators=(",", ":")))
    experiments = urllib.parse.quote(json.dumps([experiment_id]))
    return f"{base.rstrip('/')}/#/compare-runs?runs={runs}&experiments={experiments}&{PAGES_MODE}"


def charts_url(base: str, experiment_id: str, sweep_id: str, objective: Objective) -> str:
    """The address at which MLflow's pages chart the trials of a sweep, sorted by their objective.

    Args:
        base: Where the pages are served, e.g. ``http://127.0.0.1:5000``.
        experiment_id: The experiment of the runs.
        sweep_id: The sweep, as its journal calls it.
        objective: What the trials are sorted by, the best first.
    """
    options = {
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.`sweep.id` = '{sweep_id}' and tags.`sweep.kind` = 'trial'",
        # Sorted by anything but their creation, runs are shown without the sweeps that they lie below.
        "orderByKey": f"metrics.`{legal_key(f'final/{objective.name}')}`",
        "orderByAsc": "false" if objective.goal == "maximize" else "true",
    }
    query = "&".join(f"{name}={urllib.parse.quote(value)}" for name, value in options.items())
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{PAGES_MODE}&{query}"
