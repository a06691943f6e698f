"""What each part of the Part 1 recipe is worth: `python -m tests.benchmarks.ablation`.

Trains the recipe as it is on 1,000 to 100,000 points: the learning curve. Then trains the
unconditional model for every variant, each of which changes one thing in the recipe; and with more
or fewer noises a point, for as many epochs and for as many seconds. All on five data seeds. A tenth
of the 3,000 points is held out: their denoising loss is what one could choose by for data without a
known truth. Prints tables of means and writes report/results/ablation_diffusion.json
after every part, and figures/diffusion_learning.svg; what is in that file already is not trained
again, except with --fresh. About an hour of one processor.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.ablation")

import json
import os
import sys
import time
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import diffusion
from diffusion import data, metrics, training
from diffusion.denoiser import Denoiser, scaled_log
from diffusion.figures import curves, style
from diffusion.files import write_json
from diffusion.parser import Parser
from diffusion.studies import owndata
from diffusion.studies.parts import recipe
from tests.benchmarks.speed import machine

PROG = "python -m tests.benchmarks.ablation"
ROOT = Path(__file__).parents[2]
SEEDS = (11, 12, 13, 14, 15)  # of data and training
ROWS = EPOCHS = 3000
SAMPLES = 500_000


class Variant(Denoiser):
    """A network that knows no short cut for one noise level."""

    def at(self, sigma: float | Tensor, labels: Tensor | None = None):
        level = torch.as_tensor(sigma, dtype=self.dtype).reshape(1, 1)
        return lambda x: self._noise(x.to(self.dtype), level, labels)

    def _hidden(self, inputs: Tensor, sigma: Tensor) -> Tensor:
        """The MLP's output where the noise level only shifts the first layer."""
        _, shift = self.scale_shift(self.noise_embedding(scaled_log(sigma))).chunk(2, dim=1)
        hidden = nn.functional.silu(self.input_layer(inputs) + shift)
        for layer in self.hidden:
            hidden = nn.functional.silu(layer(hidden))
        return self.output_layer(hidden)


