"""The families of image models against their targets: `python -m tests.benchmarks.images`.

Measures the shipped weights on the test images and prints a table of measure, value, target and
reference; writes report/results/benchmark_images.json. `--only` measures some parts and keeps the
others of that file. On one core with AVX-512 and bfloat16 the long ones take: bitflip_samples,
10,000 of them, 10 minutes; exact, all stages of 200 images, 7; bayes, 2,000 images, 7; vae, 4.
`--train` trains by the default recipes what it names and keeps it in runs/images; `vae_adam` is the
sheet's network with the sheet's optimiser, for comparison; `vae_adam_cosine` lets its rate fall as
the recipe's does, `vae_adam_rate` begins at the recipe's rate too. `--runs` takes the files that
`--train vae_0 vae_1 vae_2 vae_3 vae_4` leaves there, after 12 minutes on two cores. Times are wall
times, processor time beside them; they mean something on an idle machine alone.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.images")

import argparse
import math
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from diffusion import data, metrics
from diffusion.files import write_json
from diffusion.images import bitflip, bitnet, classifier, measures, mnist, vae, vae_exact
from diffusion.images.bitnet import BitNet
from diffusion.images.gan_exact import value_of_best
from diffusion.parser import Parser
from diffusion.studies import families
from diffusion.studies import gan as gan_study
from diffusion.studies import vae as vae_study
from diffusion.studies.families import square_gan, square_vae
from diffusion.studies.parts import bitmodel, recipe
from tests.benchmarks.diffusion import w2_ratio
from tests.benchmarks.image_rows import RESULTS, Table, error_of, recorded
from tests.benchmarks.image_trainings import TRAININGS

PROG = "python -m tests.benchmarks.images"
ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights"
FOLDER = ROOT / "runs/images"
SEED = 301  # with which no choice was made
SQUARES = 5  # trainings of VAE and GAN on the square


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
    if args.runs:
        measure_runs(table, x, args.runs)
    else:
        shipped = vae.load(WEIGHTS / "vae.pt").negative_elbo_bound(x, seed=SEED)
        table.add("vae", "-ELBO, vae.pt, nats", shipped.nelbo.item())
        for row in recorded().get("vae", ()):
            if "sheet's network, mean of" in row["measure"] or "vae_" in row["measure"].split()[1]:
                table.keep(row)
    for name, most, reference in (
        ("vae", None, ""),
        ("vae_conv", 90.0, "86.76 VAE, 84.78 IWAE, long training (Burda et al.)"),
    ):
        model = vae.load(WEIGHTS / f"{name}.pt")
        nats, error = importance_weighted(model, x, args.weighted)
        measure = f"importance-weighted with 5000 on {args.weighted} images, {name}.pt, nats"
        table.add("vae", measure, nats, most=most, error=error, reference=reference)


def measure_runs(table: Table, x: Tensor, paths: list[Path]) -> None:
    """The sheet's network after trainings of several seeds: each, and their mean."""
    runs = [vae.load(path) for path in paths]
    bounds = torch.tensor([model.negative_elbo_bound(x, seed=SEED) for model in runs])
    parts = zip(("-ELBO", "KL", "reconstruction"), bounds.T, (97.5, None, None),
                ("98.12 ± 0.77 (sheet)", "20.38 ± 0.38", "77.93 ± 0.65"), strict=True)  # fmt: skip
    for name, values, most, reference in parts:
        table.add("vae", f"{name}, sheet's network, mean of {len(runs)} runs, nats",
                  values.mean().item(), most=most, reference=reference,
                  error=error_of(values) if len(runs) > 1 else None)  # fmt: skip
    for path, value in zip(paths, bounds[:, 0], strict=True):
        table.add("vae", f"-ELBO, {path.name}, nats", value.item())


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


