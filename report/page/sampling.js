// The reverse process: one loop from t = 1 to t = 0, with interchangeable solvers.
//
// As in diffusion/sampling.py a solver is a function of (predict, schedule, draw) that returns
// step(x, t, tNext) -> next x; predict(x, sigma) answers with the predicted noise.

/** dx = -(1 + lam^2) sigma' sigma score dt + lam sqrt(2 sigma' sigma |dt|) n, by Euler steps. */
function ddpm(predict, { sigma, sigmaDot }, draw, lam) {
  return (x, t, tNext) => {
    const dt = tNext - t;
    const eps = predict(x, sigma(t));
    const pull = (1 + lam * lam) * sigmaDot(t) * dt;
    if (!lam) return x.map((v, i) => v + pull * eps[i]);
    const fresh = lam * Math.sqrt(2 * sigmaDot(t) * sigma(t) * Math.abs(dt));
    const n = draw();
    return x.map((v, i) => v + pull * eps[i] + fresh * n[i]);
  };
}

/** Algorithm 1: the deterministic member of the family, first order in t. */
function ddim(predict, schedule, draw) {
  return ddpm(predict, schedule, draw, 0);
}

/** dx = (sigma(tNext) - sigma(t)) eps: Euler steps in sigma, first order. */
function euler(predict, { sigma }) {
  return (x, t, tNext) => {
    const eps = predict(x, sigma(t));
    const h = sigma(tNext) - sigma(t);
    return x.map((v, i) => v + h * eps[i]);
  };
}

/** Karras et al. (2022), Algorithm 2: second order, two evaluations a step. */
function heun(predict, { sigma }) {
  return (x, t, tNext) => {
    const h = sigma(tNext) - sigma(t);
    const slope = predict(x, sigma(t));
    const euler = x.map((v, i) => v + h * slope[i]);
    const after = predict(euler, sigma(tNext));
    return x.map((v, i) => v + 0.5 * h * (slope[i] + after[i]));
  };
}

/** DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): second order, one evaluation a step. */
function dpmSolver(predict, { sigma }) {
  let before = null;
  return (x, t, tNext) => {
    const s = sigma(t);
    const h = Math.log(s / sigma(tNext));
    const eps = predict(x, s);
    const denoised = x.map((v, i) => v - s * eps[i]);
    const share = before ? h / (2 * before.h) : 0;
    const old = before ? before.denoised : denoised;
    before = { denoised, h };
    const [keep, take] = [sigma(tNext) / s, -Math.expm1(-h)];
    return x.map((v, i) => {
      const target = denoised[i] + share * (denoised[i] - old[i]);
      return keep * v + take * target;
    });
  };
}

export const SOLVERS = { ddim, ddpm, euler, heun, "dpm++": dpmSolver };

/** x_1 from standard normals z (2 n): "matched" N(mean, sigma(1)^2 I + covariance), or N(0, I). */
export function start(z, labels, prior, moments, sigmaMax) {
  if (prior === "standard") return z.map((v) => sigmaMax * v);
  const factors = moments.map(({ covariance }) => cholesky(covariance, sigmaMax ** 2));
  return z.map((v, at) => {
    const label = labels ? labels[at >> 1] : 0;
    const [l00, l10, l11] = factors[label];
    const { mean } = moments[label];
    return at & 1 ? mean[1] + l10 * z[at - 1] + l11 * v : mean[0] + l00 * v;
  });
}

/** [l00, l10, l11], the Cholesky factor of covariance [a, b, b, c] + added I. */
export function cholesky([a, b, , c], added) {
  const l00 = Math.sqrt(a + added);
  const l10 = b / l00;
  return [l00, l10, Math.sqrt(c + added - l10 * l10)];
}

/**
 * The reverse loop of several models that share start and fresh noise: yields, after each of
 * `steps` steps, the points of every model; the start comes first.
 */
export function* reverse(models, { solver, steps, lam, schedule, labels, x, generator }) {
  let shared = null;
  const draw = () => (shared ??= generator.normals(x.length));
  let points = models.map(() => x);
  yield points;
  const walkers = models.map((model) =>
    SOLVERS[solver]((p, sigma) => model.noise(p, sigma, labels), schedule, draw, lam));
  for (let k = 0; k < steps; k++) {
    shared = null;
    points = points.map((p, i) => walkers[i](p, 1 - k / steps, 1 - (k + 1) / steps));
    yield points;
  }
}
