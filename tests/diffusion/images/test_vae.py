"""VAEs against closed forms, quadrature and enumeration; their training and their files."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.files import WeightsError
from diffusion.images import mnist, vae, vae_exact
from diffusion.images.classifier import Classifier
from diffusion.images.vae import VAE, VAETraining, sample_gaussian
from diffusion.training import TrainingError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_images(pixels: int) -> torch.Tensor:
    """All 2^pixels images of 0 and 1."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * pixels)


@pytest.fixture(scope="module")
def small() -> VAE:
    """A VAE of 3 x 3 images with one latent dimension, trained on four patterns with noise."""
    generator = seeded(1)
    patterns = torch.tensor(
        [[1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0],
         [0, 0, 0, 0, 0, 0, 1, 1, 1], [1, 0, 0, 0, 1, 0, 0, 0, 1]]
    )  # fmt: skip
    clean = patterns[torch.randint(4, (2000,), generator=generator)].float()
    images = (clean - (torch.rand(clean.shape, generator=generator) < 0.05).float()).abs()
    model = VAE(pixels=9, latent=1, hidden=(16,), generator=seeded())
    return VAETraining(model, images, epochs=600, learning_rate=1e-2, ema_decay=0.98).run()


def test_draws_have_the_mean_and_variance_asked_for_and_pass_gradients_on():
    m = torch.tensor([-1.0, 0.0, 3.0]).requires_grad_()
    v = torch.tensor([0.25, 1.0, 4.0]).requires_grad_()
    n = 40_000
    z = sample_gaussian(m.expand(n, 3), v.expand(n, 3), seeded())
    assert ((z.mean(dim=0) - m).abs() < 5 * (v / n).sqrt()).all()
    assert ((z.var(dim=0) / v - 1).abs() < 5 * math.sqrt(2 / n)).all()
    z.sum().backward()
    assert torch.equal(m.grad, torch.full((3,), float(n)))
    # dz/dv = eps / (2 sqrt v), whose sum over n draws is what z's own mean says.
    expected = (z.detach() - m.detach()).sum(dim=0) / (2 * v.detach())
    torch.testing.assert_close(v.grad, expected, rtol=1e-3, atol=0.1)


def test_the_bound_is_the_sum_of_its_parts_and_the_kl_is_the_closed_form():
    model = VAE(pixels=9, latent=2, hidden=(5,), generator=seeded())
    x = all_images(9)
    nelbo, kl, rec = model.negative_elbo_bound(x, seed=3)
    assert nelbo == kl + rec
    m, v = model.encode(x)
    q = torch.distributions.Normal(m, v.sqrt())
    truth = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl, truth.mean())
    z = torch.randn(512, 2, generator=seeded(1))
    bernoulli = torch.distributions.Bernoulli(probs=model.decode(z))
    torch.testing.assert_close(model.log_conditional(x, z), bernoulli.log_prob(x).sum(dim=1))


def test_images_of_every_kind_have_probabilities_that_sum_to_one(small):
    log_p = vae_exact.quadrature(small, all_images(9)).log_p
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)  # float32 decoder


def test_the_gap_of_the_elbo_is_the_kl_from_the_exact_posterior(small):
    x = all_images(9)
    log_p, elbo, gap = vae_exact.quadrature(small, x)
    torch.testing.assert_close(log_p - elbo, gap, atol=1e-6, rtol=0)
    assert (gap > 0).all()
    # The library's own estimate, over many draws, is the integral within its standard error.
    draws = torch.stack([small.log_likelihood(x, samples=1, seed=s) for s in range(400)])
    error = draws.std(dim=0) / 20
    assert ((draws.mean(dim=0) - elbo).abs() < 5 * error + 1e-6).all()


def test_importance_weighting_closes_the_gap(small):
    x = all_images(9)
    log_p, elbo, _ = vae_exact.quadrature(small, x)
    means = [
        torch.stack([small.log_likelihood(x, samples=k, seed=s) for s in range(20)]).mean()
        for k in (1, 10, 100, 1000)
    ]
    assert means == sorted(means)
    assert means[0].item() == pytest.approx(elbo.mean().item(), abs=0.02)
    assert means[-1] <= log_p.mean()
    assert (log_p.mean() - means[-1]).item() < 0.05 * (log_p.mean() - elbo.mean()).item()


def test_the_linear_vae_reaches_probabilistic_pca():
    generator = seeded(5)
    loading = torch.randn(5, 2, generator=generator)
    x = torch.randn(1000, 2, generator=generator) @ loading.T
    x = x + 0.5 * torch.randn(x.shape, generator=generator) + 1.0
    model = VAE(pixels=5, latent=2, hidden=(), observation="gaussian", generator=seeded())
    model = VAETraining(
        model, x, epochs=2500, batch_size=1000, learning_rate=2e-2, ema_decay=0.99
    ).run()
    best = vae_exact.pca_log_likelihood(x, 2)
    assert vae_exact.linear_log_likelihood(model, x).mean().item() <= best + 1e-6
    elbo = vae_exact.linear_elbo(model, x).mean().item()
    assert 0 <= best - elbo < 0.01 * 5
    covariance = loading @ loading.T + 0.25 * torch.eye(5)
    truth = torch.distributions.MultivariateNormal(torch.ones(5), covariance)
    assert best >= truth.log_prob(x).mean().item()  # the best fit to these points, by definition


