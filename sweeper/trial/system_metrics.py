"""How busy the machine is that a trial runs on, measured in the trial's own worker.

The names are MLflow's, so that its page of system metrics shows them. Figures of the processor and of the
memory are the whole machine's, other trials included; a GPU's are those of the GPUs that this process may
use, numbered as it sees them. ``process_`` figures are this process's alone.
"""

from __future__ import annotations

import functools

import psutil

from sweeper.gpus import MEGABYTE, gpu_load

__all__ = ["system_metrics"]


def system_metrics() -> dict[str, float]:
    """Measure now; takes about a millisecond, and never raises.

    Returns:
        Numbers under ``system/...``. Percentages of the processor are over the time since the last call in
        this process, and 0 at the first.
    """
    metrics: dict[str, float] = {}
    try:
        memory = psutil.virtual_memory()
        process = _process()
        metrics = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "process_cpu_utilization_percentage": process.cpu_percent(),
            "process_memory_usage_megabytes": process.memory_info().rss / MEGABYTE,
        }
    except (psutil.Error, OSError):
        pass
    for number, gpu in enumerate(gpu_load()):
        metrics |= {f"gpu_{number}_{name}": value for name, value in gpu.items()}
    return {f"system/{name}": float(value) for name, value in metrics.items()}


@functools.cache
def _process() -> psutil.Process:
    # One object, kept: it remembers the processor time of its last call.
    return psutil.Process()
