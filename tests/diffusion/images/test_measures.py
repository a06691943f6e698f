"""The yardsticks against closed forms and made-up samples; the classifier they stand on."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.images import classifier, measures, mnist
from diffusion.images.classifier import Classifier, ClassifierTraining


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_frechet_distance_of_known_gaussians():
    """Commuting covariances: |m_1 - m_2|^2 + sum (s_1 - s_2)^2 of the standard deviations."""
    generator = seeded()
    x = torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    x = x - x.mean(dim=0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    first, second = torch.tensor([1.0, 2, 3, 0.5, 0, 1]), torch.tensor([1.0, 1, 5, 0.5, 2, 0])
    shift = torch.arange(6.0)
    found = measures.frechet_distance((x * first) @ turn, (x * second + shift) @ turn)
    assert found == pytest.approx((shift.square() + (first - second).square()).sum().item())
    assert measures.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_general_covariances():
    """Against tr (S_1 S_2)^(1/2) from the eigenvalues of the product itself."""
    generator = seeded(1)
    one, two = (
        torch.randn(500, 5, generator=generator, dtype=torch.float64)
        @ torch.randn(5, 5, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    s_1, s_2 = one.T.cov(), two.T.cov()
    root = torch.linalg.eigvals(s_1 @ s_2).sqrt().real.sum()
    apart = (one.mean(dim=0) - two.mean(dim=0)).square().sum()
    truth = (apart + s_1.trace() + s_2.trace() - 2 * root).item()
    assert measures.frechet_distance(one, two) == pytest.approx(truth, rel=1e-9)
    assert measures.frechet_distance(two, one) == pytest.approx(truth, rel=1e-9)


def test_coverage_and_its_error():
    assert measures.coverage(torch.arange(10).repeat(50), 10)[0] == pytest.approx(0, abs=1e-6)
    collapsed = torch.zeros(100, dtype=torch.int64)
    assert measures.coverage(collapsed, 10)[0] == pytest.approx(0.9)
    found = torch.tensor(
        [
            measures.coverage(torch.randint(10, (1000,), generator=seeded(s)), 10)[0]
            for s in range(200)
        ]
    )
    _, expected = measures.coverage(collapsed.repeat(10), 10)
    assert abs(found.mean() - expected) < 5 * found.std() / math.sqrt(200)


def test_the_neighbour_ratio_tells_a_reciter_from_a_painter():
    generator = seeded()
    training, fresh, samples = (torch.rand(400, 20, generator=generator) for _ in range(3))
    assert measures.neighbour_ratio(training[:100], training, fresh) < 1e-3
    assert measures.neighbour_ratio(samples, training, fresh) == pytest.approx(1, abs=0.03)
    distances = torch.cdist(samples, fresh).min(dim=1).values
    torch.testing.assert_close(measures.nearest_distance(samples, fresh), distances)
    with pytest.raises(ValueError, match="400 training images cannot be held to 100 fresh"):
        measures.neighbour_ratio(samples, training, fresh[:100])


def test_whole_numbers_in_any_form_are_the_numbers_that_they_are():
    grey = torch.randint(256, (3, 30, 9), generator=seeded(), dtype=torch.uint8)
    samples, training, fresh = grey
    assert measures.nearest_distance(
        torch.full((1, 4), 100, dtype=torch.uint8), torch.zeros(1, 4, dtype=torch.uint8)
    ).tolist() == [200]
    distances = torch.cdist(samples.double(), training.double()).min(dim=1).values
    ratio = measures.neighbour_ratio(*grey.double())
    frechet = measures.frechet_distance(samples.double(), training.double())
    for form in (lambda x: x, lambda x: x.numpy(), lambda x: x.float(), lambda x: x.tolist()):
        torch.testing.assert_close(
            measures.nearest_distance(form(samples), training).double(), distances
        )
        found = measures.neighbour_ratio(form(samples), form(training), form(fresh))
        assert found == pytest.approx(ratio, rel=1e-5)
        found = measures.frechet_distance(form(samples), form(training))
        assert found == pytest.approx(frechet, rel=1e-9)
        assert measures.coverage(form(samples[0] % 4), 4) == measures.coverage(
            samples[0].long() % 4, 4
        )


def test_classes_outside_the_range_are_refused():
    for classes in ([0, 1, 4], [-1, 0], [0.5, 1]):
        with pytest.raises(ValueError, match="labels must be"):
            measures.coverage(classes, 4)


def test_the_nearest_distance_is_the_same_under_the_callers_autocast():
    samples, images = torch.rand(2, 40, 20, generator=seeded())
    expected = measures.nearest_distance(samples, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(measures.nearest_distance(samples, images), expected)


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="features must have shapes"):
        measures.frechet_distance(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="at least 2"):
        measures.frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    for shapes in (((4, 3), (4, 5)), ((0, 3), (4, 3)), ((4, 3), (0, 3)), ((3,), (4, 3))):
        with pytest.raises(ValueError, match="samples and images must have shapes"):
            measures.nearest_distance(*map(torch.zeros, shapes))
    with pytest.raises(ValueError, match="number of samples must be"):
        measures.coverage([], 10)


def test_moved_images_are_the_images_moved():
    images, labels = mnist.load("validation")
    training = ClassifierTraining(Classifier(generator=seeded()), images, labels, epochs=1)
    moved = training._moved(images[:50]).reshape(-1, 28, 28)
    for before, after in zip(images[:50].reshape(-1, 28, 28), moved, strict=True):
        wide = torch.nn.functional.pad(before, [2] * 4)
        windows = wide.unfold(0, 28, 1).unfold(1, 28, 1).reshape(-1, 28, 28)
        assert (windows == after).all(dim=(1, 2)).any()


def test_the_classifier_learns_and_comes_back(tmp_path):
    images, labels = mnist.load("validation")
    model = Classifier(width=8, generator=seeded())
    training = ClassifierTraining(
        model, images[:8000], labels[:8000], epochs=120, learning_rate=5e-3, ema_decay=0.9
    )
    model = training.run()
    logits, features = classifier.evaluate(model, images[8000:] / 255)
    assert features.shape == (2000, classifier.FEATURES)
    assert (logits.argmax(dim=1) == labels[8000:]).double().mean() > 0.8
    model.save(tmp_path / "classifier.pt")
    back = classifier.load(tmp_path / "classifier.pt")
    assert torch.equal(back(images[:9] / 255)[0], model(images[:9] / 255)[0])


def test_what_the_classifier_cannot_read_is_refused():
    model = Classifier(width=4, generator=seeded())
    with pytest.raises(ValueError, match=r"shape \(n, 784\)"):
        model(torch.zeros(3, 28, 28))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model(torch.full((1, 784), 255.0))
    with pytest.raises(ValueError, match="needs labels"):
        ClassifierTraining(model, torch.zeros(3, 784, dtype=torch.uint8), epochs=1)
