"""The variance-preserving chain: closed forms, exact equivalence with the VE process, training."""

from __future__ import annotations

import math

import pytest
import torch

import diffusion
from diffusion import gaussian, metrics
from diffusion.data import NUM_CLASSES, training_points, uniform
from diffusion.exact import ExactDenoiser
from diffusion.gaussian import Chain
from diffusion.sampling import double, reverse
from diffusion.schedule import SIGMA_MIN, Exponential, Power, Quadratic

SCHEDULES = {"linear": gaussian.linear(), "cosine": gaussian.cosine()}
every_schedule = pytest.mark.parametrize("chain", SCHEDULES.values(), ids=SCHEDULES)


@pytest.fixture
def x(generator) -> torch.Tensor:
    return torch.randn(6, 2, generator=generator, dtype=torch.float64)


# --- Closed forms -------------------------------------------------------------------------------


@every_schedule
def test_one_shot_has_the_moments_of_the_stages_one_by_one(chain):
    factor, variance = 1.0, 0.0
    for t, beta in enumerate(chain.betas.tolist(), start=1):
        factor, variance = math.sqrt(1 - beta) * factor, (1 - beta) * variance + beta
        if t % 100 == 0 or t == 1:
            one_shot = [float(value) for value in chain.marginal(t)]
            assert one_shot == pytest.approx([factor, variance], rel=1e-10)


@every_schedule
def test_an_unnoised_point_and_a_forgotten_one(chain):
    assert [float(value) for value in chain.marginal(0)] == [1, 0]
    factor, variance = chain.marginal(chain.stages)
    assert factor < 0.01
    assert variance > 0.9999


@every_schedule
def test_denoised_undoes_forward(chain, x):
    t = torch.tensor([1, 2, 50, 400, 800, 900])
    eps = torch.flip(x, [0])
    x_t = chain.forward(x, t, eps)
    torch.testing.assert_close(chain.denoised(x_t, t, eps), x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(x_t[3:4], chain.forward(x[3:4], 400, eps[3:4]))


CHAIN = Chain(torch.tensor([0.1, 0.3, 0.2, 0.6]))


def integrated_posterior(chain: Chain, t: int, x_0: float, x_t: float) -> tuple[float, float]:
    """Mean and variance of q(x_{t-1} | x_t, x_0) from Bayes' rule alone, by quadrature."""
    beta, kept = chain.betas[t - 1], torch.prod(1 - chain.betas[: t - 1])
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_p = -((x_t - torch.sqrt(1 - beta) * z) ** 2) / (2 * beta)
    log_p -= (z - torch.sqrt(kept) * x_0) ** 2 / (2 * (1 - kept))
    p = torch.softmax(log_p, dim=0)
    mean = (p * z).sum()
    return mean.item(), (p * (z - mean) ** 2).sum().item()


@pytest.mark.parametrize("t", [2, 3, 4])
@pytest.mark.parametrize(("x_0", "x_t"), [(0.7, -0.4), (-1.3, 1.1)])
def test_posterior_by_numerical_integration(t, x_0, x_t):
    mean, variance = CHAIN.posterior(torch.tensor([[x_t]]).double(), torch.tensor([[x_0]]), t)
    truth = integrated_posterior(CHAIN, t, x_0, x_t)
    # x_0 and x_t come as float32 numbers.
    assert (mean.item(), variance.item()) == pytest.approx(truth, rel=1e-6)
    # The widely copied coefficient of x_t, with 1 - abar_t for 1 - abar_{t-1}, is wrong.
    abar, beta = CHAIN.abar, CHAIN.betas[t - 1]
    copied = torch.sqrt(abar[t - 1]) * beta * x_0 + torch.sqrt(1 - beta) * (1 - abar[t]) * x_t
    copied = copied / (1 - abar[t])
    assert abs(copied.item() - truth[0]) > 0.05


def test_the_last_posterior_is_certain():
    x_t, x_0 = torch.tensor([[5.0]]), torch.tensor([[0.25]])
    mean, variance = CHAIN.posterior(x_t, x_0, 1)
    assert mean.item() == pytest.approx(0.25)
    assert variance == 0


def test_linear_and_cosine_schedules_are_the_published_ones():
    beta = gaussian.linear(5, first=0.1, last=0.5).betas
    torch.testing.assert_close(beta, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).double())
    assert gaussian.linear().abar[-1].item() == pytest.approx(4.0e-5, rel=0.02)
    abar = gaussian.cosine(1000).abar
    s = 0.008
    for t in (1, 250, 500, 990):
        f = [math.cos((u / 1000 + s) / (1 + s) * math.pi / 2) ** 2 for u in (t, 0)]
        assert abar[t].item() == pytest.approx(f[0] / f[1], rel=1e-9)
    assert gaussian.cosine(1000).betas.max() == 0.999


