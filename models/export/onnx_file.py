"""A plan as one plain ONNX file: tensors in, answers out, every size of batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from models.backends.onnx.export import traced
from models.core import Plan
from models.export.parts import ExportError
from models.inputs import Inputs, Item
from models.nn.padded import PaddedLayout
from models.nn.ragged import Ragged, Value
from models.run.chain import Chain

ONNX = "model.onnx"
OPSET = 18  # old enough for most runtimes
_LENGTHS = ((5, 2, 9), (3,))  # of sample rows


@dataclass(frozen=True)
class File:
    """An ONNX model, and what it takes and gives.

    Attributes:
        program: Of torch's exporter; it has the weights.
        inputs: What each input is, by name, in order.
        outputs: Name of the output by task.
    """

    program: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def export(plan: Plan, inputs: Inputs) -> File:
    """Trace a plan.

    Args:
        plan: For the largest shapes.
        inputs: Of the model.

    Raises:
        Exception: Of any type, if it cannot be traced for all batches at once.
    """
    names, outputs = _input_names(plan, inputs), _output_names(plan)
    (items, *_) = samples(inputs)
    tensors = tensors_of({name: inputs.collate(name, _values(items, name)) for name in names})
    texts = [is_text for kinds in names.values() for is_text in [len(kinds) == 2] * len(kinds)]
    dynamic = tuple({0: Dim.DYNAMIC, **({1: Dim.DYNAMIC} if text else {})} for text in texts)
    function = _Function(plan, {name: len(kinds) == 2 for name, kinds in names.items()}).eval()
    flat = {one: what for kinds in names.values() for one, what in kinds.items()}
    made = traced(
        function,
        tensors,
        dynamic,
        OPSET,
        input_names=list(flat),
        output_names=list(dict.fromkeys(outputs.values())),
    )
    return File(made, flat, outputs)


def save(file: File, folder: Path) -> None:
    """Write the file; weights that do not fit into it lie beside it."""
    path = folder / ONNX
    proto: onnx.ModelProto | None = None
    try:
        proto = file.program.model_proto
        _name_sizes(proto)
        onnx.save(proto, str(path))
    except ValueError:  # protobuf holds at most 2 GB
        file.program.save(str(path), external_data=True)
    onnx.checker.check_model(str(path))


def run(folder: Path, file: File, batch: Mapping[str, Value]) -> dict[str, Tensor]:
    """Run the file in ONNX Runtime; returns its outputs by name."""
    import onnxruntime as ort

    from models.backends.onnx.sessions import options_beside

    path = str(folder / ONNX)
    session = ort.InferenceSession(path, options_beside(), ["CPUExecutionProvider"])
    given = [tensor.numpy() for tensor in tensors_of(batch)]
    names = [one.name for one in session.get_outputs()]
    if [one.name for one in session.get_inputs()] != list(file.inputs):
        raise ExportError(f"{folder / ONNX}: an input has no effect: {list(file.inputs)}")
    found = session.run(names, dict(zip(file.inputs, given, strict=True)))
    return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


def tensors_of(batch: Mapping[str, Value]) -> list[Tensor]:
    """Return what the file takes for a batch: padded ids and a mask for packed rows."""
    found: list[Tensor] = []
    for value in batch.values():
        if isinstance(value, Ragged):
            found += [value.layout.pad(value.values), value.layout.present.long()]
        else:
            found.append(value)
    return found


def samples(inputs: Inputs) -> Iterator[list[Item]]:
    """Yield batches of several and of one item, to trace and to compare with."""
    generator = torch.Generator().manual_seed(0)
    for lengths in _LENGTHS:
        batch = []
        for length in lengths:
            values = {}
            for name, slot in inputs.items():
                of = slot.type
                # Examples of what has no length are grey images, in which errors would not show.
                values[name] = (
                    of.example(length)
                    if of.has_length
                    else torch.randn(of.plan_shape(None), generator=generator)
                )
            batch.append(inputs.item(values))
        yield batch


def _values(items: Sequence[Item], name: str) -> list[Any]:
    return [item[name].value for item in items]


def _input_names(plan: Plan, inputs: Inputs) -> dict[str, dict[str, str]]:
    """Return what the file takes of each of the model's inputs: names with descriptions."""
    found: dict[str, dict[str, str]] = {}
    for name in (name for name in inputs if name in plan.inputs):
        of, prefix = inputs[name].type, "" if len(plan.inputs) == 1 else f"{name}_"
        if of.kind == "text":
            found[name] = {
                f"{prefix}input_ids": "int64 [batch, sequence], padded at the end",
                f"{prefix}attention_mask": "int64 [batch, sequence], 1 for tokens, 0 for padding",
            }
        elif of.kind == "image":
            shape = ", ".join(map(str, of.plan_shape(None)))
            found[name] = {f"{prefix}pixel_values": f"float32 [batch, {shape}], normalised"}
        else:
            shape = ", ".join(map(str, of.plan_shape(None)))
            found[name] = {name: f"float32 [batch, {shape}]"}
    return found


def _output_names(plan: Plan) -> dict[str, str]:
    """Return the output of each task; tasks with one answer share it."""
    if len(plan.tasks_at) == 1 and next(iter(plan.answers.values())).raw is not None:
        return dict.fromkeys(plan.answers, "sentence_embedding")
    first = {identity: tasks[0] for identity, tasks in plan.tasks_at.items()}
    return {task: first[step.identity] for task, step in plan.answers.items()}


def _name_sizes(proto: onnx.ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        for size, name in zip(
            value.type.tensor_type.shape.dim, ("batch", "sequence"), strict=False
        ):
            if not size.HasField("dim_value"):
                size.dim_param = name


class _Function(nn.Module):
    """A plan as a function of plain tensors."""

    def __init__(self, plan: Plan, is_text: Mapping[str, bool]) -> None:
        super().__init__()
        chain = Chain(plan.steps)
        ends = dict.fromkeys(step.identity for step in plan.answers.values())
        place = {step.identity: number for number, step in enumerate(plan.steps)}

        def call(given: Mapping[str, Value]) -> tuple[Tensor, ...]:
            emitted: list[Value] = []
            for run, sources in zip(chain.runs, chain.sources, strict=True):
                args = [
                    emitted[i] if i >= 0 else given[str(chain.externals[-1 - i])] for i in sources
                ]
                emitted.append(run(*args))
            return tuple(_tensor(emitted[place[identity]]) for identity in ends)

        # In a closure: tracing would take modules that are attributes for parts of this one.
        self._call = call
        self._is_text = dict(is_text)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Answer."""
        rest = list(tensors)
        given: dict[str, Value] = {}
        for name, is_text in self._is_text.items():
            value = rest.pop(0)
            if is_text:
                layout = PaddedLayout(rest.pop(0) != 0)
                given[name] = Ragged(value.flatten(), layout)
            else:
                given[name] = value
        return self._call(given)


def _tensor(value: Value) -> Tensor:
    if isinstance(value, Ragged):
        raise TypeError("an answer is packed")
    return value
