"""What each part of the Part 1 recipe is worth: `python -m tests.benchmarks.ablation`.

Trains the unconditional model on three data seeds for every variant, each of which changes one
thing in the reference (the default recipe with one noise sample per point and epoch, to save time).
Prints a table of means and writes report/results/ablation_diffusion.json after every variant; what
is in that file already is not trained again, except with --fresh. About a minute a variant.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.ablation")

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import diffusion
from diffusion import data, metrics, training
from diffusion.denoiser import Denoiser, scaled_log
from diffusion.files import write_json
from diffusion.schedule import Schedule

PROG = "python -m tests.benchmarks.ablation"
ROOT = Path(__file__).parents[2]
SEEDS = (11, 12, 13)


class RawInput(Denoiser):
    """The MLP on the plain point and log sigma, its output taken as the noise."""

    def _noise(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        _, shift = self.scale_shift(self.noise_embedding(scaled_log(sigma))).chunk(2, dim=1)
        hidden = nn.functional.silu(self.input_layer(x) + shift)
        for layer in self.hidden:
            hidden = nn.functional.silu(layer(hidden))
        return self.output_layer(hidden)


class ShiftOnly(Denoiser):
    """The scaling of Karras et al., without the FiLM scale on the first layer."""

    def _noise(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        c_in = torch.rsqrt(sigma**2 + self.variance)
        centred = c_in * (x - self.centre)
        _, shift = self.scale_shift(self.noise_embedding(scaled_log(sigma))).chunk(2, dim=1)
        hidden = nn.functional.silu(self.input_layer(centred) + shift)
        for layer in self.hidden:
            hidden = nn.functional.silu(layer(hidden))
        return sigma * c_in * centred - self.variance.sqrt() * c_in * self.output_layer(hidden)


def noised_at(times: Callable[[int, torch.Generator], Tensor], antithetic: bool = False):
    """`training.noised` with other times, and noises in opposite pairs if asked for."""

    def noised(points: Tensor, schedule: Schedule, generator: torch.Generator):
        n = len(points)
        eps = torch.randn(n, 2, generator=generator)
        t = times(n, generator)
        if antithetic:  # the second sample of every point is the first with the opposite noise
            half = n // 2
            points, t = points[:half].repeat(2, 1), t[:half].repeat(2)
            eps = torch.cat([eps[:half], -eps[:half]])
        sigma = schedule.sigma(t)
        return points + sigma[:, None] * eps, sigma, eps

    return noised


def stratified(n: int, generator: torch.Generator) -> Tensor:
    return (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n


def independent(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator)


def constant_rate(self, done: int) -> float:
    return min(1.0, (done + 1) / self.WARM_UP)


def no_warm_up(self, done: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * done / self.epochs))


def towards_zero(n: int, generator: torch.Generator) -> Tensor:
    return stratified(n, generator) ** 1.5


# Name -> changes: architecture, training options, network, weight decay, noised, rate, rotations.
VARIANTS: dict[str, dict] = {
    "reference: width 64, depth 2, rate 1e-2": {},
    "no rotations": {"rotations": False},
    "raw (x, log sigma) as input": {"network": RawInput},
    "no scale on the first layer": {"network": ShiftOnly},
    "width 32": {"width": 32},
    "width 128": {"width": 128},
    "depth 1": {"depth": 1},
    "depth 3": {"depth": 3},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 3e-3": {"learning_rate": 3e-3},
    "learning rate 2e-2": {"learning_rate": 2e-2},
    "no decay of the learning rate": {"rate": constant_rate},
    "no decay of the learning rate, 1e-3": {"rate": constant_rate, "learning_rate": 1e-3},
    "no warm-up": {"rate": no_warm_up},
    "no average of weights": {"ema_decay": 0.0},
    "average over 2000 epochs": {"ema_decay": 0.9995},
    "weight decay 0.1": {"weight_decay": 0.1},
    "independent times": {"noised": noised_at(independent)},
    "two noise samples per point": {"noise_samples": 2},
    "two noise samples per point, opposite": {
        "noise_samples": 2,
        "noised": noised_at(stratified, antithetic=True),
    },
    "times drawn towards 0 (t^1.5)": {"noised": noised_at(towards_zero)},
    "four noise samples per point (the default recipe)": {"noise_samples": 4},
}


def train(seed: int, changes: dict) -> Denoiser:
    options = {"noise_samples": 1} | changes
    network = options.pop("network", Denoiser)
    noised = options.pop("noised", training.noised)
    rate = options.pop("rate", diffusion.Training._rate)
    rotations = options.pop("rotations", True)
    decay = options.pop("weight_decay", 0.0)
    architecture = {name: options.pop(name) for name in ("width", "depth") if name in options}
    points = data.training_points(seed=seed)
    fitted = data.all_rotations(points, None)[0] if rotations else points
    with (
        patch.object(training, "Denoiser", network),
        patch.object(training, "noised", noised),
        patch.object(diffusion.Training, "_rate", rate),
    ):
        run = diffusion.Training(
            diffusion.build(fitted, seed=seed, **architecture),
            points,
            augment=data.random_rotations if rotations else None,
            seed=seed,
            **options,
        )
        run.optimizer = torch.optim.AdamW(
            run.model.parameters(), lr=run.learning_rate, weight_decay=decay, fused=True
        )
        return run.run()


def main(argv: list[str] | None = None) -> int:
    """Train and measure every variant; returns the exit code."""
    return startup.conclude(PROG, lambda: _compare(argv))


def _compare(argv: list[str] | None) -> None:
    parser = startup.Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="train every variant again")
    path = ROOT / "report/results/ablation_diffusion.json"
    known = {}
    if not parser.parse_args(argv).fresh and path.exists():
        known = {
            row["variant"]: row for row in json.loads(path.read_text(encoding="utf-8"))["variants"]
        }
    print(f"{'variant':<44}{'excess risk':>12}{'TV10':>9}{'KS':>9}{'outside':>9}")
    for name, changes in tqdm(VARIANTS.items(), disable=None):
        if name in known:
            continue
        rows = []
        for seed in SEEDS:
            model = train(seed, changes)
            points = diffusion.sample(model, 20_000, solver="dpm++", steps=24, seed=seed)
            rows.append(
                (
                    metrics.excess_risk(model, seed=seed),
                    metrics.tv10(points),
                    metrics.ks(points),
                    metrics.outside_share(points),
                )
            )
        means = dict(
            zip(("excess_risk", "tv10", "ks", "outside"), np.mean(rows, axis=0), strict=True)
        )
        known[name] = {"variant": name} | means | {"excess_risk_of_each_seed": [r[0] for r in rows]}
        print(f"{name:<44}" + "".join(f"{value:>9.5f} " for value in means.values()), flush=True)
        table = [known[name] for name in VARIANTS if name in known]
        content = {"seeds": SEEDS, "solver": "dpm++, 24 evaluations", "variants": table}
        write_json(path, content)


if __name__ == "__main__":
    sys.exit(main())
