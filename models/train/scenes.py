"""Rendered rooms: shaded, textured solids with exact labels, depth, normals and edges.

A room is a box seen from inside; solids (boxes, balls, cylinders) stand on its floor. One ray is
cast through the middle of each pixel. A scene follows from its seed and number alone, so that a
data set can be made anew, longer or in part, anywhere.

Coordinates are metres, x and z along the floor, y up. Depth is along the direction of view, not
along the ray. Normals are in the camera's frame: x right, y up, z towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.train.solids import KINDS, Floats, Solid, Vectors, dot, hits, outwards, vectors

CLASSES = ("wall", "floor", "ceiling", "box", "ball", "cylinder")
_SIDES = 6  # of a room: two along each axis
_SIDE_CLASSES = (0, 0, 1, 2, 0, 0)  # low x, high x, floor, ceiling, low z, high z
_AMBIENT, _NOISE = 0.35, 0.02  # shares of full brightness
_LEAST = 1e-12  # component of a ray


@dataclass(frozen=True)
class Paint:
    """How surfaces look, one row for each side of the room and then for each solid.

    Attributes:
        colours: Two of each, 0..1, shape [surfaces, 2, 3].
        waves: Two wave vectors of each, radians a metre, shape [surfaces, 2, 3].
        phases: Of the waves, shape [surfaces, 2].
        hardness: 0 for one colour, small for soft patterns, large for sharp ones, shape [surfaces].
    """

    colours: Floats
    waves: Floats
    phases: Floats
    hardness: Floats


@dataclass(frozen=True)
class Scene:
    """A room, what stands in it, and from where it is seen.

    Attributes:
        size: Of the room, metres; it begins at the origin.
        solids: In the room.
        eye: Where the camera is, inside of the room and outside of all solids.
        yaw: Of the view about the vertical axis, radians; 0 looks along z.
        pitch: Of the view, radians; above 0 looks up.
        reach: Tangent of half of the field of view.
        light: Where the lamp is.
        paint: How surfaces look; None for grey.
        noise: Seed of the camera's noise; None for no noise.
    """

    size: tuple[float, float, float]
    solids: tuple[Solid, ...]
    eye: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    reach: float = 0.7
    light: tuple[float, float, float] = (1.0, 2.0, 1.0)
    paint: Paint | None = None
    noise: int | None = None


class Rendered(NamedTuple):
    """A picture and what is in it.

    Attributes:
        pixels: RGB, uint8, shape [height, width, 3].
        labels: Class of each pixel, uint8, shape [height, width].
        depth: Metres, float32, shape [height, width].
        normals: Unit vectors, float32, shape [height, width, 3].
        edges: Whether a neighbour shows another solid or side of the room, shape [height, width].
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    edges: NDArray[np.bool_]


def draw_scene(seed: int, number: int) -> Scene:
    """Return one of the endless scenes of a seed."""
    rng = np.random.default_rng((seed, number))
    size = (rng.uniform(3, 6), rng.uniform(2.3, 3.2), rng.uniform(3.5, 7))
    eye = (
        rng.uniform(0.25, 0.75) * size[0],
        rng.uniform(0.9, 1.7),
        rng.uniform(0.05, 0.2) * size[2],
    )
    solids: list[Solid] = []
    wanted = rng.integers(3, 8)
    for _ in range(4 * int(wanted)):
        one = _solid(rng, size)
        far = _gap(one, eye) > 0.4
        if far and all(_gap(one, other.centre) > max(other.half) for other in solids):
            solids.append(one)
        if len(solids) == wanted:
            break
    surfaces = _SIDES + len(solids)
    return Scene(
        size,
        tuple(solids),
        eye,
        yaw=rng.uniform(-0.5, 0.5),
        pitch=rng.uniform(-0.3, 0.05),
        reach=rng.uniform(0.6, 0.85),
        light=(
            rng.uniform(0.2, 0.8) * size[0],
            rng.uniform(0.8, 0.95) * size[1],
            rng.uniform(0.1, 0.8) * size[2],
        ),
        paint=_paint(rng, surfaces),
        noise=int(rng.integers(2**32)),
    )


def _solid(rng: np.random.Generator, size: tuple[float, float, float]) -> Solid:
    kind = KINDS[rng.integers(len(KINDS))]
    half = (rng.uniform(0.15, 0.5), rng.uniform(0.15, 0.7), rng.uniform(0.15, 0.5))
    rises = half[0] if kind == "ball" else half[1]
    x, z = (rng.uniform(0.6, size[axis] - 0.6) for axis in (0, 2))
    # Some hang in the air, so that what is lower in the picture is not always nearer.
    lift = rng.uniform(0, max(0.0, size[1] - 2 * rises)) if rng.random() < 0.3 else 0.0
    return Solid(kind, (x, rises + lift, z), half, rng.uniform(0, np.pi))


def _gap(one: Solid, place: tuple[float, float, float]) -> float:
    """Return how far a place is from a solid along the floor, at least."""
    away = np.hypot(one.centre[0] - place[0], one.centre[2] - place[2])
    return float(away - np.hypot(one.half[0], one.half[2]))


def _paint(rng: np.random.Generator, surfaces: int) -> Paint:
    directions = rng.normal(size=(surfaces, 2, 3))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    frequencies = 2 * np.pi / rng.uniform(0.15, 1.2, (surfaces, 2, 1))
    hardness = rng.choice([0.0, 0.7, 8.0], surfaces)
    colours = rng.uniform(0.1, 1.0, (surfaces, 2, 3))
    return Paint(colours, directions * frequencies, rng.uniform(0, 6, (surfaces, 2)), hardness)


