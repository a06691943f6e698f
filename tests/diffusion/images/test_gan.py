"""GANs: the theory of Goodfellow et al. (2014) on densities that are known, and the networks."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.files import WeightsError
from diffusion.images import gan, gan_exact, mnist, vae
from diffusion.images.gan import GAN, GANTraining
from diffusion.images.gan_exact import Mixture
from diffusion.training import TrainingError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DATA = Mixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.6)
MODEL = Mixture(torch.tensor([[0.0, 0.5]]), 0.8)


def plane(**options) -> GAN:
    return GAN(pixels=2, network="dense", generator=seeded(), **options)


def test_the_value_of_the_best_discriminator_is_the_divergence():
    value, jsd = gan_exact.value_of_best(DATA.log_density, MODEL.log_density, cells=400)
    assert value == pytest.approx(-math.log(4) + 2 * jsd, abs=1e-6)
    assert 0 < jsd < math.log(2)
    same = gan_exact.value_of_best(DATA.log_density, DATA.log_density, cells=400)
    assert same.value == pytest.approx(-math.log(4), abs=1e-6)
    far = Mixture(torch.tensor([[0.0, 5.0]]), 0.2)
    apart = gan_exact.value_of_best(
        Mixture(torch.tensor([[0.0, -5.0]]), 0.2).log_density, far.log_density, cells=400
    )
    assert apart.jensen_shannon == pytest.approx(math.log(2), abs=1e-6)
    assert apart.value == pytest.approx(0, abs=1e-6)


def test_the_value_agrees_with_draws_from_both():
    x, y = DATA.sample(100_000, seeded(1)), MODEL.sample(100_000, seeded(2))
    d_x, d_y = (
        gan_exact.best_discriminator(DATA.log_density, MODEL.log_density, z) for z in (x, y)
    )
    terms = d_x.log(), torch.log1p(-d_y)
    error = math.sqrt(sum(t.var().item() for t in terms) / 100_000)
    value, _ = gan_exact.value_of_best(DATA.log_density, MODEL.log_density, cells=400)
    assert abs(sum(t.mean().item() for t in terms) - value) < 5 * error


def test_a_trained_discriminator_is_the_best_one():
    model, generator = plane(latent=2, hidden=(48, 48)), seeded(3)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        real, fake = DATA.sample(1000, generator), MODEL.sample(1000, generator)
        optimizer.zero_grad()
        gan.discriminator_loss(model.h(real), model.h(fake)).backward()
        optimizer.step()
        schedule.step()
    x = torch.cat([DATA.sample(5000, generator), MODEL.sample(5000, generator)])
    best = gan_exact.best_discriminator(DATA.log_density, MODEL.log_density, x)
    with torch.no_grad():
        assert (torch.sigmoid(model.h(x)) - best).abs().mean() < 0.02


@pytest.mark.parametrize("shift", [0.0, -5.0, -15.0])
def test_the_minimax_gradient_vanishes_with_d_as_the_closed_form_says(shift):
    model = plane(latent=2, hidden=(16,))
    with torch.no_grad():
        model.discriminator[-1].bias.fill_(shift)
    found = gan_exact.generator_gradients(model, 500, seed=1)
    assert found.difference < 1e-4 * found.minimax
    if shift:
        # D is almost constant, so the minimax gradient is D times the other one, up to sign.
        ratio = found.minimax / found.non_saturating
        assert ratio == pytest.approx(found.mean_d, rel=0.5)
        assert found.mean_d == pytest.approx(1 / (1 + math.exp(-shift)), rel=0.5)


def test_each_player_follows_its_own_loss_alone():
    model = plane(latent=2, hidden=(8,))
    training = GANTraining(model, DATA.sample(200, seeded()), epochs=5, penalty=0.0, seed=2)
    twin = GANTraining(
        plane(latent=2, hidden=(8,)), DATA.sample(200, seeded()), epochs=5, penalty=0.0, seed=2
    )
    real, _ = training._batch()
    training._loss(real, None).backward()
    real, _ = twin._batch()
    fake = twin.model.draw(len(real), twin.generator)
    d_loss = gan.discriminator_loss(twin.model.h(real), twin.model.h(fake))
    g_loss = gan.non_saturating_loss(twin.model.h(fake))
    for part, loss in ((twin.model.discriminator, d_loss), (twin.model.generator, g_loss)):
        expected = torch.autograd.grad(loss, list(part.parameters()), retain_graph=True)
        name = "discriminator" if loss is d_loss else "generator"
        found = [p.grad for p in getattr(model, name).parameters()]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_penalty_estimates_the_slope():
    """Of a linear h it is |w|^2 / 2 on average, whatever the reach."""
    model = plane(latent=2, hidden=())
    points = DATA.sample(4000, seeded())
    with torch.no_grad():
        model.discriminator[-1].weight.copy_(torch.tensor([[3.0, 4.0]]))
    losses = []
    for penalty in (0.0, 2.0):
        training = GANTraining(model, points, epochs=1, batch_size=4000, penalty=penalty, seed=1)
        losses.append(training._loss(*training._batch()).item())
    assert losses[1] - losses[0] == pytest.approx(25, rel=5 * math.sqrt(2 / 1000))


def test_a_dense_pair_moves_to_the_data():
    model = plane(latent=2, hidden=(32, 32))
    far = Mixture(torch.tensor([[2.0, -1.0]]), 0.3)
    training = GANTraining(
        model, far.sample(1000, seeded()), epochs=600, learning_rate=3e-3, ema_decay=0.98
    )
    model = training.run()
    found = model.sample(2000, seed=0)
    assert (found.mean(dim=0) - torch.tensor([2.0, -1.0])).norm() < 0.3
    assert model.losses.shape == (600, 2)


def test_a_discriminator_with_classes_is_the_best_one_of_each():
    """Two classes of data against one generator: D* of class k is p(x|k) / (p(x|k) + p_theta)."""
    model, generator = plane(latent=2, hidden=(48, 48), num_classes=2), seeded(3)
    classes = [Mixture(torch.tensor([[x, 0.0]]), 0.6) for x in (-1.0, 1.0)]
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    labels = torch.arange(2).repeat_interleave(500)
    for _ in range(500):
        real = torch.cat([data.sample(500, generator) for data in classes])
        fake = MODEL.sample(1000, generator)
        optimizer.zero_grad()
        gan.discriminator_loss(model.h(real, labels), model.h(fake, labels)).backward()
        optimizer.step()
        schedule.step()
    x = torch.cat([DATA.sample(2000, generator), MODEL.sample(2000, generator)])
    for k, data in enumerate(classes):
        best = gan_exact.best_discriminator(data.log_density, MODEL.log_density, x)
        with torch.no_grad():
            found = torch.sigmoid(model.h(x, torch.full((len(x),), k)))
        assert (found - best).abs().mean() < 0.02


def test_each_class_is_painted_where_it_lies():
    model = plane(latent=2, hidden=(32, 32), num_classes=2)
    centres = torch.tensor([[2.0, -1.0], [-1.0, 1.0]])
    labels = torch.arange(2).repeat(500)
    points = centres[labels] + 0.3 * torch.randn(1000, 2, generator=seeded())
    options = {"epochs": 600, "learning_rate": 3e-3, "ema_decay": 0.98}
    model = GANTraining(model, points, labels, **options).run()
    for label, centre in enumerate(centres):
        found = model.sample(1000, labels=label, seed=0)
        assert (found.mean(dim=0) - centre).norm() < 0.4
    given = torch.arange(2).repeat(20)
    both = model.sample(40, labels=given, seed=1)
    nearest = torch.cdist(both, centres).argmin(dim=1)
    assert torch.equal(nearest, given)
    assert gan_exact.generator_gradients(model, 100).difference < 1e-4
    share = torch.cdist(model.sample(4000, seed=2), centres).argmin(dim=1).double().mean()
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 4000) + 0.01


def test_labels_that_make_no_sense_are_refused():
    model, points = plane(latent=2, hidden=(8,), num_classes=2), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1"):
        model.sample(3, labels=2)
    with pytest.raises(ValueError, match="needs labels"):
        GANTraining(model, points)
    with pytest.raises(ValueError, match="takes no labels"):
        plane(latent=2, hidden=(8,)).sample(3, labels=1)


def test_the_convolutional_pair_trains_and_comes_back(tmp_path):
    images, labels = mnist.load("validation")
    model = GAN(hidden=(8,), latent=8, num_classes=10, generator=seeded())
    model = GANTraining(model, images[:500], labels[:500], epochs=5, batch_size=16).run()
    samples = model.sample(4, seed=1)
    assert samples.shape == (4, 784)
    assert ((samples >= 0) & (samples <= 1)).all()
    model.save(tmp_path / "gan.pt", dtype=torch.float16)
    back = gan.load(tmp_path / "gan.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor.half().float()), name
    assert (back.sample(4, seed=1) - samples).abs().max() < 0.01
    back.save(tmp_path / "again.pt")
    again = gan.load(tmp_path / "again.pt")
    assert torch.equal(again.sample(4, seed=1), back.sample(4, seed=1))
    vae.VAE(hidden=(4,), generator=seeded()).save(tmp_path / "vae.pt")
    with pytest.raises(WeightsError, match=r"holds diffusion\.images\.VAE"):
        gan.load(tmp_path / "vae.pt")


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    def run() -> GANTraining:
        return GANTraining(plane(latent=2, hidden=(4,)), DATA.sample(60, seeded()), epochs=9)

    whole, first, second = run().run(), run(), run()
    first.advance(4)
    first.save(tmp_path / "state.pt")
    second.resume(tmp_path / "state.pt")
    for name, tensor in second.run().state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    assert whole.losses.shape == (9, 2)


def test_a_run_that_breaks_keeps_the_last_good_weights():
    training = GANTraining(plane(latent=2, hidden=(4,)), DATA.sample(100, seeded()), epochs=3)
    training.epoch()
    with torch.no_grad():
        training.model.generator[0].weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="epoch 2") as caught:
        training.run()
    assert all(parameter.isfinite().all() for parameter in caught.value.model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent": 0}, "latent must be a whole number of at least 1"),
        ({"hidden": (12,)}, "multiple of 8 channels"),
        ({"network": "other"}, "network must be one of"),
        ({"hidden": 32}, "hidden must be several whole numbers"),
        ({"pixels": 2}, "784 pixels"),
    ],
)
def test_models_that_cannot_be_built_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GAN(**arguments)
    with pytest.raises(ValueError, match="n must be"):
        plane().sample(0)
