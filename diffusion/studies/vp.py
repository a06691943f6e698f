"""--study vp: the variance-preserving chain, and its equivalence with the exercise's process.

The model is the exercise's unconditional denoiser, loaded from weights/diffusion_unconditional.pt
or trained; question V3 trains two more of its kind as networks of the chain.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import diffusion
from diffusion import data, gaussian, metrics
from diffusion.cli import Answer, Run, Study, option
from diffusion.exact import ExactDenoiser
from diffusion.figures import chains as figures
from diffusion.gaussian import Chain
from diffusion.images import bitflip, mnist
from diffusion.images.bitflip_exact import Enumerated
from diffusion.images.bitprocess import BitFlip
from diffusion.sampling import double, start
from diffusion.schedule import Exponential, Power
from diffusion.studies.parts import recipe

OPTIONS = (
    recipe.WEIGHTS,
    recipe.EPOCHS,
    recipe.POINTS,
    option("--steps", "stages T of the chain", within=(2, 10_000), type=int, default=1000),
    recipe.SEED,
    recipe.DEVICE,
    option(
        "--samples",
        "points per measurement",
        within=(2, 1_000_000),
        type=int,
        metavar="N",
        default=20_000,
    ),
)

SCHEDULES = {"linear": gaussian.linear, "cosine": gaussian.cosine}
SHOWN = {"t = T": 1, "0.6 T": 0.6, "0.35 T": 0.35, "0.15 T": 0.15, "0.06 T": 0.06, "t = 0": 0}


def load(args: argparse.Namespace) -> dict[str, diffusion.Denoiser | None]:
    mnist.check()
    points = recipe.training_points(args)
    return {"unconditional": args.weights and recipe.load(args.weights, points)}


def train(run: Run, name: str) -> diffusion.Denoiser:
    training = recipe.training(run.args, recipe.training_points(run.args))
    return recipe.run_and_save(training, diffusion.save, run.file(name))


# --- Questions ----------------------------------------------------------------------------------


def v0_posterior(run: Run) -> Answer:
    """q(x_t | x_0) and q(x_{t-1} | x_t, x_0), held against a million chains drawn step by step.

    Given x_0 both are Gaussian, so that the regression of x_{t-1} on x_t has the posterior mean's
    coefficient of x_t. The homework sheet's solution prints 1 - abar_t for its 1 - abar_{t-1}.
    """
    n, stages, x_0 = 1_000_000, 10, 0.7
    chain = gaussian.linear(stages, 0.01, 0.4)
    generator = torch.Generator().manual_seed(run.args.seed)
    x, rows = torch.full((n,), x_0, dtype=torch.float64), []
    for t in range(1, stages + 1):
        before, beta = x, chain.betas[t - 1]
        noise = torch.randn(n, generator=generator, dtype=torch.float64)
        x = (1 - beta).sqrt() * before + beta.sqrt() * noise
        abar, earlier = chain.abar[t], chain.abar[t - 1]
        row = {
            "t": t,
            "mean_error_in_standard_errors": (
                (x.mean() - abar.sqrt() * x_0) / (x.std() / n**0.5)
            ).item(),
            "variance_error_in_standard_errors": (
                (x.var() / (1 - abar) - 1) * (n / 2) ** 0.5
            ).item(),
        }
        if t > 1:  # x_0 is known for certain
            row |= _slopes(before, x, (1 - beta).sqrt(), earlier, abar)
        rows.append(row)
    return Answer({"chains": n, "stages": rows})


def _slopes(before: Tensor, x: Tensor, root: Tensor, earlier: Tensor, abar: Tensor) -> dict:
    """The slope of x_{t-1} on x_t (n,), measured and by both formulas; root is sqrt(alpha_t)."""
    shift = before - before.mean(), x - x.mean()
    slope = (shift[0] @ shift[1]) / (shift[1] @ shift[1])
    error = (shift[0] - slope * shift[1]).norm() / (shift[1].norm() * len(x) ** 0.5)
    return {
        "slope": slope.item(),
        "slope_standard_error": error.item(),
        "slope_of_the_posterior": (root * (1 - earlier) / (1 - abar)).item(),
        "slope_as_the_sheet_prints_it": (root * (1 - abar) / (1 - abar)).item(),
    }


def v1_schedules(run: Run) -> Answer:
    """Linear and cosine betas; with the exact score, what the number of stages does.

    The linear betas are scaled by 1000 / T, so that every T ends at the same noise.
    """
    counts, n = (25, 50, 100, 200), run.args.samples
    errors: dict[str, list[float]] = {}
    for count in counts:
        scale = 1000 / count
        chains = {
            "linear": gaussian.linear(count, 1e-4 * scale, 0.02 * scale),
            "cosine": gaussian.cosine(count),
        }
        for name, chain in chains.items():
            for solver in gaussian.SOLVERS:
                points = gaussian.sample(
                    ExactDenoiser(), chain, n, solver=solver, seed=run.args.seed
                )
                errors.setdefault(f"{name}, {solver}", []).append(metrics.tv10(points))
    generator = torch.Generator().manual_seed(run.args.seed)
    floor = metrics.tv10(data.uniform(n, generator=generator))
    curves = {name: (chain().abar, chain().sigma) for name, chain in SCHEDULES.items()}
    return Answer(
        {"stages": counts, "tv10_exact_score": errors, "tv10_of_uniform_points": floor},
        {"v1_schedules": figures.schedules(curves, counts, errors, floor)},
    )


def v2_equivalence(run: Run) -> Answer:
    """The VE denoiser through the VP chain, with no new training.

    On the schedule linear in sigma, VE DDIM takes its Euler steps in sigma itself, and VP DDIM is
    the same map after x_VE = x_VP / sqrt(abar).
    """
    denoiser = run.models["unconditional"]
    own = denoiser.schedule
    schedule = Power(own.sigma_min, own.sigma_max, rho=1.0)
    steps, n = run.args.steps, min(run.args.samples, 1000)
    chain = gaussian.of_schedule(schedule, steps)
    stages = torch.arange(chain.stages, 0, -1)
    root = chain.abar[stages].sqrt()
    differences = {}
    for name, model in (("float64", double(denoiser)), ("float32", denoiser)):
        generator = torch.Generator().manual_seed(run.args.seed)
        x = start(model, n, generator=generator)
        _, path_ve = diffusion.sample(
            model, n, steps=steps, noise=x, schedule=schedule, return_trajectory=True
        )
        _, path = gaussian.sample(
            model,
            chain,
            n,
            solver="ddim",
            stages=stages.tolist(),
            noise=x * root[0].to(x),
            return_trajectory=True,
        )
        apart = path.double() / root[:, None, None] - path_ve.double()
        differences[name] = apart.abs().amax(dim=(1, 2))
    shown = slice(0, 6)
    figure = figures.equivalence(
        path_ve[:, shown], path[:, shown], chain.sigma[stages].tolist(), differences
    )
    largest = {name: difference.max().item() for name, difference in differences.items()}
    return Answer(
        {"steps": steps, "points": n, "largest_difference": largest}, {"v2_equivalence": figure}
    )


def v3_training(run: Run) -> Answer:
    """DDPM training from nothing on both schedules; DDPM and DDIM sampling from N(0, I)."""
    n, window = run.args.samples, 100
    curves, samples, report = {}, {}, {}
    for name, make in SCHEDULES.items():
        chain = make(run.args.steps)
        model = train_for_chain(run, chain)
        bayes = loss(ExactDenoiser(), chain)
        curves[name] = (model.losses, bayes)
        report[name] = {
            "bayes_loss": bayes,
            "loss": loss(model, chain),
            f"loss_mean_of_last_{window}_epochs": model.losses[-window:].mean().item(),
            "tv10": {},
        }
        for solver in gaussian.SOLVERS:
            points = gaussian.sample(model, chain, n, solver=solver, seed=run.args.seed)
            score = report[name]["tv10"][solver] = metrics.tv10(points)
            samples[f"{name}, {solver.upper()}\nTV10 {score:.3f}"] = points[:1000]
    return Answer(
        report | {"stages": run.args.steps, "samples": n},
        {"v3_training": figures.training(curves, samples, window)},
    )


def train_for_chain(run: Run, chain: Chain) -> diffusion.Denoiser:
    """A denoiser trained as the network of the chain, by the recipe."""
    points = recipe.training_points(run.args)
    model = recipe.untrained(run.args, points)
    # The chain's levels, which with few stages end too early: that is what is to be seen.
    model.schedule = Exponential(chain.sigma[1].item(), chain.sigma[-1].item())
    training = gaussian.ChainTraining(model, chain, points, **recipe.settings(run.args))
    return training.run(progress=True).cpu()


@torch.no_grad()
def loss(model, chain: Chain, num_samples: int = 100_000) -> float:
    """The DDPM loss over fresh points of the square."""
    generator = torch.Generator().manual_seed(0)
    x_0 = data.uniform(num_samples, generator=generator)
    t = torch.randint(1, chain.stages + 1, (num_samples,), generator=generator)
    eps = torch.randn(num_samples, 2, generator=generator)
    predicted = gaussian.predictor(model, chain)(chain.forward(x_0, t, eps), t)
    return (predicted - eps).square().mean().item()


def v4_one_loop(run: Run) -> Answer:
    """Three processes through one loop: VE and VP with one model, bit-flip beside them.

    The bit-flip row has no network at all: it is driven by the ideal one of 500 digits of MNIST, so
    that its
    output is one of them.
    """
    model, n, steps, seed = run.models["unconditional"], 1000, run.args.steps, run.args.seed
    chain = gaussian.of_schedule(model.schedule, steps)
    x = start(model, n, generator=torch.Generator().manual_seed(seed))
    _, ve = diffusion.sample(model, n, steps=steps, noise=x, return_trajectory=True)
    _, vp = gaussian.sample(
        model,
        chain,
        n,
        stages=list(range(chain.stages, 0, -1)),
        noise=x * chain.abar[-1].sqrt().to(x),
        seed=seed,
        return_trajectory=True,
    )
    process = BitFlip()
    digits = 2 * mnist.binarise(mnist.load("train")[0][:500], seed=seed) - 1
    ideal = Enumerated(process, digits)
    _, bits = bitflip.sample(ideal, 1, seed=seed, return_trajectory=True)

    def shown(path: Tensor) -> list[Tensor]:
        return [path[round((1 - share) * (len(path) - 1))] for share in SHOWN.values()]

    figure = figures.one_loop(
        {"VE, DDIM": shown(ve), "VP, DDPM": shown(vp)},
        ("bit-flip", [image.reshape(mnist.SHAPE) for image in shown(bits)]),
        list(SHOWN),
    )
    root = chain.abar[1].sqrt().item()
    scores = {"ve_ddim": metrics.tv10(ve[-1]), "vp_ddpm": metrics.tv10(vp[-1] / root)}
    known = bool((bits[-1] == ideal.images).all(dim=1).any())
    return Answer(
        {"tv10_of_1000": scores, "bit_flip_output_is_one_of_its_images": known},
        {"v4_one_loop": figure},
    )


STUDY = Study(
    name="vp",
    description="the variance-preserving chain, and its equivalence with the exercise's process",
    options=OPTIONS,
    small="--epochs 60 --points 1000 --steps 50 --samples 1000 "
    "--weights {save}/diffusion_unconditional.pt",
    check=recipe.check_device,
    load=load,
    train=train,
    weights="vp_{}.pt",
    questions={
        "posterior": v0_posterior,
        "schedules": v1_schedules,
        "equivalence": v2_equivalence,
        "training": v3_training,
        "one_loop": v4_one_loop,
    },
)
