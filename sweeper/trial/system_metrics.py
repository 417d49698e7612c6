"""How busy the machine is that a trial runs on, measured in the trial's own worker.

The names are MLflow's, so that its page of system metrics shows them. Figures of the processor and of the
memory are the whole machine's, other trials included; a GPU's are those of the GPUs that this process may
use, numbered as it sees them. ``process_`` figures are this process's alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator

import psutil

__all__ = ["system_metrics"]

MEGABYTE = 1e6
_NVML_SUCCESS = 0


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
    for number, gpu in enumerate(_gpus()):
        metrics |= {f"gpu_{number}_{name}": value for name, value in gpu.items()}
    return {f"system/{name}": float(value) for name, value in metrics.items()}


@functools.cache
def _process() -> psutil.Process:
    # One object, kept: it remembers the processor time of its last call.
    return psutil.Process()


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@functools.cache
def _nvml() -> ctypes.CDLL | None:
    """NVIDIA's management library, which comes with the driver, or None."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == _NVML_SUCCESS else None


@functools.cache
def _handles() -> tuple[ctypes.c_void_p, ...]:
    """The GPUs that this process may use, in the order in which CUDA numbers them for it."""
    library = _nvml()
    if library is None:
        return ()
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _NVML_SUCCESS:
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(count.value)] if visible is None else visible.split(",")
    return tuple(handle for name in names if (handle := _handle(library, name.strip())) is not None)


def _handle(library: ctypes.CDLL, name: str) -> ctypes.c_void_p | None:
    """A GPU by what CUDA_VISIBLE_DEVICES may call it: its index or its UUID."""
    handle = ctypes.c_void_p()
    if name.isdigit():
        # CUDA may order GPUs of different kinds by speed, NVML orders by bus; Ray numbers them as NVML does.
        found = library.nvmlDeviceGetHandleByIndex_v2(int(name), ctypes.byref(handle))
    else:
        found = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
    return handle if found == _NVML_SUCCESS else None


def _gpus() -> Iterator[dict[str, float]]:
    library = _nvml()
    if library is None:
        return
    for handle in _handles():
        yield {
            **_utilization(library, handle),
            **_memory(library, handle),
            **_power(library, handle),
        }


def _utilization(library: ctypes.CDLL, handle: ctypes.c_void_p) -> dict[str, float]:
    use = _Utilization()
    if library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(use)) != _NVML_SUCCESS:
        return {}
    return {"utilization_percentage": float(use.gpu)}


def _memory(library: ctypes.CDLL, handle: ctypes.c_void_p) -> dict[str, float]:
    memory = _Memory()
    if library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != _NVML_SUCCESS or not memory.total:
        return {}
    return {
        "memory_usage_megabytes": memory.used / MEGABYTE,
        "memory_usage_percentage": 100.0 * memory.used / memory.total,
    }


def _power(library: ctypes.CDLL, handle: ctypes.c_void_p) -> dict[str, float]:
    milliwatts = ctypes.c_uint()
    if library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts)) != _NVML_SUCCESS:
        return {}
    return {"power_usage_watts": milliwatts.value / 1000}
