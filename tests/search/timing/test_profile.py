from __future__ import annotations

from functools import partial
from itertools import count
from math import inf
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models import checkpoint
from models.backends.torch import TorchBackend
from models.core import Cost, Step
from models.families.slimmable import Slimmable
from search.finders import Finders
from search.quality.table import TABLE, Table
from search.timing.calibrate import ROWS, calibrate
from search.timing.profile import LatencyProfile, Workload, function_of
from search.timing.timing import Timing
from tests.search.toys import Necked, random_table
from tests.tiny import tiny_model, tiny_table
from tests.tiny_text import write_text_checkpoint


def chain(*names: str) -> list[Step]:
    steps: list[Step] = []
    for name in names:
        steps.append(Step((name,), abs, (steps[-1] if steps else "x",), Cost()))
    return steps


STEPS = chain("a", "b")


def numbers(found: LatencyProfile) -> NDArray[np.int64]:
    return found.numbers(tuple(map(function_of, STEPS)))


def profile() -> LatencyProfile:
    """Step a takes 1 ms per row and 1 per ten tokens of it; b ten times that."""
    rows, lengths = (1, 4, 16), (10, 40)
    base = np.array([[1e-3 * (r + r * n / 10) for n in lengths] for r in rows])
    curves = {function_of(step): i for i, step in enumerate(STEPS)}
    return LatencyProfile(curves, rows, lengths, np.stack([base, 10 * base]))


@pytest.mark.parametrize(
    ("rows", "length", "expected_ms"),
    [(1, 10, 2), (4, 40, 20), (2, 10, 4), (10, 25, 35), (32, 10, 64), (1, 80, 9), (1, 5, 1.5)],
)
def test_sizes_between_and_beyond_those_measured_follow_straight_lines(
    rows: int, length: int, expected_ms: float
) -> None:
    found = profile()
    times = found.times(numbers(found), Workload(rows, length))
    assert 1e3 * times == pytest.approx([expected_ms, 10 * expected_ms])


def test_a_step_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError):
        profile().total(chain("c"), Workload(1, 10))


def test_what_is_seen_corrects_the_scale_of_the_steps_seen_and_of_no_other() -> None:
    found = profile()
    first = STEPS[:1]
    for _ in range(256):
        found.observe(first, Workload(4, 10), 2 * 8e-3)
    assert found.corrections.version > 0
    assert found.total(first, Workload(4, 10)) == pytest.approx(16e-3)
    assert found.total(first, Workload(8, 10)) == pytest.approx(32e-3)
    assert found.total(STEPS, Workload(4, 10)) == pytest.approx(16e-3 + 80e-3)


def test_each_size_of_batches_is_corrected_by_itself() -> None:
    """A back end may run small batches in another way than large ones."""
    found = profile()
    for i in range(512):
        rows = (1, 16)[i % 2]
        found.observe(STEPS[:1], Workload(rows, 10), (0.25, 0.75)[i % 2] * rows * 2e-3)
    assert found.total(STEPS[:1], Workload(1, 10)) == pytest.approx(0.25 * 2e-3, rel=0.05)
    assert found.total(STEPS[:1], Workload(16, 10)) == pytest.approx(0.75 * 32e-3, rel=0.05)
    between = [found.total(STEPS[:1], Workload(rows, 10)) for rows in range(1, 17)]
    assert between == sorted(between)


def test_a_size_that_was_not_seen_goes_half_the_way_of_the_nearest_that_was() -> None:
    found = profile()
    for _ in range(256):
        found.observe(STEPS[:1], Workload(1, 10), 0.25 * 2e-3)
    assert found.total(STEPS[:1], Workload(1, 10)) == pytest.approx(0.25 * 2e-3)
    assert found.total(STEPS[:1], Workload(64, 10)) == pytest.approx(0.5 * 128e-3)


