"""Log-densities of a model of points of one's own: where they are asked for, and drawn."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from diffusion import likelihood
from diffusion.cli import Run
from diffusion.figures import owndata as pictures
from diffusion.sampling import double
from diffusion.studies.parts.ownpoints import COMPARED, frame, split, spread

MAPS = 12  # densities drawn, that of all classes first
# Name, and place in the frame of the data, whose corners are at +-1.
PROBES = (("C", (0.0, 0.0)), ("D", (1.0, 1.0)), ("E", (1.2, 0.3)), ("F", (1.5, -1.4)))


def probes(run: Run, kind: str) -> tuple[list[str], Tensor, Tensor | None]:
    """Names, places (n, 2) and classes of the points whose probability is asked for.

    A and B are held-out points, with their own classes; the others lie about the data. With
    classes they have that of A, and G is A with another class.
    """
    points, here = run.once(split), run.once(frame)
    places = {"A": points.held_out[0].tolist(), "B": points.held_out[-1].tolist()}
    places |= {name: here.place(*place) for name, place in PROBES}
    if kind == "unconditional":
        return list(places), torch.tensor(list(places.values())), None
    places["G"] = places["A"]
    own = points.held_out_labels[0].item()
    labels = torch.full((len(places),), own)
    labels[1] = points.held_out_labels[-1]
    labels[-1] = (own + 1) % len(points.names)
    return list(places), torch.tensor(list(places.values())), labels


def accuracy(run: Run, tolerance: float) -> dict[str, float]:
    """Tolerances of the flow; the absolute one counts in units of the data as well as in nats."""
    return {"rtol": tolerance, "atol": tolerance * min(1.0, run.once(spread))}


def held_out_log_density(run: Run, kind: str) -> dict[str, float]:
    """Mean log-density of held-out points, and under Gaussians fitted to the training points."""
    points, model = run.once(split), double(run.models[kind])
    generator = torch.Generator().manual_seed(run.args.seed)
    rows = torch.randperm(len(points.held_out), generator=generator)[:COMPARED]
    x = points.held_out[rows].double()
    labels = points.held_out_labels[rows] if kind == "conditional" else None
    own = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels
    gaussian = MultivariateNormal(model.mean[own], model.covariance[own])
    found = likelihood.log_likelihood(model, x, labels, **accuracy(run, 1e-4))
    return {
        "points": len(x),
        "log_density_nats": found.mean().item(),
        "standard_error_nats": (found.std() / len(x) ** 0.5).item(),
        "gaussian_log_density_nats": gaussian.log_prob(x).mean().item(),
    }


def density_maps(run: Run, cells: int = 64, reach: float = 1.5):
    """Integrals of the densities over 1.5 times the frame, by name, and their picture."""
    here = run.once(frame)
    (left, bottom), (right, top) = here.place(-reach, -reach), here.place(reach, reach)
    middles = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    y, x = torch.meshgrid(
        bottom + (top - bottom) * middles, left + (right - left) * middles, indexing="ij"
    )
    grid = torch.stack([x, y], dim=2).reshape(-1, 2)
    maps = {"all points": ("unconditional", None)}
    for k, name in enumerate(run.once(split).names[: MAPS - 1]):
        maps[f"class {name}"] = ("conditional", k)
    found = {
        name: likelihood.log_likelihood(run.models[kind], grid, label, **accuracy(run, 1e-3))
        for name, (kind, label) in maps.items()
    }
    area = (right - left) / cells * (top - bottom) / cells
    integrals = {name: log_p.exp().sum().item() * area for name, log_p in found.items()}
    images = [log_p.reshape(cells, cells) for log_p in found.values()]
    extent = (left, right, bottom, top)
    return integrals, pictures.density_maps(images, list(maps), integrals.values(), extent)
