"""--study vae: variational autoencoders of MNIST, and two of them whose log p(x) is known.

The models are the homework sheet's network, one or several runs of it, and a convolutional one:
loaded from weights/vae.pt and weights/vae_conv.pt, or trained.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from diffusion.cli import Answer, Run, Study, option
from diffusion.figures import families as figures
from diffusion.figures import images as sheets
from diffusion.images import mnist, vae, vae_exact
from diffusion.images.vae import VAE, VAETraining, sample_gaussian
from diffusion.studies.parts import recipe

CONV = {"network": "convolutional", "latent": 32, "hidden": (16,)}
SAMPLES = (1, 50, 5000)  # samples of the importance-weighted bounds
LATTICE_UPDATES, LINEAR_UPDATES = 1500, 2500

OPTIONS = (
    option(
        "--weights",
        "load the sheet's network instead of training it, from one file for every run; the "
        "shipped one is weights/vae.pt",
        type=Path,
        metavar="PATH",
        nargs="+",
    ),
    option(
        "--conv-weights",
        "load the convolutional network instead of training it; the shipped one is "
        "weights/vae_conv.pt",
        type=Path,
        metavar="PATH",
    ),
    option("--runs", "training runs of the sheet's network", within=(1, 100), type=int, default=5),
    option(
        "--epochs", "batches of 100 in a run of it", within=(1, 1_000_000), type=int, default=10_000
    ),
    option(
        "--conv-epochs",
        "batches of 100 for the convolutional one",
        within=(1, 1_000_000),
        type=int,
        default=6_000,
    ),
    recipe.SEED,
    option(
        "--samples",
        "test images for the importance-weighted bounds",
        within=(2, 10_000),
        type=int,
        metavar="N",
        default=40,
    ),
)


def load(args: argparse.Namespace) -> dict[str, VAE | None]:
    mnist.check()
    given = args.weights or [None] * args.runs
    models = {f"vae_{k}": path and load_kind(path, "dense") for k, path in enumerate(given)}
    return models | {
        "vae_conv": args.conv_weights and load_kind(args.conv_weights, "convolutional")
    }


def load_kind(path: Path, network: str) -> VAE:
    """A trained VAE of MNIST with that network from a file.

    Raises:
        ValueError: the file holds something else.
    """
    model = vae.load(path)
    if model.network != network or model.pixels != mnist.PIXELS:
        raise ValueError(
            f"{path} is a {model.network} network of {model.pixels} pixels, but a {network} one of "
            f"{mnist.PIXELS} is needed here"
        )
    recipe.check_trained(model, path)
    return model


def train(run: Run, name: str) -> VAE:
    args = run.args
    if name == "vae_conv":
        training = conv_training(args.conv_epochs, args.seed)
    else:
        training = sheet_training(args.epochs, args.seed + int(name.removeprefix("vae_")))
    return recipe.run_and_save(training, VAE.save, run.file(name))


def sheet_training(epochs: int, seed: int) -> VAETraining:
    """The sheet's network and batches, with another optimiser; see `VAETraining`."""
    images, _ = mnist.load("train")
    model = VAE(generator=torch.Generator().manual_seed(seed))
    return VAETraining(model, images, epochs=epochs, learning_rate=4e-3, seed=seed)


def conv_training(epochs: int, seed: int) -> VAETraining:
    images, _ = mnist.load("train")
    model = VAE(**CONV, generator=torch.Generator().manual_seed(seed))
    return VAETraining(model, images, epochs=epochs, learning_rate=2e-3, seed=seed)


def _sheets(run: Run) -> list[VAE]:
    return [model for name, model in run.models.items() if name != "vae_conv"]


def test_images(run: Run) -> Tensor:
    """The fixed draw of the test images that nats are measured on."""
    return mnist.binarise(mnist.load("test")[0], seed=0)


# --- Questions ----------------------------------------------------------------------------------


