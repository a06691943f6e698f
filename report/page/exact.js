// Ground truth in closed form for data uniform on a rectangle: diffusion/exact.py.
//
// A rectangle is [[x low, y low], [x high, y high]].

const SQRT_2PI = Math.sqrt(2 * Math.PI);

/** The error function for |z| <= 1.5 or so: a series of terms of one sign (A&S 7.1.6). */
function erf(z) {
  let term = (2 / Math.sqrt(Math.PI)) * z * Math.exp(-z * z);
  let sum = term;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * z * z) / (2 * n + 1);
    sum += term;
  }
  return sum;
}

/** R(z) = (1 - Phi(z)) / phi(z) for z >= 0, its continued fraction far out (A&S 26.2.14). */
export function mills(z) {
  if (z < 2) return SQRT_2PI * Math.exp(0.5 * z * z) * 0.5 * (1 - erf(z / Math.SQRT2));
  let fraction = z;
  for (let k = 120; k > 0; k--) fraction = z + k / fraction;
  return 1 / fraction;
}

/** The normal distribution. */
export function normalCdf(z) {
  const tail = Math.exp(-0.5 * z * z) / SQRT_2PI;
  return z < 0 ? tail * mills(-z) : 1 - tail * mills(z);
}

/** log(Phi(a + width) - Phi(a)), and the mean of a standard normal truncated to [a, a + width]. */
export function truncatedNormal(a, width) {
  if (2 * a + width < 0) {
    const { logMass, mean } = truncatedNormal(-a - width, width);
    return { logMass, mean: -mean };
  }
  const b = a + width; // now |a| <= b
  const exponent = -0.5 * width * (b + a);
  const gap = -Math.expm1(exponent); // 1 - phi(b) / phi(a)
  if (a > 0) {
    const mass = mills(a) - mills(b) * Math.exp(exponent); // in units of phi(a)
    return { logMass: Math.log(mass) - 0.5 * a * a - Math.log(SQRT_2PI), mean: gap / mass };
  }
  const mass = normalCdf(b) - normalCdf(a);
  const phi = Math.exp(-0.5 * a * a) / SQRT_2PI;
  return { logMass: Math.log(mass), mean: (gap * phi) / mass };
}

/** log p(x_t = x), nats, for x_0 uniform on the rectangle. */
export function logDensity(x, sigma, [low, high]) {
  return [0, 1].reduce((sum, axis) => {
    const width = high[axis] - low[axis];
    const { logMass } = truncatedNormal((low[axis] - x[axis]) / sigma, width / sigma);
    return sum + logMass - Math.log(width);
  }, 0);
}

/** E[eps | x_t]: the best prediction any network can make, with the interface of `Network`. */
export class ExactDenoiser {
  /** rectangles: one a class, or the square alone. */
  constructor(rectangles) {
    this.rectangles = rectangles;
  }

  noise(points, sigma, labels) {
    const out = new Float32Array(points.length);
    for (let at = 0; at < points.length; at++) {
      const [low, high] = this.rectangles[labels ? labels[at >> 1] : 0];
      const axis = at & 1;
      const a = (low[axis] - points[at]) / sigma;
      out[at] = -truncatedNormal(a, (high[axis] - low[axis]) / sigma).mean;
    }
    return out;
  }
}
