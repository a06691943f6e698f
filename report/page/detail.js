// A point that was clicked: its path, its predicted x_0, how probable its end is.

import { drawChart } from "./chart.js";
import { network } from "./data.js";
import { ExactDenoiser, logDensity } from "./exact.js";
import { eq9, logLikelihood, restOfBound } from "./likelihood.js";
import { CLASS_COLOURS, theme } from "./plate.js";
import { schedule } from "./schedule.js";

const BOUND_STEPS = 1000; // T of the bounds
const element = (id) => document.getElementById(id);

export class Detail {
  constructor(data, state, player) {
    Object.assign(this, { data, state, player });
    this.networks = Object.fromEntries(
      Object.entries(data.models).map(([name, model]) => [name, network(model.network)]));
    this.stale = true;
  }

  /** Bring the panel up to date with the state and the frames. */
  update(labels) {
    const { player, state } = this;
    const matching = player.frames[0].points[0].length === 2 * state.n;
    this.shown = state.point !== null && matching;
    element("detail").hidden = !this.shown;
    if (!this.shown) return;
    if (this.stale || this.length !== player.frames.length) {
      this.length = player.frames.length;
      this.label = labels ? labels[state.point] : null;
      this.paths = [0, 1].map((i) => player.frames.map(({ points }) =>
        [points[i][2 * state.point], points[i][2 * state.point + 1]]));
      this.predict();
      this.drawPredicted();
      this.drawProbability();
      this.stale = false;
    }
    element("predicted").moveTo(1 - player.position / player.steps);
  }

  /** x_hat = x_t - sigma eps_theta along our path (Eq. 8). */
  predict() {
    const { state, player } = this;
    const levels = schedule(state.spacing, ...this.data.models[state.model].sigma);
    const labels = this.label === null ? null : [this.label];
    this.predicted = this.paths[0].map((x, k) => {
      const sigma = levels.sigma(1 - k / player.steps);
      const eps = this.networks[state.model].noise(Float64Array.from(x), sigma, labels);
      return [x[0] - sigma * eps[0], x[1] - sigma * eps[1]];
    });
  }

  drawPredicted() {
    const colours = theme();
    const curve = (axis) => this.predicted.map((x, k) => [1 - k / this.player.steps, x[axis]]);
    element("detail-number").textContent = this.state.point;
    drawChart(element("predicted"), {
      lines: [
        { name: "x", colour: colours.accent, values: curve(0) },
        { name: "y", colour: CLASS_COLOURS[1], values: curve(1), dash: true },
      ],
      x: { label: "t", range: [1, 0], ticks: [1, 0.75, 0.5, 0.25, 0] },
      y: { range: [-1.25, 1.25], ticks: [-1, -0.5, 0, 0.5, 1] },
      now: 0,
    });
  }

  drawProbability() {
    const { player, data, label } = this;
    const table = element("probability");
    if (!player.done) {
      table.caption.textContent = "waiting for the end of its path";
      table.tBodies[0].innerHTML = "";
      return;
    }
    const end = this.paths[0].at(-1);
    const name = label === null ? "" : ` as class ${data.classes[label].name}`;
    const where = end.map((v) => v.toFixed(3)).join(", ");
    table.caption.textContent = `How probable is (${where})${name}? ` +
      `nats, T = ${BOUND_STEPS}, ± standard error`;
    const [low, high] = label === null ? data.square : data.classes[label].rectangle;
    const inside = end.every((v, axis) => v >= low[axis] && v <= high[axis]);
    const uniform = inside ? -Math.log((high[0] - low[0]) * (high[1] - low[1])) : -Infinity;
    const values = this.probabilities(end);
    const row = (title, cells) =>
      `<tr><th scope="row">${title}</th>${cells.map((c) => `<td>${c}</td>`).join("")}</tr>`;
    const bounded = (v) => (Number.isFinite(v) ? v.toFixed(3) : "-∞");
    table.tBodies[0].innerHTML = [
      row("Eq. 9, −L<sub>T</sub>",
        values.map((v) => `${v.eq9.toFixed(3)} ± ${v.error.toFixed(3)}`)),
      row("complete bound", values.map((v) => v.bound.toFixed(3))),
      row("log p of x<sub>0</sub> + σ(0) ε", values.map((v) => v.density.toFixed(3))),
      row("uniform truth, log p(x<sub>0</sub>)", ["", bounded(uniform)]),
    ].join("");
  }

  /** Eq. 9, the bound and the density at a point: ours by the ODE, the truth in closed form. */
  probabilities(end) {
    const { data, state, label } = this;
    const { moments, sigma } = data.models[state.model];
    const levels = schedule("exponential", ...sigma);
    const moment = moments[label ?? 0];
    const rectangle = label === null ? data.square : data.classes[label].rectangle;
    const ours = this.networks[state.model];
    const densities = [
      logLikelihood(ours, end, label, moment, levels), logDensity(end, levels.low, rectangle),
    ];
    const truth = new ExactDenoiser([rectangle]);
    return [[ours, label], [truth, null]].map(([model, of], i) => {
      const { value, error } = eq9(model, end, of, levels, BOUND_STEPS);
      const bound = value + restOfBound(end, moment, levels);
      return { eq9: value, error, bound, density: densities[i] };
    });
  }

  /** What a plate, 0 ours and 1 exact, draws of the point. */
  trails(plate) {
    if (!this.shown) return [];
    const colours = theme();
    const upTo = this.player.step + 1;
    const path = { values: this.paths[plate].slice(0, upTo), colour: colours.ink };
    if (plate) return [path];
    return [{ values: this.predicted.slice(0, upTo), colour: colours.warm, dash: true }, path];
  }
}
