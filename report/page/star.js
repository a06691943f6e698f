// A star to reach: Algorithm 1 run backwards to the start that ends there.

import { network } from "./data.js";
import { theme } from "./plate.js";
import { schedule } from "./schedule.js";
import { energy, invert } from "./steering.js";

const element = (id) => document.getElementById(id);
const STEP = 0.05; // that an arrow key moves it
const MOST = 20; // coordinates, as in the address

export class Star {
  /** moved(): told when the star was moved. */
  constructor(data, state, plate, moved) {
    Object.assign(this, { data, state, plate, moved });
    this.button = element("star");
    this.networks = Object.fromEntries(
      Object.entries(data.models).map(([name, model]) => [name, network(model.network)]));
    this.button.addEventListener("pointerdown", (event) => {
      this.button.setPointerCapture(event.pointerId);
      this.dragging = true;
    });
    this.button.addEventListener("pointermove", (event) => {
      if (this.dragging) this.move(...this.plate.toData(event.clientX, event.clientY));
    });
    this.button.addEventListener("lostpointercapture", () => {
      this.dragging = false;
    });
    this.button.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (!(event.key in way)) return;
      event.preventDefault();
      const [dx, dy] = way[event.key];
      this.move(this.state.star[0] + STEP * dx, this.state.star[1] + STEP * dy);
    });
  }

  move(x, y) {
    const inside = (v) => Number(Math.min(MOST, Math.max(-MOST, v)).toFixed(3));
    this.state.star = [inside(x), inside(y)];
    this.stale = true;
    this.moved();
  }

  update() {
    const { state } = this;
    this.button.hidden = element("star-text").hidden = state.star === null;
    if (state.star === null || !this.stale) return;
    this.stale = false;
    const { moments, sigma } = this.data.models[state.model];
    const levels = schedule(state.spacing, ...sigma);
    const one = state.model === "conditional";
    const label = one ? this.classOf(state.star) : null;
    const path = invert(this.networks[state.model], state.star, label, levels, state.steps);
    this.path = path;
    const [x, y] = state.star.map((v) => v.toFixed(3));
    const name = one ? ` as class ${this.data.classes[label].name}` : "";
    if (!path) {
      element("star-text").textContent = `No start was found from which Algorithm 1 reaches ` +
        `(${x}, ${y})${name} in ${state.steps} steps: take more steps or a nearer star.`;
      return;
    }
    const [u, v] = path[0].map((c) => c.toFixed(3));
    const nats = energy(path[0], moments[label ?? 0], levels.high).toFixed(2);
    element("star-text").textContent =
      `Algorithm 1 reaches (${x}, ${y})${name} from (${u}, ${v}): ` +
      `|u|²/2 = ${nats} nats, where a start drawn at random has 1 on average.`;
  }

  /** The class that is shown, or of all the one whose rectangle is nearest. */
  classOf(point) {
    if (this.state.label !== "all") return Number(this.state.label);
    const distances = this.data.classes.map(({ rectangle: [low, high] }) => Math.hypot(
      ...point.map((v, axis) => Math.max(low[axis] - v, 0, v - high[axis]))));
    return distances.indexOf(Math.min(...distances));
  }

  trails() {
    if (this.state.star === null || !this.path) return [];
    return [{ values: this.path, colour: theme().warm }];
  }

  /** Put the button where the star is, or at the plate's edge on the way there. */
  place() {
    if (this.state.star === null) return;
    const size = this.plate.canvas.width;
    const [u, v] = this.plate.toPixels(...this.state.star);
    const percent = (pixels) => `${Math.min(96, Math.max(4, (100 * pixels) / size))}%`;
    this.button.style.left = percent(u);
    this.button.style.top = percent(v);
  }
}
