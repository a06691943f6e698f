"""Where the truth of continual learning is known: two questions of the study."""

from __future__ import annotations

import math

import torch

from diffusion.cli import Answer, Run
from diffusion.images import continual_exact
from diffusion.images.continual import network, scaled
from diffusion.images.continual_fisher import fisher_diagonal, squared_gradients
from diffusion.images.continual_measures import mean_and_error
from diffusion.studies.parts import continual_runs as runs

IMAGES = 1000  # that the Fisher information of the MLP is taken over


def d_regression(run: Run) -> Answer:
    """Truth: on linear regression EWC with the whole Fisher information is the joint solution."""
    generator = torch.Generator().manual_seed(run.args.seed)
    problem = continual_exact.regression(5, 200, 20, generator)
    best = continual_exact.joint(problem)
    size = best.norm(dim=1)

    def error(**options) -> list[float]:
        found = continual_exact.sequential(problem, **options)
        return ((found - best).norm(dim=1) / size).tolist()

    theory = continual_exact.diagonal_error(problem)
    found = continual_exact.sequential(problem, diagonal=True) - best
    return Answer(
        {
            "dimensions": 20,
            "relative_error_whole_online": error(),
            "relative_error_whole_one_a_task": error(form="per-task"),
            "relative_error_diagonal_online": error(diagonal=True),
            "largest_difference_from_theory": (found - theory).abs().max().item(),
        }
    )


def d_fisher(run: Run) -> Answer:
    """Truth: two weights whose Fisher information is enumerated; and what it says of the MLP."""
    generator = torch.Generator().manual_seed(run.args.seed)
    model, n = continual_exact.TwoWeights(0.7, -1.3), 5000
    every = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    exact = model.fisher(every).diagonal()
    rows = torch.randint(len(every), (n,), generator=generator)
    estimate = torch.cat([f.flatten() for f in fisher_diagonal(model, every[rows])])
    each = torch.stack([model.fisher(x[None]).diagonal() for x in every])[rows]
    moved = continual_exact.TwoWeights(0.71, -1.28)
    step = torch.tensor([0.01, 0.02], dtype=torch.float64)
    quadratic = (step @ model.fisher(every) @ step / 2).item()
    mlp, task = (
        run.once(runs.paths)["mlp", "naive"][0].learnt.models[0],
        run.once(runs.data)[0].train[0],
    )
    return Answer(
        {
            "enumerated": exact.tolist(),
            "estimated": estimate.tolist(),
            "deviation_in_standard_errors": (
                (estimate - exact) / (each.std(dim=0) / math.sqrt(n))
            ).tolist(),
            "kl_over_half_quadratic_form": model.divergence(moved, every) / quadratic,
            "mlp": _fisher_of_mlp(mlp, task, generator),
        }
    )


@torch.no_grad()
def _fisher_of_mlp(model, task, generator: torch.Generator) -> dict:
    """Trace of the Fisher information, and of squared gradients at the labels, against the KL.

    For d ~ N(0, s^2 I) the KL divergence of the predictions is s^2 trace(F) / 2 on average.
    """
    rows, s = slice(0, IMAGES), 1e-3
    x, labels = scaled(task.grey(rows)), task.labels[rows]
    own = sum(f.sum().item() for f in fisher_diagonal(model, x))
    at_labels = squared_gradients(
        model, lambda: torch.log_softmax(model(x), dim=1).gather(1, labels[:, None])
    )
    found = []
    for _ in range(20):
        moved = network("mlp")
        for p, q in zip(model.parameters(), moved.parameters(), strict=True):
            q.copy_(p + s * torch.randn(p.shape, generator=generator, dtype=torch.float32))
        log_p, log_q = (torch.log_softmax(m(x).double(), dim=1) for m in (model, moved))
        found.append((log_p.exp() * (log_p - log_q)).sum(dim=1).mean() * 2 / s**2)
    return {
        "trace": own,
        "trace_at_the_labels": sum(f.sum().item() for f in at_labels) / IMAGES,
        "trace_by_kl": mean_and_error(torch.stack(found)),
    }