def test_gaussian_quadrature_agrees_with_the_closed_forms():
    model = VAE(pixels=3, latent=1, hidden=(), observation="gaussian", generator=seeded())
    with torch.no_grad():
        model.log_s.fill_(-0.3)
    x = torch.randn(50, 3, generator=seeded(1))
    found = vae_exact.quadrature(model, x)
    exact = vae_exact.linear_log_likelihood(model, x)
    torch.testing.assert_close(found.log_p, exact, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.elbo, vae_exact.linear_elbo(model, x), atol=1e-5, rtol=0)


def test_the_closed_elbo_is_the_mean_of_drawn_ones():
    model = VAE(pixels=5, latent=2, hidden=(), observation="gaussian", generator=seeded())
    x = torch.randn(1, 5, generator=seeded(1)).expand(40_000, -1)
    kl, rec = model.elbo_terms(x, seeded(2))
    error = rec.std().item() / 200
    assert abs(vae_exact.linear_elbo(model, x)[0] + (kl + rec).mean()) < 4 * error
    with pytest.raises(ValueError, match="without hidden layers"):
        vae_exact.linear_elbo(VAE(pixels=5, hidden=(4,), observation="gaussian"), x)


@pytest.mark.parametrize("network", vae.NETWORKS)
def test_both_networks_learn_from_mnist_and_say_the_same_whoever_asks(network):
    images, _ = mnist.load("train")
    hidden = (64,) if network == "dense" else (8,)
    model = VAE(network=network, hidden=hidden, generator=seeded())
    x = mnist.binarise(images[:200], seed=0)
    before = model.negative_elbo_bound(x).nelbo
    training = VAETraining(model, images[:1000], epochs=60, learning_rate=3e-3, ema_decay=0.9)
    model = training.run()
    assert model.negative_elbo_bound(x).nelbo < before - 200
    assert len(model.losses) == 60
    one = model.log_likelihood(x[:20], samples=50, seed=1)
    torch.set_grad_enabled(False)
    try:
        assert torch.equal(model.train().log_likelihood(x[:20], samples=50, seed=1), one)
    finally:
        torch.set_grad_enabled(True)
    samples = model.sample(5, seed=0)
    assert samples.shape == (5, 784)
    assert ((samples >= 0) & (samples <= 1)).all()
    assert not samples.requires_grad
    assert torch.equal(samples, model.sample(5, seed=0))


def test_a_run_that_breaks_keeps_the_last_good_weights():
    images, _ = mnist.load("validation")
    training = VAETraining(VAE(hidden=(8,), generator=seeded()), images[:200], epochs=10)
    training.epoch()
    with torch.no_grad():
        training.model.decoder[0].weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="epoch 2; try a learning rate below") as caught:
        training.epoch()
    assert all(parameter.isfinite().all() for parameter in caught.value.model.parameters())


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    images, _ = mnist.load("validation")

    def run() -> VAETraining:
        model = VAE(hidden=(8,), generator=seeded())
        return VAETraining(model, images[:200], epochs=12, batch_size=20, seed=4)

    whole = run().run()
    first, second = run(), run()
    for _ in range(5):
        first.epoch()
    first.save(tmp_path / "state.pt")
    second.resume(tmp_path / "state.pt")
    for one, other in zip(whole.parameters(), second.run().parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_come_back_and_other_files_are_refused(tmp_path):
    model = VAE(network="convolutional", hidden=(8,), latent=3, generator=seeded())
    model.save(tmp_path / "vae.pt")
    back = vae.load(tmp_path / "vae.pt")
    assert back.config() == model.config()
    assert torch.equal(back.sample(3, seed=0), model.sample(3, seed=0))
    Classifier(generator=seeded()).save(tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"holds diffusion\.images\.Classifier"):
        vae.load(tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no weights file"):
        vae.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent": 0}, "latent must be a whole number of at least 1"),
        ({"hidden": (0,)}, "hidden must be"),
        ({"hidden": 300}, "hidden must be several whole numbers"),
        ({"network": "recurrent"}, "network must be one of dense, convolutional"),
        ({"observation": "poisson"}, "observation must be one of"),
        ({"network": "convolutional", "pixels": 9, "hidden": (8,)}, "784 pixels"),
    ],
)
def test_models_that_cannot_be_built_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(**arguments)


def test_images_and_numbers_that_make_no_sense_are_refused(small):
    x = all_images(9)
    with pytest.raises(ValueError, match="0 and 1 only"):
        small.negative_elbo_bound(x / 2)
    with pytest.raises(ValueError, match=r"shape \(n, 9\)"):
        small.log_likelihood(torch.zeros(3, 784))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        small.negative_elbo_bound(3 * x)
    with pytest.raises(ValueError, match="samples"):
        small.log_likelihood(x, samples=0)
    with pytest.raises(ValueError, match="n must be"):
        small.sample(0)
    with pytest.raises(ValueError, match="one latent dimension"):
        vae_exact.quadrature(VAE(generator=seeded()), x)
    with pytest.raises(ValueError, match="without hidden layers"):
        vae_exact.linear_log_likelihood(small, x)
    with pytest.raises(ValueError, match="latent must be below 9"):
        vae_exact.pca_log_likelihood(x, 9)
    with pytest.raises(ValueError, match=r"shape \(n, 9\)"):
        VAETraining(small, torch.zeros(3, 784, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"not torch\.int64"):
        VAETraining(small, torch.zeros(3, 9, dtype=torch.int64))
