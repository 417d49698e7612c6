"""What the kit ran on: the accelerator, its driver, the libraries, the commit."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.machine import describe

__all__ = ["describe_hardware"]

PACKAGES = ("triton", "gymnasium", "gym-pusht", "pymunk", "safetensors", "pyarrow", "lerobot")
ROOT = Path(__file__).parents[2]


def describe_hardware(device: str) -> dict[str, str]:
    """Names and versions, as far as they can be found."""
    found = describe() | {"device": device}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "GPU memory": f"{properties.total_memory / 1e9:.1f} GB",
            "compute capability": f"{properties.major}.{properties.minor}",
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    found |= {package: _version(package) for package in PACKAGES}
    found["commit"] = _said("git", "-C", str(ROOT), "rev-parse", "HEAD")
    return {name: value for name, value in found.items() if value}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _said(*command: str) -> str:
    """The first line that a command prints; nothing if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""
