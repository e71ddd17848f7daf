"""Turn what a step runs into an ONNX graph for every batch, and join such graphs into one.

Rows, tokens and the longest row are dynamic. Weights stay out of the graph: it names them, and they
stay views of the model's parameters.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx.node import Node, map_arg

from models.backends.onnx.layouts import OF_LAYOUT, OfLayout, ProbeLayout, TracedLayout, one_layout
from models.nn.ragged import Ragged, Value
from models.run.chain import Run

OPSET = 23  # the first with attention as one operator
OUTPUT = "output"

_EXPORTING = threading.Lock()  # tracing patches classes of the whole process


class Exporter(Protocol):
    """Where functions become graphs: `export`, here or in another process."""

    def export(self, run: Run, args: Sequence[Value]) -> Graph: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Graph:
    """A function as an ONNX graph without its weights.

    Attributes:
        proto: Nodes and small constants. Its inputs are called as `input_name` says or as in
            ``layout``, its one output `OUTPUT`.
        weights: By the name that nodes use; views of parameters where possible.
        layout: By name, the inputs that follow from the batch's layout.
        is_packed: Whether the output is packed like the inputs.
    """

    proto: GraphProto
    weights: Mapping[str, Tensor]
    layout: Mapping[str, OfLayout]
    is_packed: bool


def input_name(position: int) -> str:
    """Return the name of an argument, counted from 0."""
    return f"input{position}"


def export(run: Run, args: Sequence[Value]) -> Graph:
    """Trace a function.

    Args:
        run: A pure function of its arguments; weights are bound in.
        args: Example arguments of at least two rows; packed ones share a layout whose rows differ
            in length.

    Raises:
        Exception: Of any type, if it cannot be traced for all batches at once.
    """
    layout = one_layout(args)
    is_packed = [isinstance(arg, Ragged) for arg in args]
    tensors = [arg.values if isinstance(arg, Ragged) else arg for arg in args]
    dynamic: list[dict[int, Any]] = [{0: Dim.DYNAMIC} for _ in tensors]
    of_layout: dict[str, OfLayout] = {}
    gives_packed = False
    if layout is not None:
        probe = ProbeLayout(layout.lengths, layout.device)
        probes = (Ragged(arg.values, probe) if isinstance(arg, Ragged) else arg for arg in args)
        gives_packed = isinstance(run(*probes), Ragged)
        of_layout = {**OF_LAYOUT, **probe.asked}
        tensors += [make(layout) for make in of_layout.values()]
        # Every axis follows the batch but a mask's second, which has length 1 and is for the heads.
        dynamic += [
            {i: Dim.DYNAMIC for i in range(tensor.ndim) if tensor.ndim < 4 or i != 1}
            for tensor in tensors[len(args) :]
        ]
    function = _Function(run, is_packed, list(of_layout)).eval()
    with _EXPORTING, torch.no_grad():
        _quiet()
        program = torch.export.export(
            function, tuple(tensors), dynamic_shapes=(tuple(dynamic),), strict=False
        )
        _compute_weights(program)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[*map(input_name, range(len(args))), *of_layout],
            output_names=[OUTPUT],
        )
    assert exported is not None
    constants = exported.model.graph.initializers
    weights: dict[str, Tensor] = {}
    for name, constant in list(constants.items()):
        weight = getattr(constant.const_value, "raw", None)
        if isinstance(weight, Tensor):
            weights[name] = weight.detach()
            del constants[name]
    return _tidy(exported.model_proto, weights, of_layout, gives_packed)


class _Function(nn.Module):
    """A function of plain tensors: the arguments' values, then what describes their layout."""

    def __init__(self, run: Run, is_packed: Sequence[bool], layout: Sequence[str]) -> None:
        super().__init__()
        # In a closure: tracing keeps account of calls of modules that are attributes, and calls by
        # requests in other threads would upset it.
        self._call: Run = lambda *args: run(*args)
        self._is_packed = is_packed
        self._layout = layout

    def forward(self, *tensors: Tensor) -> Tensor:
        """Call the function.

        Raises:
            TypeError: If it returns anything but a tensor or values packed like its arguments.
        """
        count = len(self._is_packed)
        args: list[Value] = list(tensors[:count])
        layout = None
        if self._layout:
            layout = TracedLayout(dict(zip(self._layout, tensors[count:], strict=True)))
            for position, tensor in enumerate(tensors[:count]):
                if self._is_packed[position]:
                    args[position] = Ragged(tensor, layout)
        result = self._call(*args)
        if isinstance(result, Ragged) and result.layout is layout:
            return result.values
        if not isinstance(result, Tensor):
            raise TypeError(f"{type(result)} with a layout of its own, or no batch at all")
        return result


