"""What is wrong with a machine or with the nodes of a cluster before a sweep is launched there.

Every node is asked by a task of its own, so that what is said is what a trial would find. Checks that pass
are reported too: the user wants to know what was examined.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.machines.connection import connect, disconnect
from sweeper.machines.doctor import probe
from sweeper.machines.doctor.diagnosis import NodeReport, finding, judge
from sweeper.text import last_line
from trainables.interface import Finding

__all__ = ["examine"]

PATIENCE_S = 120.0
"""How long a node may take to answer: its first task starts a process."""


def examine(address: str | None = None, sweeps: Path = Path("sweeps")) -> list[Finding]:
    """Look at this machine, or at every node of a cluster.

    Args:
        address: The cluster; None for this machine alone; nothing is started there.
        sweeps: The folder in which sweeps lie.

    Raises:
        UserError: If no cluster answers at the address.
    """
    mlflow = os.environ.get("MLFLOW_TRACKING_URI") or None
    server = mlflow if mlflow is not None and mlflow.startswith(("http://", "https://")) else None
    folder = str(sweeps.absolute())
    if address is None:
        measured = probe.look(folder, server)
        gpus = float(len(measured["gpus"]))
        return judge([NodeReport("this machine", True, gpus, measured)], server, alone=True)
    cluster = connect(address)
    try:
        reports = _ask_nodes(folder, server)
        extra = _of_cluster(cluster)
    finally:
        disconnect()
    return [*judge(reports, server), *extra]


# Asking


def _ask_nodes(sweeps: str, mlflow: str | None) -> list[NodeReport]:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    heads = {node["NodeID"] for node in nodes if "node:__internal_head__" in node["Resources"]}
    asked = {node["NodeID"]: _on_node(probe.look, node["NodeID"], sweeps, mlflow) for node in nodes}
    answers = _answers(asked)
    skews = {identity: _skew(identity) for identity, (_, silence) in answers.items() if not silence}
    unwritten, unread = _marks(list(skews), Path(sweeps))
    reports = []
    for node in nodes:
        identity = node["NodeID"]
        measured, silence = answers[identity]
        reports.append(
            NodeReport(
                node.get("NodeManagerHostname") or node["NodeManagerAddress"],
                identity in heads,
                node["Resources"].get("GPU", 0.0),
                measured or {},
                skews.get(identity, 0.0),
                silence,
                tuple(unread.get(identity, ())),
                unwritten.get(identity, ""),
            )
        )
    return sorted(reports, key=lambda report: (not report.is_head, report.name))


def _on_node(function: Callable[..., Any], identity: str, *arguments: Any) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = NodeAffinitySchedulingStrategy(identity, soft=False)
    task = ray.remote(function).options(num_cpus=0, scheduling_strategy=where, max_retries=0)
    return task.remote(*arguments)


def _answers(asked: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """What each node answered, and why not if it did not."""
    import ray

    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=PATIENCE_S)
    answers: dict[str, tuple[Any, str]] = {}
    for identity, reference in asked.items():
        if reference not in ready:
            answers[identity] = (None, f"it did not answer within {PATIENCE_S:.0f} s")
            continue
        try:
            answers[identity] = (ray.get(reference), "")
        except Exception as error:
            # Whatever a node's task ends with is what is wrong with the node.
            answers[identity] = (None, last_line(str(error), type(error).__name__))
    return answers


def _skew(identity: str) -> float:
    """How far a node's clock is ahead of ours; 0 if it is within the time of the request."""
    import ray

    least = (float("inf"), 0.0)
    for _ in range(3):
        asked = time.time()
        there = float(ray.get(_on_node(probe.now, identity)))
        took = time.time() - asked
        least = min(least, (took, there - (asked + took / 2)))
    took, ahead = least
    return ahead if abs(ahead) > took / 2 else 0.0


def _marks(nodes: Sequence[str], sweeps: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Have each node write a file into the shared folder, and all of them read all files."""
    import ray

    folder = sweeps / f".doctor-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        return dict.fromkeys(nodes, error.strerror or str(error)), {}
    try:
        written = {node: ray.get(_on_node(probe.leave_mark, node, str(folder))) for node in nodes}
        marks = {name: content for name, content in written.values() if name}
        unwritten = {node: content for node, (name, content) in written.items() if not name}
        asked = {node: _on_node(probe.missing_marks, node, str(folder), marks) for node in nodes}
        return unwritten, {node: ray.get(reference) for node, reference in asked.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _of_cluster(cluster: Any) -> list[Finding]:
    text = f"{len(cluster.nodes)} machines are up: {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs"
    if cluster.scaled:
        text += f"; the autoscaler may reach {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs"
    found = [finding("fine", "size", "cluster", text)]
    if not cluster.gpus:
        found.append(finding("note", "gpus", "cluster", "No machine has a GPU: trials train on CPUs."))
    return found
