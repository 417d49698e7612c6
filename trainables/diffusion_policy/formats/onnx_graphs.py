"""The parts of a policy as ONNX graphs, and the models that are joined from them.

A part becomes a graph whose inputs and outputs keep their names, so parts are joined by putting their nodes
one after the other. The steps of the denoising are one graph in a ``Scan``, so the size of the model does not
grow with their number.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainables.diffusion_policy.formats.errors import FormatError, first_line
from trainables.diffusion_policy.formats.parts import (
    ACTION_CHUNK,
    CONDITION,
    HORIZON,
    NEXT,
    NOISE,
    NOISY,
    STEP,
    STEP_NOISE,
    Denoising,
    Part,
    step_inputs,
    step_outputs,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["OPSET", "chunk_model", "encoder_model", "graph_of", "quiet", "step_model"]

OPSET = 18
"""Version of ONNX's operators: the first with an antialiased Resize; ONNX Runtime has had it since 1.14."""
BATCH = "batch"


def graph_of(part: Part) -> onnx.ModelProto:
    """Trace a part.

    Raises:
        FormatError: If torch cannot express it in ONNX.
    """
    values = list(part.inputs.values())
    batch = torch.export.Dim(BATCH, min=1)
    shapes = [{} if name == STEP else {0: batch} for name in part.inputs]
    with quiet():
        try:
            # Exported here, because `torch.onnx.export` falls back to a fixed batch if this fails.
            traced = torch.export.export(_Fixed(part.module).eval(), (values,), dynamic_shapes=[shapes])
            program = torch.onnx.export(
                traced,
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # torch raises what its many stages raise
            raise FormatError(f"the {part.name} cannot be exported to ONNX: {first_line(error)}") from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


class _Fixed(torch.nn.Module):
    """A module whose arguments come as one list: tracing names those of a variable number otherwise."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, values: list[Tensor]) -> Any:
        return self.module(*values)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress and the warnings of the exporter, which are about its own inside."""
    levels = {name: logging.getLogger(name).level for name in ("", "torch.onnx", "onnxscript", "onnx_ir")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def encoder_model(graphs: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """Raw observations in, condition out."""
    return _model("encoder", [graphs["prepare"], graphs["encode"]], _inputs(graphs["prepare"]), [CONDITION])


def step_model(graphs: Mapping[str, onnx.ModelProto], denoising: Denoising) -> onnx.ModelProto:
    """One step of the denoising; it also scales the actions, which are meant after the last step."""
    used = [graphs["predict"], graphs["update"], graphs["finish"]]
    return _model("step", used, step_inputs(denoising), step_outputs(denoising))


def chunk_model(graphs: Mapping[str, onnx.ModelProto], denoising: Denoising) -> onnx.ModelProto:
    """Raw observations and noise in, actions in original units out."""
    from onnx import TensorProto, helper

    types = _types([*graphs.values()])
    states = [NOISY, *denoising.memory]
    scanned = [STEP, *([NOISE] if denoising.draws_noise else [])]
    body = _graph(
        "denoising_step",
        [graphs["predict"], graphs["update"]],
        [*states, *scanned],
        [f"{NEXT}{name}" for name in states],
        prefix="step.",
    )
    numbers = helper.make_tensor(
        "steps", TensorProto.INT64, [len(denoising.steps), 1], list(range(len(denoising.steps)))
    )
    scanned_noise = [STEP_NOISE] if denoising.draws_noise else []
    nodes = []
    if denoising.memory:
        # Nothing is remembered at the first step, and its weights for that are 0.
        zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
        nodes.append(helper.make_node("Constant", [], ["zero"], name="zero", value=zero))
        nodes.append(helper.make_node("Mul", [NOISE, "zero"], ["nothing"], name="nothing"))
    scan = helper.make_node(
        "Scan",
        [NOISE, *("nothing" for _ in denoising.memory), "steps", *scanned_noise],
        [f"{NEXT}{NOISY}", *(f"last_{name}" for name in denoising.memory)],
        name="denoising",
        body=body,
        num_scan_inputs=len(scanned),
        scan_input_axes=[0, 1][: len(scanned)],
    )
    noise = helper.make_tensor_value_info(NOISE, TensorProto.FLOAT, types[NOISY])
    inputs = [noise]
    if denoising.draws_noise:
        first, *rest = types[NOISY]
        shape = [first, len(denoising.steps), *rest]
        inputs.append(helper.make_tensor_value_info(STEP_NOISE, TensorProto.FLOAT, shape))
    front = _graph("front", [graphs["prepare"], graphs["encode"]], _inputs(graphs["prepare"]), [CONDITION])
    back = _graph("back", [graphs["finish"]], [f"{NEXT}{NOISY}"], [ACTION_CHUNK, HORIZON], prefix="finish.")
    graph = helper.make_graph(
        [*front.node, *nodes, scan, *back.node],
        "chunk",
        [*front.input, *inputs],
        list(back.output),
        [*front.initializer, numbers, *back.initializer],
    )
    return _checked(graph)


def _types(models: Sequence[onnx.ModelProto]) -> dict[str, list[str | int]]:
    """The shapes of all inputs."""
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for model in models
        for value in model.graph.input
    }


def _inputs(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.input]


def _model(
    name: str, models: Sequence[onnx.ModelProto], inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    return _checked(_graph(name, models, inputs, outputs))


def _checked(graph: onnx.GraphProto) -> onnx.ModelProto:
    from onnx import checker, helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    size = model.ByteSize()
    if not 0 < size < LARGEST_B:
        raise FormatError(
            f"{graph.name}.onnx would be {size / 1e9:.1f} GB, and an ONNX file ends at 2 GiB. "
            "Use --precision fp16, or --format torch."
        )
    try:
        checker.check_model(model)
    except Exception as error:  # the checker raises what its C++ raises
        raise FormatError(f"{graph.name}.onnx is not valid ONNX: {first_line(error)}") from error
    return model


IR_VERSION = 10
"""Version of the file: what a runtime of the opset's time still reads."""
LARGEST_B = 2**31 - 2**20
"""A file of ONNX without external data is a message of protobuf, which ends at 2 GiB."""


def _graph(
    name: str,
    models: Sequence[onnx.ModelProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    prefix: str = "",
) -> onnx.GraphProto:
    """Put graphs one after the other; names inside of each are made its own."""
    from onnx import helper

    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    values: dict[str, onnx.ValueInfoProto] = {}
    for number, model in enumerate(models):
        graph = _named_apart(model.graph, f"{prefix}{number}.")
        nodes += graph.node
        initializers += graph.initializer
        values |= {value.name: value for value in (*graph.input, *graph.output)}
    for value in values.values():
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = BATCH  # the only size that is free
    return helper.make_graph(
        nodes, name, [values[one] for one in inputs], [values[one] for one in outputs], initializers
    )


def _named_apart(graph: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """A copy of a graph in which all names but those of its inputs and outputs begin with a prefix."""
    import onnx

    changed = onnx.GraphProto()
    changed.CopyFrom(graph)
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}

    def name_of(name: str) -> str:
        return name if name in kept else f"{prefix}{name}"

    for node in changed.node:
        node.name = f"{prefix}{node.name}"
        node.input[:] = [name_of(name) for name in node.input]
        node.output[:] = [name_of(name) for name in node.output]
        assert not any(a.HasField("g") or a.graphs for a in node.attribute), "a graph inside a node"
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in changed.initializer:
        tensor.name = name_of(tensor.name)
    return changed
