"""Fisher information against autograd and enumeration; EWC against least squares."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.images import continual_exact, continual_vae
from diffusion.images.continual import network
from diffusion.images.continual_fisher import Parabola, fisher_diagonal, mean_squares
from diffusion.images.vae import VAE


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- The diagonal Fisher information ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_diagonal_is_the_sum_over_images_and_classes_one_by_one(kind):
    model, x = network(kind, 1), torch.rand(3, 784, generator=seeded())
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for row in x:
        log_p = model(row[None]).log_softmax(dim=1)[0]
        for c in range(10):
            slope = torch.autograd.grad(log_p[c], list(model.parameters()), retain_graph=True)
            for total, g in zip(expected, slope, strict=True):
                total += log_p[c].exp().detach() * g.square() / len(x)
    for found, truth in zip(fisher_diagonal(model, x), expected, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-10)


def test_the_diagonal_needs_no_gradient_mode_and_leaves_no_hooks():
    model, x = network("mlp"), torch.rand(4, 784, generator=seeded())
    truth = fisher_diagonal(model, x)
    with torch.inference_mode():
        found = fisher_diagonal(model, x)
    assert all(map(torch.equal, truth, found))
    assert not any(layer._forward_hooks for layer in model.modules())


def test_two_weights_are_estimated_within_the_standard_error_of_their_enumeration():
    model = continual_exact.TwoWeights(0.7, -1.3)
    every = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    exact = model.fisher(every)
    assert exact.equal(exact.T)
    whole = torch.cat([f.flatten() for f in fisher_diagonal(model, every)])
    torch.testing.assert_close(whole, exact.diagonal())
    n = 4000
    rows = torch.randint(len(every), (n,), generator=seeded())
    each = torch.stack([model.fisher(x[None]).diagonal() for x in every])[rows]
    found = torch.cat([f.flatten() for f in fisher_diagonal(model, every[rows])])
    assert ((found - exact.diagonal()).abs() < 4 * each.std(dim=0) / math.sqrt(n)).all()


def test_the_fisher_information_is_the_curvature_of_the_kl_divergence():
    model = continual_exact.TwoWeights(0.7, -1.3)
    every = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    step = torch.tensor([1e-4, -2e-4], dtype=torch.float64)
    moved = continual_exact.TwoWeights(0.7 + 1e-4, -1.3 - 2e-4)
    half = step @ model.fisher(every) @ step / 2
    assert model.divergence(moved, every) == pytest.approx(half.item(), rel=1e-2)


def test_squares_of_the_elbo_are_those_of_one_image_at_a_time():
    model = VAE(pixels=9, latent=2, hidden=(5,), generator=seeded())
    x = (torch.rand(6, 9, generator=seeded(1)) < 0.5).float()
    eps = torch.randn(6, 2, generator=seeded(2))

    def bounds(rows: torch.Tensor) -> torch.Tensor:
        m, v = model.encode(rows)
        kl = (m.square() + v - 1 - v.log()).sum(dim=1) / 2
        noise = eps[: len(rows)]
        return (kl - model.log_conditional(rows, m + v.sqrt() * noise))[:, None]

    expected = [torch.zeros_like(p) for p in model.parameters()]
    for k in range(6):
        part = bounds(x)[k, 0]
        for total, g in zip(
            expected, torch.autograd.grad(part, list(model.parameters())), strict=True
        ):
            total += g.square() / 6
    for found, truth in zip(mean_squares(model, x, bounds), expected, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-8)


# --- EWC ----------------------------------------------------------------------------------------


def minimised(fisher, moment, parabola: Parabola) -> torch.Tensor:
    """Argmin of a quadratic loss plus the library's penalty, by one Newton step from 0."""

    def loss(theta):
        return theta @ fisher @ theta / 2 - moment @ theta + parabola([theta])

    start = torch.zeros_like(moment)
    slope = torch.autograd.functional.jacobian(loss, start)
    return start - torch.linalg.solve(torch.autograd.functional.hessian(loss, start), slope)


@pytest.mark.parametrize("form", ["online", "per-task"])
def test_the_penalty_is_the_one_whose_solutions_are_known(form):
    problem = continual_exact.regression(5, 50, 6, seeded())
    truth = continual_exact.sequential(problem, diagonal=True, form=form)
    parabola, found = Parabola(1.0, form), []
    for fisher, moment in zip(*problem, strict=True):
        found.append(minimised(fisher, moment, parabola))
        parabola.add([found[-1]], [fisher.diagonal()])
    torch.testing.assert_close(torch.stack(found), truth)


def test_after_two_tasks_both_forms_are_the_same_and_after_three_they_are_not():
    problem = continual_exact.regression(3, 50, 6, seeded())
    online = continual_exact.sequential(problem)
    per_task = continual_exact.sequential(problem, form="per-task")
    torch.testing.assert_close(online[:2], per_task[:2])
    assert not torch.allclose(online[2], per_task[2], rtol=1e-3)


