"""What `rheostat calibrate` does: measure profiles, then predict runs that were not measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from random import Random

import numpy as np
import torch

from models.inputs import num_tokens
from models.run.backend import Backend
from models.variants import loaded
from search.timing.profile import LatencyProfile, Workload
from server import catalog
from server.backends import make_backend
from server.observe.progress import ProgressDisplay
from server.profiles import Profiles
from server.served import Served
from server.settings import Settings

_SUBNETS, _RUNS = 24, 3
_ROWS = (1, 2, 8, 24)
_SHORTEST, _LONGEST = 4, 96  # tokens of the texts that are compared


def calibrate(settings: Settings, seed: int) -> Iterator[str]:
    """Measure and keep the profile of every model, and compare it with whole runs.

    Yields:
        A line per model: what was measured, and the relative error of predictions for random
        subnets, batch sizes and lengths, median and 95th percentile.

    Raises:
        SettingsError: If the device or the runtime is not there.
        CatalogError: If the models cannot be loaded.
    """
    backend = make_backend(settings)
    loaded = catalog.load(settings.models_folder)
    profiles = Profiles(settings.profiles_folder, backend, time.perf_counter)
    for served in loaded.values():
        backend.prepare(served.model)
        start = time.perf_counter()
        profile = profiles.measure(served, math.inf, ProgressDisplay.on_terminal())
        taken = time.perf_counter() - start
        errors = _errors(served, profile, backend.baseline, Random(seed))
        middle, high = np.quantile(np.abs(errors), (0.5, 0.95))
        yield (
            f"{served.name}: {len(profile.seconds)} curves for {len(profile.curves)} steps in "
            f"{taken:.1f} s; {len(errors)} runs predicted with an error of {middle:.0%} (median), "
            f"{high:.0%} (95th percentile), {np.mean(errors):+.0%} on average"
        )
    backend.close()


def _errors(served: Served, profile: LatencyProfile, backend: Backend, rng: Random) -> list[float]:
    """Return predicted over actual time, less one, of random batches."""
    shapes = served.inputs.plan_shapes()
    longest = min(_LONGEST, served.inputs.num_tokens(shapes))
    errors = []
    for _ in range(_SUBNETS):
        subnet = served.elastic.space.sample(rng) | loaded(served.elastic.space)
        plan = served.elastic.plan(subnet, shapes)
        for rows in _ROWS:
            lengths: list[int | None] = [None] * rows
            if served.inputs.has_length:
                lengths = [rng.randint(_SHORTEST, longest) for _ in lengths]
            items = [served.inputs.example(length) for length in lengths]
            inputs = served.inputs.batch(items)
            runs = []
            with torch.inference_mode():
                for _ in range(_RUNS):
                    start = time.perf_counter()
                    backend.run(plan, inputs)
                    runs.append(time.perf_counter() - start)
            predicted = profile.total(plan, Workload(rows, sum(map(num_tokens, items)) / rows))
            errors.append(predicted / float(np.median(runs)) - 1)
    return errors
