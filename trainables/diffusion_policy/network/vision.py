"""The image encoder: resize, crop, a ResNet, spatial softmax, one linear layer.

As in Chi et al., "Diffusion Policy" (arXiv 2303.04137), section 3.2: a ResNet whose global pooling is
replaced by a spatial softmax (it keeps positions) and whose BatchNorm is replaced by GroupNorm
(BatchNorm does not work with an average of the weights). Parameter names are LeRobot's.

Shapes: ``N`` images, ``C`` colour channels or features, ``H`` and ``W`` pixels, ``L`` cells of the last
feature map, ``P`` keypoints, ``F`` features of an image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from trainables.diffusion_policy.network.backbone_file import ready_file, weights_error

__all__ = [
    "RgbEncoder",
    "SmallMapConvolution",
    "SpatialSoftmax",
    "center_offset",
    "crop_images",
    "draw_crop_offsets",
    "resize_images",
]

CHANNELS_PER_GROUP = 16
"""GroupNorm in the backbone has one group for every 16 channels."""
STEM = 4
"""Modules of a ResNet before its first stage: convolution, norm, ReLU, pooling."""
BACKBONE_STRIDE = 32
"""Pixels per cell of a ResNet's last feature map."""
SMALL_MAP, MANY_CHANNELS = 16, 512
"""On maps of at most so many cells, with at least so many channels, oneDNN takes 1.4 to 2.7 times as long as
a matrix product for the gradient of a 3×3 kernel, and longer for a single cell: measured with 8 to 128 images
on a CPU with AVX2 (``benchmarks/convolutions.py``)."""

CLASSIFIER = "fc."
WEIGHTS_REMEDY = (
    "Use torchvision's file for this backbone: the state dict of its ResNet, written with torch.save."
)

log = logging.getLogger(__name__)