# --- Equivalence with the VE process ------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Exponential(), Power(), Quadratic()], ids=repr)
def test_chain_of_a_ve_schedule_has_its_noise_levels(schedule, x):
    chain = gaussian.of_schedule(schedule, 50)
    sigma = schedule.sigma(torch.arange(51, dtype=torch.float64) / 50)
    torch.testing.assert_close(chain.sigma[1:], sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(chain.abar[1:], 1 / (1 + sigma**2), rtol=1e-12, atol=0)
    eps = torch.flip(x, [0])
    for t in (1, 20, 51):
        x_ve = chain.forward(x, t, eps) / chain.abar[t].sqrt()
        torch.testing.assert_close(x_ve, x + sigma[t - 1] * eps, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [10, 200])
@pytest.mark.parametrize("exact", [False, True])
def test_ve_denoiser_samples_alike_through_the_vp_chain(denoiser, generator, steps, exact):
    # Where sigma is linear in t, the Euler steps of VE DDIM are steps in sigma, as those of DDIM.
    schedule = Power(rho=1.0)
    model = ExactDenoiser(schedule) if exact else double(denoiser)
    noise = 1.2 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
    points, path = diffusion.sample(
        model, 200, steps=steps, noise=noise, schedule=schedule, return_trajectory=True
    )
    chain = gaussian.of_schedule(schedule, steps)
    stages = list(range(chain.stages, 0, -1))
    _, path_vp = gaussian.sample(
        model,
        chain,
        200,
        solver="ddim",
        stages=stages,
        noise=noise * chain.abar[-1].sqrt(),
        return_trajectory=True,
    )
    path_vp = path_vp / chain.abar[stages].sqrt()[:, None, None]
    torch.testing.assert_close(path_vp, path, rtol=0, atol=1e-10)
    torch.testing.assert_close(path_vp[-1], points, rtol=0, atol=1e-10)


def test_the_equivalence_holds_to_1e_5_in_single_precision(denoiser, generator):
    schedule, steps = Power(rho=1.0), 100
    noise = 1.2 * torch.randn(200, 2, generator=generator)
    points = diffusion.sample(denoiser, 200, steps=steps, noise=noise, schedule=schedule)
    chain = gaussian.of_schedule(schedule, steps)
    points_vp = gaussian.sample(
        denoiser,
        chain,
        200,
        solver="ddim",
        stages=range(chain.stages, 0, -1),
        noise=noise * chain.abar[-1].sqrt().float(),
    )
    points_vp = points_vp / chain.abar[1].sqrt().float()
    torch.testing.assert_close(points_vp, points, rtol=0, atol=1e-5)


def test_ancestral_steps_of_both_processes_are_the_same(denoiser, generator):
    """VE: x' = D + (s'/s)^2 (x - D) + s' sqrt(1 - (s'/s)^2) n, the Gaussian conditional of x'."""
    model, chain = double(denoiser), gaussian.of_schedule(Exponential(), 60)
    x = 1.2 * torch.randn(50, 2, generator=generator, dtype=torch.float64)
    fresh = torch.randn(60, 50, 2, generator=generator, dtype=torch.float64)
    draws = iter(fresh)
    step = gaussian.ddpm(gaussian.predictor(model, chain), chain, lambda: next(draws))
    stages = range(chain.stages, 0, -1)
    with torch.no_grad():
        *_, points_vp = reverse(step, x * chain.abar[-1].sqrt(), stages)
        for t, n in zip(range(chain.stages, 1, -1), fresh, strict=True):
            s, s_next = chain.sigma[t], chain.sigma[t - 1]
            denoised = x - s * model.noise(x, s)
            shrink = (s_next / s) ** 2
            x = denoised + shrink * (x - denoised) + s_next * torch.sqrt(1 - shrink) * n
    torch.testing.assert_close(points_vp / chain.abar[1].sqrt(), x, rtol=0, atol=1e-10)


# --- Sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", [gaussian.linear(200, 5e-4, 0.1), gaussian.cosine(200)])
@pytest.mark.parametrize("solver", gaussian.SOLVERS)
def test_exact_score_reproduces_the_square_from_standard_noise(chain, solver):
    points = gaussian.sample(ExactDenoiser(), chain, 20_000, solver=solver, seed=0)
    # TV10 of truly uniform points is 0.0281 with standard deviation 0.002, KS exceeds 0.0157 with
    # probability 1e-4 (Massart 1990); steps of finite length cost as much again.
    assert metrics.tv10(points) < 0.0281 + 4 * 0.002 + 0.008
    assert metrics.ks(points) < 0.0157 + 0.005


def test_same_seed_same_points_and_the_path(conditional):
    chain = gaussian.cosine(20)
    labels = torch.arange(8) % NUM_CLASSES
    options = {"labels": labels, "seed": 3}
    before = torch.get_rng_state()
    points, path = gaussian.sample(conditional, chain, 8, return_trajectory=True, **options)
    assert path.shape == (21, 8, 2)
    assert torch.equal(path[-1], points)
    assert torch.equal(points, gaussian.sample(conditional, chain, 8, **options))
    assert torch.equal(before, torch.get_rng_state())
    other = gaussian.sample(conditional, chain, 8, **(options | {"seed": 4}))
    assert not torch.isclose(points, other).any()
    unseeded = [gaussian.sample(conditional, chain, 8, labels=labels) for _ in range(2)]
    assert not torch.isclose(*unseeded).all()


# --- Training -----------------------------------------------------------------------------------


def test_ddpm_training_nears_the_bayes_loss_and_the_model_serves_both_processes():
    points, chain = training_points(1000), gaussian.cosine(200)
    schedule = Exponential(SIGMA_MIN, 3.0)
    model = diffusion.build(points, schedule=schedule)
    training = gaussian.ChainTraining(
        model,
        chain,
        points,
        epochs=300,
        noise_samples=1,
        learning_rate=1e-2,
        ema_decay=0.98,
        seed=1,
    )
    trained = training.run()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        x_0 = uniform(40_000, generator=generator)
        t = 1 + torch.randint(chain.stages, (len(x_0),), generator=generator)
        eps = torch.randn(len(x_0), 2, generator=generator)
        x_t = chain.forward(x_0, t, eps)
        losses = [
            (gaussian.predictor(network, chain)(x_t, t) - eps).square().mean().item()
            for network in (trained, ExactDenoiser())
        ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert training.losses[-1] < training.losses[0]
    for made in (
        gaussian.sample(trained, chain, 4000, seed=0),
        diffusion.sample(trained, 4000, solver="dpm++", steps=30, seed=0),
    ):
        assert metrics.outside_share(made) < 0.15
        # The mean of 4000 points of the square has standard deviation 0.009.
        assert made.mean(dim=0).tolist() == pytest.approx([0, 0], abs=0.08)


def test_resumed_ddpm_training_gives_the_same_bits_and_knows_its_chain(tmp_path):
    points = training_points(1000)

    def training(chain):
        return gaussian.ChainTraining(diffusion.build(points), chain, points, epochs=6)

    straight = training(gaussian.cosine(50)).run()
    halted = training(gaussian.cosine(50))
    for _ in range(3):
        halted.epoch()
    halted.save(tmp_path / "state.pt")
    resumed = training(gaussian.cosine(50))
    resumed.resume(tmp_path / "state.pt")
    for name, tensor in resumed.run().state_dict().items():
        assert torch.equal(tensor, straight.state_dict()[name])
    with pytest.raises(diffusion.WeightsError, match="other settings"):
        training(gaussian.cosine(51)).resume(tmp_path / "state.pt")


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 2.0, math.nan, math.inf])
def test_betas_outside_0_1_are_refused(beta):
    with pytest.raises(ValueError, match=r"every beta must be in \(0, 1\)"):
        Chain(torch.tensor([0.1, beta]))
    with pytest.raises(ValueError, match=r"every beta must be in \(0, 1\)"):
        gaussian.linear(10, last=beta)


