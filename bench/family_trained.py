"""Claims about checkpoints of these families that `rheostat train` has made.

Each folder is a seed of its family. What is compared stands in its record: scores on test data that
chose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.claims import Claim
from models.checkpoint import read_manifest
from models.files import read_json
from search.offline.dual_training import GAIN
from search.offline.mixed_training import BASE, BY_CHANGE, SKILLS
from search.offline.training import RECORD

_NO_GATES = " without gates"
_ALONE = " of "  # and the inputs that alone are learned
_SEGMENTATION, _NORMALS = "segmentation", "normals"
Tests = Sequence[Mapping[str, Mapping[str, Any]]]


def trained(folders: Sequence[Path]) -> list[Claim]:
    """Return the claims of all families that there are folders of."""
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for folder in folders:
        record = read_json(folder / RECORD, ValueError)
        manifest = read_manifest(folder)
        kind = _kind(manifest.family, manifest.config, record["recipe"])
        by_family.setdefault(kind, []).append(record["test"])
    found = []
    for family, claims in (
        ("adapted", _adapted),
        ("mixed", _mixed),
        ("tokens", _tokens),
        ("experts", _experts),
        ("modalities", _modalities),
        ("dual", _dual),
    ):
        if family in by_family:
            found += claims(by_family[family], by_family)
    return found


def _kind(family: str, config: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """Return a family, and in what a control differs from it."""
    if not recipe.get("gated", True):
        return f"{family}{_NO_GATES}"
    inputs = [one["name"] for one in config.get("modalities", ())]
    if len(inputs) == 1 or not recipe.get("leave_out", True):
        return f"{family}{_ALONE}{'+'.join(inputs)}"
    return family


def _adapted(tests: Tests, others: Mapping[str, Tests]) -> list[Claim]:
    found = []
    for task, own in tests[0].items():
        whole = list(own)[-1]
        best = [one[task][whole]["value"] for one in tests]
        trunk = [one[task]["trunk"]["value"] for one in tests]
        least = [one[task][list(own)[1]]["value"] for one in tests]
        found.append(Claim("adapted", f"{task}, {whole}: test score", "trunk", best, trunk, "more"))
        found.append(Claim("adapted", f"{task}, {list(own)[1]}", "trunk", least, trunk, "more"))
        tuned = others.get("mixed", ())
        if task in SKILLS and len(tuned) == len(tests):
            full = [one[_ends()[SKILLS.index(task)]][task]["value"] for one in tuned]
            control = "fine-tuned in full, less .02"
            found.append(Claim("adapted", f"{task}, {whole}", control, best, full, "more", 0.02))
    return found


def _ends() -> tuple[str, str]:
    first, second = SKILLS
    return f"{first} 1, {second} 0", f"{first} 0, {second} 1"


def _mixed(tests: Tests, _: Mapping[str, Tests]) -> list[Claim]:
    def mean(mix: str) -> list[float]:
        return [sum(one[mix][skill]["value"] for skill in SKILLS) / 2 for one in tests]

    first, second = SKILLS
    half, said = f"{first} 0.5, {second} 0.5", "half of each: mean of both"
    of_half = mean(half)
    changed = mean(BY_CHANGE)
    return [
        Claim("mixed", "by change: mean of both", "half of each", changed, of_half, "more"),
        *(Claim("mixed", said, one, of_half, mean(one), "more") for one in (BASE, *_ends())),
    ]


def _tokens(tests: Tests, _: Mapping[str, Tests]) -> list[Claim]:
    found = []
    for count in (one for one in tests[0]["learned"] if one != "all"):
        for task in tests[0]["learned"][count]:
            own, means = (
                [one[how][count][task]["value"] for one in tests] for how in ("learned", "means")
            )
            whole = [0.97 * one["means"]["all"][task]["value"] for one in tests]
            said = f"{count} tokens, {task}: test score"
            found.append(Claim("tokens", said, "means of neighbours", own, means, "more"))
            found.append(Claim("tokens", said, ".97 of all tokens'", own, whole, "more"))
    return found


def _experts(tests: Tests, others: Mapping[str, Tests]) -> list[Claim]:
    found = []
    for skill in tests[0]:

        def of(key: str, runs: Tests = tests, skill: str = skill) -> list[float]:
            return [one[skill][key]["value"] for one in runs]

        few, said = of("2"), f"2 of 8 experts, {skill}: test score"
        whole, other = [0.98 * one for one in of("whole")], of("other skill")
        found.append(Claim("experts", said, ".98 of the whole model's", few, whole, "more"))
        found.append(Claim("experts", said, "another skill is named", few, other, "more"))
        plain = others.get(f"experts{_NO_GATES}", ())
        if len(plain) == len(tests):
            for count in ("1", "2", "4"):
                said = f"{count} of 8 experts, {skill}: test score"
                control = "the first units, trained alike"
                found.append(Claim("experts", said, control, of(count), of(count, plain), "more"))
    return found


def _modalities(tests: Tests, others: Mapping[str, Tests]) -> list[Claim]:
    def of(inputs: str, task: str, rest: str = "tokens 1, width 1", runs: Tests = tests) -> Any:
        return [one[f"{inputs}, {rest}"][task]["value"] for one in runs]

    claim, said = partial(Claim, "modalities"), "normals, degrees"
    image, both = (of(inputs, _NORMALS) for inputs in ("image", "image+depth"))
    found = [claim(f"image+depth: {said}", "image", both, image, "less")]
    few, narrow = "tokens 0.25, width 1", "tokens 1, width 0.25"
    for inputs in ("image", "image+depth", "image+depth+edges"):
        what = f"{inputs}, a quarter of the tokens: {said}"
        own, drawn = of(inputs, _NORMALS, few), of(inputs, _NORMALS, f"{few}, random")
        found.append(claim(what, "random ones", own, drawn, "less"))
        width = of(inputs, _NORMALS, narrow)
        found.append(claim(f"{what}, random", "a quarter of the width", drawn, width, "less"))
    for kind, runs in others.items():
        inputs = kind.removeprefix(f"modalities{_ALONE}")
        if kind == inputs or len(runs) != len(tests):
            continue
        control = "a model of these alone, 3 points off"
        for task in (_SEGMENTATION, _NORMALS):
            own, alone = of(inputs, task), of(inputs, task, runs=runs)
            if task == _SEGMENTATION:
                found.append(claim(f"{inputs}: {task}", control, own, alone, "more", 0.03))
            else:
                found.append(claim(f"{inputs}: {task}", control, own, alone, "less", 3.0))
    return found


def _dual(tests: Tests, _: Mapping[str, Tests]) -> list[Claim]:
    found = []
    for data in dict.fromkeys(key for one in tests for key in one if not key.endswith(GAIN)):
        runs = [one[data] for one in tests if data in one]
        ours, *others = runs[0]
        own = [one[ours]["value"] for one in runs]
        for control in others:
            other = [one[control]["value"] for one in runs]
            # What is chosen may be what it is compared with.
            found.append(Claim("dual", f"{data}, {ours}", control, own, other, "more", 1e-9))
    return found