def render(scene: Scene, height: int, width: int) -> Rendered:
    """Return what a camera sees of a scene, and what is in each pixel."""
    axes = _camera(scene)
    across = scene.reach * (2 * (np.arange(width) + 0.5) / width - 1) * width / height
    along = scene.reach * (1 - 2 * (np.arange(height) + 0.5) / height)
    shifts = np.tile(across, height), np.repeat(along, width)
    # Directions have length 1 along the view, so that distances in them are depths.
    parts = (axes[2][i] + shifts[0] * axes[0][i] + shifts[1] * axes[1][i] for i in range(3))
    # None is 0, so that each may be divided by.
    ray = vectors(np.where(np.abs(part) < _LEAST, _LEAST, part) for part in parts)
    depth, seen = _sides(scene, ray)
    for number, solid in enumerate(scene.solids, _SIDES):
        found = hits(solid, scene.eye, ray)
        nearer = found < depth
        depth = np.where(nearer, found, depth)
        seen[nearer] = number
    at = vectors(scene.eye[i] + depth * ray[i] for i in range(3))
    normal = _normals(scene, seen, at)
    shape = (height, width)
    kinds = [*_SIDE_CLASSES, *(CLASSES.index(solid.kind) for solid in scene.solids)]
    towards = np.stack([dot(axis, normal) for axis in (axes[0], axes[1], -axes[2])], axis=-1)
    return Rendered(
        _shaded(scene, seen, at, normal).reshape(*shape, 3),
        np.array(kinds, np.uint8)[seen].reshape(shape),
        depth.astype(np.float32).reshape(shape),
        towards.astype(np.float32).reshape(*shape, 3),
        edges_of(seen.reshape(shape)),
    )


def edges_of(seen: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return the pixels whose left, right, upper or lower neighbour differs, as [height, width]."""
    found = np.zeros(seen.shape, np.bool_)
    for axis in (0, 1):
        here, there = (np.moveaxis(seen, axis, 0)[cut] for cut in (slice(1, None), slice(-1)))
        for cut in (slice(1, None), slice(-1)):
            np.moveaxis(found, axis, 0)[cut] |= here != there
    return found


def _camera(scene: Scene) -> tuple[Floats, Floats, Floats]:
    """Return the unit vectors to the right, up and along the view."""
    (sin, cos), (rise, level) = (
        (np.sin(angle), np.cos(angle)) for angle in (scene.yaw, scene.pitch)
    )
    right = np.array([cos, 0.0, -sin])
    view = np.array([sin * level, rise, cos * level])
    return right, np.cross(view, right), view


def _sides(scene: Scene, ray: Vectors) -> tuple[Floats, NDArray[np.int64]]:
    """Return the depth of the room's sides and which of them each ray meets."""
    depth = np.full(ray[0].shape, np.inf)
    seen = np.zeros(ray[0].shape, np.int64)
    for axis in range(3):
        high = ray[axis] > 0
        found = (np.where(high, scene.size[axis], 0.0) - scene.eye[axis]) / ray[axis]
        nearer = found < depth
        depth = np.where(nearer, found, depth)
        seen = np.where(nearer, 2 * axis + high, seen)
    return depth, seen


def _normals(scene: Scene, seen: NDArray[np.int64], at: Vectors) -> Vectors:
    """Return unit normals out of what is seen, in the room's axes."""
    sides = np.zeros((_SIDES + len(scene.solids), 3))
    for axis in range(3):
        sides[2 * axis, axis], sides[2 * axis + 1, axis] = 1, -1
    normal = [sides[seen, i] for i in range(3)]
    for number, solid in enumerate(scene.solids, _SIDES):
        (where,) = np.nonzero(seen == number)
        if not len(where):
            continue
        own = vectors(at[i][where] - solid.centre[i] for i in range(3))
        for i, part in enumerate(outwards(solid, own)):
            normal[i][where] = part
    return vectors(normal)


def _shaded(
    scene: Scene, seen: NDArray[np.int64], at: Vectors, normal: Vectors
) -> NDArray[np.uint8]:
    """Return colours: Lambert's law for one lamp that fades with distance, and ambient light."""
    lamp = vectors(scene.light[i] - at[i] for i in range(3))
    square = dot(lamp, lamp)
    facing = np.maximum(dot(normal, lamp), 0) / np.sqrt(square)
    light = _AMBIENT + (1 - _AMBIENT) * facing * 1.6 / (1 + 0.15 * square)
    colour = np.full((len(seen), 3), 0.7)
    if scene.paint is not None:
        paint = scene.paint
        pattern = np.ones(len(seen))
        for wave in range(2):
            waves = vectors(paint.waves[seen, wave].T)
            pattern *= np.sin(dot(waves, at) + paint.phases[seen, wave])
        share = (0.5 + 0.5 * np.tanh(paint.hardness[seen] * 2 * pattern))[:, None]
        colour = share * paint.colours[seen, 0] + (1 - share) * paint.colours[seen, 1]
    shown = colour * light[:, None]
    if scene.noise is not None:
        shown += np.random.default_rng(scene.noise).normal(0, _NOISE, shown.shape)
    found: NDArray[np.uint8] = (255 * shown.clip(0, 1)).round().astype(np.uint8)
    return found
