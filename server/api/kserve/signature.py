"""What tensors a model takes and gives over the Open Inference Protocol, and how that is said.

An image comes as one of ``image`` (PNG, JPEG or WebP; base64 where it comes in JSON), ``rgb``
(pixels of any size, scaled and cut as those of encoded images) and ``pixel_values`` (normalised by
the client: (rgb / 255 - mean) / std, channels first, of the model's size). A text model takes
``text`` (UTF-8) or ``input_ids``, rows of its own tokenizer's ids with special tokens, with
``attention_mask`` if they are padded. The first size is the number of inputs.

A classification task gives its logits under its own name; an embedding model gives ``embedding``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.inputs import InputType
from models.tasks import Task
from server.api.dimensions import allowed_dimensions
from server.api.kserve.tensors import ANY, Datatype, Spec
from server.served import Served

EMBEDDING = "embedding"
PLATFORM = "rheostat"


@dataclass(frozen=True, slots=True)
class Form:
    """One of the tensors that an input may come as.

    Attributes:
        input: The model's name of the input.
        role: What the tensor holds: ``image``, ``rgb``, ``pixel_values``, ``text``, ``input_ids``,
            ``attention_mask`` or ``tensor``.
        spec: Name, type and shape.
    """

    input: str
    role: str
    spec: Spec


def forms_of(served: Served) -> dict[str, Form]:
    """Return the tensors that a model takes, by name; of each input the first alone is enough.

    The first is called as the input is. The others have names of their own where the model has one
    input of the kind, else these behind the input's name and a dot.
    """
    found: dict[str, Form] = {}
    for name, slot in served.inputs.items():
        is_only = len(served.inputs.of_kind(slot.type.kind)) == 1
        for i, (role, datatype, shape) in enumerate(_forms(slot.type)):
            tensor = name if not i else role if is_only else f"{name}.{role}"
            found[tensor] = Form(name, role, Spec(tensor, datatype, shape))
    return found


def _forms(of: InputType) -> list[tuple[str, Datatype, tuple[int, ...]]]:
    if of.kind == "text":
        return [
            ("text", "BYTES", (ANY,)),
            ("input_ids", "INT64", (ANY, ANY)),
            ("attention_mask", "INT64", (ANY, ANY)),
        ]
    if of.kind == "adapter":
        return [("adapter", "BYTES", (ANY,))]
    shape = of.plan_shape(None)
    if of.kind == "image":
        return [
            ("image", "BYTES", (ANY,)),
            ("rgb", "UINT8", (ANY, ANY, ANY, 3)),
            ("pixel_values", "FP32", (ANY, *shape)),
        ]
    return [("tensor", "FP32", (ANY, ANY, *shape[1:]) if of.has_length else (ANY, *shape))]


def tasks_of(served: Served) -> dict[str, list[str]]:
    """Return the tasks that each output answers, by the output's name."""
    found: dict[str, list[str]] = {}
    for name, task in served.elastic.tasks.items():
        found.setdefault(EMBEDDING if task.kind == "embedding" else name, []).append(name)
    return found


def outputs_of(served: Served) -> dict[str, Spec]:
    """Return the tensors that a model gives, by name."""
    tasks = served.elastic.tasks
    return {
        output: Spec(output, "FP32", (ANY, *_shape(tasks[first])))
        for output, (first, *_) in tasks_of(served).items()
    }


def _shape(task: Task) -> tuple[int, ...]:
    """Return the shape of one answer."""
    if task.kind == "score":
        return ()
    if task.kind == "map":
        return (len(task.labels or task.channels), ANY, ANY)
    return (len(task.labels) or ANY,)


def metadata(served: Served) -> dict[str, Any]:
    """Return the model metadata of the protocol, the same in REST and gRPC."""
    return {
        "name": served.name,
        "versions": [served.manifest.version],
        "platform": PLATFORM,
        "inputs": [_tensor(form.spec) for form in forms_of(served).values()],
        "outputs": [_tensor(spec) for spec in outputs_of(served).values()],
    }


def _tensor(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def configuration(served: Served, max_inputs: int) -> dict[str, Any]:
    """Return what is true of a model in the fields of Triton's model configuration.

    Args:
        served: The model.
        max_inputs: Most in one request; sizes are given without that of the batch.
    """
    return {
        "name": served.name,
        "platform": PLATFORM,
        "max_batch_size": max_inputs,
        # One of several is given, so that none alone is required.
        "input": [{**_dims(form.spec), "optional": True} for form in forms_of(served).values()],
        "output": [_dims(spec) for spec in outputs_of(served).values()],
        "parameters": {name: {"string_value": text} for name, text in _details(served).items()},
    }


def _dims(spec: Spec) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape[1:]) or [1]}


def _details(served: Served) -> dict[str, str]:
    """Return what else a client needs to make inputs and to read outputs."""
    found: dict[str, str] = {}
    for name, slot in served.inputs.items():
        prefix = "" if len(served.inputs) == 1 else f"{name}."
        for key, value in slot.type.describe().items():
            if isinstance(value, list | tuple | dict):
                value = ",".join(map(str, value))
            found[f"{prefix}{key}"] = "" if value is None else str(value)
    if (lengths := allowed_dimensions(served)) is not None:
        found["dimensions"] = ",".join(map(str, lengths))
    for name, task in served.elastic.tasks.items():
        if task.labels:
            found[f"labels_{name}"] = ",".join(task.labels)
    return found
