// The part of the page about points in the plane.

import { readField } from "./address.js";
import { drawChart } from "./chart.js";
import { Detail } from "./detail.js";
import { groundOf } from "./density.js";
import { floor } from "./metrics.js";
import { CLASS_COLOURS, Plate, reachOf, theme } from "./plate.js";
import { Player } from "./player.js";
import { Star } from "./star.js";
import { labelsOf, target } from "./worker.js";

const RUN_FIELDS = ["model", "label", "solver", "lam", "steps", "spacing", "prior", "n", "seed"];
const MEASURES = [["tv10", "TV10"], ["ks", "KS"], ["outside", "outside"]];
const EVALUATIONS = { ddim: 1, ddpm: 1, euler: 1, heun: 2, "dpm++": 1 };
const element = (id) => document.getElementById(id);

export class PointsPart {
  /** state is that of the address; changed() writes it there; problem(text) shows a sentence. */
  constructor(data, state, changed, problem) {
    Object.assign(this, { data, state, changed, problem });
    this.plates = [new Plate(element("ours")), new Plate(element("exact"))];
    this.form = element("controls");
    data.classes.forEach(({ name }, k) => this.form.label.add(new Option(name, String(k))));
    this.player = new Player(data, () => this.received(), problem);
    this.detail = new Detail(data, state, this.player);
    this.star = new Star(data, state, this.plates[0], () => this.refresh());
    this.listen();
    this.show();
    if (state.frame === null && !matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.play(true);
    } else this.player.position = state.frame ?? state.steps;
    requestAnimationFrame((now) => this.tick(now));
  }

