"""The files that a cluster is made from: Ray takes them, and they all name the same versions."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "clusters"
CLOUDS = (ROOT / "cluster.yaml", FOLDER / "gcp.yaml")
OF_RAY_UP = (*CLOUDS, FOLDER / "on-premises.yaml")
OF_KUBERAY = (FOLDER / "kuberay-raycluster.yaml", FOLDER / "kuberay-rayjob.yaml")
SCRIPTS = (
    ROOT / "scripts" / "setup_node.sh",
    ROOT / "scripts" / "mlflow_service.sh",
    ROOT / "scripts" / "prepare_system.sh",
    FOLDER / "slurm.sh",
)


def constraints() -> tuple[str, str]:
    """Versions of Ray and of Python that the project is tested with."""
    text = (ROOT / "constraints.txt").read_text()
    ray, python = re.search(r"^ray==(\S+)$", text, re.MULTILINE), re.search(r"on Python (\d+\.\d+)", text)
    assert ray is not None
    assert python is not None
    return ray[1], python[1]


def image() -> str:
    ray, python = constraints()
    return f"rayproject/ray:{ray}-py{python.replace('.', '')}-cu128"


def resources(path: Path, kind: str) -> list[dict[str, Any]]:
    """The documents of a kind in a file for Kubernetes."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document["kind"] == kind]


def ray_cluster(path: Path) -> dict[str, Any]:
    """The cluster that a file for Kubernetes describes."""
    clusters, jobs = resources(path, "RayCluster"), resources(path, "RayJob")
    spec = clusters[0]["spec"] if clusters else jobs[0]["spec"]["rayClusterSpec"]
    return dict(spec)


@pytest.mark.slow
@pytest.mark.parametrize("path", OF_RAY_UP, ids=lambda path: path.stem)
def test_ray_up_takes_the_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    # What `ray up` does before it starts anything.
    validate_config(prepare_config(yaml.safe_load(path.read_text())))


@pytest.mark.slow
@pytest.mark.parametrize("path", OF_RAY_UP, ids=lambda path: path.stem)
def test_a_key_that_ray_does_not_know_is_found(path: Path) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError):
        validate_config({**prepare_config(yaml.safe_load(path.read_text())), "docker_image": "x"})


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_images_have_the_versions_of_the_constraints(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["docker"]["image"] == image()


def test_images_for_kubernetes_have_the_versions_of_the_constraints() -> None:
    assert f"FROM {image()}" in (FOLDER / "Dockerfile").read_text().splitlines()
    for path in OF_KUBERAY:
        assert ray_cluster(path)["rayVersion"] == constraints()[0]


@pytest.mark.slow
@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_spot_machines_are_asked_for_first_and_others_stand_in(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config

    filled = prepare_config(yaml.safe_load(path.read_text()))
    kinds = {name: kind for name, kind in filled["available_node_types"].items() if name != "head"}
    spot, on_demand = kinds["gpu-spot"], kinds["gpu-on-demand"]
    assert spot["priority"] > on_demand["priority"]
    assert spot["resources"] == on_demand["resources"]
    assert spot["resources"]["GPU"] >= 1
    assert all(kind["min_workers"] == 0 and kind["max_workers"] >= 1 for kind in kinds.values())
    # They are the same machine but for the market.
    plain = copy.deepcopy(on_demand["node_config"]), copy.deepcopy(spot["node_config"])
    for config in plain:
        for market in ("InstanceMarketOptions", "scheduling"):
            config.pop(market, None)
    assert plain[0] == plain[1]
    head = filled["available_node_types"]["head"]["resources"]
    assert head["CPU"] == 0
    assert head["sweep_driver"] >= 1
    # However many machines there are, each brings room for the drivers of its trials.
    assert all(kind["resources"]["sweep_driver"] == kind["resources"]["GPU"] for kind in kinds.values())
    # Longer than a machine takes to pull its image and to install the packages.
    assert filled["idle_timeout_minutes"] >= 15


@pytest.mark.parametrize("path", OF_RAY_UP, ids=lambda path: path.stem)
def test_nothing_listens_to_the_outside_and_the_token_goes_to_every_node(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in path.read_text()
    assert "mlflow_service.sh start" in head
    sources = [source for source in config["file_mounts"].values() if "~" not in source]
    assert {"sweeper", "trainables", "pyproject.toml"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    assert any(place.endswith("/.ray/auth_token") for place in config["file_mounts"])
    # Ray reads the mode from the environment that set-up wrote.
    starts = [
        line
        for commands in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in config[commands]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all(line.startswith(". ~/.sweeper/environment.sh;") for line in starts)
    assert config["setup_commands"]
    assert all("setup_node.sh" in line for line in config["setup_commands"])


def test_what_a_user_must_change_is_marked() -> None:
    marked = {path.name: path.read_text().count("CHANGE") for path in (*OF_RAY_UP, *OF_KUBERAY, SCRIPTS[-1])}
    assert all(count >= 2 for count in marked.values()), marked


@pytest.mark.parametrize("path", OF_KUBERAY, ids=lambda path: path.stem)
def test_manifests_have_what_kuberay_needs(path: Path) -> None:
    spec = ray_cluster(path)
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert spec["enableInTreeAutoscaling"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "sweep_driver" in head["rayStartParams"]["resources"]
    assert workers["minReplicas"] == 0
    assert workers["maxReplicas"] >= 1
    images = set()
    for group in (head, workers):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            images.add(container["image"])
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"]
        environment = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert environment["SWEEPER_SWEEPS"]["value"] == "/mnt/sweeps"
    assert len(images) == 1
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_sweep_counts_on_the_machines_that_kuberay_may_start(tmp_path: Path) -> None:
    from sweeper.machines.cluster import scaled_kinds

    (told,) = resources(OF_KUBERAY[0], "ConfigMap")
    file = tmp_path / "cluster.yaml"
    file.write_text(told["data"]["cluster.yaml"])
    (kind,), at_most = scaled_kinds(file)
    (workers,) = ray_cluster(OF_KUBERAY[0])["workerGroupSpecs"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (kind.node.cpus, kind.node.gpus) == (int(limits["cpu"]), int(limits["nvidia.com/gpu"]))
    assert kind.most == at_most == workers["maxReplicas"]
    assert yaml.safe_load(workers["rayStartParams"]["resources"]) == '{"sweep_driver": 1}'
    assert kind.node.drivers == kind.node.gpus == 1


@pytest.mark.slow
def test_the_job_of_kubernetes_runs_on_the_same_cluster() -> None:
    cluster, job = (copy.deepcopy(ray_cluster(path)) for path in OF_KUBERAY)
    for group in (job["headGroupSpec"], *job["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "space"]
        for container in pod["containers"]:
            container["volumeMounts"] = [
                mount for mount in container["volumeMounts"] if mount["name"] != "space"
            ]
    assert job == cluster
    (document,) = resources(OF_KUBERAY[1], "RayJob")
    assert document["spec"]["shutdownAfterJobFinishes"]
    assert document["spec"]["entrypoint"].startswith("sweeper launch /etc/space/space.yaml")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_read_by_their_shell(path: Path) -> None:
    shell = "bash" if path.read_text().startswith("#!/bin/bash") else "sh"
    checked = subprocess.run([shutil.which(shell) or shell, "-n", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
