"""Pretrained weights of the image backbone: found, fetched, checked, and loaded into the encoder.

The true weights are large and on the internet. These tests write random ones in torchvision's layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from small_policy import small_batch, small_policy
from torch import Tensor
from training_runs import run, tensors_of

from tests.http_server import http_server
from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.config.backbones import FIELD, FILES, weights_file
from trainables.diffusion_policy.config.diffusion_config import config_faults
from trainables.diffusion_policy.config.sections import OptimizerConfig
from trainables.diffusion_policy.network import backbone_file
from trainables.diffusion_policy.network.backbone_file import place_of, ready_file
from trainables.diffusion_policy.network.vision import RgbEncoder
from trainables.diffusion_policy.training.optimizer import build_optimizer
from trainables.interface import ConfigError

NAMED = "ResNet18_Weights.IMAGENET1K_V1"
DATA = {"dataset.root": "somewhere", "policy.use_group_norm": False}


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch hub, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(backbone_file, "SITE", "http://127.0.0.1:9/models")
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A state dict of torchvision's ResNet-18 with weights that no other draw has."""
    torch.manual_seed(77)
    return torchvision.models.resnet18(weights=None).state_dict()


def written(weights: Any, folder: Path, name: str = "resnet18") -> Path:
    """Weights as a file with the beginning of its digest in its name, as torchvision has it."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "plain.pth"
    torch.save(weights, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    return plain.rename(folder / f"{name}-{digest[:8]}.pth")


def encoder(named: str | None, backbone: str = "resnet18") -> RgbEncoder:
    return RgbEncoder(
        vision_backbone=backbone,
        pretrained_backbone_weights=named,
        use_group_norm=False,
        num_keypoints=4,
        image_size=(64, 64),
    )


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as raised:
        call()
    (fault,) = raised.value.faults
    assert fault.where == FIELD
    return str(fault)


# Names and places


def test_the_files_are_torchvisions() -> None:
    for backbone, files in FILES.items():
        known = torchvision.models.get_model_weights(backbone)
        assert {one.name: one.url for one in known} == {
            name: f"https://download.pytorch.org/models/{file}" for name, file in files.items()
        }
        for named in ("DEFAULT", f"{known.__name__}.DEFAULT"):
            assert weights_file(backbone, named) == known.DEFAULT.url.rpartition("/")[2]


def test_the_place_is_that_of_torch_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for changed in ({"TORCH_HOME": "~/torch"}, {"XDG_CACHE_HOME": str(tmp_path)}, {}):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in changed.items():
            monkeypatch.setenv(name, value)
        expected = Path(torch.hub.get_dir()) / "checkpoints" / "resnet18-f37072fd.pth"
        assert place_of("resnet18", NAMED) == place_of("resnet18", "IMAGENET1K_V1") == expected


@pytest.mark.parametrize(
    ("backbone", "named", "words"),
    [
        (
            "resnet34",
            NAMED,
            ["is for resnet18", "policy.vision_backbone is resnet34", "ResNet34_Weights.IMAGENET"],
        ),
        ("resnet18", "ResNet18_Weights.IMAGENET1K_V2", ["no weights 'ResNet18_Weights.IMAGENET1K_V2'"]),
        ("resnet50", "imagenet", ["no weights 'imagenet'", "ResNet50_Weights.IMAGENET1K_V1", ".pth file"]),
    ],
)
def test_a_name_that_the_backbone_does_not_have_is_a_fault(
    backbone: str, named: str, words: list[str]
) -> None:
    faults = config_faults(DATA | {"policy.vision_backbone": backbone, FIELD: named})
    assert [fault.where for fault in faults] == [FIELD]
    assert [word for word in words if word not in str(faults[0])] == []


@pytest.mark.parametrize("named", [NAMED, "IMAGENET1K_V1", "DEFAULT", "/weights/of_mine.pth", "mine.pt"])
def test_names_and_paths_are_legal(named: str) -> None:
    assert config_faults(DATA | {FIELD: named}) == []


# The file


@pytest.mark.slow
@pytest.mark.parametrize("by_name", [True, False])
def test_the_weights_of_a_file_are_those_of_the_encoder(
    weights: dict[str, Tensor], hub: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    file = written(weights, hub)
    if by_name:
        monkeypatch.setitem(FILES["resnet18"], "IMAGENET1K_V1", file.name)  # type: ignore[index]
    torch.manual_seed(0)
    loaded = encoder(NAMED if by_name else str(file))
    torch.manual_seed(0)
    drawn = encoder(None)

    plain = torchvision.models.resnet18(weights=None)
    plain.load_state_dict(weights)
    expected = torch.nn.Sequential(*list(plain.children())[:-2]).state_dict()
    found = loaded.backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(drawn.backbone.state_dict()["0.weight"], expected["0.weight"])
    # What the file does not have is drawn as without it, and so is all that is drawn afterwards.
    assert torch.equal(loaded.out.weight, drawn.out.weight)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(
        loaded.eval().backbone(images), torch.nn.Sequential(*list(plain.eval().children())[:-2])(images)
    )


@pytest.mark.slow
def test_every_encoder_of_a_policy_has_them_and_the_state_dict_keeps_lerobots_names(
    weights: dict[str, Tensor], hub: Path
) -> None:
    named = {"use_group_norm": False, FIELD.removeprefix("policy."): str(written(weights, hub))}
    policy = small_policy(cameras=2, use_separate_rgb_encoder_per_camera=True, **named)
    state = policy.state_dict()
    for number in (0, 1):
        name = f"diffusion.rgb_encoder.{number}.backbone.4.0.conv1.weight"
        assert torch.equal(state[name], weights["layer1.0.conv1.weight"])


def test_files_without_a_classifier_or_a_count_of_batches_are_accepted(
    weights: dict[str, Tensor], hub: Path
) -> None:
    old = {
        n: v for n, v in weights.items() if not n.endswith("num_batches_tracked") and not n.startswith("fc.")
    }
    loaded = encoder(str(written(old, hub)))
    assert torch.equal(loaded.backbone[0].weight, weights["conv1.weight"])


@pytest.mark.slow
def test_a_file_that_is_not_what_its_name_says_is_refused(weights: dict[str, Tensor], hub: Path) -> None:
    file = written(weights, hub)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    place = place_of("resnet18", NAMED)
    place.write_bytes(content)
    said = refusal(lambda: ready_file("resnet18", NAMED))
    assert f"{place} is damaged or another file" in said
    assert "its name says f37072fd" in said
    file.write_bytes(content)
    assert "is damaged" in refusal(lambda: encoder(str(file)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda weights: {"model": weights},
            "100 tensors are missing, e.g. conv1.weight; 1 tensors are unknown, e.g. model.",
        ),
        (lambda weights: list(weights.values()), "It has a list, not tensors by name"),
        (
            lambda weights: {**weights, "conv1.weight": torch.zeros(64, 1, 7, 7)},
            "1 tensors are of another shape",
        ),
        (
            lambda weights: {**weights, "layer9.weight": torch.zeros(1)},
            "1 tensors are unknown, e.g. layer9.weight",
        ),
        (
            lambda weights: torchvision.models.resnet34(weights=None).state_dict(),
            "unknown, e.g. layer1.2.conv1",
        ),
        (lambda weights: torch.nn.ReLU(), "cannot be read: Weights only load failed"),
    ],
    ids=["nested", "list", "shape", "unknown", "resnet34", "module"],
)
def test_a_file_of_something_else_is_refused(
    weights: dict[str, Tensor], tmp_path: Path, change: Callable[[Any], Any], words: str
) -> None:
    torch.save(change(weights), tmp_path / "other.pth")
    said = refusal(lambda: encoder(str(tmp_path / "other.pth")))
    assert str(tmp_path / "other.pth") in said
    assert words in said
    assert "written with torch.save" in said


def test_a_truncated_file_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "cut.pth"
    torch.save(weights, file)
    file.write_bytes(file.read_bytes()[:100_000])
    assert f"{file} cannot be read" in refusal(lambda: encoder(str(file)))


# Missing


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served in the place of torchvision's site."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http_server(partial(Quiet, directory=str(folder))) as server:
        monkeypatch.setattr(backbone_file, "SITE", f"http://127.0.0.1:{server.server_port}")
        yield folder


def test_without_a_network_the_message_names_the_file_the_place_and_what_to_do(hub: Path) -> None:
    said = refusal(lambda: encoder(NAMED))
    assert f"{hub / 'resnet18-f37072fd.pth'} (" in said
    assert "does not exist on this machine" in said
    assert "under TORCH_HOME" in said
    assert "cannot be fetched from http://127.0.0.1:9/models/resnet18-f37072fd.pth: " in said
    assert "Copy the file to that place on every machine that trains" in said
    assert list(hub.iterdir()) == []
    missing = refusal(lambda: encoder("/nowhere/mine.pth"))
    assert "/nowhere/mine.pth does not exist on this machine" in missing


def test_a_missing_file_is_fetched_once(
    weights: dict[str, Tensor], hub: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(weights, site)
    monkeypatch.setitem(FILES["resnet18"], "IMAGENET1K_V1", file.name)  # type: ignore[index]
    said: list[str] = []
    place = ready_file("resnet18", NAMED, said.append)
    assert place == hub / file.name
    assert place.read_bytes() == file.read_bytes()
    assert said == [f"fetching {file.name} to {hub}"]
    file.unlink()
    assert ready_file("resnet18", NAMED, said.append) == place
    assert len(said) == 1


def test_what_was_fetched_is_checked_before_it_has_its_name(hub: Path, site: Path) -> None:
    (site / "resnet18-f37072fd.pth").write_bytes(b"an error page")
    assert "its name says f37072fd" in refusal(lambda: ready_file("resnet18", NAMED))
    assert list(hub.iterdir()) == []


# In a training


@pytest.fixture
def seeing(pictures: Path, small_config: dict[str, Any]) -> dict[str, Any]:
    return {
        **small_config,
        "dataset.root": str(pictures),
        "dataset.holdout_fraction": 0.34,
        "policy.spatial_softmax_num_keypoints": 4,
        "policy.use_group_norm": False,
        "train.batch_size": 4,
        "train.steps": 2,
        "train.eval_every": 2,
        "train.log_every": 1,
        "lr_scheduler.warmup_steps": 0,
        "eval.windows": 4,
    }


def test_check_warns_and_launch_refuses_if_the_file_is_missing(
    seeing: dict[str, Any], tmp_path: Path
) -> None:
    assert TRAINABLE.remarks(seeing) == []
    (said,) = TRAINABLE.remarks(seeing | {FIELD: NAMED})
    assert said.startswith(f"{FIELD}: ")
    assert "resnet18-f37072fd.pth" in said
    assert "A launch fetches it, and so does each other machine at its first trial." in said
    (fault,) = TRAINABLE.preflight(seeing | {FIELD: NAMED}, tmp_path)
    assert "cannot be fetched" in str(fault)
    blind = {"dataset.observations": ["observation.state"]}
    assert TRAINABLE.remarks(seeing | {FIELD: NAMED} | blind) == []
    assert TRAINABLE.preflight(seeing | {FIELD: NAMED} | blind, tmp_path) == []


def test_other_scales_of_images_are_reported(
    seeing: dict[str, Any], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    named = seeing | {FIELD: str(written(weights, tmp_path))}
    assert TRAINABLE.remarks(named) == []
    assert TRAINABLE.preflight(named, tmp_path) == []
    for changed in ({"dataset.use_imagenet_stats": False}, {"policy.normalization_visual": "IDENTITY"}):
        (said,) = TRAINABLE.remarks(named | changed)
        assert "ImageNet's mean and std" in said
        assert next(iter(changed)) in said


@pytest.mark.slow
def test_a_training_leaves_a_frozen_backbone_as_it_was_in_its_file(
    seeing: dict[str, Any], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    frozen = {"optimizer.vision_encoder_lr_multiplier": 0}
    assert [fault.where for fault in TRAINABLE.faults(seeing | frozen)] == list(frozen)
    run(seeing | frozen | {FIELD: str(written(weights, tmp_path))}, tmp_path / "run")
    tensors = tensors_of(tmp_path / "run")
    start = "model/diffusion.rgb_encoder."
    for ours, theirs in (("0.weight", "conv1.weight"), ("1.running_mean", "bn1.running_mean")):
        assert torch.equal(tensors[f"{start}backbone.{ours}"], weights[theirs])


def test_the_rest_of_a_frozen_encoder_has_the_learning_rate_of_the_network() -> None:
    policy = small_policy(cameras=1, use_group_norm=False)
    policy.freeze_encoders(backbones_only=True)
    policy.train()
    (group,) = build_optimizer(
        policy, OptimizerConfig(lr=1e-3, vision_encoder_lr_multiplier=0.0)
    ).param_groups
    (encoder,) = policy.diffusion.encoders
    assert group["lr"] == 1e-3
    assert {id(encoder.out.weight), id(encoder.pool.nets.weight)} <= {id(one) for one in group["params"]}
    assert not any(id(one) in {id(p) for p in group["params"]} for one in encoder.backbone.parameters())
    assert not any(module.training for module in encoder.backbone.modules())
    assert encoder.out.training
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    policy.loss(small_batch(policy), generator=torch.Generator().manual_seed(0)).backward()
    assert encoder.out.weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in encoder.backbone.state_dict().items())
