"""The NVIDIA GPUs that this process may use, read with NVIDIA's management library (NVML). Loads no torch.

Without NVIDIA's driver there are no GPUs, and nothing raises.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = [
    "MEGABYTE",
    "Gpu",
    "driver_version",
    "first_device",
    "gpu_load",
    "smallest_gpu_gb",
    "visible_gpus",
]

MEGABYTE = 1e6


@dataclass(frozen=True)
class Gpu:
    """A GPU, or the part of one that MIG made a device of its own.

    Attributes:
        name: What it is, e.g. ``NVIDIA H100 80GB HBM3``.
        memory_gb: Its memory, or None if the driver does not report it.
    """

    name: str
    memory_gb: float | None


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves visible, in the order in which CUDA numbers them."""
    named = [(device, _ask("nvmlDeviceGetName", device)) for device in _devices()]
    return tuple(Gpu(name, _memory_gb(device)) for device, name in named if name is not None)


def first_device() -> str:
    """The device on which one policy is evaluated: the first visible GPU, else the CPU."""
    return "cuda:0" if visible_gpus() else "cpu"


def smallest_gpu_gb() -> float | None:
    """Memory of the smallest visible GPU; None without one, or if the driver does not report it."""
    sizes = [gpu.memory_gb for gpu in visible_gpus()]
    return min((size for size in sizes if size is not None), default=None) if None not in sizes else None


def _memory_gb(device: Any) -> float | None:
    memory = _ask("nvmlDeviceGetMemoryInfo", device)
    return memory.total / 1e9 if memory is not None and memory.total else None


def gpu_load() -> Iterator[dict[str, float]]:
    """How busy each visible GPU is now, under MLflow's names; what the driver does not report is left out.

    Of a MIG device the driver reports little more than the memory.
    """
    for device in _devices():
        load = {}
        if (use := _ask("nvmlDeviceGetUtilizationRates", device)) is not None:
            load["utilization_percentage"] = float(use.gpu)
        if (memory := _ask("nvmlDeviceGetMemoryInfo", device)) is not None and memory.total:
            load["memory_usage_megabytes"] = memory.used / MEGABYTE
            load["memory_usage_percentage"] = 100.0 * memory.used / memory.total
        if (milliwatts := _ask("nvmlDeviceGetPowerUsage", device)) is not None:
            load["power_usage_watts"] = milliwatts / 1000
        yield load


def driver_version() -> str | None:
    """Version of NVIDIA's driver, or None without one."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


@functools.cache
def _nvml() -> Any:
    """The library, ready for this process, or None without NVIDIA's driver."""
    # It is imported here because that takes a quarter of a second, and most commands ask for no GPU.
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _devices() -> tuple[Any, ...]:
    return _named_devices(os.environ.get("CUDA_VISIBLE_DEVICES"))


@functools.cache
def _named_devices(visible: str | None) -> tuple[Any, ...]:
    """The devices that a value of CUDA_VISIBLE_DEVICES names; all without one."""
    nvml = _nvml()
    if nvml is None:
        return ()
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError:
        return ()
    if visible is None:
        found = (_device(str(index), count) for index in range(count))
        return tuple(device for device in found if device is not None)
    # CUDA ignores the first name without a device, and all after it.
    named = (_device(name.strip(), count) for name in visible.split(","))
    return tuple(itertools.takewhile(lambda device: device is not None, named))


def _device(name: str, count: int) -> Any:
    """A device by its index, its UUID or the beginning of its UUID; None if there is none."""
    nvml = _nvml()
    try:
        if name.isdigit():
            # CUDA may order GPUs of different kinds by speed, NVML orders by bus; Ray numbers as NVML does.
            return _usable(nvml.nvmlDeviceGetHandleByIndex(int(name)))
        if name.startswith("MIG-"):
            return nvml.nvmlDeviceGetHandleByUUID(name)
        if name.startswith("GPU-"):
            devices = map(nvml.nvmlDeviceGetHandleByIndex, range(count))
            found = [device for device in devices if nvml.nvmlDeviceGetUUID(device).startswith(name)]
            return _usable(found[0]) if len(found) == 1 else None
    except nvml.NVMLError:
        pass
    return None


def _usable(gpu: Any) -> Any:
    """A GPU; of one that MIG divides the first part, which is all that CUDA uses of it by its index."""
    nvml = _nvml()
    try:
        if nvml.nvmlDeviceGetMigMode(gpu)[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            return nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    except nvml.NVMLError:
        pass  # it cannot be divided, or has no parts yet
    return gpu


def _ask(question: str, device: Any) -> Any:
    """What a function of the library answers about a device; None if the driver does not know."""
    nvml = _nvml()
    try:
        return getattr(nvml, question)(device)
    except nvml.NVMLError:
        return None
