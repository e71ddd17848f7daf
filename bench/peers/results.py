"""What has been found so far, kept in a file so that a run can go on where an earlier one ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench import report
from bench.peers.contenders import Contender, Way
from bench.peers.load import Figures


class Load(NamedTuple):
    """A kind of load and how much: connections, or the fraction of a server's own best rate."""

    kind: Literal["closed", "open"]
    level: float


class OtherRunError(ValueError):
    """A file is of another machine or no such file; the message says so."""


@dataclass
class Check:
    """What the vectors of one way of asking have shown.

    Attributes:
        cosine: The smallest to the whole model's in float32.
        scores: By the name of the evaluation, of ways that compute less.
        full: Scores of the whole model in float32, likewise.
        receipt: Of one answer; Rheostat's alone.
    """

    cosine: float
    scores: dict[str, float] = field(default_factory=dict)
    full: dict[str, float] = field(default_factory=dict)
    receipt: dict[str, Any] | None = None

    def retention(self) -> float | None:
        """Return the smallest share of a full score; None if nothing was scored."""
        return min((self.scores[name] / self.full[name] for name in self.scores), default=None)


@dataclass
class Results:
    """Everything found so far.

    Attributes:
        contenders: Whether measured or not.
        absent: Why one was not measured, or not to the end, by its name.
        checks: By the name of the way.
        runs: By the name of the way and the load, then by the number of the round.
    """

    contenders: Sequence[Contender]
    absent: dict[str, str] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    runs: dict[tuple[str, Load], dict[int, Figures]] = field(default_factory=dict)

    def add(self, way: Way, load: Load, number: int, figures: Figures) -> None:
        """Keep what a load has shown."""
        self.runs.setdefault((way.name, load), {})[number] = figures

    def has_run(self, contender: Contender, number: int, loads: Sequence[Load]) -> bool:
        """Return whether a round of a contender is complete."""
        return all(
            number in self.runs.get((way.name, load), {})
            for way in contender.ways
            for load in loads
        )

    def figures(self) -> dict[str, Any]:
        """Return all of it for a file."""
        return {
            "software": {one.name: one.software for one in self.contenders},
            "absent": self.absent,
            "checks": {way: asdict(check) for way, check in self.checks.items()},
            "runs": [
                {
                    "server": way,
                    "load": load.kind,
                    "level": load.level,
                    "round": number,
                    **asdict(run),
                }
                for (way, load), runs in self.runs.items()
                for number, run in runs.items()
            ],
        }

    def read(self, path: Path) -> None:
        """Take over what a file holds; nothing if there is none.

        Raises:
            OtherRunError: If it is of another machine, or cannot be read.
        """
        if not path.exists():
            return
        try:
            content = json.loads(path.read_text())
            held, machine = content["peers"], content["machine"]
            for way, check in held["checks"].items():
                self.checks[way] = Check(**check)
            for run in held["runs"]:
                load = Load(run.pop("load"), run.pop("level"))
                way, number = run.pop("server"), run.pop("round")
                self.runs.setdefault((way, load), {})[number] = Figures(**run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OtherRunError(f"{path} holds no figures of this benchmark: {error!r}") from None
        own = report.machine()
        if differing := [name for name in own if machine.get(name) != own[name]]:
            said = ", ".join(f"{name} {machine.get(name)!r}" for name in differing)
            raise OtherRunError(f"{path} was measured on another machine or setting: {said}")
