"""What the probe of the machine doctor finds on nodes that do not exist."""

from __future__ import annotations

from typing import Any


def measured(**changes: Any) -> dict[str, Any]:
    """The report of the probe on a machine without problems."""
    place = {"path": "/mnt/sweeps", "exists": True, "writable": True, "free_gb": 500.0, "total_gb": 900.0}
    return {
        "host": "node",
        "identity": {
            "python": "3.11.7",
            "ray": "2.60.0",
            "package": "0.1.0",
            "code": "aaaaaaaaaaaa",
            "packages": {"torch": "2.14.1", "numpy": "2.4.6"},
        },
        "cpus": 8,
        "gpus": ["NVIDIA L4"],
        "driver": "580.95.05",
        "torch_cuda": "13.0",
        "sweeps": place,
        "cache": {**place, "path": "/mnt/frames"},
        "shm_gb": 8.0,
        "shm_free_gb": 7.0,
        "files": 65536,
        "mlflow": "",
        "token": True,
        **changes,
    }
