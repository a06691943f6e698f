// The reverse process off the main thread: points and measures stream out as they are made.

import { network } from "./data.js";
import { ExactDenoiser } from "./exact.js";
import { measures } from "./metrics.js";
import { Generator } from "./random.js";
import { reverse, start } from "./sampling.js";
import { schedule } from "./schedule.js";

const SLICE = 30; // milliseconds between two messages, after which a newer request is heard

/** The class of each of n points: one for all, or null, or in proportion to the classes' areas. */
export function labelsOf(label, n, areas) {
  if (label === null) return null;
  if (label !== "all") return new Uint8Array(n).fill(label);
  const total = areas.reduce((a, b) => a + b, 0);
  const ends = areas.map((_, k) => areas.slice(0, k + 1).reduce((a, b) => a + b, 0) / total);
  // The golden ratio's multiples fill [0, 1) evenly, whatever n is.
  return Uint8Array.from({ length: n }, (_, i) => {
    const place = (i * 0.6180339887498949) % 1;
    return ends.findIndex((end) => place < end);
  });
}

/** The points of our model and of the exact score after every step, the start first. */
export function* walk(points, request) {
  const { model, solver, steps, lam, spacing, prior, n, seed } = request;
  const { network: packed, moments, sigma } = points.models[model];
  const areas = points.classes.map(({ rectangle: [low, high] }) =>
    (high[0] - low[0]) * (high[1] - low[1]));
  const labels = labelsOf(model === "conditional" ? request.label : null, n, areas);
  const levels = schedule(spacing, ...sigma);
  const generator = new Generator(seed);
  const x = start(generator.normals(2 * n), labels, prior, moments, levels.high);
  const truth = labels ? points.classes.map((c) => c.rectangle) : [points.square];
  const models = [network(packed), new ExactDenoiser(truth)];
  yield* reverse(models, { solver, steps, lam, schedule: levels, labels, x, generator });
}

/** Where the points of a request should end: the rectangle of its class, or the square. */
export function target(points, { model, label }) {
  const one = model === "conditional" && label !== "all";
  return one ? points.classes[label].rectangle : points.square;
}

/** Answer requests {id, ...} that `scope` receives; `points` come first. */
export function serve(scope) {
  let points = null;
  let current = null;

  function advance(run) {
    if (run !== current) return;
    const began = performance.now();
    const frames = [];
    let done = false;
    while (!done && performance.now() - began < SLICE) {
      const { value, done: over } = run.walk.next();
      done = over;
      if (value) {
        frames.push({ points: value, measures: value.map((p) => measures(p, run.rectangle)) });
      }
    }
    scope.postMessage({ id: run.id, frames, done });
    if (!done) setTimeout(advance, 0, run);
  }

  scope.onmessage = ({ data }) => {
    if (data.points) {
      points = data.points;
      return;
    }
    const rectangle = target(points, data);
    current = { id: data.id, walk: walk(points, data), rectangle };
    advance(current);
  };
}