class RawInput(Variant):
    """The MLP on the plain point and log sigma, its output taken as the noise."""

    def _noise(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return self._hidden(x, sigma)


class ShiftOnly(Variant):
    """The scaling of Karras et al., without the FiLM scale on the first layer."""

    def _noise(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        c_in = torch.rsqrt(sigma**2 + self.variance)
        centred = c_in * (x - self.centre)
        correction = self._hidden(centred, sigma)
        return sigma * c_in * centred - self.variance.sqrt() * c_in * correction


def single_noise(self, points: Tensor, labels: Tensor | None) -> Tensor:
    """`Training._loss` without the opposite noises."""
    x_t, sigma, eps = training.noised(points, self.model.schedule, self.generator)
    return (self.model.noise(x_t, sigma, labels) - eps).square().mean()


# Name -> changes: architecture, training options, network, loss, rotations.
VARIANTS: dict[str, dict] = {
    "the recipe: width 48, depth 2, rate 1e-2": {},
    "no rotations": {"rotations": False},
    "raw (x, log sigma) as input": {"network": RawInput},
    "no scale on the first layer": {"network": ShiftOnly},
    "width 64": {"width": 64},
    "average of weights over 100 epochs": {"ema_decay": 0.99},
}
# Noises of a point in an epoch: the recipe's one draw is two rows, its noise and the opposite. The
# epochs of as many seconds follow from those of an epoch, measured: 6.7 ms with the recipe, 4.8
# without opposites, 12.3 with two draws and 28.3 with four (one thread of an AMD EPYC).
DRAWS: dict[str, dict] = {
    "one draw, the recipe": {},
    "one draw, without its opposite": {"loss": single_noise},
    "one draw, without its opposite, as many seconds": {"loss": single_noise, "epochs": 4200},
    "two draws": {"noise_samples": 2},
    "two draws, as many seconds": {"noise_samples": 2, "epochs": 1650},
    "four draws": {"noise_samples": 4},
    "four draws, as many seconds": {"noise_samples": 4, "epochs": 700},
}
SIZES = (1000, 3000, 10_000, 100_000)
HELD_OUT = 300
MEASURES = ("excess_risk", "tv10", "ks", "outside", "held_out_loss")


def train(seed: int, points: Tensor, changes: dict) -> Denoiser:
    """The recipe on points (n, 2), or what the changes make of it; 3,000 rows an epoch at most."""
    options = dict(changes)
    network = options.pop("network", Denoiser)
    loss = options.pop("loss", diffusion.Training._loss)
    rotations = options.pop("rotations", True)
    architecture = {"width": recipe.WIDTH}
    architecture |= {name: options.pop(name) for name in ("width", "depth") if name in options}
    fitted = data.all_rotations(points, None)[0] if rotations else points

    def batch(self) -> tuple[Tensor, None]:
        if len(points) <= ROWS:
            return self.points, None
        return points[torch.randint(len(points), (ROWS,), generator=self.generator)], None

    with (
        patch.object(training, "Denoiser", network),
        patch.multiple(diffusion.Training, _loss=loss, _batch=batch),
    ):
        return diffusion.Training(
            diffusion.build(fitted, seed=seed, **architecture),
            points[:ROWS],
            augment=data.random_rotations if rotations else None,
            seed=seed,
            **options,
        ).run()


def measured(model: Denoiser, seed: int, held_out: Tensor | None = None) -> dict[str, float]:
    """Excess risk, distances of samples from the square, and the loss on held-out points (k, 2)."""
    points = diffusion.sample(model, SAMPLES, solver="dpm++", steps=24, seed=seed)
    found = {
        "excess_risk": metrics.excess_risk(model, seed=seed),
        "tv10": metrics.tv10(points),
        "ks": metrics.ks(points),
        "outside": metrics.outside_share(points),
    }
    if held_out is not None:
        found["held_out_loss"] = owndata.denoising_loss(model, held_out, None, rows=300_000)[0]
    return found


def row(found: list[dict[str, float]]) -> dict:
    """Means over seeds with their standard errors, and each seed's own values."""
    by_measure = {name: [entry[name] for entry in found] for name in found[0]}
    means = {name: float(np.mean(values)) for name, values in by_measure.items()}
    errors = {
        f"{name}_standard_error": float(np.std(values, ddof=1) / len(values) ** 0.5)
        for name, values in by_measure.items()
    }
    return means | errors | {"of_each_seed": by_measure}


def variant(changes: dict) -> dict:
    found = []
    for seed in SEEDS:
        points = data.training_points(seed=seed)
        model = train(seed, points[HELD_OUT:], changes)
        found.append(measured(model, seed, points[:HELD_OUT]))
    return row(found)


def draws() -> dict:
    """A row for each of `DRAWS`, with the processor seconds of a training.

    One seed after another, each with all rows: what else the machine does falls on all alike.
    """
    found = {name: [] for name in DRAWS}
    work = list(product(SEEDS, DRAWS))
    for seed, name in tqdm(work, desc="noises of a point", leave=False, disable=None):
        points = data.training_points(seed=seed)
        began = time.process_time()
        model = train(seed, points[HELD_OUT:], DRAWS[name])
        seconds = time.process_time() - began
        found[name].append({"seconds": seconds} | measured(model, seed, points[:HELD_OUT]))
    load = getattr(os, "getloadavg", lambda: [None] * 3)()
    return {
        "machine": machine() | {"load_average_of_15_minutes": load[2]},
        "rows": {
            name: {"epochs": DRAWS[name].get("epochs", EPOCHS)} | row(entries)
            for name, entries in found.items()
        },
    }


def learnt(size: int) -> dict:
    found = []
    for seed in SEEDS:
        points = data.uniform(size, generator=torch.Generator().manual_seed(seed))
        found.append(measured(train(seed, points, {}), seed))
    return row(found)


def in_order(known: dict, work: list[tuple]) -> dict:
    """What is known, without rows that there is no work for, the others in its order."""
    parts = {part: [name for place, name, _ in work if place == part] for part, _, _ in work}
    rows = {
        part: {name: known[part][name] for name in names if name in known[part]}
        for part, names in parts.items()
    }
    return known | rows


def print_row(name: str, entry: dict) -> None:
    values = (entry.get(measure, float("nan")) for measure in MEASURES)
    print(f"{name:<58}" + "".join(f"{value:>14.6f}" for value in values), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Train and measure every variant; returns the exit code."""
    return startup.conclude(PROG, lambda: _compare(argv))


def _compare(argv: list[str] | None) -> None:
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="train every variant again")
    path = ROOT / "report/results/ablation_diffusion.json"
    known = {"variants": {}, "learning_curve": {}, "draws": {}}
    if not parser.parse_args(argv).fresh and path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        known |= {part: stored[part] for part in known if part in stored}
    content = {
        "seeds": SEEDS,
        "sampling": f"{SAMPLES:,} samples by DPM-Solver++(2M), 24 evaluations",
        "points_of_a_variant": data.MAX_POINTS - HELD_OUT,
        "points_held_out": HELD_OUT,
    }
    work = [("learning_curve", str(size), lambda n=size: learnt(n)) for size in SIZES]
    work += [("variants", name, lambda c=changes: variant(c)) for name, changes in VARIANTS.items()]
    print(f"{'':<58}" + "".join(f"{name:>14}" for name in MEASURES))
    for part, name, measure in tqdm(work, disable=None):
        if name not in known[part]:
            known[part][name] = measure()
            print_row(name, known[part][name])
            write_json(path, content | in_order(known, work))
    if not known["draws"]:
        known["draws"] = draws()
        for name, entry in known["draws"]["rows"].items():
            print_row(f"{name} ({entry['seconds']:.1f} s)", entry)
    known = in_order(known, work)
    write_json(path, content | known)
    figure = curves.learning(known["learning_curve"], data.MAX_POINTS)
    style.save(figure, ROOT / "report/figures/diffusion_learning.svg")


if __name__ == "__main__":
    sys.exit(main())