  listen() {
    this.form.addEventListener("input", ({ target: field }) => this.edited(field));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    element("play").addEventListener("click", () => this.play(!this.player.playing));
    element("scrub").addEventListener("input", ({ target: scrub }) => {
      this.play(false);
      this.player.position = Number(scrub.value);
      this.refresh();
    });
    element("scrub").addEventListener("change", () => this.remember());
    for (const plate of this.plates) {
      plate.canvas.addEventListener("click", (event) => this.pick(plate, event));
    }
    document.addEventListener("keydown", (event) => {
      if (event.key !== " " || event.target.closest("input, select, button, a")) return;
      if (this.state.view !== "points") return;
      event.preventDefault();
      this.play(!this.player.playing);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh(true));
    addEventListener("resize", () => this.refresh());
  }

  /** A control was changed: take what it says, or say why not. */
  edited(field) {
    const { state } = this;
    if (field.name === "starred") {
      state.star = field.checked ? [...this.rectangle[1]] : null;
    } else {
      const { value, problem } = readField(field.name, field.value);
      const most = { point: state.n - 1 }[field.name] ?? Infinity;
      const fault = problem ?? (value > most ? `point must be at most ${most}.` : null);
      field.setAttribute("aria-invalid", String(Boolean(fault)));
      this.problem(fault);
      if (fault) return;
      state[field.name] = value;
    }
    if (state.point !== null && state.point >= state.n) state.point = null;
    if (RUN_FIELDS.includes(field.name)) this.run();
    this.fillForm(field);
    this.remember();
    this.refresh(true);
  }

  /** Show the state anew: after the address changed. */
  show() {
    this.fillForm(null);
    for (const field of this.form.elements) field.setAttribute("aria-invalid", "false");
    this.run();
    if (this.state.frame !== null) this.player.position = this.state.frame;
    this.refresh(true);
  }

  fillForm(except) {
    for (const field of this.form.elements) {
      if (field === except || !(field.name in this.state)) continue;
      field.value = this.state[field.name] ?? "";
    }
    this.form.starred.checked = this.state.star !== null;
    this.form.label.disabled = this.state.model === "unconditional";
    this.form.lam.disabled = this.state.solver !== "ddpm";
    this.form.lamShown.value = this.state.lam.toFixed(2);
  }

  run() {
    const { state, data } = this;
    const request = Object.fromEntries(RUN_FIELDS.map((name) => [name, state[name]]));
    if (request.label !== "all") request.label = Number(request.label);
    const areas = data.classes.map(({ rectangle: [low, high] }) =>
      (high[0] - low[0]) * (high[1] - low[1]));
    this.labels = labelsOf(state.model === "conditional" ? request.label : null, state.n, areas);
    this.rectangle = target(data, request);
    this.floor = floor(state.n, this.rectangle, data.models[state.model].sigma[0]);
    element("scrub").max = state.steps;
    this.player.run(request);
    this.drawnFrames = -1;
  }

  play(on) {
    const { player } = this;
    if (on && player.position >= player.steps) player.position = 0;
    player.playing = on;
    element("play").textContent = on ? "Pause" : "Play";
    if (!on) this.remember();
  }

  remember() {
    const { step, steps } = this.player;
    this.state.frame = this.player.playing || step >= steps || step < 0 ? null : step;
    this.changed();
  }

  pick(plate, event) {
    const frame = this.player.frames[this.player.step];
    if (!frame) return;
    const [x, y] = plate.toData(event.clientX, event.clientY);
    const points = frame.points[this.plates.indexOf(plate)];
    let nearest = 0;
    const distance = (i) => (points[2 * i] - x) ** 2 + (points[2 * i + 1] - y) ** 2;
    for (let i = 1; i < points.length / 2; i++) if (distance(i) < distance(nearest)) nearest = i;
    this.state.point = nearest;
    this.fillForm(null);
    this.remember();
    this.refresh(true);
  }

  received() {
    this.refresh(this.player.done);
  }

  /** Draw at the next frame; with `all`, also what depends on more than the time. */
  refresh(all = false) {
    this.stale = true;
    if (all) this.detail.stale = this.star.stale = this.groundStale = true;
  }

  tick(now) {
    const { player } = this;
    const visible = this.state.view === "points" && player.frames.length > 0;
    if (visible && player.playing) {
      player.advance(Math.min(0.1, (now - this.last) / 1000 || 0));
      this.stale = true;
      if (!player.playing) this.play(false);
    }
    this.rate = 0.95 * (this.rate ?? 60) + 50 / Math.max(1, now - this.last || 16);
    this.last = now;
    if (visible && this.stale) {
      this.stale = false;
      this.draw();
    }
    requestAnimationFrame((next) => this.tick(next));
  }

  draw() {
    const { player, state } = this;
    const { step } = player;
    const frame = player.frames[step];
    const after = player.frames[Math.min(step + 1, player.frames.length - 1)];
    const share = Math.min(1, Math.max(0, player.position - step));
    if (this.groundStale) this.drawGround();
    this.groundStale = false;
    this.detail.update(this.labels);
    this.star.update();
    const outlines = this.labels ? this.data.classes.map((c) => c.rectangle) : [this.data.square];
    const matching = frame.points[0].length === 2 * state.n; // not while a new run begins
    const trails = [0, 1].map((i) => (matching ? this.detail.trails(i) : []));
    trails[0].push(...this.star.trails());
    const reach = reachOf(state.camera, trails.flat());
    this.plates.forEach((plate, i) => plate.draw({
      points: frame.points[i], after: after.points[i], share, outlines,
      labels: matching ? this.labels : null,
      ground: i === 0 ? this.ground : null,
      trails: trails[i],
      chosen: matching ? state.point : null,
      reach,
    }));
    this.star.place();
    this.drawReadout(step, frame);
  }

  drawGround() {
    this.ground = groundOf(this.data, this.state);
    const scale = element("scale");
    scale.hidden = !this.ground;
    if (this.ground) scale.innerHTML = this.ground.legend;
  }

  drawReadout(step, frame) {
    const { player } = this;
    const t = 1 - player.position / player.steps;
    element("scrub").value = player.position;
    element("time").value = `t = ${Math.max(0, t).toFixed(3)}`;
    const rows = MEASURES.map(([key, name]) => {
      const values = [frame.measures[0][key], frame.measures[1][key], this.floor[key]];
      const cells = values.map((v) => `<td>${v.toFixed(4)}</td>`).join("");
      return `<tr><th scope="row">${name}</th>${cells}</tr>`;
    });
    element("measures").tBodies[0].innerHTML = rows.join("");
    document.querySelectorAll("[data-tv]").forEach((shown, i) => {
      shown.textContent = `TV10 ${frame.measures[i].tv10.toFixed(4)}`;
    });
    const points = frame.points[0].length / 2;
    const made = player.frames.length - 1;
    const speed = (made * points * EVALUATIONS[this.state.solver]) / player.seconds;
    element("status").textContent = `Seed ${this.state.seed}, step ${step} of ${player.steps}` +
      (player.done ? "" : `, ${made} computed`) +
      ` · ${Math.round(speed / 1000)} thousand evaluations of the network a second` +
      ` · ${Math.round(this.rate)} frames a second`;
    if (this.drawnFrames !== player.frames.length) this.drawHistory();
    else element("history").moveTo(1 - player.position / player.steps);
  }

  drawHistory() {
    const { player } = this;
    const colours = theme();
    this.drawnFrames = player.done ? player.frames.length : -1;
    const curve = (i) => player.frames.map(
      ({ measures }, k) => [1 - k / player.steps, measures[i].tv10]);
    drawChart(element("history"), {
      lines: [
        { name: "ours", colour: colours.accent, values: curve(0) },
        { name: "exact score", colour: CLASS_COLOURS[1], values: curve(1), dash: true },
      ],
      x: { label: "t", range: [1, 0], ticks: [1, 0.75, 0.5, 0.25, 0] },
      y: { range: [0.01, 1], log: true, ticks: [0.01, 0.03, 0.1, 0.3, 1] },
      now: 1 - player.position / player.steps,
      level: { value: this.floor.tv10, name: "floor" },
    });
  }
}
