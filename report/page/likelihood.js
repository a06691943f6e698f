// How probable is a point? Eq. 9, the complete bound, and the exact density: nats, float64.

import { Generator } from "./random.js";
import { cholesky } from "./sampling.js";

const REPLICATES = 8;
const DRAWS = 512; // pairs of noises a replicate
// Korobov's lattice of 512 points in three dimensions with the smallest P_2 of all odd generators.
const GENERATOR = 119;

/**
 * Draws for Eq. 9, [{k, eps}], k in 1..steps, REPLICATES times 2 DRAWS: points of a lattice shifted
 * at random, times in proportion to weights, and each noise with its negative.
 */
export function latticeDraws(weights, seed) {
  const total = weights.reduce((a, b) => a + b, 0);
  const shifts = new Generator(seed).uniforms(3 * REPLICATES);
  const tent = (u) => 1 - Math.abs(2 * u - 1); // makes the integrand periodic (Hickernell 2002)
  return Array.from({ length: REPLICATES }, (_, r) => {
    const draws = [];
    let [k, sum] = [0, weights[0] / total];
    const at = (i, d) => (shifts[3 * r + d] + ((i * GENERATOR ** d) % DRAWS) / DRAWS) % 1;
    const times = Array.from({ length: DRAWS }, (_, i) =>
      [tent(at(i, 0)), tent(at(i, 1)), at(i, 2)]);
    times.sort((a, b) => a[0] - b[0]);
    for (const [time, height, turn] of times) {
      while (sum <= time && k + 1 < weights.length) sum += weights[++k] / total;
      const radius = Math.sqrt(-2 * Math.log1p(-height));
      const eps = [radius * Math.cos(2 * Math.PI * turn), radius * Math.sin(2 * Math.PI * turn)];
      draws.push({ k: k + 1, eps }, { k: k + 1, eps: eps.map((v) => -v) });
    }
    return draws;
  });
}

/** -L_T of Eq. 9 at a point, {value, error}: the mean over replicates and its standard error. */
export function eq9(model, point, label, schedule, steps, seed = 0) {
  const snr = Float64Array.from({ length: steps + 1 }, (_, k) => schedule.sigma(k / steps) ** -2);
  const weights = snr.slice(1).map((s, k) => snr[k] / s - 1);
  const scale = 0.5 * weights.reduce((a, b) => a + b, 0);
  const means = latticeDraws(weights, seed).map((draws) => {
    const squares = integrand(model, point, label, schedule, steps, draws);
    // ||eps||^2 is known to have the mean 2: only what the prediction changes is estimated.
    const changes = squares.map((s, i) => s - draws[i].eps[0] ** 2 - draws[i].eps[1] ** 2);
    return scale * (2 + changes.reduce((a, b) => a + b, 0) / changes.length);
  });
  const mean = means.reduce((a, b) => a + b, 0) / REPLICATES;
  const spread = means.reduce((sum, m) => sum + (m - mean) ** 2, 0) / (REPLICATES - 1);
  return { value: -mean, error: Math.sqrt(spread / REPLICATES) };
}

/** ||eps_theta(x_t, t) - eps||^2 of draws sorted by time. */
export function integrand(model, point, label, schedule, steps, draws) {
  const squares = [];
  for (let from = 0, to; from < draws.length; from = to) {
    const { k } = draws[from];
    for (to = from; to < draws.length && draws[to].k === k; ) to++;
    const sigma = schedule.sigma(k / steps);
    const group = draws.slice(from, to).map(({ eps }) => eps);
    const noisy = group.flatMap((eps) => eps.map((e, axis) => point[axis] + sigma * e));
    const labels = label === null ? null : new Uint8Array(group.length).fill(label);
    const predicted = model.noise(Float64Array.from(noisy), sigma, labels);
    group.forEach((eps, i) => {
      squares.push((predicted[2 * i] - eps[0]) ** 2 + (predicted[2 * i + 1] - eps[1]) ** 2);
    });
  }
  return squares;
}

/** What Eq. 9 leaves out (Kingma et al. 2021, Eq. 11): minus the prior's KL, and E log p(x|z_0). */
export function restOfBound(point, { mean, covariance }, schedule) {
  const [l00, l10, l11] = cholesky(covariance, schedule.high ** 2);
  const first = (point[0] - mean[0]) / l00;
  const second = (point[1] - mean[1] - l10 * first) / l11;
  const inverse = [1 / l00, -l10 / (l00 * l11), 1 / l11];
  const spread = schedule.high ** 2 * inverse.reduce((sum, v) => sum + v * v, 0);
  const logRatio = 2 * Math.log(l00 * l11) - 4 * Math.log(schedule.high);
  const prior = -0.5 * (spread - 2 + first * first + second * second + logRatio);
  return prior - Math.log(2 * Math.PI * schedule.low ** 2) - 1;
}

/** The model's log-density at a point, by the probability-flow ODE (Song et al. 2021, Eq. 39). */
export function logLikelihood(network, point, label, { mean, covariance }, schedule) {
  const flow = (logSigma, [x, y]) => {
    const sigma = Math.exp(logSigma);
    const { eps, jacobian } = network.linearised([x, y], sigma, label);
    return [sigma * eps[0], sigma * eps[1], sigma * (jacobian[0] + jacobian[3])];
  };
  const [from, to] = [Math.log(schedule.low), Math.log(schedule.high)];
  const [x, y, volume] = integrate(flow, [...point, 0], from, to, 1e-4);
  const [l00, l10, l11] = cholesky(covariance, schedule.high ** 2);
  const first = (x - mean[0]) / l00;
  const second = (y - mean[1] - l10 * first) / l11;
  return volume - 0.5 * (first ** 2 + second ** 2) - Math.log(2 * Math.PI * l00 * l11);
}

// Dormand and Prince (1980), order 5(4).
const NODES = [0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1];
const TABLEAU = [
  [],
  [1 / 5],
  [3 / 40, 9 / 40],
  [44 / 45, -56 / 15, 32 / 9],
  [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
  [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
  [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
];
const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];

/** Solve dy/du = f(u, y) from u to end, local errors below tolerance (1 + |y|). */
function integrate(f, y, u, end, tolerance) {
  let h = (end - u) / 20;
  let slope = f(u, y);
  for (let step = 0; step < 2000; step++) {
    const last = Math.abs(h) >= Math.abs(end - u);
    if (last) h = end - u;
    const slopes = [slope];
    const advance = (row) =>
      y.map((v, i) => v + h * row.reduce((sum, a, j) => sum + a * slopes[j][i], 0));
    let next = y;
    for (let stage = 1; stage < NODES.length; stage++) {
      next = advance(TABLEAU[stage]);
      slopes.push(f(u + NODES[stage] * h, next));
    }
    const squares = y.map((v, i) => {
      const miss = h * ERROR.reduce((sum, e, j) => sum + e * slopes[j][i], 0);
      return (miss / (tolerance + tolerance * Math.max(Math.abs(v), Math.abs(next[i])))) ** 2;
    });
    const error = Math.sqrt(squares.reduce((a, b) => a + b, 0) / y.length);
    if (error <= 1) {
      if (last) return next;
      [u, y, slope] = [u + h, next, slopes.at(-1)];
    }
    h *= Number.isFinite(error)
      ? Math.min(5, Math.max(0.2, 0.9 * Math.max(error, 1e-9) ** -0.2)) : 0.2;
  }
  return y.map(() => NaN);
}
