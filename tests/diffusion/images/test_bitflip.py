"""Bit-flip diffusion: closed forms against enumeration, the bound, and a known distribution."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from diffusion.files import WeightsError
from diffusion.images import bitflip, bitflip_exact, bitnet, lattice, mnist, muon
from diffusion.images.bitflip import BitFlip
from diffusion.images.bitflip_exact import Enumerated
from diffusion.images.bitnet import BitNet, BitTraining
from diffusion.images.mnist import NUM_CLASSES, SHAPE

N = 200_000
WEIGHTS = Path(__file__).parents[3] / "weights" / "bitflip.pt"


def close_to_share(values: torch.Tensor, p: float) -> None:
    """The share of true values is p, within four standard errors."""
    share = values.double().mean().item()
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / values.numel())


# --- The forward process ------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.01, 0.2, 0.5])
def test_replacement_and_flips_by_recursion(delta):
    process = BitFlip(delta, 60)
    kept, flipped = 1.0, 0.0
    for t in range(61):
        assert process.replaced(t).item() == pytest.approx(1 - kept, abs=1e-12)
        assert process.flipped(t).item() == pytest.approx(flipped, abs=1e-12)
        kept *= 1 - 2 * delta
        flipped = flipped * (1 - delta) + (1 - flipped) * delta


def test_every_pixel_is_replaced_in_the_end():
    replaced = BitFlip(0.02, 500).replaced(torch.arange(501))
    assert (replaced.diff() > 0).all()
    assert replaced[0] == 0
    assert replaced[-1] > 1 - 1e-8


def test_a_stage_flips_with_probability_delta_and_so_does_a_replacement(generator):
    y = torch.ones(N // 10, 10)
    close_to_share(BitFlip(0.1, 5).stage(y, generator) == -1, 0.1)
    fresh = bitflip.coins(y.shape, generator)
    replaced = torch.rand(y.shape, generator=generator) < 2 * 0.1
    close_to_share(torch.where(replaced, fresh, y) == -1, 0.1)


@pytest.mark.parametrize("t", [0, 1, 4, 9])
def test_one_shot_sampling_is_stage_after_stage(generator, t):
    process = BitFlip(0.07, 9)
    y_0 = bitflip.coins((N // 10, 10), generator)
    y_t = y_0
    for _ in range(t):
        y_t = process.stage(y_t, generator)
    p = process.flipped(t).item()
    for y in (y_t, process.forward(y_0, t, generator)):
        assert y.unique().tolist() == [-1, 1]
        close_to_share(y != y_0, p)


def test_each_image_has_its_own_stage(generator):
    process = BitFlip(0.1, 20)
    y_t = process.forward(torch.ones(3, N), torch.tensor([0, 2, 20]), generator)
    for row, t in zip(y_t, (0, 2, 20), strict=True):
        close_to_share(row == -1, process.flipped(t).item())


def paths(process: BitFlip, x: int, t: int):
    """All (Y_0 = x, ..., Y_t) of one pixel with their probabilities."""
    for flips in itertools.product((False, True), repeat=t):
        path = [x]
        for flip in flips:
            path.append(-path[-1] if flip else path[-1])
        yield path, process.delta ** sum(flips) * (1 - process.delta) ** (t - sum(flips))


@pytest.mark.parametrize("delta", [0.03, 0.3, 0.5])
@pytest.mark.parametrize("t", [1, 2, 3, 6])
def test_posterior_against_all_paths(delta, t):
    process = BitFlip(delta, 6)
    for x, y in itertools.product((-1, 1), repeat=2):
        ends = [(path[t - 1], p) for path, p in paths(process, x, t) if path[t] == y]
        truth = sum(p for value, p in ends if value == 1) / sum(p for _, p in ends)
        pixel = torch.tensor([[1.0]], dtype=torch.float64)
        assert process.posterior(y * pixel, x * pixel, t).item() == pytest.approx(truth, abs=1e-12)


def test_evidence_is_the_log_odds_of_a_pixel_between_two_coins():
    process = BitFlip(0.05, 30)
    for t in (1, 7, 30):
        p = process.flipped(t).item()
        assert process.evidence(t).item() == pytest.approx(math.log((1 - p) / p), rel=1e-9)


# --- The loss -----------------------------------------------------------------------------------


@pytest.fixture
def pixels(generator):
    y_0, y_t = (bitflip.coins((5, 7), generator, torch.float64) for _ in range(2))
    return torch.randn(5, 7, generator=generator, dtype=torch.float64), y_0, y_t


def test_the_reverse_stage_averages_the_posterior_over_the_start(pixels):
    logits, _, y_t = pixels
    process, p = BitFlip(0.1, 8), torch.sigmoid(logits)
    one = torch.ones_like(y_t)
    expected = p * process.posterior(y_t, one, 5) + (1 - p) * process.posterior(y_t, -one, 5)
    torch.testing.assert_close(process.reverse_probability(logits, y_t, 5), expected)


@pytest.mark.parametrize("t", [2, 5, 8])
def test_kl_is_that_of_the_two_coins(pixels, t):
    logits, y_0, y_t = pixels
    process = BitFlip(0.1, 8)
    p, q = process.posterior(y_t, y_0, t), process.reverse_probability(logits, y_t, t)
    coin = torch.distributions.Bernoulli
    expected = torch.distributions.kl_divergence(coin(p), coin(q)).sum(dim=1)
    torch.testing.assert_close(process.kl(logits, y_0, y_t, t), expected, rtol=1e-9, atol=1e-12)


def test_at_stage_1_the_target_is_certain_and_the_loss_is_minus_log_q(pixels):
    logits, y_0, y_t = pixels
    process = BitFlip(0.1, 8)
    target = process.posterior(y_t, y_0, 1)
    torch.testing.assert_close(target, (y_0 + 1) / 2)
    q = process.reverse_probability(logits, y_t, 1)
    log_q = torch.where(y_0 > 0, q, 1 - q).log().sum(dim=1)
    torch.testing.assert_close(process.kl(logits, y_0, y_t, 1), -log_q)


@pytest.mark.parametrize("t", [1, 2, 200])
def test_loss_and_gradient_stay_finite_for_a_network_that_is_sure(t):
    process = BitFlip()
    y_0, y_t = torch.tensor([[1.0, -1.0, 1.0, -1.0]]), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    logits = torch.tensor([[80.0, 80.0, -80.0, -80.0]], requires_grad=True)
    loss = process.kl(logits, y_0, y_t, t).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_kl_in_single_precision_agrees_with_double(pixels):
    logits, y_0, y_t = pixels
    process, t = BitFlip(0.001, 300), torch.tensor([1, 2, 3, 50, 300])
    double = process.kl(8 * logits, y_0, y_t, t)
    single = process.kl(8 * logits.float(), y_0.float(), y_t.float(), t)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("delta", "stages"), [(0.02, 5), (0.3, 2), (0.5, 1)])
def test_prior_kl_is_that_of_a_coin_from_a_fair_one_in_nats(delta, stages):
    process, coin = BitFlip(delta, stages), torch.distributions.Bernoulli
    p, half = process.flipped(stages), torch.tensor(0.5, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(coin(p), coin(half)).item()
    assert process.prior_kl() == pytest.approx(expected, rel=1e-9, abs=1e-15)


# --- Truth by enumeration -----------------------------------------------------------------------


def tv(p: torch.Tensor, q: torch.Tensor) -> float:
    return 0.5 * (p - q).abs().sum().item()


def test_ideal_network_is_bayes_over_all_images(generator):
    process, images, p = (
        BitFlip(0.1, 8),
        bitflip_exact.all_images(4),
        torch.rand(16, generator=generator),
    )
    p = p.double() / p.sum()
    ideal = Enumerated(process, images, p)
    flip = process.flipped(5).item()
    for y in images:
        different = (y != images).sum(dim=1)
        weight = p * flip**different * (1 - flip) ** (4 - different)
        on = (weight[:, None] * (images > 0)).sum(dim=0) / weight.sum()
        torch.testing.assert_close(torch.sigmoid(ideal.logits(y[None], 5))[0], on)


def test_distribution_of_one_pixel_is_exact():
    p = torch.tensor([0.2, 0.8], dtype=torch.float64)
    ideal = Enumerated(BitFlip(0.05, 100), bitflip_exact.all_images(1), p)
    torch.testing.assert_close(bitflip_exact.distribution(ideal), p, rtol=0, atol=1e-5)


def test_distribution_is_that_of_the_samples():
    ideal = Enumerated(BitFlip(0.1, 12), bitflip_exact.all_images(3), torch.arange(1, 9) / 36)
    exact = bitflip_exact.distribution(ideal)
    samples = bitflip.sample(ideal, 40_000, seed=0)
    number = ((samples > 0).long() * torch.tensor([4, 2, 1])).sum(dim=1)
    share = torch.bincount(number, minlength=8) / len(samples)
    assert ((share - exact).abs() < 4 * (exact * (1 - exact) / len(samples)).sqrt()).all()


def test_more_stages_bring_the_ideal_network_nearer_to_the_truth():
    p, errors = lattice.probabilities(), []
    for stages in (25, 50, 100, 200):
        process = BitFlip(2 / stages, stages)
        errors.append(
            tv(bitflip_exact.distribution(Enumerated(process, bitflip_exact.all_images(9), p)), p)
        )
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.015


def test_learnt_probabilities_of_3_by_3_images_are_the_true_ones():
    p = lattice.probabilities()
    learnt = bitflip_exact.distribution(lattice.learn(p))
    assert learnt.sum().item() == pytest.approx(1, abs=1e-9)
    assert tv(learnt, p) < 0.03
    assert tv(lattice.independent_probabilities(p), p) > 0.5


# --- The bound ----------------------------------------------------------------------------------


def test_bound_lies_above_the_exact_code_length_by_little():
    p, process, images = lattice.probabilities(), BitFlip(0.02, 100), bitflip_exact.all_images(9)
    ideal = Enumerated(process, images, p)
    exact = -bitflip_exact.distribution(ideal).log2() / 9
    bound = bitflip.bound(ideal, images, noise_samples=4)
    error = ((p * bound.error) ** 2).sum().sqrt().item()
    gap = (p @ (bound.total - exact)).item()
    assert -4 * error < gap < 0.02 + 4 * error
    one = bitflip.bound(ideal, images[255:256].repeat(400, 1))
    assert one.total.mean() > exact[255] - 4 * one.total.std() / 20


def test_bound_against_all_paths_of_one_pixel():
    """E over paths of log2 q(Y_1..Y_T | Y_0) / p(Y_0..Y_T), summed over all 2^T paths."""
    process, x = BitFlip(0.2, 5), torch.ones(1, 1, dtype=torch.float64)
    ideal = Enumerated(process, bitflip_exact.all_images(1), torch.tensor([0.3, 0.7]))
    expected = 0.0
    for path, p in paths(process, 1, 5):
        model = 0.5
        for t in range(5, 0, -1):
            y_t = path[t] * x
            q = process.reverse_probability(ideal.logits(y_t, t), y_t, t).item()
            model *= q if path[t - 1] == 1 else 1 - q
        expected += p * math.log2(p / model)
    bound = bitflip.bound(ideal, x.repeat(40_000, 1))
    assert abs(bound.total.mean().item() - expected) < 4 * bound.error.norm().item() / 40_000
    total = bound.prior + bound.stages.sum(dim=1)
    torch.testing.assert_close(total, bound.total)


def test_stated_error_is_the_spread_of_repetitions():
    ideal = Enumerated(BitFlip(0.05, 20), bitflip_exact.all_images(4), torch.arange(1, 17) / 136)
    bound = bitflip.bound(ideal, ideal.images[:1].repeat(1000, 1), noise_samples=10)
    stated = bound.error.square().mean().sqrt().item()
    # A deviation of 1000 values is known to 1 / sqrt(2000) of itself, for normal ones.
    assert bound.total.std().item() == pytest.approx(stated, rel=6 / math.sqrt(2000))


# --- The network --------------------------------------------------------------------------------


def network(**options) -> BitNet:
    generator = torch.Generator().manual_seed(0)
    model = BitNet(BitFlip(0.02, 20), (12, 8), width=8, generator=generator, **options)
    torch.nn.init.normal_(model.trunk.output_layer.weight, generator=generator)
    return model


def images_of(model: BitNet, n: int) -> torch.Tensor:
    return bitflip.coins((n, model.pixels), torch.Generator().manual_seed(1))


def test_untrained_network_trusts_each_pixel_alone():
    model = BitNet(BitFlip(0.02, 20), (12, 8), width=8)
    y = images_of(model, 3)
    p = model.process.flipped(7).item()
    torch.testing.assert_close(model(y, 7), torch.where(y > 0, 1 - p, p))


def test_one_stage_for_all_and_each_its_own():
    model = network(num_classes=3)
    y, t = images_of(model, 4), torch.tensor([1, 5, 5, 20])
    together = model(y, t, torch.tensor([0, 1, 2, 0]))
    for i, label in enumerate((0, 1, 2, 0)):
        alone = model(y[i : i + 1], int(t[i]), label)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)
    assert not torch.isclose(model(y, 5, 0), model(y, 5, 1)).all()
    assert not torch.isclose(model(y, 5), model(y, 5, 1)).all()


def test_samples_depend_on_the_seed_alone():
    model = network(num_classes=3)
    before = torch.get_rng_state()
    images, path = bitflip.sample(model, 4, labels=1, seed=3, return_trajectory=True)
    assert torch.equal(before, torch.get_rng_state())
    assert path.shape == (21, 4, 96)
    assert path.abs().eq(1).all()
    assert torch.equal(path[-1], images)
    assert torch.equal(images, bitflip.sample(model, 4, labels=torch.ones(4).long(), seed=3))
    assert not torch.equal(images, bitflip.sample(model, 4, labels=1, seed=4))
    assert not torch.equal(*[bitflip.sample(model, 4) for _ in range(2)])


def test_loss_of_training_is_the_bound():
    model = network()
    images = images_of(model, 6)
    training = BitTraining(model, images, batch_size=2000, learning_rate=1e-9)
    with torch.no_grad():
        losses = torch.tensor([training._loss(*training._batch()).item() for _ in range(10)])
    bound = bitflip.bound(model, images.repeat(100, 1))
    expected = (bound.total.mean() - bound.prior).item()
    error = math.hypot(losses.std().item() / math.sqrt(10), bound.error.norm().item() / 600)
    assert abs(losses.mean().item() - expected) < 4 * error


def test_resumed_training_gives_the_same_bits(tmp_path):
    def training(**options):
        model = network(num_classes=3)
        labels = torch.arange(30) % 3
        return BitTraining(model, images_of(model, 30), labels, epochs=6, **options)

    straight = training().run()
    halted = training()
    for _ in range(3):
        halted.epoch()
    halted.save(tmp_path / "state.pt")
    resumed = training()
    resumed.resume(tmp_path / "state.pt")
    for name, tensor in resumed.run().state_dict().items():
        assert torch.equal(tensor, straight.state_dict()[name])
    with pytest.raises(WeightsError, match="other settings"):
        training(batch_size=32).resume(tmp_path / "state.pt")


def test_bound_of_images_in_several_batches_is_that_of_each_alone(monkeypatch):
    def forward(process, y_0, t, generator):
        return torch.where(torch.arange(y_0.shape[1]) % 20 == t - 1, -y_0, y_0)

    monkeypatch.setattr(BitFlip, "forward", forward)
    monkeypatch.setattr(bitflip, "_ROWS", 3)
    model = network(num_classes=3)
    images, labels = images_of(model, 8), torch.tensor([0, 2, 1, 1, 0, 2, 2, 0])
    together = bitflip.bound(model, images, labels)
    for i, label in enumerate(labels.tolist()):
        alone = bitflip.bound(model, images[i : i + 1], label)
        torch.testing.assert_close(alone.stages[0], together.stages[i], rtol=1e-4, atol=1e-6)
        other = bitflip.bound(model, images[i : i + 1], (label + 1) % 3)
        assert not torch.allclose(other.stages[0], together.stages[i], rtol=1e-3, atol=1e-5)


def test_bound_at_drawn_stages_estimates_the_sum_over_all_of_them(generator):
    truth = lattice.probabilities()
    ideal = Enumerated(BitFlip(0.02, 60), bitflip_exact.all_images(9), truth)
    images = ideal.images[torch.multinomial(truth, 2000, replacement=True, generator=generator)]
    exact = bitflip.bound(ideal, images).total * 9 * math.log(2)
    found = bitflip.class_bounds(ideal, images, samples=4, seed=1)[:, 0]
    difference = found - exact
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(images))


def test_drawn_stages_have_the_probabilities_that_they_come_with(generator):
    process = BitFlip(0.1, 7)
    t, probability = bitflip.draw_stages(process, N, generator)
    for stage in range(1, 8):
        p = math.sqrt(stage / 7) - math.sqrt((stage - 1) / 7)
        # stratified: closer than independent draws would be
        assert (t == stage).double().mean().item() == pytest.approx(p, abs=2 / N)
        assert (probability[t == stage] - p).abs().max() < 1e-12


def test_classes_are_told_apart_by_the_same_draws():
    model = network(num_classes=3)
    images = images_of(model, 4)
    together = bitflip.class_bounds(model, images, (0, 2, None), samples=3, seed=5)
    for column, given in enumerate((0, 2, None)):
        alone = bitflip.class_bounds(model, images, (given,), samples=3, seed=5)
        assert torch.equal(alone[:, 0], together[:, column])


def test_grey_images_are_drawn_afresh_for_every_batch(generator):
    greys = torch.full((4, 96), 128, dtype=torch.uint8)
    model = network()
    training = BitTraining(model, greys, epochs=2, batch_size=4)
    assert training.epoch() > 0
    assert set(map(type, training.losses)) == {float}
    with pytest.raises(ValueError, match="must have shape"):
        BitTraining(model, greys[:, :95], epochs=2)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (5, 5)])
def test_muon_steps_along_matrices_of_equal_singular_values(shape, generator):
    matrix = torch.randn(shape, generator=generator) @ torch.diag(torch.logspace(0, -2, shape[1]))
    found = muon.orthogonalised(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diagonal(u.T @ found @ v.T)
    assert values.min() > 0.1
    assert values.max() < 1.3


def test_muon_minimises_and_leaves_the_rest_to_adam():
    target = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    kernel = torch.zeros(8, 4, 3, 3, requires_grad=True)
    bias, twin = torch.zeros(8, requires_grad=True), torch.zeros(8, requires_grad=True)
    optimizer = muon.Muon([kernel], [bias], lr=0.01)
    adam = torch.optim.Adam([twin], lr=0.01, betas=(0.9, 0.99), fused=True)
    for _ in range(200):
        optimizer.zero_grad()
        adam.zero_grad()
        ((kernel - target).square().sum() + (bias - 1).square().sum()).backward()
        (twin - 1).square().sum().backward()
        optimizer.step()
        adam.step()
    assert torch.equal(bias, twin)
    assert (kernel - target).square().mean() < 0.05 * target.square().mean()


def test_samples_given_a_label_are_of_that_class(generator):
    images = bitflip.coins((3, 9), generator)  # one for each class
    model = BitNet(BitFlip(0.05, 40), (3, 3), num_classes=3, width=32, generator=generator)
    options = {"epochs": 200, "learning_rate": 1e-2, "ema_decay": 0.97}
    trained = BitTraining(model, images, torch.arange(3), **options).run()
    labels = torch.arange(3).repeat_interleave(200)
    samples = bitflip.sample(trained, len(labels), labels=labels, seed=0)
    assert (samples == images[labels]).all(dim=1).double().mean() > 0.95
    samples = bitflip.sample(trained, 600, seed=0)
    share = (samples[:, None] == images).all(dim=2).double().mean(dim=0)
    assert share.min() > 0.2


def test_committed_network_knows_digits_that_it_was_not_trained_on():
    assert WEIGHTS.stat().st_size < 4_000_000
    model = bitnet.load(WEIGHTS)
    assert model.shape == SHAPE
    assert model.num_classes == NUM_CLASSES
    images, labels = (part[:60] for part in mnist.load("validation"))
    images = 2 * mnist.binarise(images, seed=0) - 1
    without = bitflip.class_bounds(model, images, samples=8)[:, 0]
    bounds = bitflip.class_bounds(model, images, range(NUM_CLASSES), samples=8)
    assert bounds.gather(1, labels[:, None]).mean() < without.mean() < 90
    assert (bounds.argmin(dim=1) == labels).double().mean() > 0.7  # chance is 0.1


def test_saved_network_comes_back(tmp_path):
    model = network(num_classes=3)
    bitnet.save(model, tmp_path / "model.pt")
    again = bitnet.load(tmp_path / "model.pt")
    y = images_of(model, 2)
    assert torch.equal(again(y, 4, 1), model(y, 4, 1))
    assert again.process == model.process
    assert not again.training


def test_other_files_are_refused(tmp_path, denoiser):
    import diffusion

    diffusion.save(denoiser, tmp_path / "denoiser.pt")
    with pytest.raises(WeightsError, match=r"holds diffusion\.Denoiser"):
        bitnet.load(tmp_path / "denoiser.pt")
    with pytest.raises(WeightsError, match="no weights file"):
        bitnet.load(tmp_path / "absent.pt")
    model = network()
    bitnet.save(model, tmp_path / "altered.pt")
    content = torch.load(tmp_path / "altered.pt", weights_only=True)
    content["state"]["trunk.output_layer.bias"] += 1
    torch.save(content, tmp_path / "altered.pt")
    with pytest.raises(WeightsError, match="altered"):
        bitnet.load(tmp_path / "altered.pt")
    model.width = 16
    bitnet.save(model, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="does not fit the architecture"):
        bitnet.load(tmp_path / "other.pt")


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0, -0.1, 0.51, 1, math.nan, math.inf, "a", None])
def test_delta_outside_0_to_a_half_is_refused(delta):
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1/2\]"):
        BitFlip(delta, 10)


@pytest.mark.parametrize("stages", [0, -1, 1.5, True])
def test_stages_are_whole_and_positive(stages):
    with pytest.raises(ValueError, match="stages must be a whole number"):
        BitFlip(0.1, stages)


@pytest.mark.parametrize(
    "t", [0, 21, -1, 1.0, True, torch.tensor([1, 21]), torch.ones(1, 1).long()]
)
def test_stages_out_of_range_are_refused(t):
    model = network()
    y = images_of(model, 2)
    for use in (lambda: model.process.posterior(y, y, t), lambda: model(y, t)):
        with pytest.raises(ValueError, match="t must be"):
            use()


@pytest.mark.parametrize("t", [torch.tensor([1, 2, 3]), torch.tensor([1])])
def test_another_number_of_stages_than_of_images_is_refused(t, generator):
    model = network()
    process, y = model.process, images_of(model, 2)
    for use in (
        lambda: model(y, t),
        lambda: process.forward(y, t, generator),
        lambda: process.posterior(y, y, t),
        lambda: process.reverse_probability(torch.zeros(2, 96), y, t),
        lambda: process.kl(torch.zeros(2, 96), y, y, t),
        lambda: Enumerated(process, y).logits(y.double(), t),
    ):
        with pytest.raises(ValueError, match="one stage or 2"):
            use()


WRONG_SIZE = torch.ones(2, 95)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 96), r"-1 and \+1 only"),
        (torch.full((2, 96), torch.nan), r"-1 and \+1 only"),
        (torch.full((2, 96), 0.5), r"-1 and \+1 only"),
        (torch.ones(2, 96, dtype=torch.int64), "floating-point"),
        (WRONG_SIZE, r"must have shape \(n, 96\)"),
        (torch.ones(2, 12, 8), r"must have shape \(n, 96\)"),
        ([[1.0]], "must be a tensor"),
    ],
)
def test_other_images_are_refused(images, message, generator):
    model = network()
    process, y, logits = model.process, images_of(model, 2), torch.zeros(2, 96)
    for use in (
        lambda: model(images, 1),
        lambda: bitflip.bound(model, images),
        lambda: BitTraining(model, images),
        lambda: process.posterior(y, images, 1),
        lambda: process.reverse_probability(logits, images, 1),
        lambda: process.kl(logits, y, images, 1),
        lambda: Enumerated(process, y).logits(images, 1),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    if images is not WRONG_SIZE:
        for use in (
            lambda: process.stage(images, generator),
            lambda: process.forward(images, 1, generator),
            lambda: process.posterior(images, y, 1),
        ):
            with pytest.raises(ValueError, match=message.replace("96", "m")):
                use()


@pytest.mark.parametrize(
    ("shape", "width"), [((28, 27), 8), ((10, 10), 8), ((28, 28), 12), ((0, 4), 8), ((3, 3), 0)]
)
def test_sizes_that_no_network_is_built_for_are_refused(shape, width):
    with pytest.raises(ValueError, match=r"multiples of|whole number"):
        BitNet(BitFlip(), shape, width=width)


@pytest.mark.parametrize("labels", [3, -1, torch.zeros(3, dtype=torch.int64), 0.5])
def test_bad_labels_are_refused(labels):
    model = network(num_classes=3)
    with pytest.raises(ValueError, match="labels"):
        bitflip.sample(model, 2, labels=labels)
    with pytest.raises(ValueError, match="labels"):
        bitflip.bound(model, images_of(model, 2), labels)


def test_bad_options_are_refused():
    model = network()
    for use, message in (
        (lambda: bitflip.sample(model, 0), "n must be a whole number"),
        (lambda: bitflip.sample(model, 2, labels=0), "no labels"),
        (
            lambda: bitflip.bound(model, images_of(model, 2), noise_samples=1),
            "noise_samples must be a whole",
        ),
        (
            lambda: bitflip.bound(model, images_of(model, 2), noise_samples=2.5),
            "noise_samples must be a whole",
        ),
        (lambda: BitTraining(model, images_of(model, 2), unlabelled=1.5), "unlabelled must be"),
        (lambda: BitTraining(model, images_of(model, 2), batch_size=0), "batch_size must be"),
        (lambda: Enumerated(BitFlip(), images_of(model, 2), torch.ones(3)), "2 probabilities"),
        (lambda: Enumerated(BitFlip(), images_of(model, 2)).check_labels(1, 2), "no labels"),
        (lambda: bitflip_exact.all_images(13), "at most 12 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            use()
