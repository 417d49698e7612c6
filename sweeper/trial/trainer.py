"""A Ray Train trainer that runs inside a Tune trial without processes of its own.

Ray Train as it comes gives every run, beside its workers, a controller, a placement-group cleaner, a
dataset process and, inside Tune, a queue: four Python processes that load Ray again for each trial, which on
a small machine costs several times the training (measured in ``docs/decisions/0006-a-lean-trainer.md``). Here
the controller runs in the thread of the trial that waits for it anyway, reports go to Tune directly, and
placement groups carry the sweep's name, so that the caller that runs the sweep can free those of a trial
that is gone.

This module is the only one that uses what Ray keeps private. `NetworkConfig` has the workers of a trial find
each other over the network that Ray uses: Gloo takes the address to which the host's own name resolves, which
on Debian and Ubuntu is 127.0.1.1, and no other machine reaches that. Ray knows the address by which the
machines of a cluster see each other, and its interface is named to Gloo.

`tests/sweeper/trial/test_trainer.py` says first when a new Ray no longer fits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.train import UserCallback
from ray.train._internal.session import get_session
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.user_callback import UserCallbackHandler
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle

from sweeper.trial.placement import acquire_placement_group

__all__ = ["NetworkConfig", "TrialTrainer", "interface_of"]

INTERFACE = "GLOO_SOCKET_IFNAME"


class TrialTrainer(TorchTrainer):
    """A `TorchTrainer` for use in a Tune function trainable. Takes the arguments of `TorchTrainer`.

    It differs in four things: the controller runs in the calling thread, so that a trial that Tune stops
    takes its workers along; datasets are not served; placement groups are called ``<group_name>/<random>``;
    and the run waits for its placement group for as long as it takes (`sweeper.trial.placement`).

    Args:
        group_name: Prefix of the placement groups' names.
        folder: Receives a file with the resources that the run waits for.
        given_up: Asked while it waits whether it is not to begin any more; then
            `sweeper.trial.placement.Withdrawn` is raised.
        on_start: Called before each start of the workers.
        on_report: Told the metrics of rank 0 at each report. It may raise `SystemExit` to end the run.
        *args: As for `TorchTrainer`.
        **kwargs: As for `TorchTrainer`.
    """

    def __init__(
        self,
        *args: Any,
        group_name: str,
        folder: Path,
        given_up: Callable[[], bool],
        on_start: Callable[[], None],
        on_report: Callable[[Mapping[str, Any]], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._group_name = group_name
        self._folder = folder
        self._given_up = given_up
        self._on_start = on_start
        self._on_report = on_report

    def _create_default_callbacks(self) -> list[Any]:
        spared = (PlacementGroupCleanerCallback, DatasetsCallback)
        callbacks = [
            callback for callback in super()._create_default_callbacks() if not isinstance(callback, spared)
        ]
        reports = UserCallbackHandler([_Reports(self._on_report)], self.train_run_context)
        return [*callbacks, reports, _WithTrial(self._on_start)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        controller = _placed_controller(self._group_name, self._folder, self._given_up)(**arguments)
        try:
            asyncio.run(controller.run())
        finally:
            group = controller.get_worker_group()
            if group is not None:
                group.abort()
        return controller.get_result()


class _Reports(UserCallback):
    """Passes rank 0's metrics on."""

    def __init__(self, on_report: Callable[[Mapping[str, Any]], None]) -> None:
        self._on_report = on_report

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        self._on_report(metrics[0])


class _WithTrial(WorkerGroupCallback):
    """Reports each start to the trial, and ends the control loop when Tune has stopped the trial."""

    def __init__(self, on_start: Callable[[], None]) -> None:
        self._on_start = on_start

    def before_worker_group_start(self, worker_group_context: Any) -> None:  # noqa: ARG002
        self._on_start()

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:  # noqa: ARG002
        if _stopped_by_tune():
            raise SystemExit(0)


def _stopped_by_tune() -> bool:
    session = get_session()
    return session is None or session.stop_event.is_set()


def _placed_controller(group_name: str, folder: Path, given_up: Callable[[], bool]) -> type[TrainController]:
    class PlacedWorkerGroup(WorkerGroup):
        def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> Any:  # noqa: ARG002
            group = acquire_placement_group(
                group_name,
                [worker_group_context.resources_per_worker] * worker_group_context.num_workers,
                worker_group_context.placement_strategy,
                folder=folder,
                given_up=lambda: _stopped_by_tune() or given_up(),
                bundle_label_selector=worker_group_context.label_selector,
            )
            return DefaultPlacementGroupHandle(group)

    class PlacedController(TrainController):
        worker_group_cls = PlacedWorkerGroup

    return PlacedController


def interface_of(address: str, interfaces: Mapping[str, Any] | None = None) -> str | None:
    """Name the network interface that has an address; None if none has it.

    Args:
        address: An IP address of this machine.
        interfaces: What `psutil.net_if_addrs` gives.
    """
    interfaces = psutil.net_if_addrs() if interfaces is None else interfaces
    for name, entries in interfaces.items():
        # Addresses that hold for one link alone come with the link's name behind them.
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return name
    return None


def _name_interface() -> None:
    found = interface_of(ray.util.get_node_ip_address())
    if found is not None:
        os.environ.setdefault(INTERFACE, found)  # who has named one knows better


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_name_interface)
        super().on_start(worker_group, backend_config)


class NetworkConfig(TorchConfig):
    """As `TorchConfig`, and workers use the network interface that Ray uses."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What starts the process group."""
        return _Backend
