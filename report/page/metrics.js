// Distance of points from uniform on a rectangle [[x low, y low], [x high, y high]], and what true
// uniform points have: diffusion/metrics.py and, for n points, its expectation.

import { normalCdf } from "./exact.js";

const GRID = 10;

/** {tv10, ks, outside} of points (2 n), each in 0..1. */
export function measures(points, rectangle) {
  const n = points.length / 2;
  const counts = new Float64Array(GRID * GRID);
  let outside = 0;
  const [[left, bottom], [right, top]] = rectangle;
  for (let i = 0; i < n; i++) {
    const [x, y] = [points[2 * i], points[2 * i + 1]];
    if (!(x >= left && x <= right && y >= bottom && y <= top)) {
      outside++;
      continue;
    }
    const column = Math.min(GRID - 1, Math.floor(((x - left) / (right - left)) * GRID));
    const row = Math.min(GRID - 1, Math.floor(((y - bottom) / (top - bottom)) * GRID));
    counts[column * GRID + row]++;
  }
  const distance = counts.reduce((sum, count) => sum + Math.abs(count / n - 1 / GRID ** 2), 0);
  return {
    tv10: 0.5 * (distance + outside / n),
    ks: Math.max(ks(points, 0, left, right), ks(points, 1, bottom, top)),
    outside: outside / n,
  };
}

function ks(points, axis, low, high) {
  const n = points.length / 2;
  const ordered = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    ordered[i] = Math.min(1, Math.max(0, (points[2 * i + axis] - low) / (high - low)));
  }
  ordered.sort();
  let largest = 0;
  for (let i = 0; i < n; i++) {
    largest = Math.max(largest, (i + 1) / n - ordered[i], ordered[i] - i / n);
  }
  return largest;
}

/**
 * {tv10, ks, outside} that a perfect sampler would show with n points: TV10 and KS of true uniform
 * points in expectation; outside, the share that noise of level sigma carries over the border.
 */
export function floor(n, rectangle, sigma) {
  return { tv10: expectedTv10(n), ks: expectedKs(n), outside: expectedOutside(rectangle, sigma) };
}

// Half of 100 mean absolute deviations of Binomial(n, 1/100) / n, by De Moivre's formula
// E|X - n p| = 2 m (1 - p) P(X = m), m = floor(n p) + 1.
function expectedTv10(n) {
  const cells = GRID ** 2;
  const p = 1 / cells;
  const m = Math.floor(n * p + 1e-9) + 1;
  let logChance = m * Math.log(p) + (n - m) * Math.log1p(-p);
  for (let k = 1; k <= m; k++) logChance += Math.log((n - m + k) / k);
  return ((cells / 2) * 2 * m * (1 - p) * Math.exp(logChance)) / n;
}

// The larger of two independent Kolmogorov statistics: the integral of 1 - K(x)^2, with the
// correction of Stephens (1970) for finite n.
function expectedKs(n) {
  const step = 0.005;
  let integral = 0;
  for (let x = step / 2; x < 4; x += step) integral += step * (1 - kolmogorov(x) ** 2);
  return integral / (Math.sqrt(n) + 0.12 + 0.11 / Math.sqrt(n));
}

function kolmogorov(x) {
  let sum = 0;
  for (let k = 1; k < 100; k += 2) {
    sum += Math.exp((-(k * k) * Math.PI * Math.PI) / (8 * x * x));
  }
  return (Math.sqrt(2 * Math.PI) / x) * sum;
}

// x_0 + sigma eps leaves an interval of width w with probability 2 sigma E[(eps - w/sigma)_- ...]:
// the integral of Phi(-u) over u = distance / sigma, twice.
function expectedOutside([low, high], sigma) {
  const kept = [0, 1].map((axis) => {
    const w = (high[axis] - low[axis]) / sigma;
    const phi = (z) => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);
    // Integral of Phi(-u) from 0 to w is w Phi(-w) + phi(0) - phi(w).
    return 1 - (2 * (w * normalCdf(-w) + phi(0) - phi(w))) / w;
  });
  return 1 - kept[0] * kept[1];
}
