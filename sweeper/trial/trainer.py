"""A Ray Train trainer that runs inside a Tune trial without processes of its own.

Ray Train as it comes gives every run, beside its workers, a controller, a placement-group cleaner, a
dataset process and, inside Tune, a queue: four Python processes that load Ray again for each trial, which on
a small machine costs several times the training (measured in ``docs/decisions/0006-a-lean-trainer.md``). Here
the controller runs in the thread of the trial that waits for it anyway, reports go to Tune directly, a single
worker waits for no other, no process asks an autoscaler for what a placement group asks for already, and
placement groups carry the sweep's name, so that the caller that runs the sweep can free those of a trial that
is gone. Workers of a trial that ended well wait for the next one (`sweeper.trial.slot`).

This module is the only one that uses what Ray keeps private. `NetworkConfig` has the workers of a trial find
each other over the network that Ray uses: Gloo takes the address to which the host's own name resolves, which
on Debian and Ubuntu is 127.0.1.1, and no other machine reaches that. Ray knows the address by which the
machines of a cluster see each other, and its interface is named to Gloo.

`tests/sweeper/trial/test_trainer.py` says first when a new Ray no longer fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError
from ray.train import UserCallback
from ray.train._internal.session import get_session
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.user_callback import UserCallbackHandler
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup, worker_group
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2._internal.execution.worker_group.state import (
    WorkerGroupState,
    WorkerGroupStateBuilder,
    _shutdown_workers,
)
from ray.train.v2._internal.execution.worker_group.worker import Worker
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from sweeper.trial.placement import acquire_placement_group, elder_rival
from sweeper.trial.process import vacate
from sweeper.trial.slot import Kept, the_slot

__all__ = ["NetworkConfig", "TrialTrainer", "interface_of"]

INTERFACE = "GLOO_SOCKET_IFNAME"
PART_S = 30.0
"""How long workers may take to leave their process group."""
SOON_S = 0.03
"""How long after a report the workers are asked for their state again, which is otherwise less often."""


class TrialTrainer(DataParallelTrainer):
    """A trainer for use in a Tune function trainable, with the workers of `ray.train.torch.TorchTrainer`.

    It differs from that one in seven things: torch is loaded in the workers alone; the controller runs in the
    calling thread, so that a trial that Tune stops takes its workers along; datasets are not served;
    placement groups are called ``<group_name>/<random>``; an autoscaler is asked for machines by these alone;
    workers of a run that ended well are kept for the next run in this process; and the run waits for its
    placement group for as long as it takes (`sweeper.trial.placement`).

    Args:
        group_name: Prefix of the placement groups' names.
        trials_per_process: How many runs workers have before they are replaced.
        folder: Receives a file with the resources that the run waits for.
        given_up: Asked while it waits whether it is not to begin any more; then
            `sweeper.trial.placement.Withdrawn` is raised.
        on_start: Called before each start of the workers.
        on_report: Told the metrics of rank 0 at each report. It may raise `SystemExit` to end the run.
        *args: As for `DataParallelTrainer`.
        **kwargs: As for `DataParallelTrainer`.
    """

    def __init__(
        self,
        *args: Any,
        group_name: str,
        trials_per_process: int,
        folder: Path,
        given_up: Callable[[], bool],
        on_start: Callable[[], None],
        on_report: Callable[[Mapping[str, Any]], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, backend_config=NetworkConfig(), **kwargs)
        self._group_name = group_name
        self._trials_per_process = trials_per_process
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
        arguments["scaling_policy"] = _AsManyAsAsked(self.scaling_config)
        controller = _placed_controller(
            self._group_name, self._trials_per_process, self._folder, self._given_up
        )(**arguments)
        stopped = False
        try:
            asyncio.run(controller.run())
        except SystemExit:  # by Tune
            stopped = True
            raise
        finally:
            group = controller.get_worker_group()
            if group is not None:
                group.ended_well = stopped and len(group) == 1  # others would wait for each other
                group.abort()
        return controller.get_result()


class _AsManyAsAsked(FixedScalingPolicy):
    """A fixed number of workers, without Ray's `AutoscalingCoordinator`, a process for each cluster.

    It asks the autoscaler for the workers' machines, and so does a placement group that waits. Its requests
    hold machines for three minutes after a run that was killed; a placement group is freed with its trial.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


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


