"""The networks of an ONNX export in half precision or in 8-bit integers.

Only the networks change. Scaling, the arithmetic of the sampler and the positions of the spatial softmax stay
in float32. There an error of half precision would be pixels, or be multiplied by hundreds at the first steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.formats.errors import FormatError, first_line
from trainables.diffusion_policy.formats.onnx_graphs import quiet
from trainables.diffusion_policy.formats.parts import NEXT, NOISE, NOISY, STEP, Denoising, Part

if TYPE_CHECKING:
    import onnx

__all__ = ["Feeds", "calibration_feeds", "half", "quantized"]

Feeds = Mapping[str, Sequence[Mapping[str, np.ndarray]]]
"""Inputs of the parts that are quantised, by part."""

POSITIONS = ("Softmax", "MatMul")
"""Operators of the spatial softmax; no other part has them."""
QUANTIZED = ("Conv", "Gemm")
BATCH = 8


def half(graphs: Mapping[str, onnx.ModelProto], parts: Mapping[str, Part]) -> dict[str, onnx.ModelProto]:
    """Convert the networks to float16; their inputs and outputs stay float32.

    Raises:
        FormatError: If ONNX Runtime's converter fails.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    converted = dict(graphs)
    for name in _networks(parts):
        try:
            with quiet():
                converted[name] = _sorted(
                    convert_float_to_float16(
                        _copy(graphs[name]),
                        keep_io_types=True,
                        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *POSITIONS],
                    )
                )
        except Exception as error:  # the converter raises what Python raises
            raise FormatError(
                f"the {parts[name].name} cannot be converted to fp16: {first_line(error)}"
            ) from error
    return converted


@torch.no_grad()
def calibration_feeds(
    parts: Mapping[str, Part], denoising: Denoising, observations: Mapping[str, Tensor], seed: int = 0
) -> Feeds:
    """What the networks receive while the policy predicts chunks for observations (B, To, ...)."""
    generator = torch.Generator().manual_seed(seed)
    feeds: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in _networks(parts)}

    def run(name: str, values: dict[str, Tensor]) -> None:
        part = parts[name]
        if name in feeds:
            feeds[name].append({one: values[one].numpy() for one in part.inputs})
        values |= part(values)

    count = len(next(iter(observations.values())))
    for start in range(0, count, BATCH):
        values = {name: value[start : start + BATCH] for name, value in observations.items()}
        run("prepare", values)
        run("encode", values)
        shape = (len(values["condition"]), *parts["finish"].inputs[f"{NEXT}{NOISY}"].shape[1:])
        values[NOISY] = torch.randn(shape, generator=generator)
        values |= {name: torch.zeros(shape) for name in denoising.memory}
        for number in range(len(denoising.steps)):
            values[STEP] = torch.tensor([number])
            values[NOISE] = torch.randn(shape, generator=generator)
            run("predict", values)
            run("update", values)
            values |= {name: values[f"{NEXT}{name}"] for name in (NOISY, *denoising.memory)}
    return feeds


def quantized(
    graphs: Mapping[str, onnx.ModelProto], parts: Mapping[str, Part], feeds: Feeds
) -> dict[str, onnx.ModelProto]:
    """Quantise the convolutions and linear layers of the networks: weights per channel, and activations.

    Raises:
        FormatError: If ONNX Runtime's quantisation fails.
    """
    converted = dict(graphs)
    for name in _networks(parts):
        try:
            with quiet():
                converted[name] = _quantized(graphs[name], feeds[name])
        except Exception as error:  # the quantiser raises what Python raises
            raise FormatError(f"the {parts[name].name} cannot be quantised: {first_line(error)}") from error
    return converted


def _quantized(model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, np.ndarray]] = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next inputs; None at the end."""
            following = next(self._left, None)
            return None if following is None else dict(following)

    last = [node.name for node in model.graph.node if node.op_type == "Conv"][-1:]
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            str(source),
            str(made),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            # The last convolution gives the prediction itself, or keypoints: 256 values are too few.
            nodes_to_exclude=last,
            per_channel=True,
            # Without VNNI, products of 8-bit numbers overflow 16 bits; 7 bits do not.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(made)


def _networks(parts: Mapping[str, Part]) -> list[str]:
    return [name for name, part in parts.items() if part.has_network]


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put every node after those whose results it takes; the converter appends its casts at the end."""
    made_by = {result: node for node in model.graph.node for result in node.output}
    waiting, placed, order = list(reversed(model.graph.node)), set(), []
    while waiting:
        node = waiting[-1]
        missing = [
            made_by[value] for value in node.input if value in made_by and made_by[value].name not in placed
        ]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        if node.name not in placed:
            placed.add(node.name)
            order.append(node)
    copies = [_copied(node) for node in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
