"""The machines of a sweep: a Ray of our own on this machine, or a cluster that runs already.

How many trials run at once is computed here from what the nodes have, and not left to Ray: Tune does not see
what a trial's workers take, and trials that start with too little left would wait for each other for ever.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sweeper.errors import ResourceError, UserError
from sweeper.own_ray import start_ray, stop_ray
from sweeper.plan import find_machine
from sweeper.spec.sweep import ResourceSpec, SettledResources
from sweeper.text import first_line

__all__ = ["Cluster", "Kind", "Node", "connect", "disconnect", "is_connected", "settle"]

DRIVER = "sweep_driver"
"""Custom resource by which a cluster says where trials' drivers may run, and how many (see cluster.yaml)."""
HEAD = "node:__internal_head__"
HEAD_SHARE = 0.001
BOOTSTRAP = "ray_bootstrap_config.yaml"
"""What `ray up` leaves in the home folder on the head: the cluster file, filled in."""
OBJECT_STORE_BYTES = 128 * 1024**2
"""Trials exchange a few kilobytes; Ray's own choice is a third of the memory."""
LEAST_OBJECT_STORE_BYTES = 80 * 1024**2
SHM = Path("/dev/shm")
KNOCK_TIMEOUT_S = 10.0
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A sweep tells nobody about itself unless it was asked to.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
"""Settings of Ray itself; they must stand before it is imported. The caller's environment wins."""
AUTH_MODE = "RAY_AUTH_MODE"
TOKEN = Path("~/.ray/auth_token")


@dataclass(frozen=True)
class Node:
    """One machine.

    Attributes:
        cpus: CPUs that Ray gives out there.
        gpus: GPUs that Ray gives out there.
        name: Host name or address.
    """

    cpus: float
    gpus: float
    name: str = ""

    def workers(self, cpu: float, gpu: float) -> int:
        """How many workers that take this much fit at the same time."""
        fits = math.floor(self.cpus / cpu + 1e-9) if cpu else 10**6
        if gpu:
            # Shares of a GPU do not add up across GPUs: 0.4 fits twice into each.
            of_gpus = (
                math.floor(1 / gpu + 1e-9) * math.floor(self.gpus) if gpu < 1 else math.floor(self.gpus / gpu)
            )
            fits = min(fits, of_gpus)
        return fits


@dataclass(frozen=True)
class Kind:
    """A kind of machine that an autoscaler may start.

    Attributes:
        node: What one of them has.
        most: How many there may be at the same time.
    """

    node: Node
    most: int


@dataclass(frozen=True)
class Cluster:
    """What trials can run on.

    Attributes:
        nodes: The machines that are up.
        kinds: What an autoscaler may start; empty where nothing is scaled.
        at_most: Machines beside the head that it may start, of all kinds together.
        drivers: Most trials whose drivers the cluster takes; None for as many as there are.
        local: Whether this is a Ray of our own on this machine.
        address: Address of the cluster's head.
    """

    nodes: tuple[Node, ...]
    kinds: tuple[Kind, ...] = ()
    at_most: int = 0
    drivers: int | None = None
    local: bool = True
    address: str = ""

    @property
    def cpus(self) -> float:
        """CPUs of all machines that are up, or that an autoscaler may reach."""
        return max(sum(node.cpus for node in self.nodes), self._reached(lambda node: node.cpus))

    @property
    def gpus(self) -> float:
        """GPUs of all machines that are up, or that an autoscaler may reach."""
        return max(sum(node.gpus for node in self.nodes), self._reached(lambda node: node.gpus))

    @property
    def scaled(self) -> bool:
        """Whether an autoscaler may add machines."""
        return bool(self.kinds)

    def workers(self, cpu: float, gpu: float) -> int:
        """How many workers that take this much fit, on machines that are up or may come."""
        up = sum(node.workers(cpu, gpu) for node in self.nodes)
        return max(up, int(self._reached(lambda node: node.workers(cpu, gpu))))

    def _reached(self, share: Callable[[Node], float]) -> float:
        """Most of something that the autoscaler may reach, starting those that have most of it."""
        left, reached = self.at_most, 0.0
        for kind in sorted(self.kinds, key=lambda kind: -share(kind.node)):
            count = min(kind.most, left)
            reached += count * share(kind.node)
            left -= count
        return reached

    def driver_resources(self) -> dict[str, float]:
        """What the driver of a trial asks Ray for: a place, and no CPU, since it only waits."""
        return {DRIVER: 1.0} if self.drivers is not None else {HEAD: HEAD_SHARE}

    def __str__(self) -> str:
        where = "this machine" if self.local else f"the cluster at {self.address}"
        return f"{where} ({_count(self.cpus, 'CPU')}, {_count(self.gpus, 'GPU')})"


