// Noise levels sigma(t), t in [0, 1], between the model's sigma_min and sigma_max.

const exponential = (low, high) => {
  const rate = Math.log(high / low);
  const sigma = (t) => high * Math.exp(rate * (t - 1));
  return { sigma, sigmaDot: (t) => rate * sigma(t) };
};

const quadratic = (low, high) => ({
  sigma: (t) => low + (high - low) * t * t,
  sigmaDot: (t) => 2 * (high - low) * t,
});

// sigma^(1/rho) linear in t (Karras et al. 2022, Eq. 5).
const power = (rho) => (low, high) => {
  const from = low ** (1 / rho);
  const range = high ** (1 / rho) - from;
  return {
    sigma: (t) => (from + range * t) ** rho,
    sigmaDot: (t) => rho * range * (from + range * t) ** (rho - 1),
  };
};

const KINDS = { exponential, karras: power(7), linear: power(1), quadratic };

export const SPACINGS = Object.keys(KINDS);

/** {sigma(t), sigmaDot(t), low, high}; kind is one of SPACINGS. */
export function schedule(kind, low, high) {
  return { ...KINDS[kind](low, high), low, high };
}