def test_a_new_way_to_run_steps_is_predicted_from_its_own_time_at_once() -> None:
    found = profile()
    for _ in range(1000):
        found.observe(STEPS, Workload(1, 16), 2 * found.total(STEPS, Workload(1, 16)))
    before = found.corrections.version
    whole = profile()
    for rows, ratio in ((1, 0.2), (8, 0.4), (32, 0.5)):
        found.replace(STEPS, Workload(rows, 16), ratio * whole.total(STEPS, Workload(rows, 16)))
    assert found.corrections.version > before
    for rows, ratio in ((1, 0.2), (8, 0.4), (32, 0.5)):
        now = found.total(STEPS, Workload(rows, 16)) / whole.total(STEPS, Workload(rows, 16))
        assert now == pytest.approx(ratio, rel=0.1)


def test_what_is_far_off_is_put_right_after_a_few_batches() -> None:
    found = profile()
    for _ in range(8):
        found.observe(STEPS, Workload(1, 10), 0.25 * 22e-3)
    assert found.total(STEPS, Workload(1, 10)) == pytest.approx(0.25 * 22e-3)


def test_a_chains_time_is_divided_as_predicted() -> None:
    found = profile()
    for _ in range(256):
        found.observe(STEPS, Workload(1, 10), 3 * 22e-3)
    times = found.times(numbers(found), Workload(1, 10))
    assert times == pytest.approx([6e-3, 60e-3])
    assert found.drift == pytest.approx(1, abs=0.05)


def test_small_deviations_change_nothing_so_that_searches_are_kept() -> None:
    found = profile()
    rng = np.random.default_rng(0)
    for _ in range(512):
        found.observe(STEPS, Workload(1, 10), 22e-3 * rng.uniform(0.92, 1.06))
    assert found.corrections.version == 0


def test_steps_that_no_table_names_teach_nothing() -> None:
    found = profile()
    for _ in range(100):
        found.observe(chain("c"), Workload(1, 10), 1.0)
    found.replace(chain("a", "c"), Workload(1, 10), 1.0)
    assert found.corrections.version == 0
    assert found.drift == 1


def test_a_timing_is_equal_until_corrections_change() -> None:
    found = profile()
    before = Timing.of(found, 3)
    assert before == Timing.of(found, 4)  # rounded up to a power of two
    assert before != Timing.of(found, 5)
    for _ in range(256):
        found.observe(STEPS, Workload(1, 10), 1.0)
    assert before != Timing.of(found, 3)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="seconds must be positive"):
        LatencyProfile({}, (1, 2), (0,), np.zeros((1, 2, 1)))
    with pytest.raises(ValueError, match="sequences must be 1 numbers of 1 or more"):
        LatencyProfile({}, (1,), (0,), np.ones((1, 1, 1)), [0])
    with pytest.raises(ValueError, match=r"lengths=\[8, 8\] must ascend"):
        LatencyProfile({}, (1,), (8, 8), np.ones((1, 1, 2)))
    with pytest.raises(ValueError, match=r"curves must be in 0\.\.0"):
        LatencyProfile({(("a",), "b"): 1}, (1,), (0,), np.ones((1, 1, 1)))


def test_every_function_that_the_table_can_choose_is_measured() -> None:
    model = tiny_model()
    found = measured(model)
    assert found.seconds.shape == (1 + max(found.curves.values()), len(ROWS), 1)
    for subnet in model.space:
        found.total(model.plan(subnet, model.inputs.plan_shapes()).steps, Workload(3, 0))


def measured(model: Slimmable) -> LatencyProfile:
    ticks = count()
    backend = TorchBackend()
    backend.prepare(model)
    return calibrate(model, tiny_table(model), backend, lambda: float(next(ticks)))


def test_the_search_knows_the_functions_that_are_measured() -> None:
    model = tiny_model()
    assert Finders(model, tiny_table(model)).functions == measured(model).curves.keys()