def bit_flips(args) -> tuple[BitNet, Tensor, Tensor]:
    """The shipped network, the test images of -1 and +1 that nats are measured on, and labels."""
    model = bitmodel.load(WEIGHTS / "bitflip.pt", bitmodel.STAGES)
    model.precision = recipe.PRECISIONS[args.precision]
    images, labels = mnist.load("test")
    return model, 2 * mnist.binarise(images, seed=0) - 1, labels


def class_first(model: BitNet, x: Tensor, stages: int) -> Tensor:
    judge = classifier.load(WEIGHTS / "classifier.pt")
    return bitmodel.nats(model, judge, x, samples=stages, seed=SEED)


def measure_bitflip(table: Table, args) -> None:
    model, x, _ = bit_flips(args)
    nats = class_first(model, x, args.stages)
    table.add("bitflip", f"bound, a class first, then an image, {len(x)} images, nats",
              nats.mean().item(), most=81.0, error=error_of(nats),
              reference="NADE 88.33, PixelCNN 81.30")  # fmt: skip


def measure_bitflip_labels(table: Table, args) -> None:
    model, x, labels = bit_flips(args)
    options = {"samples": args.stages, "seed": SEED, "progress": True}
    found = bitflip.class_bounds(model, x, (None, labels), **options)
    for name, nats in zip(("an image of any class", "given the label"), found.T, strict=True):
        table.add("bitflip", f"bound, {name}, {len(x)} images, nats", nats.mean().item(),
                  error=error_of(nats))  # fmt: skip


def measure_exact(table: Table, args) -> None:
    """Two draws a stage and image; the estimate sees as many stages as in `measure_bitflip`."""
    model, x, _ = bit_flips(args)
    x, nat = x[: args.exact], model.pixels * math.log(2)
    bound = bitflip.bound(model, x, seed=SEED, progress=True)
    stages = bound.stages * nat
    for name, nats in (
        ("all stages", bound.total * nat),
        ("stage 1", stages[:, 0]),
        ("the other stages", stages[:, 1:].sum(dim=1)),
    ):
        table.add("bitflip", f"exact sum, {name}, any class, {len(x)} images, nats",
                  nats.mean().item(), error=error_of(nats))  # fmt: skip
    estimate = bitflip.class_bounds(model, x, samples=args.stages, seed=SEED, progress=True)[:, 0]
    difference = estimate - bound.total * nat
    table.add("bitflip", f"estimate minus exact sum, {len(x)} images, nats",
              difference.mean().item(), error=error_of(difference), reference="0")  # fmt: skip


def measure_bayes(table: Table, args) -> None:
    model, x, labels = bit_flips(args)
    n = args.classified
    found = bitflip.classify(model, x[:n], seed=SEED, progress=True)
    right = found.classes == labels[:n]
    table.add("bitflip", f"accuracy by Bayes, {n} images", right.double().mean().item(),
              least=0.98, error=error_of(right))  # fmt: skip
    seen, rounds = found.stages.gather(1, labels[:n, None])[:, 0], bitflip.ROUNDS
    for name, most in (("after the first round", rounds[0]), ("before the last", sum(rounds) - 1)):
        lost = ~right & (seen <= most)
        table.add("bitflip", f"right class given up {name}, {n} images",
                  lost.double().mean().item(), error=error_of(lost))  # fmt: skip


def measure_samples(table: Table, args) -> None:
    images = [part / 255 for part in (mnist.load("test")[0], mnist.load("train")[0])]
    held_to(table, "GAN", "grey", families.load(loaded(args))["GAN"].sample(10_000, seed=SEED),
            *images)  # fmt: skip
    for name in ("VAE (sheet)", "VAE (conv.)", "GAN"):
        judged(table, name, 10_000, args)


def measure_bitflip_samples(table: Table, args) -> None:
    judged(table, "bit flips", args.bitflip_samples, args)


def loaded(args) -> argparse.Namespace:
    return SimpleNamespace(weights=WEIGHTS, precision=args.precision)


