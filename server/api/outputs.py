"""How each kind of answer is written: as JSON, as a tensor, and as a picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.tasks import Kind, Task
from server.api.answer import JsonObject
from server.errors import InvalidRequestError

_STEP = 67  # prime to 256: neighbouring classes get colours far apart


def to_json(task: Task, value: Tensor) -> JsonObject:
    """Return one answer as JSON has it: one of `server.api.rheostat.schema.TaskOutput`."""
    return _JSON[task.kind](task, value.float())


def to_tensor(values: Sequence[Tensor]) -> NDArray[np.float32]:
    """Return the answers of several items as one array, the items along its first axis."""
    return torch.stack(list(values)).float().cpu().numpy()


def to_picture(task: Task, value: Tensor) -> bytes:
    """Return a map as a PNG file.

    A map of classes has a colour for each class, and its class in each pixel. A map of numbers with
    one channel is grey from the least (black) to the greatest number, one with three is coloured.

    Raises:
        InvalidRequestError: If the answer is no map, or one of another number of channels.
    """
    if task.kind != "map":
        raise InvalidRequestError(f"task {task.name!r} gives no picture", "tasks")
    if task.labels:
        image = Image.fromarray(_classes(value))
        image.putpalette(palette(len(task.labels)))
    else:
        values = value.float().numpy()
        if len(values) not in (1, 3):
            raise InvalidRequestError(f"task {task.name!r} has {len(values)} channels", "tasks")
        least, most = float(values.min()), float(values.max())
        scaled = (255 * (values - least) / ((most - least) or 1.0)).round().astype(np.uint8)
        image = Image.fromarray(scaled[0] if len(scaled) == 1 else scaled.transpose(1, 2, 0))
    return _png(image)


def palette(num_classes: int) -> list[int]:
    """Return red, green and blue of each class; the first is black."""
    colours = [(0, 0, 0)]
    for i in range(1, num_classes):
        hue = i * _STEP % 256
        red, green, blue = Image.new("HSV", (1, 1), (hue, 200, 255)).convert("RGB").tobytes()
        colours.append((red, green, blue))
    return [part for colour in colours for part in colour]


def _classes(value: Tensor) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = value.argmax(0).numpy().astype(np.uint8)
    return found


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _classes_json(task: Task, logits: Tensor) -> JsonObject:
    by_label = dict(zip(task.labels, logits.softmax(-1).tolist(), strict=True))
    return {"label": max(by_label, key=by_label.__getitem__), "probabilities": by_label}


def _embedding_json(task: Task, vector: Tensor) -> JsonObject:
    return {"embedding": vector.tolist()}


def _score_json(task: Task, value: Tensor) -> JsonObject:
    return {"score": float(value)}


def _map_json(task: Task, value: Tensor) -> JsonObject:
    _, height, width = value.shape
    if task.labels:
        png = base64.b64encode(to_picture(task, value)).decode()
        return {"labels": list(task.labels), "height": height, "width": width, "png": png}
    little_endian = value.contiguous().numpy().astype("<f4", copy=False)
    return {
        "channels": list(task.channels),
        "unit": task.unit,
        "height": height,
        "width": width,
        "values": base64.b64encode(little_endian.tobytes()).decode(),
    }


_Write: TypeAlias = Callable[[Task, Tensor], JsonObject]
_JSON: dict[Kind, _Write] = {
    "classes": _classes_json,
    "embedding": _embedding_json,
    "score": _score_json,
    "map": _map_json,
}
