"""The part of `ray up cluster.yaml` that speaks to AWS, against moto, which stands in for it.

moto is no dependency of this project: without it (`pip install "moto[ec2,iam]" boto3`) this
is skipped.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

moto = pytest.importorskip("moto", reason="moto is not installed")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

from sweeper.errors import UserError  # noqa: E402
from sweeper.machines.ssh import find_cluster_head  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
REGION = "us-west-2"

# What moto and boto3 warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An account at AWS, and a home folder for the key that Ray makes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    with moto.mock_aws():
        yield boto3.client("ec2", REGION)


def test_ray_makes_what_the_file_says_and_opens_ssh_alone(account: Any, tmp_path: Path) -> None:
    from ray.autoscaler._private import commands
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.tags import (
        NODE_KIND_HEAD,
        NODE_KIND_WORKER,
        TAG_RAY_NODE_KIND,
        TAG_RAY_NODE_NAME,
        TAG_RAY_NODE_STATUS,
        TAG_RAY_USER_NODE_TYPE,
    )

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    image = account.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for kind in config["available_node_types"].values():
        kind["node_config"]["ImageId"] = image
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))

    filled = commands._bootstrap_config(prepare_config(copy.deepcopy(config)), no_config_cache=True)
    kinds = filled["available_node_types"]
    # Ray reads from AWS what the machines have, and it is what the file says.
    for name in ("gpu-spot", "gpu-on-demand"):
        assert kinds[name]["resources"]["GPU"] == config["available_node_types"][name]["resources"]["GPU"]
        assert kinds[name]["resources"]["CPU"] == config["available_node_types"][name]["resources"]["CPU"]
        assert "accelerator_type:L4" in kinds[name]["resources"]

    (group,) = [
        group
        for group in account.describe_security_groups()["SecurityGroups"]
        if group["GroupName"] == f"ray-autoscaler-{config['cluster_name']}"
    ]
    for rule in group["IpPermissions"]:
        if rule["IpRanges"]:
            assert (rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) == (22, 22, "tcp")
        else:
            assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]

    provider = _get_node_provider(filled["provider"], filled["cluster_name"])
    for name, role in (
        ("head", NODE_KIND_HEAD),
        ("gpu-spot", NODE_KIND_WORKER),
        ("gpu-on-demand", NODE_KIND_WORKER),
    ):
        tags = {
            TAG_RAY_NODE_KIND: role,
            TAG_RAY_USER_NODE_TYPE: name,
            TAG_RAY_NODE_STATUS: "up-to-date",
            TAG_RAY_NODE_NAME: name,
        }
        provider.create_node(copy.deepcopy(kinds[name]["node_config"]), tags, 1)
    machines = [
        machine
        for reservation in account.describe_instances()["Reservations"]
        for machine in reservation["Instances"]
    ]
    markets = {
        next(tag["Value"] for tag in machine["Tags"] if tag["Key"] == TAG_RAY_USER_NODE_TYPE): (
            machine["InstanceType"],
            machine.get("InstanceLifecycle"),
        )
        for machine in machines
    }
    assert markets == {
        "head": ("m6i.xlarge", None),
        "gpu-spot": ("g6.2xlarge", "spot"),
        "gpu-on-demand": ("g6.2xlarge", None),
    }

    # Our own commands find the head of that cluster, with the key that Ray made, in its container.
    head = find_cluster_head(file)
    (address,) = [
        machine["PublicIpAddress"] for machine in machines if machine["InstanceType"] == "m6i.xlarge"
    ]
    assert (head.user, head.host, head.container) == ("ubuntu", address, "sweeper")
    assert head.key is not None
    assert Path(head.key).stat().st_mode & 0o077 == 0

    provider.terminate_nodes(provider.non_terminated_nodes({}))
    with pytest.raises(UserError, match="no head of cluster 'diffusion-policy-sweeper' was found"):
        find_cluster_head(file)
