from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.train.scenes import CLASSES, Rendered, Scene, draw_scene, edges_of, render
from models.train.solids import Floats, Solid

HEIGHT, WIDTH = 97, 129  # odd: a ray goes through the middle
MIDDLE = (HEIGHT // 2, WIDTH // 2)
EMPTY = Scene((4.0, 3.0, 6.0), (), (2.0, 1.2, 1.0))


def rays(scene: Scene) -> tuple[Floats, Floats]:
    """Slopes to the right and up of each pixel's ray, from the definition of a pinhole camera."""
    right = scene.reach * (2 * (np.arange(WIDTH) + 0.5) / WIDTH - 1) * WIDTH / HEIGHT
    up = scene.reach * (1 - 2 * (np.arange(HEIGHT) + 0.5) / HEIGHT)
    return np.broadcast_to(right, (HEIGHT, WIDTH)), np.broadcast_to(up[:, None], (HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def drawn() -> list[Rendered]:
    return [render(draw_scene(0, number), 96, 96) for number in range(12)]


def test_an_empty_room_has_the_depth_of_its_planes() -> None:
    found = render(EMPTY, HEIGHT, WIDTH)
    right, up = rays(EMPTY)
    with np.errstate(divide="ignore"):
        planes = [5.0 + 0 * up, np.where(up < 0, -1.2 / up, np.inf), np.where(up > 0, 1.8 / up, 9)]
        planes.append(2.0 / np.abs(right))
    expected = np.minimum.reduce(planes)
    np.testing.assert_allclose(found.depth, expected, rtol=1e-6)
    assert CLASSES[found.labels[-1, MIDDLE[1]]] == "floor"
    assert CLASSES[found.labels[0, MIDDLE[1]]] == "ceiling"
    np.testing.assert_allclose(found.normals[-1, MIDDLE[1]], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(found.normals[MIDDLE], [0, 0, 1], atol=1e-6)


def test_a_ball_has_the_depth_and_the_normals_of_the_closed_form() -> None:
    ball = Solid("ball", (2.0, 1.2, 4.0), (0.5, 0.0, 0.0))
    found = render(replace(EMPTY, solids=(ball,)), HEIGHT, WIDTH)
    right, up = rays(EMPTY)
    square = 1 + right**2 + up**2
    inside = 9 - square * (9 - 0.25)  # of t^2 |d|^2 - 2 t 3 + 9 - r^2 = 0
    is_ball = found.labels == CLASSES.index("ball")
    assert (is_ball == (inside > 0)).all()
    depth = (3 - np.sqrt(inside[is_ball])) / square[is_ball]
    np.testing.assert_allclose(found.depth[is_ball], depth, rtol=1e-6)
    points = np.stack([right[is_ball], up[is_ball], -np.ones(depth.shape)], -1) * depth[:, None]
    normals = (points - [0, 0, -3.0]) / 0.5
    np.testing.assert_allclose(found.normals[is_ball], normals, atol=1e-5)


@pytest.mark.parametrize("kind", ["box", "cylinder"])
def test_the_front_of_other_solids_is_as_far_as_it_is(kind: str) -> None:
    solid = Solid(kind, (2.0, 1.2, 4.0), (0.5, 0.4, 0.5))  # type: ignore[arg-type]
    found = render(replace(EMPTY, solids=(solid,)), HEIGHT, WIDTH)
    assert found.depth[MIDDLE] == pytest.approx(2.5, abs=1e-6)
    assert CLASSES[found.labels[MIDDLE]] == kind
    np.testing.assert_allclose(found.normals[MIDDLE], [0, 0, 1], atol=1e-6)
    above = render(replace(EMPTY, solids=(solid,), eye=(2.0, 2.5, 3.0), pitch=-0.9), HEIGHT, WIDTH)
    top = above.labels == CLASSES.index(kind)
    world = above.normals[..., 1] * np.cos(0.9) + above.normals[..., 2] * np.sin(0.9)
    assert world[top].max() == pytest.approx(1, abs=1e-6)  # its upper end


def test_normals_have_length_one_and_face_the_camera(drawn: list[Rendered]) -> None:
    for seed, found in enumerate(drawn):
        np.testing.assert_allclose(np.linalg.norm(found.normals, axis=2), 1, atol=1e-5)
        reach = draw_scene(0, seed).reach
        slopes = reach * (2 * (np.arange(96) + 0.5) / 96 - 1)
        ray = np.stack(np.broadcast_arrays(slopes, -slopes[:, None], -1.0), axis=-1)
        assert ((ray * found.normals).sum(axis=2) < 0).all()


def test_edges_are_where_labels_change_or_depth_jumps(drawn: list[Rendered]) -> None:
    for found in drawn:
        assert not (edges_of(found.labels) & ~found.edges).any()
        for depth, edges in ((found.depth, found.edges), (found.depth.T, found.edges.T)):
            jumps = np.abs(np.diff(depth, axis=0)) > 0.5 + 0.3 * np.minimum(depth[1:], depth[:-1])
            assert edges[1:][jumps].all()
            assert edges[:-1][jumps].all()
        assert 0.01 < found.edges.mean() < 0.25
    assert not render(EMPTY, HEIGHT, WIDTH).edges[MIDDLE]


def test_a_scene_follows_from_its_seed_and_number_alone(drawn: list[Rendered]) -> None:
    again, other = render(draw_scene(0, 3), 96, 96), render(draw_scene(1, 3), 96, 96)
    for one, same in zip(drawn[3], again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert (drawn[3].pixels != other.pixels).any()
    assert {int(label) for found in drawn for label in np.unique(found.labels)} == set(range(6))
