"""What a sweep gets of a machine or a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.errors import ResourceError, UserError
from sweeper.machines.cluster import Cluster, Kind, Node, scaled_kinds, settle, this_machine
from sweeper.machines.connection import connect
from sweeper.spec.sweep import ResourceSpec

ROOT = Path(__file__).parents[3]


def cluster(*nodes: tuple[float, ...], **more: Any) -> Cluster:
    """A cluster of nodes, each as CPUs, GPUs and, if it takes any, drivers of trials."""
    named = tuple(Node(*node[:2], f"node-{number}", *node[2:]) for number, node in enumerate(nodes))
    return Cluster(named, **more)


def scaled(*kinds: tuple[float, float, int], at_most: int, head: tuple[float, float] = (0, 0)) -> Cluster:
    """A cluster of a head, to which machines of these CPUs, GPUs and numbers may be added."""
    named = tuple(Kind(Node(cpus, gpus, f"each {cpus:g}-{gpus:g}"), most) for cpus, gpus, most in kinds)
    return Cluster((Node(*head, "head"),), named, at_most, local=False, address="head:6379")


@pytest.mark.parametrize(
    ("nodes", "workers", "gpu", "cpu", "at_once"),
    [
        ([(2, 0)], 1, 0, 1, 2),
        ([(8, 4)], 1, 1, 2, 4),
        ([(8, 4)], 2, 1, 1, 2),
        ([(8, 1)], 1, 0.5, 1, 2),
        # Two shares of 0.4 fit into each GPU, the rest of both does not make a third.
        ([(8, 2)], 1, 0.4, 1, 4),
        # 12 CPUs in all, yet each machine holds only one worker of 4.
        ([(6, 0), (6, 0)], 1, 0, 4, 2),
        # The four workers of a trial may lie on several machines.
        ([(2, 2), (2, 2)], 4, 1, 1, 1),
        ([(3, 3), (3, 3)], 2, 1, 1, 3),
        ([(0, 0), (16, 8)], 1, 1, 2, 8),
    ],
)
def test_as_many_trials_run_at_once_as_fit_on_the_machines(
    nodes: list[tuple[float, float]], workers: int, gpu: float, cpu: float, at_once: int
) -> None:
    settled = settle(ResourceSpec(workers, gpu, cpu), cluster(*nodes))
    assert settled.at_once == at_once


def test_trials_at_once_keep_every_limit() -> None:
    eight = cluster((8, 0))
    assert settle(ResourceSpec(1, 0, 1), eight).at_once == 8
    assert settle(ResourceSpec(1, 0, 1), eight, trials=3).at_once == 3
    assert settle(ResourceSpec(1, 0, 1, max_concurrent=2), eight).at_once == 2
    assert settle(ResourceSpec(1, 0, 1), cluster((8, 0, 5))).at_once == 5


def test_machines_that_an_autoscaler_may_add_count() -> None:
    assert settle(ResourceSpec(1, 1, 4), scaled((8, 1, 4), at_most=4)).at_once == 4
    # Spot machines and those that stand in for them: not more than the cluster may have in all.
    assert settle(ResourceSpec(1, 1, 4), scaled((8, 1, 4), (8, 1, 4), at_most=5)).at_once == 5
    assert settle(ResourceSpec(2, 1, 4), scaled((8, 1, 4), at_most=4)).at_once == 2
    assert settle(ResourceSpec(), scaled((8, 1, 4), at_most=4)).gpu_per_worker == 1


def test_a_worker_that_no_machine_to_come_can_hold_is_refused_at_launch() -> None:
    # 32 CPUs in all, and none of the machines has 16.
    with pytest.raises(ResourceError, match=r"each 8-1: 8 CPUs, 1 GPUs"):
        settle(ResourceSpec(1, 1, 16), scaled((8, 1, 4), at_most=4))
    # The kind with GPUs may not be started at all.
    with pytest.raises(ResourceError, match="needs 1 GPU"):
        settle(ResourceSpec(1, 1, 4), scaled((8, 0, 4), at_most=4))


def test_what_ray_up_left_on_the_head_says_which_machines_may_come(tmp_path: Path) -> None:
    kinds, at_most = scaled_kinds(ROOT / "cluster.yaml")
    assert at_most == 4
    assert [(kind.node.cpus, kind.node.gpus, kind.most) for kind in kinds] == [(8, 1, 4), (8, 1, 4)]
    # Nothing is started in a lab, and nothing without a file.
    assert scaled_kinds(ROOT / "docs" / "clusters" / "on-premises.yaml") == ((), 0)
    assert scaled_kinds(None) == ((), 0)
    broken = tmp_path / "broken.yaml"
    broken.write_text("max_workers: many")
    with pytest.raises(UserError, match=r"broken\.yaml: the machines of the cluster cannot be read"):
        scaled_kinds(broken)


@pytest.mark.parametrize(
    ("wanted", "nodes", "words"),
    [
        (
            ResourceSpec(1, 4, 1),
            [(2, 0)],
            ["needs 4 GPUs", "this machine (2 CPUs, 0 GPUs)", "gpu_per_worker"],
        ),
        (ResourceSpec(2, 1, 1), [(8, 1)], ["2 GPUs (2 workers with 1 each)", "has 1"]),
        (ResourceSpec(3, 0, 1), [(2, 0)], ["needs 3 CPUs (3 workers with 1 each)", "cpu_per_worker"]),
        (ResourceSpec(1, 0, 5), [(4, 0), (4, 0)], ["node-0: 4 CPUs", "each worker must fit on one machine"]),
    ],
)
def test_a_trial_that_can_never_fit_is_refused_in_words(
    wanted: ResourceSpec, nodes: list[tuple[float, float]], words: list[str]
) -> None:
    with pytest.raises(ResourceError) as caught:
        settle(wanted, cluster(*nodes))
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)
    # One worker is the least that a trial can have.
    assert ("resources.workers" in str(caught.value)) is (wanted.workers > 1)


def test_drivers_of_trials_take_no_cpu_and_go_where_the_cluster_wants_them() -> None:
    assert cluster((2, 0)).driver_resources() == {"node:__internal_head__": 0.001}
    assert cluster((2, 0, 16)).driver_resources() == {"sweep_driver": 1.0}


def test_drivers_of_trials_may_run_on_the_machines_that_train() -> None:
    one_gpu = ResourceSpec(1, 1, 4)
    assert settle(one_gpu, cluster((0, 0, 2), (32, 8, 0))).at_once == 2
    assert settle(one_gpu, cluster((0, 0, 2), (32, 8, 4))).at_once == 6
    # Machines that an autoscaler may start count beside the head, and those that are up only once.
    head, machine = Node(0, 0, "head", 2), Node(4, 1, "each", 1)
    kinds = (Kind(machine, 4),)
    assert settle(one_gpu, Cluster((head,), kinds, 4)).at_once == 4
    assert Cluster((head,), kinds, 4).drivers == 6
    assert Cluster((head, machine, machine), kinds, 4).drivers == 6
    assert Cluster((Node(4, 1),), (Kind(Node(4, 1), 4),), 4).drivers is None


def test_this_machine_has_at_least_one_cpu(tmp_path: Path) -> None:
    assert this_machine(tmp_path).cpus >= 1


@pytest.mark.ray
def test_a_ray_of_our_own_offers_what_it_was_told(cluster: Cluster) -> None:
    assert cluster.cpus == 2
    assert cluster.local
    assert len(cluster.nodes) == 1
    # A second connection is the same one.
    assert connect().nodes == cluster.nodes


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_said_at_once() -> None:
    # In a process of its own: this one may be connected already.
    code = "from sweeper.machines.connection import connect; connect('127.0.0.1:1')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400)
    assert "UserError: --address: no Ray cluster can be used at '127.0.0.1:1'" in ended.stderr
    assert "Connection refused" in ended.stderr
    code, environment = (
        "from sweeper.machines.connection import connect; connect()",
        {"RAY_ADDRESS": "127.0.0.1:1"},
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | environment,
    )
    assert "UserError: RAY_ADDRESS: no Ray cluster can be used at '127.0.0.1:1'" in ended.stderr


@pytest.mark.slow
def test_the_cluster_file_is_valid_for_ray_up() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    # What `ray up` does before it starts anything.
    filled = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(filled)
    kinds = filled["available_node_types"]
    head = kinds[filled["head_node_type"]]
    workers = [kind for name, kind in kinds.items() if name != filled["head_node_type"]]
    # Trials' drivers live on the head and train nowhere; workers have GPUs.
    assert head["resources"]["CPU"] == 0
    assert head["resources"]["sweep_driver"] >= 1
    assert workers
    assert all(kind["resources"]["GPU"] >= 1 for kind in workers)
