"""Image augmentation: changes equal torchvision's, and those of a sample follow from seed and step alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from PIL import Image
from torch import Tensor
from training_runs import context, run, tensors_of, untimed

from trainables.dataset.drawing import HEADER, MARGIN
from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows
from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.config.sections import AugmentConfig
from trainables.diffusion_policy.training.augmentation.augment import (
    LOTS_PER_CAMERA,
    NARROWEST,
    WIDEST,
    Augmentation,
)
from trainables.diffusion_policy.training.augmentation.colour import (
    change_brightness,
    change_contrast,
    change_saturation,
    shift_hue,
)
from trainables.diffusion_policy.training.augmentation.filters import REACH, blur, change_sharpness
from trainables.diffusion_policy.training.augmentation.geometry import erase, move
from trainables.diffusion_policy.training.augmentation.sheet import CELL_PX
from trainables.diffusion_policy.training.stream import LOTS, BatchStream

EVERYTHING = AugmentConfig(
    brightness=0.3,
    contrast=0.3,
    saturation=0.5,
    hue=0.1,
    sharpness=0.5,
    affine_degrees=10,
    affine_translate=0.1,
    affine_scale=0.1,
    blur_sigma=1.0,
    erasing=0.5,
)
CAMERAS = ("observation.images.a", "observation.images.b")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def pictures_of(count: int, height: int = 19, width: int = 26, seed: int = 0) -> Tensor:
    """Random pictures; of the first three one is grey, one black and one white."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand((count, 3, height, width), generator=generator)
    pictures[0] = pictures[0, :1]
    pictures[1], pictures[2] = 0.0, 1.0
    return pictures


def spread(low: float, high: float, count: int = 6) -> Tensor:
    return torch.linspace(low, high, count)


@pytest.mark.parametrize(
    ("ours", "theirs", "numbers"),
    [
        (change_brightness, reference.adjust_brightness, spread(0.0, 2.0)),
        (change_contrast, reference.adjust_contrast, spread(0.0, 2.0)),
        (change_saturation, reference.adjust_saturation, spread(0.0, 2.0)),
        (shift_hue, reference.adjust_hue, spread(-0.5, 0.5)),
        (change_sharpness, reference.adjust_sharpness, spread(0.0, 2.0)),
    ],
    ids=["brightness", "contrast", "saturation", "hue", "sharpness"],
)
def test_a_change_of_colours_equals_torchvisions_for_each_picture(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor], numbers: Tensor
) -> None:
    pictures = pictures_of(6)
    # Each number with each picture, also with those of one colour.
    for turned in range(len(numbers)):
        rolled = numbers.roll(turned)
        found = ours(pictures, rolled)
        expected = torch.stack([theirs(p, float(n)) for p, n in zip(pictures, rolled, strict=True)])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert not torch.equal(found, pictures)


