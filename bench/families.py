"""Claims of the families whose knob is no width or depth, each beside its control.

A row is one claim: what was measured, its control, and in how many of three seeds it holds. MACs
and bytes are counted. Adapters have random factors on the real all-MiniLM-L6-v2; mixes and experts
are of small networks that learn digits, turned, inverted, shifted and noisy, and report test digits
that trained and chose nothing. Models of several maps read rendered rooms. Of checkpoints that
`rheostat train` has made of these families, it says what their records do, each a seed.

With --quick fewer repeats of what is timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import report
from bench.family_adapters import adapters
from bench.family_expert_rows import expert_rows
from bench.family_experts import experts
from bench.family_mixes import mixes
from bench.family_modalities import modalities
from bench.family_trained import trained


def main() -> None:
    """Measure, print and write."""
    options = report.parser(__doc__)
    options.add_argument("trained", nargs="*", type=Path, metavar="DIR", help="checkpoints")
    chosen = options.parse_args()
    repeats = 3 if chosen.quick else 9
    claims = [*adapters(repeats), *mixes(), *expert_rows(repeats // 3), *experts()]
    claims += modalities(repeats // 3)
    claims += trained(chosen.trained)
    rows = [
        [
            one.system,
            one.claim,
            one.control,
            _told(one.own),
            _told(one.other),
            f"{one.holds} of {len(one.own)}",
            "" if one.macs is None else f"{one.macs / 1e6:.1f}",
            "" if one.bytes is None else f"{one.bytes / 1e6:.1f}",
        ]
        for one in claims
    ]
    columns = ["system", "claim", "control", "own", "control's", "holds", "MMACs", "MB"]
    report.show("Families: claims beside controls, medians over seeds", columns, rows)
    figures = [{**asdict(one), "holds": one.holds} for one in claims]
    report.finish({"claims": figures}, chosen.json)


def _told(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g}"


if __name__ == "__main__":
    main()
