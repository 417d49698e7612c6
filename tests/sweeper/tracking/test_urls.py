"""The addresses of MLflow's pages for a sweep."""

from __future__ import annotations

import urllib.parse

from small_sweeps import SUCCESS

from sweeper.spec.sweep import Objective
from sweeper.tracking.urls import charts_url, comparison_url


def test_the_comparison_contains_the_runs_best_first() -> None:
    url = comparison_url("http://127.0.0.1:5000/", "1", ["b", "a"])
    assert url == (
        "http://127.0.0.1:5000/#/compare-runs?runs=%5B%22b%22%2C%22a%22%5D&experiments=%5B%221%22%5D"
        "&workflowType=machine_learning"
    )


def test_the_charts_show_one_sweeps_trials_best_first() -> None:
    url = charts_url("http://127.0.0.1:5000", "1", "0123", Objective(SUCCESS, "maximize"))
    page, _, query = url.partition("?")
    assert page == "http://127.0.0.1:5000/#/experiments/1/runs"
    assert urllib.parse.parse_qs(query) == {
        "workflowType": ["machine_learning"],
        "compareRunsMode": ["CHART"],
        "searchFilter": ["tags.`sweep.id` = '0123' and tags.`sweep.kind` = 'trial'"],
        "orderByKey": ["metrics.`final/rollout/success_rate`"],
        "orderByAsc": ["false"],
    }
