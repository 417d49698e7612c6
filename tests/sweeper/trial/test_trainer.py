"""What our trainer uses of Ray's insides is still there. Starts no Ray."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,  # imports torch and Ray Train
    # Ray Data, which Ray Train loads, sets options of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray"),
]


def test_ray_still_has_what_the_trainer_overrides() -> None:
    from ray.train.torch import TorchTrainer, config
    from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
    from ray.train.v2._internal.execution.worker_group import WorkerGroup, worker_group
    from ray.train.v2._internal.execution.worker_group import state as group_state
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from sweeper.trial.trainer import TrialTrainer, _AsManyAsAsked, _State, _StateBuilder

    own = {"_create_default_callbacks", "_initialize_and_run_controller", "fit"}
    assert own <= set(dir(TorchTrainer))
    assert issubclass(TorchTrainer, DataParallelTrainer)
    assert issubclass(TrialTrainer, DataParallelTrainer)
    arguments = list(inspect.signature(TrainController.__init__).parameters)
    assert {"callbacks", "scaling_policy", "train_run_context"} <= set(arguments)
    replaced = {name for name, value in vars(_AsManyAsAsked).items() if inspect.isfunction(value)}
    assert replaced == {"after_controller_start", "_maybe_send_resource_request"}
    assert replaced <= set(dir(FixedScalingPolicy))
    assert inspect.iscoroutinefunction(TrainController.run)
    assert TrainController.worker_group_cls is WorkerGroup
    assert list(inspect.signature(WorkerGroup._create_placement_group).parameters) == [
        "self",
        "scaling_config",
        "worker_group_context",
    ]
    assert list(inspect.signature(WorkerGroup._start_impl).parameters) == [
        "self",
        "worker_group_state_builder",
    ]
    assert list(inspect.signature(WorkerGroup._create_workers).parameters)[1:4] == [
        "num_workers",
        "placement_group",
        "resources_per_worker",
    ]
    assert inspect.iscoroutinefunction(TrainController._poll_workers)
    assert worker_group.SynchronizationActor is SynchronizationActor
    for own, rays in ((_State, "WorkerGroupState"), (_StateBuilder, "WorkerGroupStateBuilder")):
        assert issubclass(own, getattr(group_state, rays))
    assert [*inspect.signature(config._setup_torch_process_group).parameters][:4] == [
        "backend",
        "world_rank",
        "world_size",
        "init_method",
    ]


def test_the_process_in_which_trials_wait_does_not_load_torch() -> None:
    code = "import sys, sweeper.trial.run, sweeper.trial.trainer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_left_out_of_ray_train_is_what_we_think_it_is(tmp_path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from sweeper.trial.trainer import TrialTrainer

    common = {
        "train_loop_per_worker": print,
        "scaling_config": ScalingConfig(num_workers=1),
        "run_config": RunConfig(name="trial-0", storage_path=str(tmp_path)),
    }
    stock = TorchTrainer(**common)._create_default_callbacks()
    lean = TrialTrainer(
        **common,
        group_name="sweeper/x/0",
        trials_per_process=1,
        folder=tmp_path,
        given_up=lambda: False,
        on_start=print,
        on_report=print,
    )._create_default_callbacks()
    names = [[type(callback).__name__ for callback in callbacks] for callbacks in (stock, lean)]
    assert sorted(set(names[0]) - set(names[1])) == ["DatasetsCallback", "PlacementGroupCleanerCallback"]
    assert sorted(set(names[1]) - set(names[0])) == ["_WithTrial"]