def judged(table: Table, name: str, n: int, args) -> None:
    """n samples of one family with pixels drawn, held to test images with pixels drawn."""
    samples = families.drawn(families.load(loaded(args))[name], n, SEED)
    test, train = mnist.load("test")[0], mnist.load("train")[0]
    held_to(table, name, "binarised", samples, mnist.binarise(test, seed=0),
            mnist.binarise(train, seed=1))  # fmt: skip


def held_to(table: Table, name: str, kind: str, samples: Tensor, test: Tensor, train: Tensor):
    """The floor is the distance of as many real images, training ones, from the test images."""
    judge, n = classifier.load(WEIGHTS / "classifier.pt"), len(samples)
    _, features = classifier.evaluate(judge, test)
    found = measures.judge(judge, samples, features)
    floor = measures.judge(judge, train[-n:], features).frechet
    target = {("GAN", "grey"): 5, ("bit flips", "binarised"): 3}.get((name, kind))
    if n < 10_000:  # over a floor that is higher for few samples, nearly every model comes near it
        target = None
    table.add(name, f"Frechet distance over the floor, {kind}, {n} samples",
              found.frechet / floor, most=target, reference=f"floor {floor:.3g}")  # fmt: skip
    table.add(name, f"total variation of the classes, {kind}, {n} samples", found.coverage,
              most=0.05 if name == "GAN" else None,
              reference=f"fair draws {found.coverage_of_fair_draws:.3f}")  # fmt: skip
    table.add(name, f"share that the classifier is sure of, {kind}", found.sure)
    ratio = measures.neighbour_ratio(samples[:1000], train[:10_000], test)
    table.add(name, f"nearest training image over nearest test image, {kind}", ratio)


def measure_speed(table: Table, args) -> None:
    for name, model in families.load(loaded(args)).items():
        if name in ("classifier", "points"):
            continue
        families.drawn(model, 10, SEED)
        with Clock() as clock:
            families.drawn(model, 1000, SEED)
        table.add(name, f"seconds for 1,000 samples, {torch.get_num_threads()} threads",
                  clock.wall, most=60 if name == "bit flips" else 1,
                  reference=clock.processor)  # fmt: skip


class Clock:
    """Seconds inside: wall, and used, of processor time of this process; processor says these."""

    def __enter__(self) -> Clock:
        self.began, self.before = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error) -> None:
        self.wall = time.perf_counter() - self.began
        self.used = time.process_time() - self.before
        self.processor = f"{self.used:.3g} s of processor time"


