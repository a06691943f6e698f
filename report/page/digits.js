// The part of the page about digits: a reverse bit-flip process, and samples of the families.

import { bytes } from "./data.js";

const SIDE = 28;
const PIXELS = SIDE * SIDE;
const GAP = 2; // pixels between two images
const SECONDS = 5; // that a whole replay takes

const element = (id) => document.getElementById(id);

/** Bits, the highest of each byte first -> 0 and 255. */
const fromBits = (packed) => Uint8Array.from(
  { length: 8 * packed.length }, (_, i) => (packed[i >> 3] & (128 >> (i & 7)) ? 255 : 0));

/** Two values a byte, in fifteenths -> 0 to 255. */
const fromHalves = (packed) => Uint8Array.from(
  { length: 2 * packed.length }, (_, i) => 17 * (i & 1 ? packed[i >> 1] & 15 : packed[i >> 1] >> 4));

/** Draw rows of images, each a Uint8Array of ink, on a canvas of their size; ink is dark. */
function drawImages(canvas, rows) {
  const columns = rows[0].length / PIXELS;
  canvas.width = columns * (SIDE + GAP) - GAP;
  canvas.height = rows.length * (SIDE + GAP) - GAP;
  const pixels = new ImageData(canvas.width, canvas.height);
  rows.forEach((values, row) => values.forEach((ink, i) => {
    const image = Math.floor(i / PIXELS);
    const [y, x] = [Math.floor((i % PIXELS) / SIDE), i % SIDE];
    const at = (row * (SIDE + GAP) + y) * canvas.width + image * (SIDE + GAP) + x;
    pixels.data.set([255 - ink, 255 - ink, 255 - ink, 255], 4 * at);
  }));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

export class DigitsPart {
  constructor({ trajectory, families }, state, changed) {
    Object.assign(this, { trajectory, state, changed });
    this.images = fromBits(bytes(trajectory.images));
    this.predictions = fromHalves(bytes(trajectory.predictions));
    this.last = trajectory.stages.length - 1;
    this.size = this.images.length / (this.last + 1); // of one moment
    element("visit").max = this.last;
    element("visit").addEventListener("input", () => {
      this.stop();
      this.move(Number(element("visit").value));
    });
    element("digits-play").addEventListener("click", () => (this.playing ? this.stop() : this.play()));
    for (const family of families) this.addFamily(family);
    this.show();
  }

  get visit() {
    return this.state.visit ?? this.last;
  }

  move(visit) {
    this.state.visit = visit;
    this.changed();
    this.show();
  }

  play() {
    const from = this.visit < this.last ? this.visit : 0;
    const began = performance.now();
    this.playing = true;
    element("digits-play").textContent = "Pause";
    const tick = (now) => {
      if (!this.playing) return;
      const passed = Math.max(0, now - began) / 1000;
      const visit = Math.min(this.last, from + Math.floor((passed * this.last) / SECONDS));
      if (visit !== this.visit) this.move(visit);
      if (visit === this.last) this.stop();
      else requestAnimationFrame(tick);
    };
    this.move(from);
    requestAnimationFrame(tick);
  }

  stop() {
    this.playing = false;
    element("digits-play").textContent = "Play";
  }

  show() {
    const { visit, size } = this;
    const { stages, replaced } = this.trajectory;
    const now = this.images.subarray(visit * size, (visit + 1) * size);
    const end = this.images.subarray(this.last * size);
    // At t = 0 nothing is left to predict.
    const expected = visit < this.last
      ? this.predictions.subarray(visit * size, (visit + 1) * size) : end;
    drawImages(element("reverse"), [now, expected]);
    const wrong = now.reduce((sum, value, i) => sum + (value !== end[i]), 0) / size;
    element("visit").value = visit;
    element("visit-shown").textContent = `t = ${stages[visit]}`;
    element("visit-text").textContent =
      `By stage ${stages[visit]} of ${stages[0]} the forward process has replaced ` +
      `${(100 * replaced[visit]).toFixed(1)} % of the pixels by coins. ` +
      `${(100 * wrong).toFixed(1)} % of the pixels above will still change.`;
  }

  addFamily({ name, images, numbers }) {
    const holder = Object.assign(document.createElement("div"), { className: "family" });
    const text = document.createElement("div");
    const told = [
      ["nats", (v) => `${v.toFixed(1)} nats`],
      ["frechet_over_floor", (v) => `Fréchet ${v.toFixed(1)}`],
      ["sure", (v) => `sure ${(100 * v).toFixed(0)} %`],
      ["seconds_per_1000_samples", (v) => `1,000 in ${v < 1 ? v.toFixed(2) : v.toFixed(0)} s`],
      ["parameters", (v) => `${(v / 1e6).toFixed(2)} million parameters`],
    ].flatMap(([key, format]) => (numbers[key] === null ? [] : [format(numbers[key])]));
    text.append(
      Object.assign(document.createElement("h3"), { textContent: name }),
      Object.assign(document.createElement("p"), { className: "quiet", textContent: told.join(", ") }));
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Twenty of ${name}`);
    const ink = bytes(images);
    drawImages(canvas, [ink.subarray(0, ink.length / 2), ink.subarray(ink.length / 2)]);
    holder.append(text, canvas);
    element("families").append(holder);
  }
}