def test_functions_of_equal_kind_and_cost_share_a_curve() -> None:
    model = tiny_model()
    found = measured(model)
    answers = model.plan(model.space.largest, model.inputs.plan_shapes()).answers.values()
    decoders = [found.curves[function_of(step)] for step in answers]
    same_cost = {step.cost for step in answers}
    assert len(set(decoders)) == len(same_cost)


def test_texts_are_measured_by_length(tmp_path: Path) -> None:
    model = checkpoint.load(write_text_checkpoint(tmp_path)).model
    table = Table.load(tmp_path / TABLE, model.space, model.tasks)
    ticks = count()
    backend = TorchBackend()
    backend.prepare(model)
    found = calibrate(model, table, backend, lambda: float(next(ticks)))
    assert found.lengths == (8, 32)
    plan = model.plan(model.space.largest, {"text": (32,)})
    assert found.total(plan.steps, Workload(3, 20)) > 0


@pytest.mark.parametrize("max_s", [100, inf])
def test_who_waits_is_told_what_part_is_done_by_work_or_by_the_time_left(max_s: float) -> None:
    model = tiny_model()
    backend = TorchBackend()
    backend.prepare(model)
    ticks = count()
    told: list[tuple[float, float]] = []
    calibrate(
        model,
        tiny_table(model),
        backend,
        lambda: float(next(ticks)),
        max_s,
        lambda part: told.append((next(ticks), part)),
    )
    parts = [part for _, part in told]
    assert parts == sorted(parts)
    assert parts[0] < 0.1
    assert 0.5 < parts[-1] < 1
    ended = told[-1][0]
    assert all(part >= min(0.99, (tick - 2) / max_s) for tick, part in told)
    assert ended > 100


def test_what_depends_on_two_sequences_is_timed_by_both_lengths_together() -> None:
    model = Necked()
    backend = TorchBackend()
    ticks = count()
    found = calibrate(model, random_table(model), backend, lambda: float(next(ticks)))
    assert found.lengths == (8, 32, 40)
    plan = model.plan(model.space.largest, {"query": (40, 1), "document": (40, 1)})
    encode, cross = (found.curves[function_of(step)] for step in (plan.steps[0], plan.steps[2]))
    assert found.sequences is not None
    assert (found.sequences[encode], found.sequences[cross]) == (1, 2)
    both = found.curves[function_of(plan.steps[1])]
    assert both == encode  # one function on either text costs the same
    workload = Workload.of(plan, 1, {"query": 10, "document": 22})
    assert np.asarray(workload.length).tolist()[:3] == [10, 22, 32]
    found.seconds[cross] = np.array([8.0, 32.0, 40.0])  # a second for each token of a sequence
    assert found.total([plan.steps[2]], Workload(1, 32)) == pytest.approx(16)


def test_every_variant_of_a_model_with_load_axes_is_built_and_measured() -> None:
    model = Necked(with_load=True)
    ticks = count()
    found = calibrate(model, random_table(model), TorchBackend(), lambda: float(next(ticks)))
    assert model.variants == [{"bits": 4}, {"bits": 8}]
    assert found.curves.keys() == Finders(model, random_table(model)).functions
    encode = {bits: found.curves[("query",), ("encode", 5, bits, None)] for bits in (4, 8, 32)}
    assert len(set(encode.values())) == 3
    assert np.isfinite(found.seconds).all()


def test_a_time_limit_leaves_larger_batches_to_be_extrapolated() -> None:
    model = tiny_model()
    backend = TorchBackend()
    backend.prepare(model)
    table = tiny_table(model)
    found, ticks = {}, {}
    for max_s in (0.5, inf):
        counter = count()
        clock = partial(lambda numbers: float(next(numbers)), counter)
        found[max_s] = calibrate(model, table, backend, clock, max_s)
        ticks[max_s] = next(counter)
    assert ticks[0.5] < ticks[inf] / 3
    first = found[0.5].seconds[:, :1]
    assert (first > 0).all()
    assert found[0.5].seconds == pytest.approx(first * np.array(ROWS)[None, :, None])