def test_with_the_whole_fisher_information_ewc_is_the_joint_solution():
    problem = continual_exact.regression(8, 60, 12, seeded(1))
    best = continual_exact.joint(problem)
    found = continual_exact.sequential(problem)
    assert ((found - best).norm(dim=1) / best.norm(dim=1)).max() < 1e-6
    # lstsq on all data so far is an implementation of its own.
    roots = torch.linalg.cholesky(problem.fisher.sum(dim=0), upper=True)
    target = torch.linalg.solve(roots.T, problem.moment.sum(dim=0))
    torch.testing.assert_close(torch.linalg.lstsq(roots, target[:, None]).solution[:, 0], best[-1])


def test_with_the_diagonal_the_error_is_what_theory_gives():
    problem = continual_exact.regression(6, 60, 12, seeded(2))
    error = continual_exact.sequential(problem, diagonal=True) - continual_exact.joint(problem)
    torch.testing.assert_close(error, continual_exact.diagonal_error(problem))
    assert error[1:].norm(dim=1).min() > 1e-3
    # Designs without correlation leave nothing out.
    plain = problem._replace(fisher=torch.diag_embed(problem.fisher.diagonal(dim1=1, dim2=2)))
    nothing = continual_exact.sequential(plain, diagonal=True) - continual_exact.joint(plain)
    assert nothing.abs().max() < 1e-9


def test_a_weight_without_information_is_free():
    parabola = Parabola(3.0, "per-task")
    parabola.add([torch.tensor([1.0, 2.0])], [torch.tensor([2.0, 0.0])])
    parabola.add([torch.tensor([4.0, 5.0])], [torch.tensor([1.0, 0.0])])
    assert parabola.centre[0].tolist()[0] == pytest.approx(2)
    assert parabola([torch.tensor([2.0, 99.0])]) == 0
    assert parabola([torch.tensor([3.0, 0.0])]) == pytest.approx(4.5)


# --- The VAE ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes() -> list[torch.Tensor]:
    ink = torch.rand(2, 1, 784, generator=seeded(3)) < 0.3
    noise = torch.rand(2, 60, 784, generator=seeded(4)) < 0.05
    return list((ink ^ noise).to(torch.uint8) * 255)


def test_all_strategies_of_the_vae_share_the_first_class(classes):
    options = {"updates": 2, "learning_rate": 1e-3, "seed": 1}
    first = continual_vae.learn(classes[:1], continual_vae.Naive(), **options)[0]
    for make in (
        continual_vae.Naive,
        continual_vae.Joint,
        lambda: continual_vae.EWC(1.0, examples=20),
        lambda: continual_vae.Rehearsal(5),
        continual_vae.Replay,
    ):
        whole = continual_vae.learn(classes, make(), **options)
        again = continual_vae.learn(classes, make(), first=first, **options)
        assert all(map(torch.equal, first.parameters(), whole[0].parameters()))
        assert all(map(torch.equal, again[1].parameters(), whole[1].parameters()))


def test_rehearsal_and_joint_training_mix_all_classes_alike(classes):
    rehearsal, generator = continual_vae.Rehearsal(5), seeded()
    rehearsal.consolidate(None, classes[0], generator)
    old = (classes[0].float() / 255).mean(dim=0).round()
    for strategy in (rehearsal, continual_vae.Joint()):
        rows = torch.cat([strategy.batch(classes, generator) for _ in range(20)])
        assert set(rows.unique().tolist()) <= {0.0, 1.0}
        share = ((rows - old).abs().mean(dim=1) < 0.15).double().mean().item()
        assert abs(share - 0.5) < 5 * math.sqrt(0.25 / len(rows))


def test_replay_rehearses_what_the_model_generates(classes):
    model, generator = VAE(hidden=(5,), generator=seeded()), seeded()
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.copy_(torch.tensor([9.0, -9.0]).repeat(392))
    replay = continual_vae.Replay()
    assert replay.batch(classes[:1], generator).shape == (100, 784)
    replay.consolidate(model, classes[0], generator)
    rows = torch.cat([replay.batch(classes, generator) for _ in range(20)])
    stripes = torch.tensor([1.0, 0.0]).repeat(392)
    share = ((rows - stripes).abs().mean(dim=1) < 0.05).double().mean().item()
    assert abs(share - 0.5) < 5 * math.sqrt(0.25 / len(rows))


def test_a_vae_of_no_updates_or_no_memory_is_refused(classes):
    with pytest.raises(ValueError, match="updates must be"):
        continual_vae.learn(classes, continual_vae.Naive(), updates=0, learning_rate=1e-3, seed=0)
    with pytest.raises(ValueError, match="memory of rehearsal must be"):
        continual_vae.Rehearsal(0)
