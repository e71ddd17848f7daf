"""Profiles on disk: measured at the first start, kept by machine, model and versions."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.files import read_json, reading, replacing
from models.run.backend import Backend
from search.timing.calibrate import calibrate
from search.timing.profile import LatencyProfile
from server.observe.progress import ProgressDisplay
from server.served import Served

log = logging.getLogger(__name__)

_FORMAT = 3
_MAX_S = 5.0  # for one model at a start; what it leaves open is corrected while serving
_IN_LOG = ProgressDisplay()


class ProfileError(ValueError):
    """A file holds no profile of the model. The message names it."""


@dataclass(frozen=True)
class Profiles:
    """Measures profiles, or reads those measured before.

    Attributes:
        folder: Where they are kept.
        backend: That runs the models.
        clock: Returns seconds.
    """

    folder: Path
    backend: Backend
    clock: Callable[[], float]
    # For reloads, which must not measure while requests wait; one for each architecture served.
    _unwritten: dict[Path, LatencyProfile] = field(default_factory=dict, init=False)

    def get(self, served: Served, progress: ProgressDisplay = _IN_LOG) -> LatencyProfile:
        """Return a model's profile; measure it, which takes seconds, if there is none.

        Args:
            served: The model.
            progress: Tells how far measuring is.
        """
        path = self._path(served)
        if path in self._unwritten:
            return self._unwritten[path]
        try:
            found = self._read(path, served)
        except ProfileError as error:
            log.warning("%s; it cannot be used and is measured again", error)
            found = None
        return found or self.measure(served, progress=progress)

    def _read(self, path: Path, served: Served) -> LatencyProfile | None:
        """Return what was measured before; None if nothing was."""
        with reading(path, ProfileError):
            if not path.exists():
                return None
            profile = _from_json(read_json(path, ProfileError)["profile"])
            missing = served.finders.functions - profile.curves.keys()
            if missing:
                raise ProfileError(f"{path}: curves lacks {sorted(map(str, missing))[0]}")
        return profile

    def measure(
        self, served: Served, max_s: float = _MAX_S, progress: ProgressDisplay = _IN_LOG
    ) -> LatencyProfile:
        """Measure a model's profile and keep it; where it cannot be written, say so and go on.

        Args:
            served: The model.
            max_s: As for `search.timing.calibrate.calibrate`.
            progress: Tells how far it is.
        """
        start = self.clock()
        what = f"measuring the latency profile of {served.name}, once"
        with progress.of(what) as tell, torch.inference_mode():
            profile = calibrate(
                served.elastic,
                served.table,
                self.backend.baseline,
                self.clock,
                max_s,
                tell,
            )
        log.info("measured %s in %.1f s", served.name, self.clock() - start)
        path = self._path(served)
        record = {"made_for": self._made_for(served), "profile": _to_json(profile)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                part.write_text(json.dumps(record))
        except OSError as error:
            log.warning("the profile of %s is not kept: %s", served.name, error)
            self._unwritten[path] = profile
        return profile

    def _path(self, served: Served) -> Path:
        text = json.dumps(self._made_for(served), sort_keys=True)
        name = served.name.replace("/", "_")
        return self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def _made_for(self, served: Served) -> dict[str, object]:
        """Return everything that a time depends on."""
        return {
            "format": _FORMAT,
            "model": served.name,
            # Not the weights: how long they take does not depend on what they are.
            "architecture": [served.manifest.family, served.manifest.config],
            "backend": self.backend.name,
            "device": self.backend.hardware,
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")


def _to_json(profile: LatencyProfile) -> dict[str, Any]:
    return {
        "rows": profile.rows,
        "lengths": profile.lengths,
        "seconds": profile.seconds.tolist(),
        "sequences": None if profile.sequences is None else list(profile.sequences),
        "curves": [[*function, curve] for function, curve in profile.curves.items()],
    }


def _from_json(record: dict[str, Any]) -> LatencyProfile:
    return LatencyProfile(
        curves={
            (tuple(map(_key, takes)), _key(own)): int(curve)
            for takes, own, curve in record["curves"]
        },
        rows=tuple(map(int, record["rows"])),
        lengths=tuple(map(int, record["lengths"])),
        seconds=np.array(record["seconds"], dtype=np.float64),
        sequences=None if record["sequences"] is None else list(map(int, record["sequences"])),
    )


def _key(value: Any) -> Hashable:
    """Return a step's key as it was: JSON has no tuples."""
    return tuple(map(_key, value)) if isinstance(value, list) else value
