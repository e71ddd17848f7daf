from __future__ import annotations

import torch
import torch.nn.functional as F

from models.train.losses import (
    configuration_invariance,
    cosent,
    direction_distillation,
    feature_divergence,
    multiple_negatives,
    score_divergence,
    similarity_distillation,
    task_loss,
)


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


def unit(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=1)


def test_multiple_negatives_is_low_where_partners_are_nearest() -> None:
    texts = unit(8, 16)
    right, wrong = multiple_negatives(texts, texts), multiple_negatives(texts, texts.roll(1, 0))
    assert right < 0.1 < 1 < wrong
    swapped = multiple_negatives(texts.flip(0), texts.flip(0))
    torch.testing.assert_close(right, swapped)  # an order of its own means nothing


def test_cosent_asks_for_order_and_not_for_scale() -> None:
    labels = torch.tensor([0.0, 1.0, 2.0, 2.0])
    cosines = torch.tensor([-0.9, 0.0, 0.8, 0.9])
    assert cosent(cosines, labels) < 1e-3
    torch.testing.assert_close(cosent(cosines, labels), cosent(cosines, 10 * labels + 3))
    assert cosent(cosines.flip(0), labels) > 10
    by_hand = torch.log1p(torch.exp(torch.tensor(20 * (0.3 - 0.1))))
    found = cosent(torch.tensor([0.3, 0.1]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found, by_hand)
    assert cosent(cosines, torch.ones(4)) == 0  # nothing is rated above anything


def test_similarity_distillation_compares_angles_between_widths() -> None:
    teacher = unit(6, 16)
    turn = torch.linalg.qr(torch.randn(16, 16)).Q
    assert similarity_distillation(teacher @ turn, teacher) < 1e-10
    assert similarity_distillation(unit(6, 4, seed=1), teacher) > 0.01


def test_direction_distillation_is_zero_for_the_same_direction_only() -> None:
    teacher = unit(6, 16)
    assert direction_distillation(teacher, teacher).abs() < 1e-6
    torch.testing.assert_close(direction_distillation(-teacher, teacher), torch.tensor(2.0))


def test_the_released_feature_divergence_reaches_the_teacher_too() -> None:
    student, teacher = (torch.randn(3, 8, requires_grad=True) for _ in range(2))
    feature_divergence(student, teacher, 0.5).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert teacher.grad is not None
    assert feature_divergence(teacher, teacher) == 0
    expected = (teacher.softmax(1) * (teacher.softmax(1) / student.softmax(1)).log()).sum(1).mean()
    torch.testing.assert_close(feature_divergence(student, teacher), expected)


def test_score_divergence_ignores_each_texts_similarity_to_itself_and_spares_the_teacher() -> None:
    teacher = unit(6, 16).requires_grad_(True)
    student = unit(6, 8, seed=1).requires_grad_(True)
    assert score_divergence(teacher, teacher).abs() < 1e-6
    score_divergence(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