class _Alone:
    """What a single worker has instead of Ray's `SynchronizationActor`, which is a process of its own."""

    class broadcast_from_rank_zero:  # noqa: N801  called as a method of an actor is
        """What rank 0 says reaches all ranks: itself."""

        @staticmethod
        def remote(*, data: Any, **_others: Any) -> Any:
            """Give what was said back."""
            return ray.put(data)


class _State(WorkerGroupState):
    """Workers of a run that has begun. At its end they are kept if they may be, or else ended."""

    keep: Callable[[_State], bool]

    def shutdown(self) -> None:
        kept = self.keep(self)
        if not kept:
            _end(self)


class _StateBuilder(WorkerGroupStateBuilder):
    def __init__(self, keep: Callable[[_State], bool]) -> None:
        super().__init__()
        self._keep = keep

    def build(self) -> _State:
        state = _State(**vars(super().build()))
        object.__setattr__(state, "keep", self._keep)
        return state

    def shutdown(self) -> None:
        _end(self)
        self.workers = self.sync_actor = self.placement_group_handle = None


def _end(state: Any) -> None:
    """End workers, and free their place, as far as there are any yet."""
    if state.workers:
        _shutdown_workers(state.workers)
    if state.sync_actor is not None and not isinstance(state.sync_actor, _Alone):
        ray.kill(state.sync_actor)
    if state.placement_group_handle is not None:
        state.placement_group_handle.shutdown()


@contextlib.contextmanager
def _synchronised_by(actor: Any) -> Iterator[None]:
    """Have Ray Train use this to synchronise workers, instead of starting an actor for it."""

    class Given:
        @classmethod
        def options(cls, **_options: Any) -> type[Given]:
            return cls

        @classmethod
        def remote(cls, **_arguments: Any) -> Any:
            return actor

    before = worker_group.SynchronizationActor
    worker_group.SynchronizationActor = Given
    try:
        yield
    finally:
        worker_group.SynchronizationActor = before


def _vacate(patience_s: float) -> str:
    """Have a worker leave its trial; why it cannot take another, or nothing."""
    running = get_train_context().execution_context

    def training_ended() -> bool:
        # Nobody takes reports any more; the training would wait for that.
        with contextlib.suppress(queue.Empty):
            while True:
                running.result_queue.get_nowait()
                running.result_queue.task_done()
        return not running.training_thread_runner.is_running()

    return vacate(training_ended, patience_s)