def a_sample_gaussian(run: Run) -> Answer:
    """H10.2a: draws by reparameterisation have the mean and variance asked for."""
    n, generator = 100_000, torch.Generator().manual_seed(run.args.seed)
    m, v = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.25, 1.0, 4.0])
    z = sample_gaussian(m.expand(n, 3), v.expand(n, 3), generator)
    mean_z = ((z.mean(dim=0) - m) / (v / n).sqrt()).abs().max().item()
    variance_z = ((z.var(dim=0) / v - 1) / math.sqrt(2 / n)).abs().max().item()
    return Answer(
        {
            "draws": n,
            "largest_deviation_of_a_mean_in_standard_errors": mean_z,
            "largest_deviation_of_a_variance_in_standard_errors": variance_z,
        }
    )


def b_bound(run: Run) -> Answer:
    """H10.2b and c: the negative ELBO on the test images and its parts, over the runs."""
    x = run.once(test_images)
    found = torch.tensor(
        [model.negative_elbo_bound(x, seed=run.args.seed) for model in _sheets(run)],
        dtype=torch.float64,
    )
    numbers = {"runs": len(found), "images": len(x), "each_run": found[:, 0].tolist()}
    for name, values in zip(("negative_elbo", "kl", "reconstruction"), found.T, strict=True):
        numbers[name] = {"mean": values.mean().item()}
        if len(found) > 1:
            numbers[name]["standard_error"] = (values.std() / math.sqrt(len(found))).item()
    conv = run.models["vae_conv"].negative_elbo_bound(x, seed=run.args.seed)
    numbers["convolutional"] = dict(
        zip(("negative_elbo", "kl", "reconstruction"), map(Tensor.item, conv), strict=True)
    )
    numbers["parameters"] = {
        "sheet": _sheets(run)[0].parameter_count,
        "convolutional": run.models["vae_conv"].parameter_count,
    }
    losses = {
        "sheet's network": _sheets(run)[0].losses,
        "convolutional": run.models["vae_conv"].losses,
    }
    return Answer(numbers, {"b_loss": figures.losses(losses, "loss, nats per image")})


def c_importance(run: Run) -> Answer:
    """What the ELBO leaves out: importance-weighted bounds on some of the test images."""
    x = run.once(test_images)[: run.args.samples]
    curves, numbers = {}, {"images": len(x)}
    models = {"sheet's network": _sheets(run)[0], "convolutional": run.models["vae_conv"]}
    for name, model in models.items():
        bounds = [-model.log_likelihood(x, samples=k, seed=run.args.seed) for k in SAMPLES]
        curves[name] = [value.mean().item() for value in bounds]
        numbers[name] = {
            "nats": dict(zip(map(str, SAMPLES), curves[name], strict=True)),
            "standard_error_over_images": (bounds[-1].std() / math.sqrt(len(x))).item(),
            "elbo_minus_last": (bounds[0] - bounds[-1]).mean().item(),
        }
    figure = figures.importance(SAMPLES, curves, len(x))
    return Answer(numbers, {"c_importance": figure})


def d_samples(run: Run) -> Answer:
    """H10.2d: 200 samples as a 10 x 20 sheet, of either network; reconstructions; the plane."""
    seed, x = run.args.seed, run.once(test_images)[:12]
    models = {"sheet": _sheets(run)[0], "conv": run.models["vae_conv"]}
    drawn = {
        f"d_{name}": sheets.grid(2 * model.sample(200, seed=seed) - 1, mnist.SHAPE, columns=20)
        for name, model in models.items()
    }
    with torch.no_grad():
        means = [model.decode(model.encode(x)[0]) for model in models.values()]
    rows = torch.stack([x, *means])
    names = ("test image", *models)
    drawn["d_reconstructions"] = figures.named_rows(rows, mnist.SHAPE, names)
    drawn["d_plane"], used = _plane(models["sheet"], run.once(test_images)[:2000])
    return Answer({"latent_kl_nats": used}, drawn)


