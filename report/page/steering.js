// Algorithm 1 run backwards: the start from which DDIM ends at a chosen point.

import { cholesky } from "./sampling.js";

const NEWTON_STEPS = 20;

/**
 * The way from x_1 to the target, [[x, y], ...] (steps + 1), or null where a step cannot be
 * inverted. Each Euler step x + c eps_theta(x, sigma) is inverted by Newton's method.
 */
export function invert(network, target, label, schedule, steps) {
  const path = [target];
  for (let k = steps - 1; k >= 0; k--) {
    const t = 1 - k / steps;
    const c = -schedule.sigmaDot(t) / steps;
    const before = invertStep(network, path.at(-1), label, schedule.sigma(t), c);
    if (!before) return null;
    path.push(before);
  }
  return path.reverse();
}

function invertStep(network, goal, label, sigma, c) {
  const scale = Math.max(1, Math.abs(goal[0]), Math.abs(goal[1]));
  let [x, y] = goal;
  for (let i = 0; i < NEWTON_STEPS; i++) {
    const { eps, jacobian } = network.linearised([x, y], sigma, label);
    const [gx, gy] = [x + c * eps[0] - goal[0], y + c * eps[1] - goal[1]];
    if (Math.max(Math.abs(gx), Math.abs(gy)) <= 1e-12 * scale) return [x, y];
    const [xx, xy, yx, yy] = jacobian;
    const [a, b, d, e] = [1 + c * xx, c * xy, c * yx, 1 + c * yy];
    const determinant = a * e - b * d;
    x -= (e * gx - b * gy) / determinant;
    y -= (a * gy - d * gx) / determinant;
  }
  return null;
}

/** |u|^2 / 2 of the standardised start, nats; noise drawn at random has one on average. */
export function energy([x, y], { mean, covariance }, sigmaMax) {
  const [l00, l10, l11] = cholesky(covariance, sigmaMax ** 2);
  const first = (x - mean[0]) / l00;
  const second = (y - mean[1] - l10 * first) / l11;
  return 0.5 * (first ** 2 + second ** 2);
}
