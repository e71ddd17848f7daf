"""The servers that are compared, and what is asked of them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.process import Launch

PRICE = "price"
SLACKFIT = "slackfit"
FULL = "fixed-full"


@dataclass(frozen=True)
class Policy:
    """A way of serving.

    Attributes:
        name: In the tables.
        option: Of ``rheostat serve --policy``.
        fraction: Ceiling on the MACs of every request; None for no ceiling.
    """

    name: str
    option: str
    fraction: float | None = None

    def launch(self, checkpoint: Path, profiles: Path, backend: str = "torch") -> Launch:
        """Return how to start a server of this policy, on one thread.

        Args:
            checkpoint: To serve.
            profiles: Folder of measured times, not one filled at another time under another load.
            backend: Torch takes the same time from the first request on; ONNX Runtime's sessions
                are built meanwhile.
        """
        options = f"--port {{port}} --num-threads 1 --log-level warning --policy {self.option}"
        options += f" --backend {backend}"
        command = (sys.executable, "-m", "server", "serve", *options.split())
        folders = ("--models", str(checkpoint.resolve()), "--profiles", str(profiles.resolve()))
        return Launch((*command, *folders))

    def body(self, model: str, text: str | Sequence[str], slo_s: float | None = None) -> bytes:
        """Return the body of a request; without a limit on the time if none is given."""
        limits = {
            "latency_ms": None if slo_s is None else 1000 * slo_s,
            "fraction": self.fraction,
        }
        budget = {name: value for name, value in limits.items() if value is not None}
        asked = {"model": model, "input": text, "encoding_format": "base64"}
        return json.dumps({**asked, "budget": budget} if budget else asked).encode()


def everyone(smallest: float) -> dict[str, Policy]:
    """Return all policies by name.

    Args:
        smallest: Fraction of the MACs that the cheapest subnet needs.
    """
    rounded_up = math.ceil(1e6 * smallest) / 1e6  # so that it is not refused
    chosen = (
        Policy(PRICE, "price"),
        Policy(SLACKFIT, "slackfit"),
        Policy("fixed-small", "fixed", rounded_up),
        Policy("fixed-half", "fixed", 0.5),
        Policy(FULL, "fixed", 1.0),
    )
    return {policy.name: policy for policy in chosen}
