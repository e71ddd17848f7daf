from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.elasticize.static_patch import StaticPatch, fit_patch
from models.nn.ragged import Ragged
from models.nn.static import Static

TOKENS, WIDTH = 40, 8


def rows(count: int, below: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, below, (3 + i % 6,), generator=generator) for i in range(count)]


def of_sums(table: Tensor, texts: list[Tensor]) -> Tensor:
    return torch.nn.functional.normalize(torch.stack([table[row].sum(dim=0) for row in texts]))


def test_texts_of_another_domain_are_learnt_and_tokens_they_lack_keep_the_exits_vectors() -> None:
    torch.manual_seed(2)  # an exit that points away from the truth would have its vectors turned
    static = Static(TOKENS, WIDTH)
    truth = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    texts, later = rows(800, 30, 2), rows(60, 30, 3)
    patch = fit_patch(texts, of_sums(truth, texts).numpy(), static)
    assert patch.tokens.tolist() == list(range(5, 30))
    found, before = (
        (vectors * of_sums(truth, later)).sum(dim=1).mean()
        for vectors in (patch.vectors(later, static), static_vectors(static, later))
    )
    assert before < 0.5 < 0.95 < found
    unseen = [torch.tensor([30, 31]), torch.tensor([2])]
    torch.testing.assert_close(patch.vectors(unseen, static), static_vectors(static, unseen))


def static_vectors(static: Static, texts: list[Tensor]) -> Tensor:
    step = static.answer("text", WIDTH, 9)
    found: Tensor = step.run(static(Ragged.pack(texts)))
    return found.detach()


def test_without_anything_to_learn_a_patch_is_the_exit() -> None:
    static = Static(TOKENS, WIDTH)
    texts = rows(50, TOKENS, 4)
    patch = fit_patch(texts, static_vectors(static, texts).numpy(), static, lambda *_: False)
    assert patch.num_bytes < 16 * TOKENS * WIDTH
    cosines = (patch.vectors(texts, static) * static_vectors(static, texts)).sum(dim=1)
    assert cosines.min() > 0.9
    empty = StaticPatch(torch.tensor([0]), torch.zeros(1, WIDTH).half(), 1.0)
    np.testing.assert_allclose(
        empty.vectors(texts, static), static_vectors(static, texts), atol=1e-5
    )
