"""The U-Net as an ONNX graph, written node by node.

The graph takes what changes from step to step, noisy actions and modulations, so one graph serves every
sampler and number of steps. To write it takes milliseconds, to trace the network takes seconds.

Shapes: as in `trainables.diffusion_policy.network.unet`; ``F`` numbers of all modulations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from trainables.diffusion_policy.acceleration.modulations import film_sizes
from trainables.diffusion_policy.network.unet import ConditionalUnet1d, ConvBlock, FilmResidualBlock

__all__ = ["FILMS", "NOISY", "PREDICTED", "unet_to_onnx"]

OPSET = 18
IR_VERSION = 10
NOISY, FILMS, PREDICTED = "noisy", "films", "predicted"
"""Names of the inputs (B, T, A) and (B, F, 1), and of the output (B, T, A)."""


def unet_to_onnx(unet: ConditionalUnet1d, horizon: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Write `ConditionalUnet1d.modulated` as a graph in float32, for batches of any size.

    Args:
        unet: The U-Net.
        horizon: Action steps.

    Returns:
        The graph, and the weights that it names but does not contain: a message of ONNX holds at most 2 GB.
    """
    graph = _Graph()
    films = graph.films(unet.blocks())
    x = graph.add("Transpose", [NOISY], perm=[0, 2, 1])
    skips: list[str] = []
    for level in unet.down_modules:
        first, second, downsample = level.children()
        x = graph.residual_block(second, graph.residual_block(first, x, films), films)
        skips.append(x)
        x = graph.convolution(downsample, x)
    for middle in unet.mid_modules:
        x = graph.residual_block(middle, x, films)
    for level in unet.up_modules:
        first, second, upsample = level.children()
        x = graph.add("Concat", [x, skips.pop()], axis=1)
        x = graph.residual_block(second, graph.residual_block(first, x, films), films)
        x = graph.convolution(upsample, x)
    block, last = unet.final_conv
    x = graph.convolution(last, graph.conv_block(block, x))
    graph.add("Transpose", [x], output=PREDICTED, perm=[0, 2, 1])
    assert isinstance(last, nn.Conv1d)
    return graph.model((horizon, last.out_channels)), graph.weights


class _Graph:
    """Nodes and weights so far; every method adds nodes and returns the name of their result."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self.weights: dict[str, np.ndarray] = {}
        self._film_size = 0
        self._two = self._constant("two", np.array(2.0, np.float32))

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: object) -> str:
        name = output or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def films(self, blocks: Sequence[FilmResidualBlock]) -> Iterator[tuple[str | None, str]]:
        """The scale and the bias (B, C, 1) of each block; scale is None if there is none."""
        sizes: list[int] = []
        pairs: list[tuple[str | None, str]] = []
        for number, block in enumerate(blocks):
            (size,) = film_sizes([block])
            sizes += [size // 2, size // 2] if block.use_film_scale_modulation else [size]
            scale = f"scale{number}" if block.use_film_scale_modulation else None
            pairs.append((scale, f"bias{number}"))
        self._film_size = sum(sizes)
        split = self._whole_numbers("film_sizes", sizes)
        names = [name for pair in pairs for name in pair if name is not None]
        self._nodes.append(helper.make_node("Split", [FILMS, split], names, axis=1))
        return iter(pairs)

    def residual_block(self, block: nn.Module, x: str, films: Iterator[tuple[str | None, str]]) -> str:
        assert isinstance(block, FilmResidualBlock)
        scale, bias = next(films)
        hidden = self.conv_block(block.conv1, x)
        if scale is not None:
            hidden = self.add("Mul", [hidden, scale])
        hidden = self.conv_block(block.conv2, self.add("Add", [hidden, bias]))
        return self.add("Add", [hidden, self.convolution(block.residual_conv, x)])

    def conv_block(self, block: nn.Module, x: str) -> str:
        assert isinstance(block, ConvBlock)
        convolution, norm, _ = block.block
        return self._mish(self._group_norm(norm, self.convolution(convolution, x)))

    def convolution(self, module: nn.Module, x: str) -> str:
        if isinstance(module, nn.Identity):
            return x
        assert isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
        kind = "ConvTranspose" if isinstance(module, nn.ConvTranspose1d) else "Conv"
        assert module.bias is not None
        weight = self._weight(module.weight)
        padding = [int(module.padding[0])] * 2
        strides, kernel = list(module.stride), list(module.kernel_size)
        return self.add(
            kind, [x, weight, self._weight(module.bias)], pads=padding, strides=strides, kernel_shape=kernel
        )

    def _group_norm(self, norm: nn.Module, x: str) -> str:
        """A GroupNorm as an InstanceNormalization of groups, which ONNX Runtime has a kernel for."""
        assert isinstance(norm, nn.GroupNorm)
        groups, channels = norm.num_groups, norm.num_channels
        grouped = self.add("Reshape", [x, self._whole_numbers(f"groups{groups}", [0, groups, -1])])
        ones = self._constant(f"ones{groups}", np.ones(groups, np.float32))
        zeros = self._constant(f"zeros{groups}", np.zeros(groups, np.float32))
        normed = self.add("InstanceNormalization", [grouped, ones, zeros], epsilon=norm.eps)
        back = self._whole_numbers(f"channels{channels}", [0, channels, -1])
        whole = self.add("Reshape", [normed, back])
        scaled = self.add("Mul", [whole, self._weight(norm.weight.unsqueeze(-1))])
        return self.add("Add", [scaled, self._weight(norm.bias.unsqueeze(-1))])

    def _mish(self, x: str) -> str:
        """Mish from one sigmoid: ``x v / (2 - v)``, ``v = s (2 - s)``, as `network.unet.Mish` does."""
        s = self.add("Sigmoid", [x])
        v = self.add("Mul", [s, self.add("Sub", [self._two, s])])
        gate = self.add("Div", [v, self.add("Sub", [self._two, v])])
        return self.add("Mul", [x, gate])

    def _weight(self, tensor: Tensor) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = tensor.detach().float().cpu().contiguous().numpy()
        return name

    def _whole_numbers(self, name: str, values: Sequence[int]) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _constant(self, name: str, value: np.ndarray) -> str:
        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def model(self, action: tuple[int, int]) -> onnx.ModelProto:
        def value(name: str, *shape: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape])

        graph = helper.make_graph(
            self._nodes,
            "unet",
            [value(NOISY, *action), value(FILMS, self._film_size, 1)],
            [value(PREDICTED, *action)],
            [*self._constants.values(), *map(_external, self.weights.items())],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _external(weight: tuple[str, np.ndarray]) -> onnx.TensorProto:
    """A weight that the graph names only."""
    name, value = weight
    tensor = TensorProto(
        name=name,
        data_type=TensorProto.FLOAT,
        dims=value.shape,
        data_location=TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value="memory")
    return tensor