def _placed_controller(
    group_name: str, trials_per_process: int, folder: Path, given_up: Callable[[], bool]
) -> type[TrainController]:
    def is_over() -> bool:
        return _stopped_by_tune() or given_up()

    class PlacedWorkerGroup(WorkerGroup):
        ended_well = False
        _taken: Kept | None = None

        def _start_impl(self, _builder: Any) -> None:
            builder = _StateBuilder(self._keep)
            synchronisation: Any = _Alone() if self._worker_group_context.num_workers == 1 else None
            bundles = self._bundles()
            if not is_over():
                self._taken = the_slot().take(self._needs(), lambda: elder_rival(group_name, bundles))
            if self._taken is not None:
                synchronisation = self._taken.synchronisation
            with _synchronised_by(synchronisation) if synchronisation else contextlib.nullcontext():
                try:
                    super()._start_impl(builder)
                except BaseException:
                    if not self.has_started():
                        builder.shutdown()
                    raise

        def _bundles(self) -> list[dict[str, float]]:
            context = self._worker_group_context
            return [context.resources_per_worker] * context.num_workers

        def _needs(self) -> Any:
            context = self._worker_group_context
            environment = self._get_worker_runtime_env(self._train_run_context.run_config.worker_runtime_env)
            return self._bundles(), context.placement_strategy, context.label_selector, environment

        def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> Any:  # noqa: ARG002
            group = self._taken.group if self._taken else None
            if group is None:
                strategy, beside = _beside(len(self._bundles()), worker_group_context.placement_strategy)
                group = acquire_placement_group(
                    group_name,
                    self._bundles(),
                    strategy,
                    folder=folder,
                    given_up=is_over,
                    bundle_label_selector=worker_group_context.label_selector,
                    **beside,
                )
            return DefaultPlacementGroupHandle(group)

        def _create_workers(self, num_workers: int, group: Any, resources: Any, **options: Any) -> Any:
            if self._taken is None:
                return super()._create_workers(num_workers, group, resources, **options)
            metadata = ray.get([actor.get_metadata.remote() for actor in self._taken.actors])
            workers = [
                Worker(actor, one, resources, placement_group_bundle_index=bundle)
                for bundle, (actor, one) in enumerate(zip(self._taken.actors, metadata, strict=True))
            ]
            return self._assign_worker_ranks(workers)

        def shutdown(self) -> None:
            status = self.get_latest_poll_status() if self.has_started() else None
            self.ended_well = status is not None and status.finished and not status.errors
            super().shutdown()

        def _keep(self, state: _State) -> bool:
            workers = sorted(state.workers, key=lambda worker: worker.placement_group_bundle_index)
            trials = (self._taken.trials if self._taken else 0) + 1
            kept = Kept(
                self._needs(),
                [worker.actor for worker in workers],
                state.placement_group_handle.placement_group,
                state.sync_actor,
                trials,
            )
            return self.ended_well and the_slot().keep(kept, trials_per_process, _vacate)

    class PlacedController(TrainController):
        worker_group_cls = PlacedWorkerGroup

        async def _poll_workers(self) -> Any:
            status = await super()._poll_workers()
            if any(one.training_report for one in status.worker_statuses.values()):
                # Another report may be waiting, or the end of the trial: look again soon.
                self._latest_poll_time -= max(0.0, self._health_check_interval_s - SOON_S)
            return status

    return PlacedController


def _beside(workers: int, strategy: str) -> tuple[str, dict[str, Any]]:
    """The strategy and options with which a single worker is placed on this machine, if it has room.

    This process may run on a machine that trains. If that machine is lost, so are the trials that it trains,
    and no others. Ray takes such a wish for groups that stay on one machine only.
    """
    if workers > 1:
        return strategy, {}
    return "STRICT_PACK", {"_soft_target_node_id": ray.get_runtime_context().get_node_id()}


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


def _join(backend: str, rank: int, size: int, address: str, port: int) -> None:
    """Have a worker join the process group of its trial."""
    from ray.train.torch import config

    _name_interface()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group(backend, rank, size, "env://")


def _part() -> None:
    """Have a worker leave the process group."""
    from ray.train.torch import config

    config._shutdown_torch(destroy_process_group=True)


class _OnDevice:
    """While this lasts the worker's GPU is torch's current one."""

    def __enter__(self) -> None:
        from ray.train.torch.config import TorchConfigContextManager

        TorchConfigContextManager().__enter__()

    def __exit__(self, *_error: object) -> None:
        pass


class _Backend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        size = len(worker_group)
        address, port = worker_group.execute_single(0, get_address_and_port)
        joined = [
            worker_group.execute_single_async(rank, _join, backend, rank, size, address, port)
            for rank in range(size)
        ]
        ray.get(joined)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002
        with contextlib.suppress(GetTimeoutError):  # then the workers are ended
            ray.get(worker_group.execute_async(_part), timeout=PART_S)


class NetworkConfig(BackendConfig):
    """As `ray.train.torch.TorchConfig`, on the interface that Ray uses; only workers load torch."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What starts the process group."""
        return _Backend

    @property
    def train_func_context(self) -> type[_OnDevice]:
        """What a worker trains in."""
        return _OnDevice
