"""Turn what a step runs into an ONNX graph for every batch.

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

from models.backends.onnx.layouts import OF_LAYOUT, LayoutInput, ProbeLayout, TracedLayout
from models.backends.onnx.operators import FORMS
from models.nn.ragged import Ragged, Value, layouts_of
from models.run.chain import Run, shared_layouts

OPSET = 23  # the first with attention as one operator
OUTPUT = "output"

_EXPORTING = threading.Lock()  # tracing patches classes of the whole process


class Exporter(Protocol):
    """Where functions become graphs: `export`, here or in another process."""

    def export(self, run: Run, args: Sequence[Value]) -> Exported: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Exported:
    """A function as an ONNX graph without its weights.

    Attributes:
        proto: Nodes and small constants. Its inputs are called as `input_name` says or as in
            ``layout``, its one output `OUTPUT`.
        weights: By the name that nodes use; views of parameters where possible.
        layout: The inputs that follow from the arguments' layouts.
        packed: Number of the layout that the output is packed by; -1: it is not packed.
    """

    proto: GraphProto
    weights: Mapping[str, Tensor]
    layout: tuple[LayoutInput, ...] = ()
    packed: int = -1


def input_name(position: int) -> str:
    """Return the name of an argument, counted from 0."""
    return f"input{position}"


def export(run: Run, args: Sequence[Value]) -> Exported:
    """Trace a function.

    Args:
        run: A pure function of its arguments; weights are bound in.
        args: Example arguments of at least two rows; those of a layout differ in length, and no
            layout has as many tokens as another.

    Raises:
        Exception: Of any type, if it cannot be traced for all batches at once.
    """
    layouts = layouts_of(args)
    given, packed = _probed(run, args)
    tensors = [arg.values if isinstance(arg, Ragged) else arg for arg in args]
    tensors += [one.make(layouts[one.number]) for one in given]
    dynamic: list[dict[int, Any]] = [{0: Dim.DYNAMIC} for _ in args]
    # Every axis follows the batch but a mask's second, which has length 1 and is for the heads.
    dynamic += [
        {i: Dim.DYNAMIC for i in range(tensor.ndim) if tensor.ndim < 4 or i != 1}
        for tensor in tensors[len(args) :]
    ]
    function = _Function(run, shared_layouts(args), given, packed).eval()
    exported = traced(
        function,
        tensors,
        dynamic,
        OPSET,
        custom_translation_table=dict(FORMS),
        input_names=[*map(input_name, range(len(args))), *(one.full_name for one in given)],
        output_names=[OUTPUT],
    )
    constants = exported.model.graph.initializers
    weights: dict[str, Tensor] = {}
    for name, constant in list(constants.items()):
        weight = getattr(constant.const_value, "raw", None)
        if isinstance(weight, Tensor):
            weights[name] = weight.detach()
            del constants[name]
    return _tidy(exported.model_proto, weights, given, packed)


def traced(
    function: nn.Module,
    tensors: Sequence[Tensor],
    dynamic: Sequence[Mapping[int, Any]],
    opset: int,
    **options: Any,
) -> Any:
    """Return a function of tensors as torch's exporter gives it, with weights computed ahead.

    Args:
        function: To trace; one is traced at a time in a process.
        tensors: Examples of what it takes.
        dynamic: Of each, what is known of its axes that are not fixed.
        opset: Version of the operators.
        options: Further ones of `torch.onnx.export`.

    Raises:
        Exception: Of any type, if it cannot be traced for all sizes at once.
    """
    with _EXPORTING, torch.no_grad():
        _quiet()
        program = torch.export.export(
            function, tuple(tensors), dynamic_shapes=(tuple(dynamic),), strict=False
        )
        _compute_weights(program)
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, opset_version=opset, **options
        )
    assert made is not None
    return made


def _probed(run: Run, args: Sequence[Value]) -> tuple[list[LayoutInput], int]:
    """Return what a function may ask of its arguments' layouts, and which one its result has."""
    layouts = layouts_of(args)
    probes = [ProbeLayout(layout.lengths, layout.device) for layout in layouts]
    probe_of = dict(zip(layouts, probes, strict=True))
    result = run(
        *(
            Ragged(arg.values, probe_of[arg.layout]) if isinstance(arg, Ragged) else arg
            for arg in args
        )
    )
    given = [
        LayoutInput(number, name, make)
        for number, probe in enumerate(probes)
        for name, make in {**OF_LAYOUT, **probe.asked}.items()
    ]
    if not isinstance(result, Ragged):
        return given, -1
    if result.layout not in probes:
        raise TypeError("a result packed by a layout of its own")
    return given, [probe is result.layout for probe in probes].index(True)


class _Function(nn.Module):
    """A function of plain tensors: the arguments' values, then what describes their layouts."""

    def __init__(
        self, run: Run, layouts: Sequence[int], given: Sequence[LayoutInput], packed: int
    ) -> None:
        super().__init__()
        # In a closure: tracing keeps account of calls of modules that are attributes, and calls by
        # requests in other threads would upset it.
        self._call: Run = lambda *args: run(*args)
        self._layouts = layouts
        self._given = given
        self._packed = packed

    def forward(self, *tensors: Tensor) -> Tensor:
        """Call the function.

        Raises:
            TypeError: If it returns anything but a tensor or values packed like an argument.
        """
        count = len(self._layouts)
        parts: list[dict[str, Tensor]] = [{} for _ in range(max(self._layouts) + 1)]
        for one, tensor in zip(self._given, tensors[count:], strict=True):
            parts[one.number][one.name] = tensor
        layouts = list(map(TracedLayout, parts))
        result = self._call(
            *(
                tensor if number < 0 else Ragged(tensor, layouts[number])
                for number, tensor in zip(self._layouts, tensors[:count], strict=True)
            )
        )
        if isinstance(result, Tensor) and self._packed < 0:
            return result
        if isinstance(result, Ragged) and result.layout is layouts[self._packed]:
            return result.values
        raise TypeError(f"{type(result)} with a layout of its own, or no batch at all")


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
    model: ModelProto, weights: Mapping[str, Tensor], given: Sequence[LayoutInput], packed: int
) -> Exported:
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
    return Exported(
        proto,
        {name: weight for name, weight in weights.items() if name in used},
        tuple(one for one in given if one.full_name in used),
        packed,
    )
