// One square of canvas with points, paths and the truth's outline.

import { roundTicks } from "./chart.js";

export const CLASS_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"];

const REACH = { wide: 2.7, near: 1.35 };

/** Half the width of what is shown; camera "all" takes in every trail. */
export function reachOf(camera, trails) {
  if (camera !== "all") return REACH[camera];
  const far = trails.flatMap(({ values }) => values.flat()).map((v) => 1.1 * Math.abs(v));
  return far.reduce((a, b) => Math.max(a, b), REACH.wide);
}

/** Colours of the style sheet in force. */
export function theme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["plate", "ink", "quiet", "line", "accent", "warm"];
  return Object.fromEntries(
    names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

export class Plate {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
  }

  /** Data (x, y) -> pixels of the canvas, and back. */
  toPixels(x, y) {
    const size = this.canvas.width;
    return [(0.5 + x / (2 * this.reach)) * size, (0.5 - y / (2 * this.reach)) * size];
  }

  toData(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    const u = (clientX - box.left) / box.width;
    const v = (clientY - box.top) / box.height;
    return [(2 * u - 1) * this.reach, (1 - 2 * v) * this.reach];
  }

  /**
   * points (2 n) and after (2 n): positions at two steps, share in 0..1 the way from one to the
   * other; labels or null; outlines: rectangles; ground: {image, reach} or null; trails:
   * [{values: [[x, y], ...], colour, dash}]; chosen: number of a point or null; reach: see reachOf.
   */
  draw({ points, after, share, labels, outlines, ground, trails, chosen, reach }) {
    const colours = theme();
    this.reach = reach;
    this.fit();
    const { context } = this;
    const size = this.canvas.width;
    context.fillStyle = colours.plate;
    context.fillRect(0, 0, size, size);
    if (ground) this.drawGround(ground);
    this.drawFrame(outlines, colours);
    const at = (i) => this.toPixels(...[2 * i, 2 * i + 1].map(
      (k) => points[k] + share * (after[k] - points[k])));
    const dot = Math.max(2, Math.round(size / 190));
    const kinds = labels ? CLASS_COLOURS : [colours.accent];
    kinds.forEach((colour, kind) => {
      context.fillStyle = colour;
      for (let i = 0; i < points.length / 2; i++) {
        if (labels && labels[i] !== kind) continue;
        const [u, v] = at(i);
        context.fillRect(u - dot / 2, v - dot / 2, dot, dot);
      }
    });
    for (const trail of trails) this.drawTrail(trail);
    if (chosen !== null) this.ring(...at(chosen), colours.ink);
  }

  fit() {
    const size = Math.max(1, Math.round(this.canvas.clientWidth * (window.devicePixelRatio || 1)));
    if (this.canvas.width === size) return;
    this.canvas.width = size;
    this.canvas.height = size;
  }

  drawGround({ image, reach }) {
    const [left, top] = this.toPixels(-reach, reach);
    const width = (reach / this.reach) * this.canvas.width;
    this.context.imageSmoothingEnabled = true;
    this.context.drawImage(image, left, top, width, width);
  }

  drawFrame(outlines, colours) {
    const { context } = this;
    const size = this.canvas.width;
    context.lineWidth = Math.max(1, size / 400);
    context.strokeStyle = colours.quiet;
    for (const [low, high] of outlines) {
      const [left, bottom] = this.toPixels(...low);
      const [right, top] = this.toPixels(...high);
      context.strokeRect(left, top, right - left, bottom - top);
    }
    context.fillStyle = colours.quiet;
    context.font = `${Math.max(11, Math.round(size / 36))}px system-ui, sans-serif`;
    context.textAlign = "center";
    const ticks = roundTicks([-0.9 * this.reach, 0.9 * this.reach]);
    for (const tick of ticks) {
      context.fillText(tick, this.toPixels(tick, 0)[0], size - size / 80);
    }
    context.textAlign = "left";
    for (const tick of ticks) {
      if (tick) context.fillText(tick, size / 80, this.toPixels(0, tick)[1] + size / 90);
    }
  }

  drawTrail({ values, colour, dash }) {
    const { context } = this;
    const unit = Math.max(1, this.canvas.width / 300);
    context.beginPath();
    values.forEach(([x, y], i) => {
      const [u, v] = this.toPixels(x, y);
      if (i) context.lineTo(u, v);
      else context.moveTo(u, v);
    });
    context.strokeStyle = colour;
    context.lineWidth = 1.6 * unit;
    context.setLineDash(dash ? [4 * unit, 3 * unit] : []);
    context.stroke();
    context.setLineDash([]);
    this.ring(...this.toPixels(...values[0]), colour);
  }

  ring(u, v, colour) {
    const { context } = this;
    context.beginPath();
    context.arc(u, v, this.canvas.width / 60, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.lineWidth = Math.max(1.5, this.canvas.width / 220);
    context.stroke();
  }
}

/** Channels of a colour scale at v in [-1, 1]: blue for less than the truth, orange for more. */
const diverging = (v) =>
  [...(v < 0 ? [0, 114, 178] : [230, 120, 0]), 230 * Math.min(1, Math.abs(v))];
const sequential = (v) => [0, 158, 115, 200 * Math.min(1, Math.max(0, v))];

/** size x size values in rows of rising y -> a canvas; kind "density" or "difference". */
export function groundImage(values, size, kind) {
  const image = document.createElement("canvas");
  image.width = image.height = size;
  const pixels = new ImageData(size, size);
  const colour = kind === "density" ? sequential : diverging;
  values.forEach((value, i) => {
    const row = size - 1 - Math.floor(i / size);
    pixels.data.set(colour(value), 4 * (row * size + (i % size)));
  });
  image.getContext("2d").putImageData(pixels, 0, 0);
  return image;
}