def resize_images(images_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize float images (N, C, H, W) to (height, width): bilinear, antialiased, as LeRobot does."""
    if tuple(images_NCHW.shape[-2:]) == size:
        return images_NCHW
    return F.interpolate(images_NCHW, size=size, mode="bilinear", antialias=True, align_corners=False)


def center_offset(image: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the centred crop; both arguments are (height, width). Rounds as torchvision does."""
    return (round((image[0] - crop[0]) / 2), round((image[1] - crop[1]) / 2))


def draw_crop_offsets(
    shape: tuple[int, ...],
    image: tuple[int, int],
    crop: tuple[int, int],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw crops at random.

    Args:
        shape: How many crops, in what arrangement. The first numbers drawn are those of the first crops, so
            that the parts of a batch, drawn one after the other on a CPU, get the crops of the whole batch.
        image: (height, width) of the images.
        crop: (height, width) of the crops.
        generator: Draws the crops; None: torch's global generator of the CPU.

    Returns:
        (*shape, 2) int64 of (top, left), on the generator's device.
    """
    device = torch.device("cpu") if generator is None else generator.device
    places = torch.tensor([image[0] - crop[0] + 1, image[1] - crop[1] + 1], device=device)
    share = torch.rand((*shape, 2), generator=generator, device=device, dtype=torch.float64)
    return (share * places).long()


def crop_images(images_NCHW: Tensor, offsets_N2: Tensor, crop: tuple[int, int]) -> Tensor:
    """Cut ``crop`` (height, width) out of each image (N, C, H, W) at its own (top, left); keeps the dtype.

    The result has the memory layout in which the convolutions that follow are fastest: channels last on a
    GPU, one channel after the other on a CPU, where oneDNN orders the numbers itself.
    """
    height, width = crop
    device = images_NCHW.device
    offsets_N2 = offsets_N2.to(device, non_blocking=True)
    rows_NH = offsets_N2[:, :1] + torch.arange(height, device=device)
    columns_NW = offsets_N2[:, 1:] + torch.arange(width, device=device)
    numbers_N = torch.arange(images_NCHW.shape[0], device=device)
    # Indices on both sides of the channel slice put it last: the result is (N, height, width, C).
    cropped_NHWC = images_NCHW[numbers_N[:, None, None], :, rows_NH[:, :, None], columns_NW[:, None, :]]
    cropped_NCHW = cropped_NHWC.permute(0, 3, 1, 2)
    return cropped_NCHW.contiguous() if device.type == "cpu" else cropped_NCHW


class SpatialSoftmax(nn.Module):
    """Positions of learned features: the mean position under a softmax over the feature map."""

    pos_grid: Tensor

    def __init__(self, in_channels: int, feature_map: tuple[int, int], num_keypoints: int) -> None:
        super().__init__()
        self.nets = nn.Conv2d(in_channels, num_keypoints, kernel_size=1)
        height, width = feature_map
        # In double precision first, as LeRobot does, so that the buffer has the same bits.
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height, dtype=torch.float64),
            torch.linspace(-1, 1, width, dtype=torch.float64),
            indexing="ij",
        )
        self.register_buffer("pos_grid", torch.stack((x.reshape(-1), y.reshape(-1)), dim=1).float())

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Map features (N, C, H, W) to keypoints (N, P, 2): (x, y), each in [-1, 1]."""
        logits_NPL = self.nets(features_NCHW).flatten(start_dim=2)
        # Positions need full precision: bfloat16 would move them by up to half a pixel.
        with torch.autocast(logits_NPL.device.type, enabled=False):
            return logits_NPL.float().softmax(dim=-1) @ self.pos_grid


class RgbEncoder(nn.Module):
    """Turns images of one size into feature vectors.

    Args:
        vision_backbone: A ResNet of torchvision, e.g. ``resnet18``.
        pretrained_backbone_weights: Weights to start from, by torchvision's name or as a file; None: random.
        use_group_norm: GroupNorm instead of BatchNorm.
        num_keypoints: Keypoints of the spatial softmax; an image has twice as many features.
        image_size: (height, width) of the images that :meth:`forward` takes: after resizing and cropping.

    Raises:
        ConfigError: If the pretrained weights are missing, damaged, or another network's.
    """

    def __init__(
        self,
        *,
        vision_backbone: str,
        pretrained_backbone_weights: str | None,
        use_group_norm: bool,
        num_keypoints: int,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        resnet = torchvision.models.get_model(vision_backbone, weights=None)
        if pretrained_backbone_weights is not None:
            _load_backbone(resnet, vision_backbone, pretrained_backbone_weights)
        self.backbone = nn.Sequential(*list(resnet.children())[:-2])
        _replace_convolutions(self.backbone)
        if use_group_norm:
            _replace_batch_norm(self.backbone)
        feature_map = (-(-image_size[0] // BACKBONE_STRIDE), -(-image_size[1] // BACKBONE_STRIDE))
        if feature_map == (1, 1):
            size = f"{image_size[0]}×{image_size[1]}"
            log.warning("images of %s px are one cell to the encoder, so it cannot see positions", size)
        self.pool = SpatialSoftmax(resnet.fc.in_features, feature_map, num_keypoints)
        self.out = nn.Linear(2 * num_keypoints, 2 * num_keypoints)
        self.relu = nn.ReLU()
        self.feature_dim = 2 * num_keypoints
        self.image_size = image_size
        self.checkpoint_blocks = False

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Map normalised images (N, C, H, W) to features (N, F)."""
        keypoints_NP2 = self.pool(self._features(images_NCHW))
        return self.relu(self.out(keypoints_NP2.flatten(start_dim=1)))

    def _features(self, images_NCHW: Tensor) -> Tensor:
        if not (self.checkpoint_blocks and torch.is_grad_enabled()):
            return self.backbone(images_NCHW)
        x = images_NCHW
        # The stem is one part: its ReLU works in place, on the tensor that would have been kept before it.
        for stage in (self.backbone[:STEM], *self.backbone[STEM:]):
            x = _checkpointed(stage, x)
        return x


def _load_backbone(resnet: nn.Module, backbone: str, named: str) -> None:
    """Load pretrained weights into a ResNet; its classifier, which no encoder has, is left as it is."""
    file = ready_file(backbone, named)
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its parsers raise
        reason = str(error).partition("\n")[0]
        raise weights_error(f"{file} cannot be read: {reason}", WEIGHTS_REMEDY) from error
    wanted = {name: value for name, value in resnet.state_dict().items() if not name.startswith(CLASSIFIER)}
    problems = _weights_problems(wanted, found)
    if problems:
        problem = f"{file} does not have the weights of policy.vision_backbone: {backbone}. {problems}."
        raise weights_error(problem, WEIGHTS_REMEDY)
    resnet.load_state_dict({name: found[name] for name in wanted if name in found}, strict=False)


def _weights_problems(wanted: Mapping[str, Tensor], found: object) -> str:
    """How tensors that were read differ from those of a network, in words; empty if they do not."""
    if not isinstance(found, Mapping):
        return f"It has a {type(found).__name__}, not tensors by name"
    # Files of old versions of PyTorch do not count BatchNorm's batches.
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    unknown = [str(name) for name in found if name not in wanted and not str(name).startswith(CLASSIFIER)]
    other = [
        name
        for name, value in wanted.items()
        if name in found and getattr(found[name], "shape", None) != value.shape
    ]
    kinds = (("missing", missing), ("unknown", unknown), ("of another shape", other))
    return "; ".join(f"{len(names)} tensors are {words}, e.g. {names[0]}" for words, names in kinds if names)


class _Convolution(nn.Conv2d):
    """A 3×3 convolution with a margin of one cell, whose gradient is faster on small maps on a CPU.

    There the gradient of its weights is one matrix product, equal to `torch.nn.Conv2d`'s up to rounding.

    Args:
        in_channels: Features of a cell.
        out_channels: Features of a cell of the result.
        stride: Cells from one kernel to the next, in both directions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, D, H', W')."""
        if not self._as_product(input):
            return super().forward(input)
        convolved: Tensor = SmallMapConvolution.apply(input, self.weight, self.stride)
        return convolved

    def _as_product(self, input: Tensor) -> bool:
        height, width = (-(-size // self.stride[0]) for size in input.shape[-2:])
        return (
            input.device.type == "cpu"
            and height * width <= SMALL_MAP
            and input.dtype == self.weight.dtype == torch.float32
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and torch.backends.cpu.get_cpu_capability() == "AVX2"
        )


class SmallMapConvolution(torch.autograd.Function):
    """`_Convolution`, with the gradient of its weights, which must be wanted, as a matrix product."""

    @staticmethod
    def forward(ctx: Any, images_NCHW: Tensor, weight_DC33: Tensor, stride: tuple[int, int]) -> Tensor:
        """Convolve images with a weight."""
        ctx.save_for_backward(images_NCHW, weight_DC33)
        ctx.stride = stride
        return F.conv2d(images_NCHW, weight_DC33, None, stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NDHW: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Gradients of the images and of the weight, from that of the result."""
        images_NCHW, weight_DC33 = ctx.saved_tensors
        of_images = None
        if ctx.needs_input_grad[0]:
            rest = (None, ctx.stride, (1, 1), (1, 1), False, (0, 0), 1, (True, False, False))
            of_images = torch.ops.aten.convolution_backward(gradient_NDHW, images_NCHW, weight_DC33, *rest)[0]
        # Rows: every cell of every image. Columns: the patch that the kernel saw there.
        patches_NKL = F.unfold(images_NCHW, kernel_size=3, padding=1, stride=ctx.stride)
        patches_RK = patches_NKL.transpose(1, 2).flatten(0, 1)
        gradients_DR = gradient_NDHW.transpose(0, 1).flatten(1)
        of_weight = (gradients_DR @ patches_RK).view_as(weight_DC33)
        return of_images, of_weight, None


def _replace_convolutions(module: nn.Module) -> None:
    """Put `_Convolution` in the place of those that may gain by it; their weights remain."""
    for name, child in module.named_children():
        if not isinstance(child, nn.Conv2d):
            _replace_convolutions(child)
        elif child.out_channels >= MANY_CHANNELS and _is_plain(child):
            setattr(module, name, _with_weight_of(child))


def _is_plain(convolution: nn.Conv2d) -> bool:
    """Whether it is one of ResNet's 3×3 convolutions, without dilation and groups."""
    kernel, margin, dilation = convolution.kernel_size, convolution.padding, convolution.dilation
    return (kernel, margin, dilation, convolution.groups) == ((3, 3), (1, 1), (1, 1), 1)


def _with_weight_of(convolution: nn.Conv2d) -> _Convolution:
    channels = convolution.in_channels, convolution.out_channels
    with torch.device("meta"):  # no weights are drawn, so the generator's next numbers stay the same
        replaced = _Convolution(*channels, stride=convolution.stride[0])
    replaced.weight = convolution.weight
    return replaced


def _replace_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            setattr(module, name, nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels))
        else:
            _replace_batch_norm(child)


def _checkpointed(stage: nn.Module, x: Tensor) -> Tensor:
    """Run a stage whose activations are computed again in the backward pass."""
    norms = [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms or torch.compiler.is_compiling():
        # torch.compile does not accept a context_fn, and its graph updates BatchNorm's statistics only once.
        return cast(Tensor, checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False))

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of the first and of the second forward pass."""
        return nullcontext(), _running_statistics_kept(norms)

    return cast(
        Tensor, checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    )


@contextmanager
def _running_statistics_kept(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Let BatchNorm process a batch a second time without counting it again."""
    momenta = [norm.momentum for norm in norms]
    counts = [cast(Tensor, norm.num_batches_tracked).clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).copy_(count)