@torch.no_grad()
def _plane(model: VAE, x: Tensor):
    """Images over the two latent dimensions that carry most, and the KL of all of them."""
    m, v = model.encode(x)
    kl = ((m.square() + v - 1 - v.log()) / 2).mean(dim=0)
    first, second = kl.argsort(descending=True)[:2].tolist()
    points = torch.linspace(-2, 2, 15)
    z = torch.zeros(15, 15, model.latent)
    z[..., first], z[..., second] = points[None, :], -points[:, None]
    images = model.decode(z.reshape(-1, model.latent))
    return figures.plane_of(images, mnist.SHAPE, points.tolist(), (first, second)), kl.tolist()


def e_linear(run: Run) -> Answer:
    """Truth: a linear VAE against probabilistic PCA's closed form (Lucas et al. 2019)."""
    d, latent = 6, 2
    generator = torch.Generator().manual_seed(run.args.seed)
    loading = torch.randn(d, latent, generator=generator)
    x = torch.randn(1000, latent, generator=generator) @ loading.T
    x = x + 0.5 * torch.randn(x.shape, generator=generator)
    options = {"hidden": (), "observation": "gaussian", "generator": generator}
    training = VAETraining(
        VAE(pixels=d, latent=latent, **options),
        x,
        epochs=LINEAR_UPDATES,
        batch_size=len(x),
        learning_rate=2e-2,
        ema_decay=0.99,
        seed=run.args.seed,
    )
    model = training.run()
    best = vae_exact.pca_log_likelihood(x, latent)
    elbo = vae_exact.linear_elbo(model, x).mean().item()
    return Answer(
        {
            "dimensions": d,
            "closed_form_nats": best,
            "exact_log_likelihood_of_the_model_nats": vae_exact.linear_log_likelihood(model, x)
            .mean()
            .item(),
            "elbo_nats": elbo,
            "gap_nats_per_dimension": (best - elbo) / d,
        }
    )


def f_quadrature(run: Run) -> Answer:
    """Truth: one latent dimension on 3 x 3 images; log p(x) of all 512 by quadrature."""
    generator = torch.Generator().manual_seed(run.args.seed)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9)
    training = VAETraining(
        VAE(pixels=9, latent=1, hidden=(32,), generator=generator),
        _stripes(4000, generator),
        epochs=LATTICE_UPDATES,
        learning_rate=1e-2,
        ema_decay=0.99,
        seed=run.args.seed,
    )
    model = training.run()
    exact = vae_exact.quadrature(model, every)
    p = exact.log_p.exp()
    bounds = {
        k: torch.stack([model.log_likelihood(every, samples=k, seed=s) for s in range(8)]).mean(0)
        for k in (1, 10, 100, 1000)
    }
    below = {k: ((exact.log_p - bound) * p).sum().item() for k, bound in bounds.items()}
    return Answer(
        {
            "sum_of_probabilities": p.sum().item(),
            "largest_error_of_gap_against_kl_nats": (exact.log_p - exact.elbo - exact.gap)
            .abs()
            .max()
            .item(),
            "mean_gap_of_elbo_nats": (exact.gap * p).sum().item(),
            "mean_gap_of_importance_weighted_nats": {str(k): gap for k, gap in below.items()},
        },
        {"f_quadrature": figures.quadrature(exact.log_p, exact.elbo, bounds[1000])},
    )


def _stripes(n: int, generator: torch.Generator) -> Tensor:
    """Images (n, 9) of one stripe across or down, every pixel wrong with probability 0.05."""
    lines = torch.eye(3).repeat_interleave(3, dim=1).reshape(3, 3, 3)
    patterns = torch.cat([lines, lines.transpose(1, 2)]).reshape(6, 9)
    clean = patterns[torch.randint(6, (n,), generator=generator)]
    return (clean - (torch.rand(n, 9, generator=generator) < 0.05).float()).abs()


STUDY = Study(
    name="vae",
    description="variational autoencoders of MNIST, and two whose likelihood is known",
    options=OPTIONS,
    small="--runs 2 --epochs 3 --conv-epochs 2 --samples 2",
    load=load,
    train=train,
    questions={
        "sample_gaussian": a_sample_gaussian,
        "bound": b_bound,
        "importance": c_importance,
        "samples": d_samples,
        "linear": e_linear,
        "quadrature": f_quadrature,
    },
)
