"""The families of image models against their targets: `python -m tests.benchmarks.images`.

Measures the shipped weights on the test images and prints a table of measure, value, target and
reference; writes report/results/benchmark_images.json. The whole takes more than an hour on two
cores, most of it for 10,000 samples of the bit flips and for their classification of 10,000 images;
`--bitflip-samples`, `--classified` and `--exact` ask for fewer. `--runs FILE ...` names the runs of
the sheet's VAE that its mean is taken over; `--only` measures some parts and keeps the others.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.images")

import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from diffusion import data, metrics
from diffusion.files import write_json
from diffusion.images import bitflip, classifier, measures, mnist, vae, vae_exact
from diffusion.images.gan_exact import value_of_best
from diffusion.parser import Parser
from diffusion.studies import families
from diffusion.studies import gan as gan_study
from diffusion.studies.families import square_gan, square_vae
from diffusion.studies.parts import bitmodel, recipe
from tests.benchmarks.diffusion import w2_ratio

PROG = "python -m tests.benchmarks.images"
ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights"
RESULTS = ROOT / "report/results/benchmark_images.json"
SEED = 301  # with which no choice was made


class Table:
    """Rows of measure, value, target, reference; printed as they come."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def add(
        self,
        family: str,
        measure: str,
        value: float,
        *,
        most: float | None = None,
        least: float | None = None,
        error: float | None = None,
        reference: str = "",
    ) -> None:
        met = (most is None or value <= most) and (least is None or value >= least)
        target = "" if most is None else f"<= {most:g}"
        target = target if least is None else f">= {least:g}"
        row = {"family": family, "measure": measure, "value": value, "target": target}
        row |= {"reference": reference} | ({} if error is None else {"standard_error": error})
        self.rows.append(row | ({"met": met} if target else {}))
        shown = f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
        verdict = ("met" if met else "MISSED") if target else ""
        print(f"{family:<12}{measure:<58}{shown:>17}  {target:<10}{verdict:<8}{reference}")
        sys.stdout.flush()


def error_of(values: Tensor) -> float:
    """Standard error of a mean."""
    return (values.double().std() / math.sqrt(len(values))).item()


def measure_classifier(table: Table, args) -> None:
    images, labels = mnist.load("test")
    model = classifier.load(WEIGHTS / "classifier.pt")
    for name, x in (("grey", images / 255), ("binarised", mnist.binarise(images, seed=0))):
        right = classifier.evaluate(model, x)[0].argmax(dim=1) == labels
        least = 0.99 if name == "grey" else None
        table.add("classifier", f"accuracy, {name} test images", right.double().mean().item(),
                  least=least, error=error_of(right))  # fmt: skip


def measure_vae(table: Table, args) -> None:
    x = mnist.binarise(mnist.load("test")[0], seed=0)
    runs = [vae.load(path) for path in args.runs or [WEIGHTS / "vae.pt"]]
    bounds = torch.tensor([model.negative_elbo_bound(x, seed=SEED) for model in runs])
    parts = zip(("-ELBO", "KL", "reconstruction"), bounds.T, (97.5, None, None),
                ("98.12 ± 0.77 (sheet)", "20.38 ± 0.38", "77.93 ± 0.65"), strict=True)  # fmt: skip
    for name, values, most, reference in parts:
        table.add("vae", f"{name}, sheet's network, mean of {len(runs)} runs, nats",
                  values.mean().item(), most=most, reference=reference,
                  error=error_of(values) if len(runs) > 1 else None)  # fmt: skip
    for name, most, reference in (
        ("vae", None, ""),
        ("vae_conv", 90.0, "86.76 VAE, 84.78 IWAE, long training (Burda et al.)"),
    ):
        model = vae.load(WEIGHTS / f"{name}.pt")
        nats, error = importance_weighted(model, x, args.weighted)
        table.add("vae", f"importance-weighted with 5000, {name}.pt, nats", nats, most=most,
                  error=error, reference=reference)  # fmt: skip


def importance_weighted(model: vae.VAE, x: Tensor, n: int) -> tuple[float, float]:
    """-log p(x) in nats with 5000 samples over all images x, and its standard error.

    Measured on n images; the rest enters by the mean of a bound with 20 samples over all, which is
    nearly the same from image to image up to a constant.
    """
    near = -model.log_likelihood(x, samples=20, seed=SEED)
    picked = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))[:n]
    difference = -model.log_likelihood(x[picked], samples=5000, seed=SEED) - near[picked]
    error = math.hypot(error_of(near), error_of(difference))
    return (near.mean() + difference.mean()).item(), error


def measure_bitflip(table: Table, args) -> None:
    model = bitmodel.load(WEIGHTS / "bitflip.pt", bitmodel.STAGES)
    model.precision = recipe.PRECISIONS[args.precision]
    images, labels = mnist.load("test")
    x = 2 * mnist.binarise(images, seed=0) - 1
    judge = classifier.load(WEIGHTS / "classifier.pt")
    options = {"samples": args.stages, "seed": SEED}
    class_first = bitmodel.nats(model, judge, x, **options)
    any_class = bitflip.class_bounds(model, x, **options, progress=True)[:, 0]
    for name, nats, most, reference in (
        ("a class first, then an image", class_first, 81.0, "NADE 88.33, PixelCNN 81.30"),
        ("an image of any class", any_class, None, ""),
    ):
        table.add("bitflip", f"bound, {name}, 10,000 images, nats", nats.mean().item(), most=most,
                  error=error_of(nats), reference=reference)  # fmt: skip
    few = x[: args.exact]
    exact = bitflip.bound(model, few, seed=SEED, progress=True).total * 784 * math.log(2)
    estimate = bitflip.class_bounds(model, few, samples=100, seed=SEED, progress=True)[:, 0]
    difference = estimate - exact
    table.add("bitflip", f"estimate minus exact sum, {len(few)} images, nats",
              difference.mean().item(), error=error_of(difference), reference="0")  # fmt: skip
    n = args.classified
    found, bounds = bitflip.classify(model, x[:n], seed=SEED, progress=True)
    right = found == labels[:n]
    table.add("bitflip", f"accuracy by Bayes, {n} images", right.double().mean().item(),
              least=0.98, error=error_of(right))  # fmt: skip
    given = bounds.gather(1, labels[:n, None])[:, 0]
    table.add("bitflip", f"bound given the label, {n} images, nats", given.mean().item(),
              error=error_of(given))  # fmt: skip


