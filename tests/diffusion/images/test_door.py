"""What users hand to the models of images: other types, wrapped models, any mode of the caller."""

from __future__ import annotations

import importlib
import pkgutil
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import diffusion.images
from diffusion.images import bitflip, bitnet, mnist
from diffusion.images.bitflip import BitFlip
from diffusion.images.bitnet import BitNet, BitTraining
from diffusion.images.classifier import Classifier, ClassifierTraining, evaluate
from diffusion.images.gan import GAN, GANTraining
from diffusion.images.model import ImageModel
from diffusion.images.vae import VAE, VAETraining

for found in pkgutil.iter_modules(diffusion.images.__path__, "diffusion.images."):
    importlib.import_module(found.name)

GENERATOR = torch.Generator().manual_seed(0)
GREY = torch.randint(256, (12, 784), generator=GENERATOR, dtype=torch.uint8)
LABELS = torch.arange(12) % 10
BITS = mnist.binarise(GREY, seed=0)
FEW = BITS[:, :9]


def small_bitnet():
    return BitNet(BitFlip(0.1, 5), (3, 3), num_classes=10, width=8)


MODELS = {
    "vae": (partial(VAE, pixels=9, latent=2, hidden=(8,)), VAETraining, FEW, None),
    "conv vae": (partial(VAE, latent=2, hidden=(8,), network="convolutional"), VAETraining, GREY,
                 None),
    "gan": (partial(GAN, pixels=9, latent=2, hidden=(8,), network="dense"), GANTraining, FEW, None),
    "conv gan": (partial(GAN, latent=2, hidden=(8,)), GANTraining, GREY, None),
    "classifier": (partial(Classifier, width=8), ClassifierTraining, GREY, LABELS),
    "bitnet": (small_bitnet, BitTraining, 2 * FEW - 1, LABELS),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)


def trained(name, wrap=lambda model: model, form=lambda values: values):
    make, training, images, labels = MODELS[name]
    labels = None if labels is None else form(labels)
    options = {} if labels is None else {"labels": labels}
    run = training(wrap(make()), form(images), epochs=2, batch_size=4, seed=1, **options)
    return run.run()


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def save(model, path):
    bitnet.save(model, path) if isinstance(model, BitNet) else model.save(path)


def load(model, path):
    return bitnet.load(path) if isinstance(model, BitNet) else type(model).load(path)


def test_every_model_of_images_is_tried_here():
    tried = {type(make()) for make, *_ in MODELS.values()}
    assert set(ImageModel.__subclasses__()) <= tried


@every_model
def test_building_and_loading_move_no_global_random_state(name, tmp_path):
    make = MODELS[name][0]
    before = torch.get_rng_state()
    model = make()
    save(model, tmp_path / "model.pt")
    again = load(model, tmp_path / "model.pt")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    assert same(make(), model)
    assert same(again, model)


