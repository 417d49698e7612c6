from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import torchvision
from torch import Tensor, nn

from trainables.diffusion_policy.network import vision
from trainables.diffusion_policy.network.vision import (
    RgbEncoder,
    SpatialSoftmax,
    center_offset,
    crop_images,
    draw_crop_offsets,
    resize_images,
)


def encoder(**changed: Any) -> RgbEncoder:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vision_backbone": "resnet18",
        "pretrained_backbone_weights": None,
        "use_group_norm": True,
        "num_keypoints": 8,
        "image_size": (40, 70),
    }
    return RgbEncoder(**values | changed)


def norms(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [child for child in module.modules() if isinstance(child, kind)]


@pytest.mark.slow
def test_features_are_two_per_keypoint() -> None:
    network = encoder()
    images = torch.rand(3, 3, 40, 70)
    assert network(images).shape == (3, 16)
    # Two rows and three columns of cells of 32 pixels, the last ones not full.
    assert network.backbone(images).shape == (3, 512, 2, 3)
    assert network.pool.pos_grid.shape == (6, 2)


def test_images_that_are_too_small_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with torch.device("meta"):
        encoder(image_size=(33, 32))
        assert caplog.text == ""
        encoder(image_size=(32, 32))
    assert "images of 32×32 px are one cell" in caplog.text


def gradients(network: RgbEncoder, images: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    network(images).square().sum().backward()
    return {name: cast(Tensor, weight.grad).clone() for name, weight in network.named_parameters()}


@pytest.mark.parametrize("size", [(84, 84), (40, 70)])
def test_gradients_of_weights_as_matrix_products_are_those_of_the_convolutions(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    network, images = encoder(image_size=size), torch.rand(3, 3, *size)
    taken = []
    product = vision.SmallMapConvolution.apply
    with monkeypatch.context() as changed:
        changed.setattr(
            vision.SmallMapConvolution, "apply", lambda *given: taken.append(1) or product(*given)
        )
        products = gradients(network, images)
    assert len(taken) == 4  # the last stage of a ResNet-18
    monkeypatch.setattr(vision, "SMALL_MAP", 0)
    plain = gradients(network, images)
    for name, gradient in plain.items():
        error = torch.linalg.vector_norm(products[name] - gradient)
        assert error <= 1e-5 * torch.linalg.vector_norm(gradient), name


def test_the_matrix_product_is_only_for_gradients_on_cpus_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(vision.SmallMapConvolution, "apply", refused)
    network, images = encoder(image_size=(84, 84)), torch.rand(1, 3, 84, 84)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    network(images)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with torch.no_grad():
        network(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(images)
    with pytest.raises(AssertionError):
        network(images)


def test_the_weights_are_those_that_torchvision_draws() -> None:
    torch.manual_seed(0)
    plain = torchvision.models.resnet18(weights=None)
    backbone = encoder(use_group_norm=False).backbone
    drawn = nn.Sequential(*list(plain.children())[:-2]).state_dict()
    assert backbone.state_dict().keys() == drawn.keys()
    assert all(torch.equal(value, drawn[name]) for name, value in backbone.state_dict().items())
    assert backbone[7][0].conv1.stride == (2, 2)


@pytest.mark.slow
def test_larger_backbones_have_more_channels() -> None:
    with torch.device("meta"):
        assert encoder(vision_backbone="resnet34").pool.nets.in_channels == 512
        assert encoder(vision_backbone="resnet50").pool.nets.in_channels == 2048


def test_norm_of_the_backbone_is_chosen() -> None:
    with torch.device("meta"):
        grouped, batched = encoder(), encoder(use_group_norm=False)
    assert norms(grouped, nn.BatchNorm2d) == []
    assert [(m.num_groups, m.num_channels) for m in norms(grouped, nn.GroupNorm)][:1] == [(4, 64)]
    assert len(norms(grouped, nn.GroupNorm)) == len(norms(batched, nn.BatchNorm2d)) == 20


def test_spatial_softmax_finds_where_a_feature_is() -> None:
    pool = SpatialSoftmax(2, (3, 5), num_keypoints=2)
    with torch.no_grad():
        pool.nets.weight.copy_(torch.eye(2)[:, :, None, None])
        pool.nets.bias.zero_()
    features = torch.zeros(1, 2, 3, 5)
    features[0, 0, 0, 4] = 100  # top right
    features[0, 1, 1, 2] = 100  # centre
    torch.testing.assert_close(pool(features), torch.tensor([[[1.0, -1.0], [0.0, 0.0]]]), rtol=0, atol=1e-6)


def test_keypoints_keep_full_precision_under_autocast() -> None:
    pool = SpatialSoftmax(4, (9, 9), num_keypoints=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool(torch.randn(2, 4, 9, 9)).dtype == torch.float32


def test_crops_are_cut_at_each_images_own_place() -> None:
    for images in (torch.rand(5, 3, 12, 14), torch.randint(256, (5, 3, 12, 14), dtype=torch.uint8)):
        offsets = torch.tensor([[0, 0], [4, 5], [1, 2], [4, 0], [0, 5]])
        cropped = crop_images(images, offsets, (8, 9))
        assert cropped.dtype == images.dtype
        assert cropped.is_contiguous(), "on a CPU, channels last is slower"
        for number, (top, left) in enumerate(offsets.tolist()):
            assert torch.equal(cropped[number], images[number, :, top : top + 8, left : left + 9])


@pytest.mark.slow
def test_the_layout_of_images_does_not_change_the_gradients() -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network = encoder(image_size=(64, 64))
        network(images.to(memory_format=layout)).square().sum().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert (found[0] - found[1]).norm() < 1e-5 * found[1].norm()


def test_centre_crop_is_torchvisions() -> None:
    for image in [(96, 96), (97, 95), (10, 11), (85, 86)]:
        for crop in [(84, 84), (9, 9), (10, 10)]:
            if crop[0] <= image[0] and crop[1] <= image[1]:
                x = torch.rand(1, 1, *image)
                top, left = center_offset(image, crop)
                expected = torchvision.transforms.functional.center_crop(x, list(crop))
                assert torch.equal(x[..., top : top + crop[0], left : left + crop[1]], expected)


def test_random_crops_reach_every_place_and_no_other() -> None:
    offsets = draw_crop_offsets((4000,), (10, 12), (8, 8), torch.Generator().manual_seed(0))
    assert sorted(set(offsets[:, 0].tolist())) == [0, 1, 2]
    assert sorted(set(offsets[:, 1].tolist())) == [0, 1, 2, 3, 4]
    assert torch.unique(offsets, dim=0).shape[0] == 15
    assert not draw_crop_offsets((5,), (8, 8), (8, 8)).any()


def test_parts_of_a_batch_draw_the_crops_of_the_whole() -> None:
    whole = draw_crop_offsets((8, 2), (96, 96), (84, 84), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    parts = [draw_crop_offsets((count, 2), (96, 96), (84, 84), generator) for count in (3, 5)]
    assert torch.equal(torch.cat(parts), whole)


def test_resizing_is_torchvisions() -> None:
    images = torch.rand(2, 3, 40, 60)
    for size in ((20, 30), (33, 17), (80, 61)):
        expected = torchvision.transforms.Resize(size)(images)
        torch.testing.assert_close(resize_images(images, size), expected)
    assert resize_images(images, (40, 60)) is images


@pytest.mark.slow
@pytest.mark.parametrize("use_group_norm", [True, False])
def test_checkpointed_stages_give_the_same_numbers_and_statistics(use_group_norm: bool) -> None:
    def run(enabled: bool) -> list[Tensor]:
        network = encoder(use_group_norm=use_group_norm, image_size=(32, 32))
        network.checkpoint_blocks = enabled
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        output = network(images)
        output.square().sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        momenta = {m.momentum for m in norms(network, nn.BatchNorm2d)}
        assert momenta <= {0.1}
        return [output.detach(), *gradients, *network.buffers()]

    for plain, checkpointed in zip(run(False), run(True), strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-5, atol=1e-7)