def measure_samples(table: Table, args) -> None:
    judge = classifier.load(WEIGHTS / "classifier.pt")
    test, train = mnist.load("test")[0], mnist.load("train")[0]
    kinds = {
        "grey": (test / 255, train / 255),
        "binarised": (mnist.binarise(test, seed=0), mnist.binarise(train, seed=1)),
    }
    models = families.load(SimpleNamespace(weights=WEIGHTS, precision=args.precision))
    for name, kind, n, most in (
        ("GAN", "grey", 10_000, 5),
        ("VAE (sheet)", "binarised", 10_000, None),
        ("VAE (conv.)", "binarised", 10_000, None),
        ("GAN", "binarised", 10_000, None),
        ("bit flips", "binarised", args.bitflip_samples, 3),
    ):
        reference, real = kinds[kind]
        model, began, used = models[name], time.perf_counter(), time.process_time()
        samples = model.sample(n, seed=SEED) if kind == "grey" else families.drawn(model, n, SEED)
        seconds = 1000 * (time.perf_counter() - began) / n
        used = 1000 * (time.process_time() - used) / n
        found = measures.judge(judge, samples, reference)
        floor = measures.judge(judge, real[-n:], reference).frechet
        table.add(name, f"Frechet distance over the floor, {kind}, {n} samples",
                  found.frechet / floor, most=most if n == 10_000 else None,
                  reference=f"floor {floor:.3g}")  # fmt: skip
        table.add(name, "total variation of the classes", found.coverage,
                  most=0.05 if name == "GAN" else None,
                  reference=f"fair draws {found.coverage_of_fair_draws:.3f}")  # fmt: skip
        table.add(name, "share that the classifier is sure of", found.sure)
        ratio = measures.neighbour_ratio(samples[:1000], real[:10_000], reference)
        table.add(name, "nearest training image over nearest test image", ratio)
        table.add(name, "seconds per 1,000 samples", seconds,
                  most=60 if name == "bit flips" else 1,
                  reference=f"{used:.2g} s of processor time")  # fmt: skip


def measure_truth(table: Table, args) -> None:
    value, jsd = value_of_best(gan_study.DATA.log_density, gan_study.MODEL.log_density)
    table.add("truth", "V(G, D*) + log 4 - 2 JSD", abs(value + math.log(4) - 2 * jsd), most=1e-3)
    best, found = gan_study.trained_discriminator(SEED)
    table.add("truth", "mean error of a trained discriminator",
              (found - best).abs().mean().item(), most=0.02)  # fmt: skip
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9)
    model = vae.VAE(pixels=9, latent=1, hidden=(16,), generator=torch.Generator().manual_seed(SEED))
    exact = vae_exact.quadrature(model, every)
    table.add("truth", "gap of the ELBO minus KL from the posterior, nats",
              (exact.log_p - exact.elbo - exact.gap).abs().max().item(), most=1e-3)  # fmt: skip
    points = data.training_points()
    for name, model in (("VAE", square_vae(points, 0)), ("GAN", square_gan(points, 0))):
        samples = model.sample(20_000, seed=SEED)
        for measure, take in (("TV10", metrics.tv10), ("KS", metrics.ks),
                              ("outside", metrics.outside_share)):  # fmt: skip
            table.add("square", f"{measure}, {name}", take(samples))
        table.add("square", f"W2 ratio, {name}", w2_ratio(samples, SEED))


PARTS = {
    "classifier": measure_classifier,
    "truth": measure_truth,
    "vae": measure_vae,
    "samples": measure_samples,
    "bitflip": measure_bitflip,
}


def main(argv: list[str] | None = None) -> int:
    """Measure the parts that the command line asks for; returns the exit code."""
    return startup.conclude(PROG, lambda: _measure(argv))


def _measure(argv: list[str] | None) -> None:
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(PARTS), nargs="+", default=tuple(PARTS))
    parser.add_argument("--runs", nargs="+", type=Path)
    parser.add_argument("--weighted", type=int, default=200, help="images with 5000 samples")
    parser.add_argument("--stages", type=int, default=8, help="drawn per image for the bound")
    parser.add_argument("--exact", type=int, default=200, help="images with the sum of all stages")
    parser.add_argument("--bitflip-samples", type=int, default=10_000)
    parser.add_argument("--classified", type=int, default=10_000)
    parser.add_argument("--precision", choices=tuple(recipe.PRECISIONS), default="float32")
    args = parser.parse_args(argv)
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["parts"] if RESULTS.exists() else {}
    for name in args.only:
        table = Table()
        PARTS[name](table, args)
        kept[name] = table.rows
        write_json(RESULTS, {"study": "benchmark_images", "parts": kept})


if __name__ == "__main__":
    sys.exit(main())
