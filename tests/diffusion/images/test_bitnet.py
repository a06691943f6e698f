"""The network of the bit-flip diffusion: its output, training, samples, files, and bad input."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from diffusion.files import WeightsError, save_weights
from diffusion.images import bitflip, bitflip_exact, bitnet, lattice, mnist
from diffusion.images.bitflip import BitFlip
from diffusion.images.bitflip_exact import Enumerated
from diffusion.images.bitnet import BitNet, BitTraining
from diffusion.images.mnist import NUM_CLASSES, SHAPE

WEIGHTS = Path(__file__).parents[3] / "weights" / "bitflip.pt"


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


def test_samples_of_fewer_steps_visit_stages_up_to_the_last():
    model = network()
    images, path = bitflip.sample(model, 3, steps=6, seed=3, return_trajectory=True)
    assert path.shape == (7, 3, 96)
    assert torch.equal(path[-1], images)
    assert torch.equal(bitflip.sample(model, 3, steps=20, seed=3), bitflip.sample(model, 3, seed=3))


@pytest.mark.parametrize(("stages", "steps"), [(20, 6), (1000, 100), (7, 7), (5, 1), (30, 29)])
def test_visited_stages_fall_to_zero(stages, steps):
    path = bitflip.visited(stages, steps)
    assert (path[0], path[-1], len(path)) == (stages, 0, steps + 1)
    assert all(a > b for a, b in pairwise(path))


def test_a_grown_network_gives_the_same_until_it_is_trained(generator):
    model = network(num_classes=3)
    larger = bitnet.grown(model, BitFlip(0.01, 40), 3, generator)
    assert larger.blocks == 3
    assert larger.process == BitFlip(0.01, 40)
    y, t = images_of(model, 3), torch.tensor([2, 9, 20])
    found = larger.logits(y, 2 * t, torch.tensor([0, 1, 2]))
    expected = model.logits(y, t, torch.tensor([0, 1, 2]))
    evidence = [
        p.evidence(s)[:, None] * y for p, s in ((larger.process, 2 * t), (model.process, t))
    ]
    others, expected = found - evidence[0], expected - evidence[1]
    torch.testing.assert_close(others.float(), expected.float(), rtol=1e-4, atol=1e-4)
    training = BitTraining(larger, y, torch.tensor([0, 1, 2]), epochs=4, batch_size=8)
    before = larger.trunk.more_last[1].second.weight.clone()
    training.epoch()
    assert not torch.equal(before, larger.trunk.more_last[1].second.weight)


def test_growing_needs_a_convolutional_network_that_is_smaller():
    with pytest.raises(ValueError, match="cannot grow to 1"):
        bitnet.grown(network(blocks=2), BitFlip(), 1)
    with pytest.raises(ValueError, match="cannot grow"):
        bitnet.grown(BitNet(BitFlip(), (3, 3)), BitFlip(), 2)


def test_files_from_before_there_were_blocks_are_read(tmp_path):
    model, path = network(num_classes=3), tmp_path / "old.pt"
    config = model.config()
    del config["blocks"]
    save_weights(path, bitnet._KIND, config, model.state_dict())
    y = images_of(model, 2)
    assert torch.equal(bitnet.load(path)(y, 3), model(y, 3))


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


@pytest.mark.parametrize("decay", [0.0, 6.0])
def test_drawn_stages_have_the_probabilities_that_they_come_with(generator, decay):
    process = BitFlip(0.1, 7)
    t, probability = bitflip.draw_stages(process, 200_000, generator, decay)
    weights = [math.exp(-decay * (stage / 7) ** 1.5) / math.sqrt(stage) for stage in range(1, 8)]
    for stage, weight in enumerate(weights, 1):
        p = weight / sum(weights)
        # stratified: closer than independent draws would be
        assert (t == stage).double().mean().item() == pytest.approx(p, abs=1e-5)
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


def test_a_file_of_half_the_size_gives_rounded_numbers_back(tmp_path):
    model = network(num_classes=3)
    bitnet.save(model, tmp_path / "half.pt", dtype=torch.float16)
    again = bitnet.load(tmp_path / "half.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.half().float())
    assert again.dtype == torch.float32


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
    torch.save({k: v for k, v in content.items() if k != "format"}, tmp_path / "old.pt")
    with pytest.raises(WeightsError, match="of an earlier version"):
        bitnet.load(tmp_path / "old.pt")
    other = model.config() | {"width": 16}
    save_weights(tmp_path / "other.pt", "diffusion.BitNet", other, model.state_dict())
    with pytest.raises(WeightsError, match="does not fit the architecture"):
        bitnet.load(tmp_path / "other.pt")


# --- Bad input ----------------------------------------------------------------------------------


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
        (WRONG_SIZE, r"must have shape \(n, 96\)"),
        (torch.ones(2, 12, 8), r"must have shape \(n, 96\)"),
        ([["ink"]], "must be a tensor, an array or lists of numbers"),
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
        (lambda: bitflip.sample(model, 2, steps=0), "steps must be a whole number"),
        (lambda: bitflip.sample(model, 2, steps=21), "steps must be in 1..20"),
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
