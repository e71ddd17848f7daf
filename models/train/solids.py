"""Solids of rendered rooms: where rays meet them, and which way their surfaces face."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

SolidKind: TypeAlias = Literal["box", "ball", "cylinder"]
Floats: TypeAlias = NDArray[np.float64]
Vectors: TypeAlias = tuple[Floats, Floats, Floats]

KINDS: tuple[SolidKind, ...] = ("box", "ball", "cylinder")
_NEAR = 1e-4


@dataclass(frozen=True)
class Solid:
    """A solid.

    Attributes:
        kind: What it is.
        centre: Of it, metres.
        half: Half of its extent along x, y and z. A ball has the first as its radius, a cylinder
            the first as its radius and the second as half of its height.
        turn: Of a box about the vertical axis, radians.
    """

    kind: SolidKind
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    turn: float = 0.0


def hits(solid: Solid, eye: tuple[float, float, float], ray: Vectors) -> Floats:
    """Return how far along each ray a solid begins, in lengths of the ray; infinity if nowhere."""
    start = _turned(solid, vectors(np.asarray(eye[i] - solid.centre[i]) for i in range(3)))
    return _HITS[solid.kind](start, _turned(solid, ray), solid.half)


def outwards(solid: Solid, own: Vectors) -> Vectors:
    """Return normals of a solid at points of its surface, as seen from its centre."""
    if solid.kind == "ball":
        return vectors(part / solid.half[0] for part in own)
    if solid.kind == "cylinder":
        end = np.abs(own[1]) >= solid.half[1] - 1e-9
        flat = np.where(end, 0.0, 1 / solid.half[0])
        return own[0] * flat, np.where(end, np.sign(own[1]), 0.0), own[2] * flat
    local = np.stack(_turned(solid, own))
    share = np.abs(local) / np.array(solid.half)[:, None]
    face = np.zeros_like(local)
    axis, each = share.argmax(axis=0), np.arange(local.shape[1])
    face[axis, each] = np.sign(local[axis, each])
    sin, cos = np.sin(solid.turn), np.cos(solid.turn)
    return cos * face[0] + sin * face[2], face[1], cos * face[2] - sin * face[0]


def vectors(parts: Iterable[Floats]) -> Vectors:
    """Return three components as a tuple."""
    x, y, z = parts
    return x, y, z


def dot(one: Floats | Vectors, other: Vectors) -> Floats:
    """Return the products of vectors, one for each ray."""
    found: Floats = one[0] * other[0] + one[1] * other[1] + one[2] * other[2]
    return found


def _turned(solid: Solid, vector: Vectors) -> Vectors:
    if solid.kind != "box":
        return vector
    sin, cos = np.sin(solid.turn), np.cos(solid.turn)
    return cos * vector[0] - sin * vector[2], vector[1], sin * vector[0] + cos * vector[2]


def _box(start: Vectors, ray: Vectors, half: tuple[float, float, float]) -> Floats:
    enters, leaves = np.full(ray[0].shape, -np.inf), np.full(ray[0].shape, np.inf)
    for axis in range(3):
        inverse = 1 / ray[axis]
        middle, reach = -start[axis] * inverse, np.abs(half[axis] * inverse)
        enters, leaves = np.maximum(enters, middle - reach), np.minimum(leaves, middle + reach)
    return np.where((enters <= leaves) & (enters > _NEAR), enters, np.inf)


def _ball(start: Vectors, ray: Vectors, half: tuple[float, float, float]) -> Floats:
    length, along = dot(ray, ray), dot(start, ray)
    inside = along**2 - length * (dot(start, start) - half[0] ** 2)
    found = (-along - np.sqrt(np.maximum(inside, 0))) / length
    return np.where((inside > 0) & (found > _NEAR), found, np.inf)


def _cylinder(start: Vectors, ray: Vectors, half: tuple[float, float, float]) -> Floats:
    radius, rises = half[:2]
    length = ray[0] ** 2 + ray[2] ** 2
    along = start[0] * ray[0] + start[2] * ray[2]
    inside = along**2 - length * (start[0] ** 2 + start[2] ** 2 - radius**2)
    side = (-along - np.sqrt(np.maximum(inside, 0))) / length
    meets = (inside > 0) & (side > _NEAR) & (np.abs(start[1] + side * ray[1]) <= rises)
    found = np.where(meets, side, np.inf)
    if abs(float(start[1])) > rises:  # an end is seen from above or below alone
        end = (np.copysign(rises, start[1]) - start[1]) / ray[1]
        x, z = start[0] + end * ray[0], start[2] + end * ray[2]
        meets = (end > _NEAR) & (x**2 + z**2 <= radius**2)
        found = np.where(meets & (end < found), end, found)
    return found


_HITS: dict[SolidKind, Callable[[Vectors, Vectors, tuple[float, float, float]], Floats]] = {
    "box": _box,
    "ball": _ball,
    "cylinder": _cylinder,
}