@pytest.mark.parametrize("largest", [0.6, 2.0])
def test_a_blur_equals_torchvisions(largest: float) -> None:
    pictures, sigmas = pictures_of(6), spread(0.1, largest)
    size = 2 * math.ceil(REACH * largest) + 1

    found = blur(pictures, sigmas, largest)

    expected = [
        reference.gaussian_blur(picture, [size, size], [float(sigma)] * 2)
        for picture, sigma in zip(pictures, sigmas, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)
    unchanged = blur(pictures, torch.zeros(6), largest)
    torch.testing.assert_close(unchanged, pictures, rtol=0, atol=1e-6)


def test_a_blur_that_is_larger_than_the_picture_is_possible() -> None:
    pictures = pictures_of(4, 8, 9)
    assert blur(pictures, torch.full((4,), 10.0), 10.0).std() < pictures.std()


def test_a_move_equals_torchvisions() -> None:
    pictures = pictures_of(6)
    degrees, scales = spread(-180, 120), spread(0.6, 1.7)
    shifts = torch.tensor([[0, 0], [5, 0], [0, -4], [-3, 6], [2, 2], [25, 1]])

    found = move(pictures, degrees, shifts.float(), scales)

    expected = [
        reference.affine(
            picture,
            angle=float(degrees[n]),
            translate=shifts[n].tolist(),
            scale=float(scales[n]),
            shear=[0.0, 0.0],
            interpolation=reference.InterpolationMode.BILINEAR,
        )
        for n, picture in enumerate(pictures)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-4)
    still = move(pictures, torch.zeros(6), torch.zeros(6, 2), torch.ones(6))
    torch.testing.assert_close(still, pictures, rtol=0, atol=1e-4)


def test_erasing_equals_torchvisions() -> None:
    pictures = pictures_of(4)
    boxes = torch.tensor([[0, 0, 19, 26], [3, 5, 4, 7], [2, 2, 0, 9], [18, 25, 1, 1]])

    found = erase(pictures, boxes.float())

    for picture, before, (top, left, tall, wide) in zip(found, pictures, boxes.tolist(), strict=True):
        assert torch.equal(picture, reference.erase(before, top, left, tall, wide, torch.zeros(3, 1, 1)))


def lots_of(samples: int, cameras: int = 1, seed: int = 0) -> Tensor:
    return torch.rand((samples, cameras, LOTS_PER_CAMERA), generator=torch.Generator().manual_seed(seed))


def as_bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().to(torch.uint8)


def test_the_numbers_in_the_middle_change_nothing() -> None:
    pictures = as_bytes(pictures_of(5))
    settings = dataclasses.replace(EVERYTHING, blur_sigma=0.0, erasing=0.0)
    middle = torch.full((5, LOTS_PER_CAMERA), 0.5)
    assert torch.equal(Augmentation(settings, CAMERAS).change(pictures, middle), pictures)
    assert not torch.equal(Augmentation(settings, CAMERAS).change(pictures, lots_of(5)[:, 0]), pictures)


@pytest.mark.parametrize(
    ("settings", "lot", "theirs"),
    [
        (AugmentConfig(brightness=0.25), 1.0, lambda p: reference.adjust_brightness(p, 1.25)),
        (AugmentConfig(contrast=0.25), 0.0, lambda p: reference.adjust_contrast(p, 0.75)),
        (AugmentConfig(saturation=0.5), 1.0, lambda p: reference.adjust_saturation(p, 1.5)),
        (AugmentConfig(hue=0.1), 0.0, lambda p: reference.adjust_hue(p, -0.1)),
        (AugmentConfig(sharpness=0.5), 1.0, lambda p: reference.adjust_sharpness(p, 1.5)),
        (AugmentConfig(blur_sigma=1.0), 1.0, lambda p: reference.gaussian_blur(p, [7, 7], [1.0, 1.0])),
        (
            AugmentConfig(affine_degrees=20, affine_translate=0.25, affine_scale=0.2),
            1.0,
            lambda p: reference.affine(
                p, 20.0, [8, 4], 1.2, [0.0, 0.0], interpolation=reference.InterpolationMode.BILINEAR
            ),
        ),
    ],
)
def test_a_field_is_the_largest_change(
    settings: AugmentConfig, lot: float, theirs: Callable[[Tensor], Tensor]
) -> None:
    pictures = as_bytes(pictures_of(4, 16, 32))
    found = Augmentation(settings, CAMERAS).change(pictures, torch.full((4, LOTS_PER_CAMERA), lot))
    expected = torch.stack([theirs(picture.float() / 255) for picture in pictures])
    assert (found.float() / 255 - expected).abs().max() <= 0.5001 / 255


@pytest.mark.slow
def test_erased_rectangles_have_the_sizes_that_are_asked_for() -> None:
    pictures = torch.full((2000, 3, 40, 60), 255, dtype=torch.uint8)
    settings = AugmentConfig(erasing=0.25, erasing_scale=0.2)
    black = Augmentation(settings, CAMERAS).change(pictures, lots_of(2000)[:, 0])[:, 0] == 0
    shares = black.float().mean(dim=(1, 2))
    assert float((shares > 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    sizes = shares[shares > 0]
    assert 0.015 < float(sizes.min()) < 0.03
    assert 0.18 < float(sizes.max()) < 0.215
    tall, wide = black.any(dim=2).sum(dim=1)[shares > 0], black.any(dim=1).sum(dim=1)[shares > 0]
    assert torch.equal(tall * wide, black.sum(dim=(1, 2))[shares > 0]), "a rectangle"
    ratios = tall / wide
    assert 0.8 * NARROWEST < float(ratios.min()) < 0.5
    assert 2 < float(ratios.max()) < 1.25 * WIDEST


def batch_of(samples: int, steps: int = 2) -> dict[str, Tensor]:
    """A batch in which both cameras see the same picture at all steps of all samples."""
    picture = as_bytes(pictures_of(4))[3]
    still = picture.expand(samples, steps, *picture.shape)
    return {
        **dict.fromkeys(CAMERAS, still),
        "observation.state": torch.rand((samples, steps, 2)),
        LOTS: lots_of(samples, len(CAMERAS)),
    }


def test_the_steps_of_a_sample_change_alike_and_cameras_and_samples_by_themselves() -> None:
    batch = batch_of(5)
    changed = Augmentation(EVERYTHING, CAMERAS)(batch)

    assert changed.keys() == batch.keys() - {LOTS}
    assert changed["observation.state"] is batch["observation.state"]
    one, other = (changed[camera] for camera in CAMERAS)
    assert one.dtype == torch.uint8
    assert one.shape == batch[CAMERAS[0]].shape
    assert torch.equal(one[:, 0], one[:, 1])
    for first, second in itertools.combinations([*one[:, 0], *other[:, 0]], 2):
        assert not torch.equal(first, second)


def test_a_samples_pictures_do_not_depend_on_the_samples_beside_it() -> None:
    batch = batch_of(6)
    augmentation = Augmentation(EVERYTHING, CAMERAS)
    whole = augmentation(batch)
    for start, stop in ((0, 1), (1, 3), (3, 6)):
        part = augmentation({name: value[start:stop] for name, value in batch.items()})
        for camera in CAMERAS:
            assert torch.equal(part[camera], whole[camera][start:stop])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here")
def test_a_gpu_changes_pictures_as_a_cpu_does() -> None:
    batch = batch_of(16)
    augmentation = Augmentation(EVERYTHING, CAMERAS)
    expected = augmentation(batch)
    found = augmentation({name: value.to("cuda:0") for name, value in batch.items()})
    for camera in CAMERAS:
        difference = (found[camera].cpu().int() - expected[camera].int()).abs()
        assert (difference <= 1).float().mean() > 0.999


@pytest.mark.parametrize(("settings", "cameras"), [(AugmentConfig(), CAMERAS), (EVERYTHING, ())])
def test_a_batch_stays_as_it_is_if_nothing_is_to_be_changed(
    settings: AugmentConfig, cameras: tuple[str, ...]
) -> None:
    augmentation, batch = Augmentation(settings, cameras), {"observation.state": torch.zeros(1)}
    assert augmentation(batch) is batch
    assert augmentation.lots is None


def test_every_field_but_the_size_of_a_rectangle_turns_changes_on() -> None:
    for name, value in vars(EVERYTHING).items():
        assert AugmentConfig(**{name: value}).is_on == (name != "erasing_scale"), name


# The random numbers of a step


@pytest.fixture
def streamed(circles: Path) -> Iterator[Callable[..., dict[str, Tensor]]]:
    windows = Windows(
        open_dataset(circles), tuple(range(4)), n_obs_steps=2, horizon=8, drop_n_last_frames=3, frames={}
    )
    streams: list[BatchStream] = []

    def values(
        step: int, rank: int = 0, world_size: int = 1, seed: int = 3, **lots: Any
    ) -> dict[str, Tensor]:
        stream = BatchStream(
            windows,
            8,
            num_train_timesteps=20,
            seed=seed,
            rank=rank,
            world_size=world_size,
            device=torch.device("cpu"),
            **lots,
        )
        streams.append(stream)
        return stream.batch(step).values

    yield values
    for stream in streams:
        stream.close()


def test_a_steps_numbers_are_shared_out_among_workers(streamed: Callable[..., dict[str, Tensor]]) -> None:
    whole = streamed(5, lots=(2, 15))[LOTS]
    assert whole.shape == (8, 2, 15)
    assert 0 <= float(whole.min()) < float(whole.max()) < 1
    parts = [streamed(5, rank, 4, lots=(2, 15))[LOTS] for rank in range(4)]
    assert torch.equal(torch.cat(parts), whole)
    for other in (streamed(6, lots=(2, 15)), streamed(5, seed=4, lots=(2, 15))):
        assert not torch.equal(other[LOTS], whole)


def test_numbers_for_pictures_change_no_other_number(streamed: Callable[..., dict[str, Tensor]]) -> None:
    plain, with_lots = streamed(5), streamed(5, lots=(2, 15))
    assert with_lots.keys() - plain.keys() == {LOTS}
    assert all(torch.equal(value, with_lots[name]) for name, value in plain.items())
    assert torch.equal(streamed(5, lots=(2, 20))[LOTS][..., :15], with_lots[LOTS])


# Training


@pytest.fixture
def camera_config(pictures: Path, small_config: dict[str, Any]) -> dict[str, Any]:
    return {
        **small_config,
        "dataset.root": str(pictures),
        "dataset.holdout_fraction": 0.34,
        "policy.spatial_softmax_num_keypoints": 4,
        "policy.crop_shape": [56, 56],
        "train.batch_size": 4,
        "train.steps": 3,
        "train.eval_every": 3,
        "train.log_every": 1,
        "lr_scheduler.warmup_steps": 1,
        "eval.windows": 4,
        **{f"augment.{name}": value for name, value in vars(EVERYTHING).items()},
    }


@pytest.mark.slow
def test_a_resumed_run_changes_the_pictures_as_a_straight_one(
    camera_config: dict[str, Any], tmp_path: Path
) -> None:
    config = camera_config | {"train.checkpoint_every": 1}
    straight = run(config, tmp_path / "straight")
    list(itertools.islice(TRAINABLE.train(config, context(tmp_path / "cut")), 1))
    resumed = run(config, tmp_path / "cut")

    assert untimed(resumed[-1]) == untimed(straight[-1])
    expected, found = tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "cut")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    off = {name: value for name, value in config.items() if not name.startswith("augment.")}
    plain = run(off, tmp_path / "plain")
    assert plain[0].metrics["train/loss"] != straight[0].metrics["train/loss"]
    zeros = {name: 0.0 for name in config if name.startswith("augment.") and name != "augment.erasing_scale"}
    assert [untimed(report) for report in run(off | zeros, tmp_path / "zeros")] == [
        untimed(report) for report in plain
    ]


@pytest.mark.slow
def test_accumulation_changes_the_pictures_as_the_whole_batch(
    camera_config: dict[str, Any], tmp_path: Path
) -> None:
    config = camera_config | {"train.steps": 2, "train.eval_every": 2}
    whole = run(config, tmp_path / "whole")
    parts = run(config | {"train.gradient_accumulation_steps": 2}, tmp_path / "parts")
    for one, other in zip(whole, parts, strict=True):
        assert other.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], rel=1e-4)