def _quiet() -> None:
    """Silence what the exporter says about itself.

    The filter is not taken away afterwards: that would put back a list of filters which other
    threads may have changed since.
    """
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
    for name in ("onnx_ir", "onnxscript", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _compute_weights(program: ExportedProgram) -> None:
    """Replace what is computed from weights alone (slices, reshapes) by its value.

    The value is mostly a view of a parameter, and free. Left in the graph, it would be computed in
    every call or copied into every session.
    """
    nodes, specs = program.graph, program.graph_signature.input_specs
    held = {**program.state_dict, **program.constants}
    targets = {spec.arg.name: spec.target for spec in specs if spec.target is not None}
    known: dict[Node, Any] = {}
    for node in nodes.nodes:
        sources = node.all_input_nodes
        if node.op == "placeholder" and node.name in targets:
            known[node] = held[targets[node.name]]
        elif node.op == "call_function" and sources and all(s in known for s in sources):
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    first = next(iter(nodes.nodes))
    added: list[InputSpec] = []
    for node, value in known.items():
        is_computed = node.op == "call_function" and isinstance(value, Tensor)
        if not is_computed or all(user in known for user in node.users):
            continue
        name = f"weight_{len(added)}"
        with nodes.inserting_before(first):
            weight = nodes.placeholder(name)
        weight.meta = dict(node.meta)
        program.constants[name] = value
        added.append(InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(weight.name), name))
        node.replace_all_uses_with(weight, delete_user_cb=lambda user: user not in known)
    specs[:0] = added
    nodes.eliminate_dead_code()
    program.graph_module.recompile()


def _tidy(
    model: ModelProto, weights: Mapping[str, Tensor], layout: Mapping[str, OfLayout], packed: bool
) -> Graph:
    """Drop inputs that no node reads, and names of sizes, which mean this export's only.

    Raises:
        ValueError: If there are parts that `join` would not rename, or foreign operators.
    """
    graph = model.graph
    if model.functions or any(a.HasField("g") for node in graph.node for a in node.attribute):
        raise ValueError("the graph has functions or branches")
    if any(opset.domain or opset.version != OPSET for opset in model.opset_import):
        raise ValueError(f"the graph needs more than opset {OPSET}")
    used = {name for node in graph.node for name in node.input}
    proto = GraphProto(name="function", node=graph.node, output=graph.output)
    proto.input.extend(value for value in graph.input if value.name in used)
    proto.initializer.extend(value for value in graph.initializer if value.name in used)
    for value in (*proto.input, *proto.output):
        for size in value.type.tensor_type.shape.dim:
            size.ClearField("dim_param")
    return Graph(
        proto,
        {name: weight for name, weight in weights.items() if name in used},
        {name: make for name, make in layout.items() if name in used},
        packed,
    )


def join(graphs: Sequence[Graph], sources: Sequence[Sequence[int]]) -> Graph:
    """Return one graph of several that run one after the other.

    Args:
        graphs: In the order in which they run.
        sources: As `models.run.chain.Chain` has them.
    """
    whole = GraphProto(name="chain")
    weights: dict[str, Tensor] = {}
    layout: dict[str, OfLayout] = {}
    for number, (graph, where) in enumerate(zip(graphs, sources, strict=True)):
        outer = {"": ""} | {name: name for name in graph.layout}
        for position, source in enumerate(where):
            is_input = source < 0
            name = input_name(-1 - source) if is_input else f"{source}.{OUTPUT}"
            outer[input_name(position)] = name
        if number == len(graphs) - 1:
            outer[OUTPUT] = OUTPUT
        _append(whole, graph.proto, outer, f"{number}.")
        for name, weight in graph.weights.items():
            weights[outer.get(name, f"{number}.{name}")] = weight
        layout.update(graph.layout)
    whole.output.add().CopyFrom(graphs[-1].proto.output[0])
    return Graph(whole, weights, layout, graphs[-1].is_packed)


def _append(whole: GraphProto, part: GraphProto, outer: Mapping[str, str], prefix: str) -> None:
    """Add a graph's parts under other names: those in ``outer``, or the old after ``prefix``."""
    inputs = {value.name for value in whole.input}
    emitted = {name for node in whole.node for name in node.output}
    for node in part.node:
        added = whole.node.add()
        added.CopyFrom(node)
        added.name = prefix + node.name
        added.input[:] = [outer.get(name, prefix + name) for name in node.input]
        added.output[:] = [outer.get(name, prefix + name) for name in node.output]
    for constant in part.initializer:
        initializer = whole.initializer.add()
        initializer.CopyFrom(constant)
        initializer.name = prefix + constant.name
    for value in part.input:
        name = outer[value.name]
        if name not in inputs and name not in emitted:
            declared = whole.input.add()
            declared.CopyFrom(value)
            declared.name = name
