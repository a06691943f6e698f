"""The page's JavaScript gives the numbers that the library gives, run in V8 without a browser."""

import json
import math

import pytest
import torch
from py_mini_racer import MiniRacer

import diffusion
from diffusion import data, exact, metrics, steering
from diffusion.schedule import Exponential, Power, Quadratic
from report.explore import bundle, load_denoisers, pack, points_data

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SPACINGS = {
    "exponential": Exponential(), "karras": Power(rho=7), "linear": Power(rho=1),
    "quadratic": Quadratic(),
}  # fmt: skip
NAMES = ("unconditional", "conditional")

# Browsers decode base64; bare V8 does not.
ATOB = """
globalThis.atob = (text) => {
  const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  let [out, word, bits] = ["", 0, 0];
  for (const digit of text.replace(/=/g, "")) {
    word = ((word << 6) | digits.indexOf(digit)) & 0xffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    out += String.fromCharCode((word >> bits) & 255);
  }
  return out;
};
0"""


@pytest.fixture(scope="module")
def models():
    return load_denoisers()


def evaluator(run, models):
    """Gives the value of an expression, by JSON; `run` evaluates a script in some engine."""
    run(bundle("numbers") + "\n0")
    run(f"globalThis.points = {json.dumps(points_data(models))}; 0")
    run("globalThis.nets = {}; for (const name of Object.keys(points.models))"
        " nets[name] = network(points.models[name].network); 0")  # fmt: skip

    def evaluate(expression):
        plain = "(key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value"
        return json.loads(run(f"JSON.stringify(({expression}), {plain})"))

    return evaluate


@pytest.fixture(scope="module")
def js(models):
    with MiniRacer() as engine:
        engine.eval(ATOB)
        yield evaluator(engine.eval, models)


def close(found, expected, **tolerance):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    found = torch.as_tensor(found, dtype=torch.float64).reshape(expected.shape)
    torch.testing.assert_close(found, expected, **(tolerance or CLOSE))


def typed(values):
    return f"Float32Array.of({','.join(map(str, torch.as_tensor(values).flatten().tolist()))})"


def cloud(n=40, seed=0):
    return 1.2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("length", [16, 38, 1300])
def test_a_seed_gives_torchs_normal_numbers(js, seed, length):
    generator = torch.Generator().manual_seed(seed)
    expected = [torch.randn(length, generator=generator) for _ in range(2)]
    found = js(f"((g) => [g.normals({length}), g.normals({length})])(new Generator({seed}))")
    close(found, torch.stack(expected))


@pytest.mark.parametrize("name", SPACINGS)
def test_schedules(js, name):
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    low, high = Exponential().sigma_min, Exponential().sigma_max
    expected = torch.stack([SPACINGS[name].sigma(t), SPACINGS[name].sigma_dot(t)])
    found = js(
        f"((s) => [{t.tolist()}.map(s.sigma), {t.tolist()}.map(s.sigmaDot)])"
        f"(schedule('{name}', {low}, {high}))"
    )
    close(found, expected, rtol=1e-12, atol=1e-12)