@pytest.mark.parametrize("betas", [torch.empty(0), torch.tensor(0.1), torch.full((2, 2), 0.1)])
def test_betas_of_another_shape_are_refused(betas):
    with pytest.raises(ValueError, match="betas must have shape"):
        Chain(betas)


@pytest.mark.parametrize("betas", ["x", None, ["x"], [[0.1], [0.1, 0.2]]])
def test_betas_that_are_no_numbers_are_refused(betas):
    with pytest.raises(ValueError, match="betas must be numbers"):
        Chain(betas)


@pytest.mark.parametrize("stages", [0, -1, 2.0, True])
def test_a_number_of_stages_is_whole_and_positive(stages):
    for schedule in (gaussian.linear, gaussian.cosine):
        with pytest.raises(ValueError, match="stages must be a whole number"):
            schedule(stages)


@pytest.mark.parametrize("levels", [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [-1.0, 2.0], [math.nan]])
def test_levels_that_do_not_rise_are_refused(levels):
    with pytest.raises(ValueError, match="must rise"):
        gaussian.of_levels(torch.tensor(levels))


@pytest.mark.parametrize("t", [0, 5, -1, 1.0, True, torch.tensor([1, 9]), torch.ones(1, 1).long()])
def test_stages_out_of_range_are_refused(t):
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="t must be"):
        CHAIN.posterior(x, x, t)