@pytest.mark.slow
def test_a_policy_of_pictures_learns_with_changed_ones(camera_config: dict[str, Any], tmp_path: Path) -> None:
    config = camera_config | {
        "optimizer.lr": 1e-3,
        "train.batch_size": 8,
        "train.steps": 60,
        "train.eval_every": 60,
        "train.log_every": 10,
        "lr_scheduler.warmup_steps": 5,
        "augment.erasing": 0.1,
    }
    reports = run(config, tmp_path)
    losses = [report.metrics["train/loss"] for report in reports]
    assert losses[-1] < 0.4 * losses[0]


def test_changes_without_pictures_are_remarked(
    circles: Path, small_config: dict[str, Any], tmp_path: Path
) -> None:
    def remarked(config: dict[str, Any], cache: Path | None = None) -> bool:
        return any("the policy sees no pictures" in text for text in TRAINABLE.remarks(config, cache))

    config = small_config | {"augment.hue": 0.1}
    assert remarked(config, tmp_path)
    assert not remarked(config), "the dataset may have a camera"
    assert remarked(config | {"dataset.observations": ["observation.state"]})
    assert not remarked(small_config, tmp_path)


@pytest.mark.slow
def test_a_portrait_shows_pictures_as_training_changes_them(
    camera_config: dict[str, Any], tmp_path: Path
) -> None:
    portrait = TRAINABLE.portray(camera_config, tmp_path / "out", tmp_path / "cache")
    sheet = Path(portrait["pictures"][-1])
    assert sheet.name == "augmented-observation.images.front.png"
    with Image.open(sheet) as page:
        pixels = np.asarray(page.convert("RGB"))
    first = pixels[HEADER + MARGIN // 2 + 22 :][:CELL_PX]
    cells = [first[:, MARGIN + column * (CELL_PX + 8) :][:, :CELL_PX] for column in range(8)]
    assert all(not np.array_equal(cells[0], cell) for cell in cells[1:])
    assert len({cell.tobytes() for cell in cells}) == 8

    off = {name: value for name, value in camera_config.items() if not name.startswith("augment.")}
    plain = TRAINABLE.portray(off, tmp_path / "plain", tmp_path / "cache")
    assert not any("augmented" in path for path in plain["pictures"])