@every_model
def test_the_callers_modes_change_nothing(name):
    expected = trained(name)
    torch.set_default_dtype(torch.float64)
    try:
        found = trained(name)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(found, expected)
    with torch.no_grad():
        assert same(trained(name), expected)
    with torch.inference_mode():
        assert same(trained(name), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(trained(name), expected)


def test_a_network_lowers_its_own_precision_alike_under_the_callers_autocast():
    def lowered():
        model = small_bitnet()
        model.precision = torch.bfloat16
        return BitTraining(model, 2 * FEW - 1, LABELS, epochs=3, batch_size=4, seed=1).run()

    expected = lowered()
    assert not same(trained("bitnet"), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(lowered(), expected)


@pytest.mark.parametrize("name", ["vae", "gan", "bitnet"])
def test_samples_are_the_same_under_the_callers_autocast(name):
    model = MODELS[name][0]()

    def draw():
        if name == "bitnet":
            return bitflip.sample(model, 20, labels=3, seed=0)
        return model.sample(20, seed=0)

    expected = draw()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(draw(), expected)


@every_model
@pytest.mark.parametrize("form", [np.asarray, lambda v: v.tolist(), lambda v: v.requires_grad_()])
def test_every_form_of_the_same_images_gives_the_same_model(name, form):
    images = MODELS[name][2]
    if images.dtype == torch.uint8:
        form = np.asarray  # a list says nothing of its type, and whole numbers have no gradient

    def formed(values):
        return form(values.clone()) if values.is_floating_point() else np.asarray(values)

    assert same(trained(name, form=formed), trained(name))


WRAPPINGS = {
    "compiled": partial(torch.compile, backend="eager"),
    "data parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
}


@every_model
@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_wrapped_model_is_trained_as_itself(name, wrap, tmp_path):
    found, expected = trained(name, wrap=wrap), trained(name)
    assert same(found, expected)
    save(found, tmp_path / "model.pt")
    assert same(load(found, tmp_path / "model.pt"), expected)


def extended(model):
    model.register_buffer("mine", torch.zeros(3))


def parametrised(model):
    layer = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
    nn.utils.parametrizations.weight_norm(layer)


@every_model
@pytest.mark.parametrize("change", [extended, parametrised])
def test_a_changed_model_is_refused_before_training_and_at_writing(name, change, tmp_path):
    make, training, images, labels = MODELS[name]
    model = make()
    change(model)
    complaint = "no weights file can hold this model"
    with pytest.raises(ValueError, match=complaint):
        training(model, images, **({} if labels is None else {"labels": labels}))
    with pytest.raises(ValueError, match=complaint):
        save(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_numpys_numbers_are_numbers(tmp_path):
    i, f = np.int64, np.float32
    for model in (
        VAE(pixels=i(9), latent=i(2), hidden=(i(8),)),
        GAN(pixels=i(9), latent=i(2), hidden=[i(8)], network="dense"),
        Classifier(width=i(8)),
        BitNet(BitFlip(f(0.125), i(5)), (i(3), i(3)), num_classes=i(10), width=i(8)),
    ):
        save(model, tmp_path / "model.pt")
        assert same(load(model, tmp_path / "model.pt"), model)
        if hasattr(model, "sample"):
            assert torch.equal(model.sample(i(3), seed=i(1)), model.sample(3, seed=1))
    assert torch.equal(mnist.binarise(GREY.numpy(), seed=i(3)), mnist.binarise(GREY, seed=3))
    bits = bitflip.sample(model, i(3), labels=i(2), seed=i(1))
    assert torch.equal(bits, bitflip.sample(model, 3, labels=2, seed=1))


FORMS = {
    "numpy": lambda x: x.numpy(),
    "float64": lambda x: x.double(),
    "long double": lambda x: x.numpy().astype(np.longdouble),
    "whole numbers": lambda x: x.to(torch.int8),
    "lists": lambda x: x.tolist(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_same_images_gives_the_same_answers(form):
    vae, net, judge = VAE(pixels=9, latent=2, hidden=(8,)), small_bitnet(), Classifier(width=8)
    for ask, x in (
        (lambda x: torch.stack(list(vae.negative_elbo_bound(x, seed=0))), FEW),
        (lambda x: vae.log_likelihood(x, samples=5, seed=0), FEW),
        (lambda x: bitflip.bound(net, x, seed=0).total, 2 * FEW - 1),
        (lambda x: bitflip.class_bounds(net, x, [1], seed=0), 2 * FEW - 1),
        (lambda x: net(x, 2), 2 * FEW - 1),
        (lambda x: torch.cat(evaluate(judge, x), dim=1), BITS),
        (lambda x: torch.cat(judge(x), dim=1), BITS),
    ):
        with torch.no_grad():
            torch.testing.assert_close(ask(form(x)), ask(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types_sample_in_them(dtype):
    vae, gan = VAE(pixels=9, hidden=(8,)), GAN(pixels=9, hidden=(8,), network="dense")
    for model in (vae, gan):
        expected = model.sample(5, seed=0)
        found = model.to(dtype).sample(5, seed=0)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
