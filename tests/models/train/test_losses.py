from __future__ import annotations

import torch
import torch.nn.functional as F

from models.train.losses import configuration_invariance, task_loss


def test_task_losses_of_parts_add_up_to_that_of_the_whole() -> None:
    logits, labels = torch.randn(9, 5), torch.randint(0, 5, (9,))
    parts = task_loss(logits[:4], labels[:4], 0.1) + task_loss(logits[4:], labels[4:], 0.1)
    whole = 9 * F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(parts, whole)


def test_ci_kd_is_zero_for_equal_variation_and_one_for_a_constant_feature() -> None:
    full = torch.randn(2, 8, 3, 3)
    assert configuration_invariance(full[:, :4] + 3, full) < 1e-10
    torch.testing.assert_close(
        configuration_invariance(torch.zeros(2, 4, 3, 3), full), torch.tensor(1.0)
    )


def test_ci_kd_does_not_depend_on_the_scale_of_the_features() -> None:
    full, narrow = torch.randn(2, 8, 3, 3), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(
        configuration_invariance(narrow, full), configuration_invariance(100 * narrow, 100 * full)
    )


def test_ci_kd_moves_the_narrow_feature_only() -> None:
    full = torch.randn(2, 8, 3, 3, requires_grad=True)
    narrow = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = configuration_invariance(narrow, full)
    loss.backward()  # type: ignore[no-untyped-call]
    assert full.grad is None
    assert narrow.grad is not None
    assert configuration_invariance(narrow - 0.1 * narrow.grad, full) < loss
