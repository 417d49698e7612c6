"""A worker says how busy its machine is, under the names that MLflow's pages know."""

from __future__ import annotations

import math
import mmap

import pytest

from sweeper.gpus import visible_gpus
from sweeper.trial.system_metrics import system_metrics


def test_processor_and_memory_are_measured_everywhere():
    metrics = system_metrics()
    names = set(metrics)
    assert names >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/process_memory_usage_megabytes",
    }
    assert all(math.isfinite(value) and value >= 0 for value in metrics.values())
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    used = metrics["system/process_memory_usage_megabytes"]
    assert 1 < used < metrics["system/system_memory_usage_megabytes"]


@pytest.mark.slow
def test_a_process_that_takes_memory_says_so():
    before = system_metrics()["system/process_memory_usage_megabytes"]
    # New pages of the system: the allocator may hand out memory that an earlier test has freed.
    with mmap.mmap(-1, 80_000_000) as held:
        held.write(b"x" * 80_000_000)
        assert system_metrics()["system/process_memory_usage_megabytes"] - before > 40


def test_gpus_are_measured_if_there_are_any():
    if not visible_gpus():
        pytest.skip("there is no NVIDIA GPU here")
    metrics = system_metrics()
    assert 0 < metrics["system/gpu_0_memory_usage_percentage"] <= 100
    assert 0 <= metrics["system/gpu_0_utilization_percentage"] <= 100