def test_every_spacing_is_tested(js):
    assert js("SPACINGS") == list(SPACINGS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigma", [1.0, 0.2, math.exp(-5)])
def test_network(js, models, name, sigma):
    x, model = cloud(), models[name]
    labels = torch.arange(len(x)) % 5 if model.num_classes else None
    with torch.no_grad():
        expected = model.noise(x, sigma, labels)
    given = "null" if labels is None else labels.tolist()
    close(js(f"nets.{name}.noise({typed(x)}, {sigma}, {given})"), expected)


@pytest.mark.parametrize("name", NAMES)
def test_jacobian_of_the_network(js, models, name):
    model = diffusion.sampling.double(models[name])
    label, given = (torch.tensor([3]), 3) if model.num_classes else (None, "null")
    for sigma in (1.0, 0.05):
        for x in cloud(5).double()[:, None]:
            expected = torch.func.jacrev(lambda x, s=sigma: model.noise(x, s, label))(x)
            found = js(f"nets.{name}.linearised({x[0].tolist()}, {sigma}, {given})")
            close(found["jacobian"], expected.flatten(), rtol=1e-7, atol=1e-7)
            close(found["eps"], model.noise(x, sigma, label)[0], rtol=1e-7, atol=1e-7)


def request(**changes):
    settings = {"model": "unconditional", "label": "all", "solver": "ddim", "steps": 50, "lam": 1.0,
                "spacing": "exponential", "prior": "matched", "n": 200, "seed": 3}  # fmt: skip
    return settings | changes


def walked(js, settings):
    """Paths (steps + 1, n, 2) of our model and of the exact score."""
    shape = (-1, 2, settings["n"], 2)
    frames = js(f"Array.from(walk(points, {json.dumps(settings)}))")
    return torch.tensor(frames, dtype=torch.float64).reshape(shape).unbind(1)


def labels_of(js, settings):
    if settings["model"] == "unconditional":
        return None
    areas = (data.RECTANGLES[:, 1] - data.RECTANGLES[:, 0]).prod(dim=1).tolist()
    label = json.dumps(settings["label"])
    return torch.tensor(js(f"labelsOf({label}, {settings['n']}, {areas})"))


CASES = [
    request(model=model, solver=solver, spacing=spacing, lam=0.7)
    for model in NAMES
    for solver in diffusion.sampling.SOLVERS
    for spacing in SPACINGS
] + [
    request(solver="ddpm", steps=300, seed=11),
    request(solver="ddpm", lam=0),
    request(steps=1),
    request(prior="standard", n=53),
    request(prior="standard", model="conditional", label=4, n=10),
    request(steps=1000, n=30),
]


@pytest.mark.parametrize("settings", CASES, ids=lambda s: "-".join(map(str, s.values())))
def test_solvers_step_by_step(js, models, settings):
    labels = labels_of(js, settings)
    options = {"lam": settings["lam"]} if settings["solver"] == "ddpm" else {}
    arguments = {
        "solver": settings["solver"], "steps": settings["steps"], "labels": labels,
        "prior": settings["prior"], "schedule": SPACINGS[settings["spacing"]],
        "return_trajectory": True, **options,
    }  # fmt: skip
    model = models[settings["model"]]
    ours, truth = walked(js, settings)
    _, expected = diffusion.sample(model, settings["n"], seed=settings["seed"], **arguments)
    close(ours, expected)
    if not options.get("lam"):
        perfect = exact.ExactDenoiser(rectangles=None if labels is None else data.RECTANGLES)
        _, expected = diffusion.sample(
            perfect, settings["n"], noise=expected[0].double(), **arguments
        )
        close(truth, expected)


def test_the_exact_score_shares_the_fresh_noise(js):
    """One DDPM step of both differs only by their predictions."""
    settings = request(solver="ddpm", steps=40)
    ours, truth = walked(js, settings)
    schedule = Exponential()
    scale = 2 * float(schedule.sigma_dot(1.0)) / 40
    models = load_denoisers()
    with torch.no_grad():
        predicted = models["unconditional"].noise(ours[0].float(), 1.0)
    expected = scale * (predicted - exact.ideal_noise(ours[0], 1.0))
    close(truth[1] - ours[1], expected)


def test_classes_come_in_proportion_to_their_areas(js):
    labels = labels_of(js, request(model="conditional", n=1600))
    assert (labels.bincount() - torch.tensor([400, 300, 300, 300, 300])).abs().max() <= 2


@pytest.mark.parametrize("sigma", [1.0, 0.1, math.exp(-5)])
def test_exact_score_and_density(js, sigma):
    x = torch.cat([cloud(), 30 * cloud(5)])
    corners = data.RECTANGLES[1]
    found = js(f"new ExactDenoiser([{corners.tolist()}]).noise({typed(x)}, {sigma}, null)")
    close(found, exact.ideal_noise(x, sigma, corners))
    found = js(f"{x.double().tolist()}.map((p) => logDensity(p, {sigma}, {corners.tolist()}))")
    close(found, exact.log_density(x.double(), sigma, corners), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rectangle", [data.SQUARE, data.RECTANGLES[2]])
def test_measures(js, rectangle):
    for points in (cloud(1000), data.uniform(777, rectangle, generator=torch.Generator())):
        found = js(f"measures({typed(points)}, {rectangle.tolist()})")
        assert found["tv10"] == pytest.approx(metrics.tv10(points, rectangle), abs=1e-12)
        assert found["ks"] == pytest.approx(metrics.ks(points, rectangle), abs=1e-12)
        outside = metrics.outside_share(points, rectangle)
        assert found["outside"] == pytest.approx(outside, abs=1e-12)


@pytest.mark.parametrize("n", [50, 2000])
def test_floor_is_what_true_points_have(js, n, generator):
    sigma, repeats = math.exp(-5), 400
    drawn = [data.uniform(n, generator=generator, dtype=torch.float64) for _ in range(repeats)]
    noisy = [x + sigma * torch.randn(n, 2, generator=generator) for x in drawn]
    floor = js(f"floor({n}, {data.SQUARE.tolist()}, {sigma})")
    for key, measure, clouds in (
        ("tv10", metrics.tv10, drawn),
        ("ks", metrics.ks, drawn),
        ("outside", metrics.outside_share, noisy),
    ):
        values = torch.tensor([measure(points) for points in clouds], dtype=torch.float64)
        allowed = 4 * values.std().item() / math.sqrt(repeats)
        if key == "ks":  # Stephens's correction for small n is an approximation
            allowed += 0.005 * values.mean().item()
        assert floor[key] == pytest.approx(values.mean().item(), abs=allowed), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("point", [(0.3, 0.2), (0.995, -0.4), (1.2, 0.7)])
def test_density_and_bound(js, models, name, point):
    model, x = models[name], torch.tensor([point], dtype=torch.float64)
    label, given = (2, 2) if model.num_classes else (None, "null")
    levels = "schedule('exponential', ...points.models.unconditional.sigma)"
    moment = f"points.models.{name}.moments[{label or 0}]"
    at = json.dumps(point)
    found = js(f"logLikelihood(nets.{name}, {at}, {given}, {moment}, {levels})")
    close([found], diffusion.log_likelihood(model, x, label))
    bound = diffusion.complete_bound(model, x, label)
    close([js(f"restOfBound({at}, {moment}, {levels})")], bound.prior + bound.reconstruction)
    found = js(f"eq9(nets.{name}, {at}, {given}, {levels}, 1000)")
    assert 0 < found["error"] <= 2 * bound.error.item() + 1e-3
    allowed = 4 * math.hypot(found["error"], bound.error.item())
    assert found["value"] == pytest.approx(bound.diffusion.item(), abs=allowed)


def test_the_bounds_integrand(js, models):
    draws = js("latticeDraws(new Float64Array(50).fill(0.1), 0)[0]")
    k = torch.tensor([draw["k"] for draw in draws])
    eps = torch.tensor([draw["eps"] for draw in draws], dtype=torch.float64)
    assert k.unique().tolist() == list(range(1, 51))  # the weights are equal, and so the shares
    assert k.bincount()[1:].float().std() < 2
    sigma = Exponential().sigma(k / 50.0)
    point = torch.tensor([0.4, -0.9], dtype=torch.float64)
    model = diffusion.sampling.double(models["unconditional"])
    predicted = model.noise(point + sigma[:, None] * eps, sigma.double())
    levels = "schedule('exponential', ...points.models.unconditional.sigma)"
    found = js(
        f"integrand(nets.unconditional, {point.tolist()}, null, {levels}, 50, {json.dumps(draws)})"
    )
    close(found, (predicted - eps).square().sum(dim=1))


@pytest.mark.parametrize("name", NAMES)
def test_the_start_that_reaches_a_star(js, models, name):
    model = models[name]
    label, given = (1, 1) if model.num_classes else (None, "null")
    levels = f"schedule('exponential', ...points.models.{name}.sigma)"
    target = [0.2, 1.05]
    expected = steering.invert(model, target, label, steps=100)
    found = js(f"invert(nets.{name}, {target}, {given}, {levels}, 100)")
    close(found, expected.path)
    moment = f"points.models.{name}.moments[{label or 0}]"
    close(js(f"energy({json.dumps(found[0])}, {moment}, 1)"), expected.energy)


def test_halves_and_shorts(js):
    values = torch.tensor([0.0, 1.0, -2.5, 0.1, 6e-8, 65504.0, -math.inf])
    found = js(f"Array.from(halves('{pack(values, '<f2')}'), String)")
    assert [float(v.replace("Infinity", "inf")) for v in found] == values.half().tolist()
    assert js(f"shorts('{pack(torch.tensor([-30000, 7]), '<i2')}')") == [-30000, 7]


STATES = [
    {},
    {"solver": "dpm++", "steps": 24, "lam": 0.35, "star": [1.5, -1], "point": 7},
    {"view": "words", "token": 9, "block": 0, "head": 3},
    {"seed": 2**32 - 1, "n": 5000, "frame": 12, "camera": "near", "ground": "density"},
]


@pytest.mark.parametrize("changes", STATES)
def test_an_address_gives_back_its_state(js, changes):
    state = js("DEFAULTS") | changes
    assert js(f"parse(format({json.dumps(state)}))") == {"state": state, "problems": []}


@pytest.mark.parametrize(
    ("fragment", "told"),
    [
        ("#steps=1000000000", 'steps must be a whole number from 1 to 1000, not "1000000000".'),
        ("#steps=NaN", "steps must be a whole number from 1 to 1000"),
        ("#n=12.5", "n must be a whole number from 10 to 5000"),
        ("#lam=", "lam must be a number from 0 to 2"),
        ("#solver=magic", 'solver must be one of ddim, ddpm, euler, heun, dpm++, not "magic".'),
        ("#star=1", "star must be two numbers"),
        ("#star=1,x", "star must be two numbers"),
        ("#n=100&point=100", "point must be at most 99"),
        ("#solver=%E0%A4%A", 'solver must be one of'),
        ("#colour=red", 'There is no "colour".'),
        ("#seed=-1", "seed must be a whole number from 0 to 4294967295"),
    ],
)
def test_an_address_that_cannot_be_read_says_why(js, fragment, told):
    read = js(f"parse({json.dumps(fragment)})")
    assert len(read["problems"]) == 1
    assert read["problems"][0].startswith(told)
    assert read["state"] == js("DEFAULTS") | ({"n": 100} if "n=100&" in fragment else {})
