"""GPUs are those that the driver lists and CUDA may use; a machine without NVIDIA's driver has none.

Tests that need values of a GPU put a module of their own in the place of `pynvml`: its functions have the
names, arguments and errors of nvidia-ml-py, its devices are invented. Everything above it is the real code.
"""
# ruff: noqa: N802 - the fake's functions are named as in the library

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from sweeper import gpus
from sweeper.gpus import Gpu, driver_version, gpu_load, smallest_gpu_gb, visible_gpus
from sweeper.machines.machine import find_machine
from sweeper.trial.system_metrics import system_metrics


class NVMLError(Exception):
    """What the fake raises, as pynvml does, for what a driver does not know."""


class Device:
    def __init__(self, name, uuid, total=80e9, *, parts=(), reports=("memory", "load", "power"), mig=None):
        self.name, self.uuid, self.total, self.parts, self.reports = name, uuid, total, parts, reports
        self.mig = bool(parts) if mig is None else mig


class FakeLibrary(ModuleType):
    """A driver with some devices, at the boundary of nvidia-ml-py."""

    NVMLError = NVMLError
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, *devices, broken=False):
        super().__init__("pynvml")
        self._devices, self._broken = devices, broken

    def nvmlInit(self):
        if self._broken:
            raise NVMLError("Driver Not Loaded")

    def nvmlSystemGetDriverVersion(self):
        return "580.95.05"

    def nvmlDeviceGetCount(self):
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= len(self._devices):
            raise NVMLError("Invalid Argument")
        return self._devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        everything = [*self._devices, *(part for device in self._devices for part in device.parts)]
        found = [device for device in everything if device.uuid == uuid]
        if not found:
            raise NVMLError("Not Found")
        return found[0]

    def nvmlDeviceGetUUID(self, device):
        return device.uuid

    def nvmlDeviceGetName(self, device):
        if device.reports:
            return device.name
        raise NVMLError("GPU is lost")

    def nvmlDeviceGetMigMode(self, device):
        if not device.mig:
            raise NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device, index):
        if index >= len(device.parts):
            raise NVMLError("Not Found")
        return device.parts[index]

    def nvmlDeviceGetMemoryInfo(self, device):
        if "memory" not in device.reports:
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=int(device.total), used=int(device.total) // 4, free=0)

    def nvmlDeviceGetUtilizationRates(self, device):
        if "load" not in device.reports:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=37, memory=5)

    def nvmlDeviceGetPowerUsage(self, device):
        if "power" not in device.reports:
            raise NVMLError("Not Supported")
        return 301_500


PART = Device("H100 MIG 1g.10gb", "MIG-1111", 10e9, reports=("memory",))
A, B, C = Device("A", "GPU-aa11", 24e9), Device("B", "GPU-ab22"), Device("C", "GPU-cc33")
DIVIDED = Device("H100", "GPU-dd44", parts=(PART,))


@pytest.fixture
def driver(monkeypatch):
    """Install a fake driver; CUDA_VISIBLE_DEVICES is as given."""

    def install(*devices, visible=None, broken=False):
        monkeypatch.setitem(sys.modules, "pynvml", FakeLibrary(*devices, broken=broken))
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        forget()

    def forget():
        gpus._nvml.cache_clear()
        gpus._named_devices.cache_clear()

    yield install
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, "ABC"),
        ("", ""),
        ("-1", ""),
        ("1", "B"),
        ("2,0", "CA"),
        ("0, 2", "AC"),
        ("0,7", "A"),
        ("7,0", ""),
        ("0,-1,2", "A"),
        ("GPU-ab22,GPU-aa11", "BA"),
        ("GPU-c", "C"),
        ("GPU-a", ""),  # two begin like this
        ("GPU-aa11,GPU-nobody,GPU-cc33", "A"),
        ("MIG-nobody", ""),
    ],
)
def test_gpus_are_those_that_cuda_may_see(driver, visible, names):
    driver(A, B, C, visible=visible)
    assert "".join(gpu.name for gpu in visible_gpus()) == names
    machine = find_machine()
    assert (machine.gpus, "".join(machine.gpu_names)) == (len(names), names)


@pytest.mark.parametrize("visible", [None, "0", "MIG-1111", "GPU-dd44"])
def test_of_a_divided_gpu_a_process_uses_one_part(driver, visible):
    driver(DIVIDED, visible=visible)
    assert visible_gpus() == (Gpu("H100 MIG 1g.10gb", 10.0),)
    assert smallest_gpu_gb() == 10.0
    assert list(gpu_load()) == [{"memory_usage_megabytes": 2500.0, "memory_usage_percentage": 25.0}]


def test_a_gpu_that_mig_has_not_divided_yet_is_itself(driver):
    driver(Device("H100", "GPU-dd44", mig=True))
    assert [gpu.name for gpu in visible_gpus()] == ["H100"]


def test_the_load_has_the_names_that_mlflow_knows(driver):
    driver(A, B, visible="1")
    metrics = {name: value for name, value in system_metrics().items() if "gpu" in name}
    assert metrics == {
        "system/gpu_0_utilization_percentage": 37.0,
        "system/gpu_0_memory_usage_megabytes": 20_000.0,
        "system/gpu_0_memory_usage_percentage": 25.0,
        "system/gpu_0_power_usage_watts": 301.5,
    }


def test_the_smallest_gpu_counts_and_an_unknown_size_makes_no_statement(driver):
    driver(A, B)
    assert smallest_gpu_gb() == 24.0
    driver(A, Device("shared memory", "GPU-ee55", reports=("load",)))
    assert smallest_gpu_gb() is None
    driver()
    assert smallest_gpu_gb() is None


def test_the_driver_has_a_version(driver):
    driver(A)
    assert driver_version() == "580.95.05"


def test_a_broken_driver_means_no_gpus(driver):
    driver(A, broken=True)
    assert (visible_gpus(), list(gpu_load()), driver_version(), smallest_gpu_gb()) == ((), [], None, None)
    driver(A, Device("lost", "GPU-ff66", reports=()))
    assert [gpu.name for gpu in visible_gpus()] == ["A"]


def test_a_machine_without_nvidias_driver_has_no_gpu_and_no_error():
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pass
    else:
        pytest.skip("NVIDIA's driver is installed here")
    # The real library, in a process of its own.
    program = (
        "from sweeper.gpus import driver_version, gpu_load, visible_gpus\n"
        "print(visible_gpus(), list(gpu_load()), driver_version())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert (run.stdout.strip(), run.stderr) == ("() [] None", "")


def test_the_fake_has_only_what_the_library_has():
    import pynvml

    ours = {name for name in vars(FakeLibrary) if name.lower().startswith("nvml")}
    assert len(ours) >= 10
    assert [name for name in ours if not hasattr(pynvml, name)] == []
