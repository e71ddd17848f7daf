"""One ONNX graph of several that run one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto
from torch import Tensor

from models.backends.onnx.export import OUTPUT, Exported, input_name
from models.backends.onnx.layouts import LayoutInput


def join(
    graphs: Sequence[Exported], sources: Sequence[Sequence[int]], layouts: Sequence[int]
) -> Exported:
    """Return one graph of several that run one after the other.

    Args:
        graphs: In the order in which they run.
        sources: As `models.run.chain.Chain` has them.
        layouts: Of each input of the chain the number of its layout, -1: it is not packed.
    """
    whole = GraphProto(name="chain")
    weights: dict[str, Tensor] = {}
    given: dict[str, LayoutInput] = {}
    packed: list[int] = []  # layouts of what the functions give
    for number, (graph, where) in enumerate(zip(graphs, sources, strict=True)):
        taken = [layouts[-1 - source] if source < 0 else packed[source] for source in where]
        own = [layout for layout in dict.fromkeys(taken) if layout >= 0]  # by the graph's numbers
        packed.append(-1 if graph.packed < 0 else own[graph.packed])
        outer = {"": ""}
        for one in graph.layout:
            as_chains = one._replace(number=own[one.number])
            given[as_chains.full_name] = as_chains
            outer[one.full_name] = as_chains.full_name
        for position, source in enumerate(where):
            is_input = source < 0
            name = input_name(-1 - source) if is_input else f"{source}.{OUTPUT}"
            outer[input_name(position)] = name
        if number == len(graphs) - 1:
            outer[OUTPUT] = OUTPUT
        _append(whole, graph.proto, outer, f"{number}.")
        for name, weight in graph.weights.items():
            weights[outer.get(name, f"{number}.{name}")] = weight
    whole.output.add().CopyFrom(graphs[-1].proto.output[0])
    return Exported(whole, weights, tuple(given.values()), packed[-1])


def _append(whole: GraphProto, part: GraphProto, outer: Mapping[str, str], prefix: str) -> None:
    """Add a graph's parts under other names: those in ``outer``, or the old after ``prefix``."""
    inputs = {value.name for value in whole.input}
    emitted = {name for node in whole.node for name in node.output}
    for node in part.node:
        added = whole.node.add()
        added.CopyFrom(node)
        added.name = node.name and prefix + node.name  # some have none
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
            inputs.add(name)
