"""The machines of a sweep: a Ray of our own on this machine, or a cluster that runs already.

How many trials run at once is computed here from what the nodes have, and not left to Ray: Tune does not see
what a trial's workers take, and trials that start with too little left would wait for each other for ever.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from sweeper.errors import ResourceError, UserError
from sweeper.machines.machine import find_machine
from sweeper.spec.sweep import ResourceSpec, SettledResources
from sweeper.text import counted

__all__ = ["Cluster", "Kind", "Node", "settle"]

DRIVER = "sweep_driver"
"""Custom resource that limits where and how many trials' drivers may run (see docs/clusters.md)."""
HEAD = "node:__internal_head__"
HEAD_SHARE = 0.001
BOOTSTRAP = "ray_bootstrap_config.yaml"
"""What `ray up` leaves in the home folder on the head: the cluster file, filled in."""


@dataclass(frozen=True)
class Node:
    """One machine.

    Attributes:
        cpus: CPUs that Ray gives out there.
        gpus: GPUs that Ray gives out there.
        name: Host name or address.
        drivers: Drivers of trials that may run there.
    """

    cpus: float
    gpus: float
    name: str = ""
    drivers: float = 0.0

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
        kinds: What an autoscaler may start; empty if nothing is scaled.
        at_most: Machines beside the head that it may start, of all kinds together.
        local: Whether this is a Ray of our own on this machine.
        address: Address of the cluster's head.
    """

    nodes: tuple[Node, ...]
    kinds: tuple[Kind, ...] = ()
    at_most: int = 0
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
    def drivers(self) -> int | None:
        """Most trials whose drivers fit on machines that are up or may come; None if nothing limits them."""
        up = sum(node.drivers for node in self.nodes)
        # A head without training stays beside what the autoscaler starts.
        head = sum(node.drivers for node in self.nodes if not node.cpus and not node.gpus)
        most = max(up, head + self._reached(lambda node: node.drivers))
        return int(most) or None

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
        return f"{where} ({counted(self.cpus, 'CPU')}, {counted(self.gpus, 'GPU')})"


def settle(wanted: ResourceSpec, cluster: Cluster, trials: int | None = None) -> SettledResources:
    """Settle what a trial gets and how many run at once, so that no trial waits for another's end to begin.

    Args:
        wanted: What the sweep asks for.
        cluster: Where it runs.
        trials: Trials of the sweep; no more than these run at once.

    Raises:
        ResourceError: If not even one trial fits.
    """
    settled = wanted.settled(cluster.cpus, cluster.gpus, trials)
    cpu, gpu = settled.cpu_per_worker, settled.gpu_per_worker
    several = settled.workers > 1
    smaller = f"Lower resources.cpu_per_worker{' or resources.workers' if several else ''}"
    if settled.gpu_per_trial > cluster.gpus:
        raise ResourceError(
            f"resources: each trial needs {_need(settled.workers, gpu, 'GPU')}, and {cluster} has "
            f"{cluster.gpus:g}. Set resources.gpu_per_worker=0 to train on CPUs, "
            f"{'lower resources.workers, ' if several else ''}or name a cluster with --cluster or --address."
        )
    if settled.cpu_per_trial > cluster.cpus:
        raise ResourceError(
            f"resources: each trial needs {_need(settled.workers, cpu, 'CPU')}, and {cluster} has "
            f"{cluster.cpus:g}. {smaller}, or name a cluster with --cluster or --address."
        )
    fits = cluster.workers(cpu, gpu) // settled.workers
    if fits < 1:
        machines = [*cluster.nodes, *(kind.node for kind in cluster.kinds)]
        nodes = "; ".join(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in machines)
        raise ResourceError(
            f"resources: a trial of {settled.workers} worker(s), each with {gpu:g} GPU and {cpu:g} CPUs, "
            f"does not fit: each worker must fit on one machine ({nodes}). {smaller}."
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


def cluster_file() -> Path | None:
    """The file by which this cluster grows: SWEEPER_CLUSTER_FILE, or what `ray up` left on its head.

    Ray itself does not say: its record of what an autoscaler may start is empty for clusters of `ray up`.
    """
    named = os.environ.get("SWEEPER_CLUSTER_FILE")
    path = Path(named).expanduser() if named else Path.home() / BOOTSTRAP
    return path if path.is_file() else None


def scaled_kinds(file: Path | None) -> tuple[tuple[Kind, ...], int]:
    """The kinds of machine that an autoscaler may start, and how many machines it may start in all.

    Your own machines (``provider: local``) are there or not: nothing is started.

    Raises:
        UserError: If the file cannot be read.
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
                    float((kind.get("resources") or {}).get(DRIVER, 0)),
                ),
                int(kind.get("max_workers", at_most)),
            )
            for name, kind in config["available_node_types"].items()
            if name != config.get("head_node_type")
        )
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: the machines of the cluster cannot be read: {error}.") from error
    return tuple(kind for kind in kinds if kind.most), at_most


def _need(workers: int, each: float, what: str) -> str:
    total = counted(workers * each, what)
    return total if workers == 1 else f"{total} ({workers} workers with {each:g} each)"