def settle(wanted: ResourceSpec, cluster: Cluster, trials: int | None = None) -> SettledResources:
    """Settle what a trial gets and how many run at once, so that no trial waits for another's end to begin.

    Args:
        wanted: What the sweep asks for.
        cluster: Where it runs.
        trials: Trials of the sweep; no more than these run at once.

    Raises:
        ResourceError: Where not even one trial fits.
    """
    settled = wanted.settled(cluster.cpus, cluster.gpus, trials)
    cpu, gpu = settled.cpu_per_worker, settled.gpu_per_worker
    if settled.gpu_per_trial > cluster.gpus:
        raise ResourceError(
            f"resources: each trial needs {_need(settled.workers, gpu, 'GPU')}, and {cluster} has "
            f"{cluster.gpus:g}. Lower resources.gpu_per_worker or resources.workers (0 GPUs: it trains on "
            "CPUs), or name a cluster with --address."
        )
    if settled.cpu_per_trial > cluster.cpus:
        raise ResourceError(
            f"resources: each trial needs {_need(settled.workers, cpu, 'CPU')}, and {cluster} has "
            f"{cluster.cpus:g}. Lower resources.cpu_per_worker or resources.workers, or name a cluster with "
            "--address."
        )
    fits = cluster.workers(cpu, gpu) // settled.workers
    if fits < 1:
        machines = [*cluster.nodes, *(kind.node for kind in cluster.kinds)]
        nodes = "; ".join(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in machines)
        raise ResourceError(
            f"resources: a trial of {settled.workers} worker(s), each with {gpu:g} GPU and {cpu:g} CPUs, "
            f"does not fit: each worker must fit on one machine ({nodes}). Lower resources.cpu_per_worker or "
            "resources.workers."
        )
    limits = [fits]
    limits += [] if wanted.max_concurrent == "auto" else [wanted.max_concurrent]
    limits += [] if trials is None else [trials]
    limits += [] if cluster.drivers is None else [cluster.drivers]
    return replace(settled, at_once=max(1, min(limits)))


def this_machine(folder: Path) -> Cluster:
    """This machine as a cluster, without starting anything."""
    machine = find_machine(folder)
    return Cluster((Node(machine.cpus, machine.gpus, "this machine"),))


def connect(address: str | None = None, cpus: int | None = None) -> Cluster:
    """Start Ray on this machine, or connect to a cluster; a connection that exists is used as it is.

    Args:
        address: A cluster's address; None for RAY_ADDRESS, or a Ray of our own where that is not set.
        cpus: CPUs of a Ray of our own; None for all that this process may use.

    Raises:
        UserError: Where no cluster answers at the address.
        SweeperError: Where a Ray of our own does not start.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    named_by = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or None
    local = address in (None, "local")
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
        context = start_ray(options) if local else ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        if local:
            raise
        raise UserError(
            f"{named_by}: no Ray cluster can be used at {address!r}: {first_line(error)}. Is it running "
            "(`ray status --address ...`), and does it run the same Python and Ray as this machine?"
        ) from error
    return _look(local, str(context.address_info.get("gcs_address") or address))


def _bring_token() -> None:
    """Show the user's token to a cluster: one that Ray started where there is a token asks for it."""
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if named or TOKEN.expanduser().is_file():
        os.environ.setdefault(AUTH_MODE, "token")


def _knock(address: str) -> None:
    """See whether anybody listens: Ray itself tries for minutes, and is loud about it.

    Raises:
        OSError: Where nobody does.
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
        )
        for node in resources
    )
    drivers = sum(node["Resources"].get(DRIVER, 0.0) for node in resources)
    kinds, at_most = ((), 0) if local else scaled_kinds(cluster_file())
    return Cluster(nodes, kinds, at_most, int(drivers) if drivers else None, local, address)


def cluster_file() -> Path | None:
    """The file by which this cluster grows: SWEEPER_CLUSTER_FILE, or what `ray up` left on its head.

    Ray itself does not say: its record of what an autoscaler may start is empty for clusters of `ray up`.
    """
    named = os.environ.get("SWEEPER_CLUSTER_FILE")
    path = Path(named).expanduser() if named else Path.home() / BOOTSTRAP
    return path if path.is_file() else None


def scaled_kinds(file: Path | None) -> tuple[tuple[Kind, ...], int]:
    """The kinds of machine that an autoscaler may start, and how many machines it may start in all.

    Machines of one's own (``provider: local``) are there or not: nothing is started.

    Raises:
        UserError: Where the file cannot be read.
    """
    if file is None:
        return (), 0
    try:
        config = yaml.safe_load(file.read_text())
        if (config.get("provider") or {}).get("type") == "local":
            return (), 0
        at_most = int(config.get("max_workers", 0))
        kinds = tuple(
            Kind(
                Node(
                    float((kind.get("resources") or {}).get("CPU", 0)),
                    float((kind.get("resources") or {}).get("GPU", 0)),
                    f"each {name}",
                ),
                int(kind.get("max_workers", at_most)),
            )
            for name, kind in config["available_node_types"].items()
            if name != config.get("head_node_type")
        )
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: the machines of the cluster cannot be read: {error}.") from error
    return tuple(kind for kind in kinds if kind.most), at_most


def _object_store_bytes() -> int:
    free = shutil.disk_usage(SHM).free if SHM.is_dir() and sys.platform == "linux" else 2 * OBJECT_STORE_BYTES
    return max(LEAST_OBJECT_STORE_BYTES, min(OBJECT_STORE_BYTES, free // 2))


def _need(workers: int, each: float, what: str) -> str:
    total = _count(workers * each, what)
    return total if workers == 1 else f"{total} ({workers} workers with {each:g} each)"


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}" + ("" if number == 1 else "s")
