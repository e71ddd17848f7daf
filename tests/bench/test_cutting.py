"""Cuts of a ranked model without a search."""

from __future__ import annotations

import pytest
import torch

from bench.cutting import by_two_orders
from models.families.pruned import LayerForm
from models.train.ranking import Importance
from search.offline.cuts import macs_of
from tests.models.elasticize.whole import parts_of

LENGTH = 6


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_two_orders_give_the_most_importance_that_fits(share: float) -> None:
    parts = parts_of("post")
    model, layers = parts.model, parts.stack.layers
    config = layers[0].attention.config
    generator = torch.Generator().manual_seed(0)
    importance = [
        Importance(
            3 * torch.rand(config.kv_heads, generator=generator),
            torch.rand(config.ffn, generator=generator),
        )
        for _ in layers
    ]
    forms = by_two_orders(model, importance, share, LENGTH)
    whole = macs_of((LayerForm("whole"),) * len(layers), layers, LENGTH)
    assert macs_of(forms, layers, LENGTH) <= share * whole
    assert len({(form.groups, form.units) for form in forms}) > 1

    def worth(cut: tuple[LayerForm, ...]) -> float:
        return sum(
            float(own.groups.sort(descending=True).values[1 : form.groups].sum())
            + float(own.units.sort(descending=True).values[1 : form.units].sum())
            for form, own in zip(cut, importance, strict=True)
        )

    # One head or unit more of any layer does not fit, and no exchange of one for another gains.
    sizes = {"groups": config.kv_heads, "units": config.ffn}
    for i, form in enumerate(forms):
        for part, most in sizes.items():
            if getattr(form, part) == most:
                continue
            more = list(forms)
            more[i] = LayerForm(
                "narrow", form.groups + (part == "groups"), form.units + (part == "units")
            )
            assert macs_of(tuple(more), layers, LENGTH) > share * whole
            for j, other in enumerate(forms):
                if j == i or getattr(other, part) == 1:
                    continue
                swapped = list(more)
                swapped[j] = LayerForm(
                    "narrow", other.groups - (part == "groups"), other.units - (part == "units")
                )
                assert worth(tuple(swapped)) <= worth(forms) + 1e-6
