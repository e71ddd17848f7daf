"""What tensors a model takes and gives over the Open Inference Protocol, and how that is said.

An image model takes one of ``image`` (PNG, JPEG or WebP; base64 where it comes in JSON), ``rgb``
(pixels of any size, scaled and cut as those of encoded images) and ``pixel_values`` (normalised by
the client: (rgb / 255 - mean) / std, channels first, of the model's size). A text model takes
``text`` (UTF-8) or ``input_ids``, rows of its own tokenizer's ids with special tokens, with
``attention_mask`` if they are padded. The first size is the number of inputs.

A classification task gives its logits under its own name; an embedding model gives ``embedding``.
"""

from __future__ import annotations

from typing import Any

from models.inputs.image import ImageInput
from models.inputs.text import TextInput
from server.api.dimensions import allowed_dimensions
from server.api.kserve.tensors import ANY, Spec
from server.catalog import Served

EMBEDDING = "embedding"
PLATFORM = "rheostat"


def inputs_of(served: Served) -> dict[str, Spec]:
    """Return the tensors that a model takes, by name; the first alone is enough."""
    model_input = served.input
    if isinstance(model_input, TextInput):
        specs = [
            Spec("text", "BYTES", (ANY,)),
            Spec("input_ids", "INT64", (ANY, ANY)),
            Spec("attention_mask", "INT64", (ANY, ANY)),
        ]
    else:
        assert isinstance(model_input, ImageInput)
        specs = [
            Spec("image", "BYTES", (ANY,)),
            Spec("rgb", "UINT8", (ANY, ANY, ANY, 3)),
            Spec("pixel_values", "FP32", (ANY, *model_input.shape)),
        ]
    return {spec.name: spec for spec in specs}


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
        output: Spec(output, "FP32", (ANY, len(tasks[first].labels) or ANY))
        for output, (first, *_) in tasks_of(served).items()
    }


def metadata(served: Served) -> dict[str, Any]:
    """Return the model metadata of the protocol, the same in REST and gRPC."""
    return {
        "name": served.name,
        "versions": [served.manifest.version],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in inputs_of(served).values()],
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
        "input": [{**_dims(spec), "optional": True} for spec in inputs_of(served).values()],
        "output": [_dims(spec) for spec in outputs_of(served).values()],
        "parameters": {name: {"string_value": text} for name, text in _details(served).items()},
    }


def _dims(spec: Spec) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape[1:]) or [1]}


def _details(served: Served) -> dict[str, str]:
    """Return what else a client needs to make inputs and to read outputs."""
    model_input = served.input
    if isinstance(model_input, TextInput):
        lengths = allowed_dimensions(served) or []
        config = model_input.config
        return {
            "max_length": str(config.max_length),
            "prompts": ",".join(config.prompts),
            "dimensions": ",".join(map(str, lengths)),
        }
    assert isinstance(model_input, ImageInput)
    labels = {
        f"labels_{name}": ",".join(task.labels) for name, task in served.elastic.tasks.items()
    }
    mean, std = (",".join(map(str, v)) for v in (model_input.mean, model_input.std))
    return {"mean": mean, "std": std, **labels}
