"""Requests to a sweep on a cluster from another machine, through the sweep's entrance: a small Ray actor.

The entrance runs on the driver's machine, which has the sweep's folder. It takes no CPU and offers the
operations of `sweeper.steering.operations`. It belongs to the driver and ends with it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import SweeperError, SweepNotFoundError, UserError
from sweeper.machines.connection import connect, disconnect
from sweeper.records.sweep_state import SweepState
from sweeper.steering.operations import OPERATIONS
from sweeper.text import nearest

__all__ = ["NAMESPACE", "GoneError", "RemoteSweep", "entrances", "find_remote", "leave", "open_entrance"]

NAMESPACE = "sweeper"
AT_ONCE = 8
"""How many callers an entrance serves at the same time; a request waits for the driver's answer."""
ANSWER_TIMEOUT_S = 240.0
_log = logging.getLogger(__name__)


class GoneError(UserError):
    """The driver ended before it answered."""


class _Entrance:
    """Calls the operations of `sweeper.steering.operations` on one sweep's folder."""

    def __init__(self, folder: str, python_path: Sequence[str]) -> None:
        sys.path += [place for place in python_path if place not in sys.path]
        self._folder = Path(folder)

    def call(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The result of an operation; a `SweeperError` is returned as ``error`` and ``exit_code``."""
        try:
            if operation not in OPERATIONS:
                raise UserError(
                    f"{operation!r} is not an operation on a sweep. Known: {', '.join(OPERATIONS)}."
                )
            return OPERATIONS[operation](self._folder, **arguments)
        except SweeperError as error:
            return {"error": str(error), "exit_code": error.exit_code}


def open_entrance(sweep: SweepState) -> Any:
    """Start the entrance of a sweep; it ends when the returned actor handle is deleted.

    If it cannot be started, this logs a warning and returns None: the sweep runs without it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {
        "name": f"{sweep.name}/{sweep.sweep_id}",
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "max_concurrency": AT_ONCE,
        "scheduling_strategy": here,
    }
    try:
        actor = ray.remote(_Entrance).options(**options)
        return actor.remote(str(sweep.folder.absolute()), [place or str(Path.cwd()) for place in sys.path])
    except Exception as error:  # any error of Ray
        _log.warning("the sweep cannot receive requests from other machines: %s", error)
        return None


@dataclass(frozen=True)
class RemoteSweep:
    """A sweep that runs on the cluster to which this process is connected."""

    name: str
    actor: Any
    sweep_id: str = ""

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The result of one of `sweeper.steering.operations.OPERATIONS` for this sweep.

        Raises:
            GoneError: If its driver has ended.
            UserError: If it refuses the request.
            SweeperError: If it does not answer.
        """
        import ray

        try:
            answer = ray.get(self.actor.call.remote(operation, arguments), timeout=ANSWER_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            raise SweeperError(f"{self.name} did not answer within {ANSWER_TIMEOUT_S:.0f} s.") from None
        except ray.exceptions.RayActorError:
            raise GoneError(
                f"The driver of {self.name} has just ended. Its results are in its folder."
            ) from None
        if "error" in answer:
            error = UserError if answer["exit_code"] == UserError.exit_code else SweeperError
            raise error(answer["error"])
        return dict(answer)


def entrances(address: str) -> list[RemoteSweep]:
    """The sweeps that run on a cluster. Connects to it.

    Raises:
        UserError: If no cluster answers at the address.
    """
    connect(address)
    import ray

    found = []
    for entry in ray.util.list_named_actors(all_namespaces=True):
        if entry["namespace"] == NAMESPACE:
            name, _, sweep_id = entry["name"].partition("/")
            found.append(RemoteSweep(name, ray.get_actor(entry["name"], namespace=NAMESPACE), sweep_id))
    return sorted(found, key=lambda remote: remote.name)


def find_remote(name: str, address: str) -> RemoteSweep:
    """The sweep called ``name`` that runs on a cluster. Connects to it.

    Raises:
        SweepNotFoundError: If there is no such sweep, or more than one; lists the sweeps that run.
        UserError: If no cluster answers at the address.
    """
    every = entrances(address)
    found = [remote for remote in every if remote.name == name]
    if len(found) == 1:
        return found[0]
    known = sorted({remote.name for remote in every})
    if found:
        raise SweepNotFoundError(
            f"{len(found)} sweeps on {address} are called {name!r}. "
            "Run this command on the machine that runs yours."
        )
    near = nearest(name, known)
    hint = f" Did you mean {near!r}?" if near else ""
    listed = f" Running there: {', '.join(known)}." if known else " No sweep runs there."
    raise SweepNotFoundError(f"no sweep called {name!r} runs on {address}.{hint}{listed}")


def leave() -> None:
    """Disconnect from the cluster."""
    disconnect()
