"""What our trainer uses of Ray's insides is still there. Starts no Ray."""

from __future__ import annotations

import inspect

import pytest

pytestmark = [
    pytest.mark.slow,  # imports torch and Ray Train
    # Ray Data, which Ray Train loads, sets options of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray"),
]


def test_ray_still_has_what_the_trainer_overrides() -> None:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2._internal.execution.worker_group import WorkerGroup

    from sweeper.trial.trainer import TrialTrainer

    own = {"_create_default_callbacks", "_initialize_and_run_controller", "fit"}
    assert own <= set(dir(TorchTrainer))
    assert issubclass(TrialTrainer, TorchTrainer)
    arguments = list(inspect.signature(TrainController.__init__).parameters)
    assert {"callbacks", "train_run_context"} <= set(arguments)
    assert inspect.iscoroutinefunction(TrainController.run)
    assert TrainController.worker_group_cls is WorkerGroup
    assert list(inspect.signature(WorkerGroup._create_placement_group).parameters) == [
        "self",
        "scaling_config",
        "worker_group_context",
    ]


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
        folder=tmp_path,
        given_up=lambda: False,
        on_start=print,
        on_report=print,
    )._create_default_callbacks()
    names = [[type(callback).__name__ for callback in callbacks] for callbacks in (stock, lean)]
    assert sorted(set(names[0]) - set(names[1])) == ["DatasetsCallback", "PlacementGroupCleanerCallback"]
    assert sorted(set(names[1]) - set(names[0])) == ["_WithTrial"]