def measure_training(table: Table, args, name: str) -> None:
    """Train by the default recipe and keep the model in runs/images; its time, and what it is."""
    with Clock() as clock:
        model = TRAININGS[name](args.precision).run(progress=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save = bitnet.save if name == "bitflip" else type(model).save
    save(model, FOLDER / f"{name}.pt")
    most = {"bitflip": 480, "vae_conv": 480, "gan": None}.get(name, 240)
    threads = torch.get_num_threads()
    if threads == 1:  # other work on the machine lengthens the time, hardly that of the processor
        table.add(name, "training, seconds of processor time, one thread", clock.used, most=most,
                  reference=f"{clock.wall:.0f} s on a machine at other work too")  # fmt: skip
    else:
        table.add(name, f"training, seconds, {threads} threads", clock.wall, most=most,
                  reference=clock.processor)  # fmt: skip
    if name == "bitflip":
        nats = class_first(model, bit_flips(args)[1], 2)
        table.add(name, "bound after it, a class first, 10,000 images, nats", nats.mean().item(),
                  most=92, error=error_of(nats))  # fmt: skip
    if name.startswith("vae"):
        bound = model.negative_elbo_bound(mnist.binarise(mnist.load("test")[0], seed=0), seed=SEED)
        table.add(name, "-ELBO after it, 10,000 images, nats", bound.nelbo.item())


def measure_studies(table: Table, args) -> None:
    """Every study from a process of its own, with the shipped weights and default settings."""
    for name, options in {
        "bitflip": ("--weights", WEIGHTS / "bitflip.pt", "--precision", args.precision),
        "vae": ("--weights", WEIGHTS / "vae.pt", "--conv-weights", WEIGHTS / "vae_conv.pt"),
        "gan": ("--weights", WEIGHTS / "gan.pt"),
        "families": ("--precision", args.precision),
    }.items():
        with tempfile.TemporaryDirectory() as folder, Clock() as clock:
            command = [sys.executable, "example_diffusion.py", "--study", name, "--out", folder]
            subprocess.run([*command, *map(str, options)], cwd=ROOT, check=True,
                           capture_output=True)  # fmt: skip
        table.add("study", f"{name} with shipped weights, seconds", clock.wall, most=60)


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
    linear = vae_study.e_linear(SimpleNamespace(args=SimpleNamespace(seed=SEED))).numbers
    table.add("truth", "linear VAE below probabilistic PCA, nats a dimension",
              linear["gap_nats_per_dimension"], most=0.01)  # fmt: skip


def measure_square(table: Table, args) -> None:
    """VAE and GAN of the exercise's points, trained with five seeds: means, errors over these."""
    points = data.training_points()
    measures = {"TV10": metrics.tv10, "KS": metrics.ks, "outside": metrics.outside_share,
                "W2 ratio": partial(w2_ratio, seed=SEED)}  # fmt: skip
    for name, train in (("VAE", square_vae), ("GAN", square_gan)):
        samples = [train(points, seed).sample(20_000, seed=SEED) for seed in range(SQUARES)]
        for measure, take in measures.items():
            values = torch.tensor([take(part) for part in samples])
            table.add("square", f"{measure}, {name}, mean of {SQUARES} trainings",
                      values.mean().item(), error=error_of(values))  # fmt: skip


PARTS = {
    "classifier": measure_classifier,
    "truth": measure_truth,
    "square": measure_square,
    "vae": measure_vae,
    "samples": measure_samples,
    "bitflip": measure_bitflip,
    "bitflip_labels": measure_bitflip_labels,
    "exact": measure_exact,
    "bayes": measure_bayes,
    "bitflip_samples": measure_bitflip_samples,
    "speed": measure_speed,
    "studies": measure_studies,
}
# The parts that take --precision; the others are measured in float32.
LOWERED = ("bitflip", "bitflip_labels", "exact", "bayes", "bitflip_samples", "speed", "studies",
           "training bitflip", "training gan")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measure the parts that the command line asks for; returns the exit code."""
    return startup.conclude(PROG, lambda: _measure(argv))


def _measure(argv: list[str] | None) -> None:
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(PARTS), nargs="+")
    parser.add_argument("--train", choices=TRAININGS, nargs="+", default=())
    parser.add_argument("--runs", nargs="+", type=Path,
                        help="files of the sheet's VAE trained with several seeds; without them "
                        "the recorded rows of such runs stay")  # fmt: skip
    parser.add_argument("--weighted", type=int, default=200, help="images with 5000 samples")
    parser.add_argument("--stages", type=int, default=8, help="drawn per image for the bound")
    parser.add_argument("--exact", type=int, default=200, help="images with the sum of all stages")
    parser.add_argument("--bitflip-samples", type=int, default=10_000)
    parser.add_argument("--classified", type=int, default=2_000)
    parser.add_argument("--precision", choices=tuple(recipe.PRECISIONS), default="float32")
    args = parser.parse_args(argv)
    jobs = {f"training {name}": partial(measure_training, name=name) for name in args.train}
    jobs |= {name: PARTS[name] for name in args.only or ([] if args.train else PARTS)}
    for name, measure in jobs.items():
        lowered = {"precision": args.precision} if name in LOWERED else {}
        table = Table(measured_with_seed=SEED, **lowered)
        measure(table, args)
        # Read anew: another process may have measured other parts meanwhile.
        write_json(RESULTS, {"study": "benchmark_images", "parts": recorded() | {name: table.rows}})


if __name__ == "__main__":
    sys.exit(main())
