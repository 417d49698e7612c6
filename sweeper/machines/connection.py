"""Connect to a Ray cluster or start Ray on this machine, and disconnect."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.machines.cluster import DRIVER, Cluster, Node, cluster_file, scaled_kinds
from sweeper.machines.local_ray import LOCAL_ENVIRONMENT, TOKEN, start_ray, stop_ray
from sweeper.machines.machine import find_machine
from sweeper.text import first_line

__all__ = ["connect", "disconnect", "is_connected"]

RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A sweep sends no telemetry unless the user enables it.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # The errors of trials are recorded; of those that Tune no longer reads, Ray would print the traceback.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The old output engine is the one that can be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # The study is what a sweep continues from; Tune's own snapshots are never read.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
}
"""Settings of Ray and of Tune; they must be set before these are imported. The caller's environment wins."""
AUTH_MODE = "RAY_AUTH_MODE"
KNOCK_TIMEOUT_S = 10.0
OBJECT_STORE_BYTES = 128 * 1024**2
"""Trials exchange a few kilobytes; Ray's own choice is a third of the memory."""
LEAST_OBJECT_STORE_BYTES = 80 * 1024**2


def connect(
    address: str | None = None, cpus: int | None = None, report: Callable[[str], object] = str
) -> Cluster:
    """Start Ray on this machine, or connect to a cluster; a connection that exists is used as it is.

    A private Ray listens on the loopback interface alone.

    Args:
        address: A cluster's address; None for RAY_ADDRESS, or a private Ray if that is not set.
        cpus: CPUs of a private Ray; None for all that this process may use.
        report: Receives a sentence if a private Ray has to be started again.

    Raises:
        UserError: If no cluster answers at the address, or Ray's temporary folder cannot be used.
        SweeperError: If a private Ray does not start.
    """
    named_by = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or None
    local = address in (None, "local")
    for name, value in {**RAY_ENVIRONMENT, **(LOCAL_ENVIRONMENT if local else {})}.items():
        os.environ.setdefault(name, value)
    if not local:
        _bring_token()
    # Ray reads its settings when it is imported.
    import ray

    if ray.is_initialized():
        return _look(True, ray.get_runtime_context().gcs_address)
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if local:
        options |= {
            "address": "local",
            "num_cpus": cpus or find_machine().cpus,
            "object_store_memory": _object_store_bytes(),
            # Nothing of ours asks it anything, and it costs a gigabyte and a share of a core.
            "include_dashboard": False,
        }
    else:
        options["address"] = address
    try:
        if address is not None and not local:
            _knock(address)
        context = start_ray(options, report) if local else ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        if local:
            raise
        raise UserError(
            f"{named_by}: no Ray cluster can be used at {address!r}: {first_line(error)}. Is it running "
            "(`ray status --address ...`), and does it run the same Python and Ray as this machine?"
        ) from error
    return _look(local, str(context.address_info.get("gcs_address") or address))


def _bring_token() -> None:
    """Send the user's token to a cluster: Ray requires it if it was started with one."""
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if named or TOKEN.expanduser().is_file():
        os.environ.setdefault(AUTH_MODE, "token")


def _knock(address: str) -> None:
    """See whether anybody listens: Ray itself tries for minutes, and is loud about it.

    Raises:
        OSError: If no process does.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_TIMEOUT_S).close()


def is_connected() -> bool:
    """Whether this process is connected to a Ray already. Loads nothing."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def disconnect() -> None:
    """Let go of the cluster; a Ray of our own is stopped with everything in it."""
    stop_ray()


def _look(local: bool, address: str) -> Cluster:
    import ray

    resources = [node for node in ray.nodes() if node["Alive"]]
    nodes = tuple(
        Node(
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            node.get("NodeManagerHostname") or node["NodeManagerAddress"],
            node["Resources"].get(DRIVER, 0.0),
        )
        for node in resources
    )
    kinds, at_most = ((), 0) if local else scaled_kinds(cluster_file())
    return Cluster(nodes, kinds, at_most, local, address)


def _object_store_bytes() -> int:
    free = shutil.disk_usage(SHM).free if SHM.is_dir() and sys.platform == "linux" else 2 * OBJECT_STORE_BYTES
    return max(LEAST_OBJECT_STORE_BYTES, min(OBJECT_STORE_BYTES, free // 2))


SHM = Path("/dev/shm")
