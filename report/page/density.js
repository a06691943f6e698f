// The ground of our plate: density of the model, computed with Python on a grid, beside the truth.

import { shorts } from "./data.js";
import { logDensity } from "./exact.js";
import { groundImage } from "./plate.js";

const NATS = 0.5; // difference that has the full colour
const FAINT = 4; // nats below the top of the true density where nothing is compared

/** log-density of the model that a state shows, nats: of the class, or of the classes' mixture. */
function modelMap({ models, classes }, { model, label }) {
  const maps = models[model].density.map(
    (text) => Float64Array.from(shorts(text), (v) => v / 1000));
  if (model === "unconditional") return maps[0];
  if (label !== "all") return maps[Number(label)];
  const areas = classes.map(({ rectangle: [low, high] }) =>
    (high[0] - low[0]) * (high[1] - low[1]));
  const total = areas.reduce((a, b) => a + b, 0);
  return maps[0].map((_, i) =>
    Math.log(maps.reduce((sum, map, k) => sum + (areas[k] / total) * Math.exp(map[i]), 0)));
}

/** {image, reach, legend} for the ground that a state asks for, or null. */
export function groundOf(data, state) {
  if (state.ground === "none") return null;
  const { size, reach } = data.map;
  const one = state.model === "conditional" && state.label !== "all";
  const rectangle = one ? data.classes[state.label].rectangle : data.square;
  const [low, high] = rectangle;
  const top = -Math.log((high[0] - low[0]) * (high[1] - low[1]));
  const sigma = data.models[state.model].sigma[0];
  const map = modelMap(data, state);
  const at = (k) => -reach + (2 * reach * k) / (size - 1);
  const values = map.map((value, i) => {
    if (state.ground === "density") return Math.exp(value - top) / 1.5;
    const truth = logDensity([at(i % size), at(Math.floor(i / size))], sigma, rectangle);
    return truth < top - FAINT ? 0 : (value - truth) / NATS;
  });
  const legend = state.ground === "density"
    ? `0 <i style="background:linear-gradient(90deg,transparent,rgb(0 158 115/.78))"></i>
       1.5 times the true density`
    : `${-NATS} <i style="background:linear-gradient(90deg,rgb(0 114 178/.9),transparent,
       rgb(230 120 0/.9))"></i> +${NATS} nats, log p of the model minus the truth`;
  return { image: groundImage(values, size, state.ground), reach, legend };
}