def test_stages_or_noise_of_another_shape_than_the_points_are_refused(x):
    for t in (torch.tensor([1, 2]), torch.tensor([1])):
        for use in (
            lambda t=t: CHAIN.forward(x, t, x),
            lambda t=t: CHAIN.posterior(x, x, t),
            lambda t=t: CHAIN.denoised(x, t, x),
        ):
            with pytest.raises(ValueError, match="one stage or 6"):
                use()
    for eps in (x[:1], x[:, :1], x[0]):
        with pytest.raises(ValueError, match=r"eps must have shape \(6, 2\)"):
            CHAIN.forward(x, 1, eps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "euler"}, "unknown solver 'euler'; choose from ddpm, ddim"),
        ({"n": 0}, "n must be a whole number"),
        ({"stages": [3]}, "two or more, falling"),
        ({"stages": [1, 2]}, "two or more, falling"),
        ({"stages": [5, 1]}, r"t must be in 0..4"),
        ({"stages": [4, 2, 0]}, "goes to the stage before"),
        ({"noise": torch.zeros(3, 2)}, r"noise must have shape \(4, 2\)"),
        ({"noise": torch.full((4, 2), torch.nan)}, "noise contains"),
        ({"labels": 0}, "unconditional"),
    ],
)
def test_bad_sampling_options_are_refused(denoiser, options, message):
    with pytest.raises(ValueError, match=message):
        gaussian.sample(denoiser, CHAIN, **({"n": 4} | options))
