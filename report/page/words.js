// The part of the page about the language model.

import { drawChart, roundTicks } from "./chart.js";
import { halves } from "./data.js";
import { theme } from "./plate.js";

const element = (id) => document.getElementById(id);
const visible = (token) => token.replaceAll("\n", "↵").replaceAll(" ", "·");
const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** A new element with a text. */
function create(kind, text) {
  const made = Object.assign(document.createElement(kind), { textContent: text });
  if (kind === "button") made.type = "button";
  return made;
}

/** A background that deepens with share in 0..1, no further than ink stays readable on it. */
function paint(holder, share) {
  holder.style.background = `rgb(var(--paint) / ${(0.6 * share).toFixed(3)})`;
}

export class WordsPart {
  constructor(data, state, changed) {
    Object.assign(this, { data, state, changed });
    this.attention = data.attention;
    this.attention.weights = halves(data.attention.weights);
    this.attention.scores = halves(data.attention.scores);
    this.buildSentence();
    this.buildHeads();
    this.buildInversion();
    this.buildScoring();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
    this.show();
  }

  /** Values (row + 1) of a head, or their mean over the heads of the block, where head is null. */
  row(values, block, head, row) {
    const { heads, tokens } = this.attention;
    const size = (tokens.length * (tokens.length + 1)) / 2;
    const at = (h) => (block * heads + h) * size + (row * (row + 1)) / 2;
    if (head !== null) return values.slice(at(head), at(head) + row + 1);
    return Float64Array.from({ length: row + 1 }, (_, key) => {
      let sum = 0;
      for (let h = 0; h < heads; h++) sum += values[at(h) + key];
      return sum / heads;
    });
  }

  get token() {
    return this.state.token ?? this.attention.word[0];
  }

  buildSentence() {
    this.tokens = this.attention.tokens.map((text, i) => {
      const button = create("button", visible(text));
      button.classList.toggle("word", this.attention.word.includes(i));
      button.disabled = i === 0;
      button.addEventListener("click", () => {
        this.state.token = i;
        this.changed();
        this.show();
      });
      for (const kind of ["pointerenter", "focus"]) {
        button.addEventListener(kind, () => this.describe(i));
      }
      element("sentence").append(button);
      return button;
    });
  }

  buildHeads() {
    const { blocks, heads } = this.attention;
    const grid = element("heads");
    grid.style.gridTemplateColumns = `auto repeat(${heads + 1}, minmax(0, 1fr))`;
    const names = ["", ...Array.from({ length: heads }, (_, h) => `head ${h + 1}`), "mean"];
    names.forEach((text) => grid.append(create("span", text)));
    this.cells = [];
    for (let block = 0; block < blocks; block++) {
      const title = `block ${block + 1}`;
      grid.append(create("span", title));
      for (let h = 0; h <= heads; h++) {
        const head = h < heads ? h : null;
        const button = create("button", "");
        button.addEventListener("click", () => {
          Object.assign(this.state, { block, head });
          this.changed();
          this.show();
        });
        grid.append(button);
        const which = head === null ? "mean of heads" : `head ${h + 1}`;
        this.cells.push({ button, block, head, name: `${title}, ${which}` });
      }
    }
  }

  /** Draw what depends on the state. */
  show() {
    const { state, attention } = this;
    if (state.token >= attention.tokens.length) state.token = null;
    state.block = Math.min(state.block, attention.blocks - 1);
    if (state.head >= attention.heads) state.head = null;
    this.showAttention();
    this.showStep();
    this.drawRunning();
  }

  showAttention() {
    const { state, attention, token } = this;
    const row = token - 1;
    const weights = this.row(attention.weights, state.block, state.head, row);
    const scores = this.row(attention.scores, state.block, state.head, row);
    const largest = Math.max(...weights);
    this.tokens.forEach((button, i) => {
      paint(button, i <= row ? weights[i] / largest : 0);
      button.classList.toggle("later", i > token);
      button.classList.toggle("chosen", i === token);
      button.setAttribute("aria-pressed", String(i === token));
    });
    const entropies = this.cells.map(({ block, head }) => this.entropy(block, head, row));
    this.cells.forEach(({ button, block, head, name }, i) => {
      button.textContent = entropies[i].toFixed(2);
      paint(button, entropies[i] / Math.log2(row + 2));
      const chosen = block === state.block && head === state.head;
      button.setAttribute("aria-pressed", String(chosen));
      button.setAttribute("aria-label", `${name}: ${entropies[i].toFixed(2)} bits`);
      if (chosen) this.headName = name;
    });
    this.showBars(weights, scores, row);
    this.describe(weights.indexOf(largest));
  }

  entropy(block, head, row) {
    const { weights, heads } = this.attention;
    const bits = (of) => -this.row(weights, block, of, row)
      .reduce((sum, w) => sum + (w > 0 ? w * Math.log2(w) : 0), 0);
    if (head !== null) return bits(head);
    return Array.from({ length: heads }, (_, h) => bits(h)).reduce((a, b) => a + b, 0) / heads;
  }

  effect(key, row) {
    return this.attention.effects[row][key]; // none for the position itself
  }

  showBars(weights, scores, row) {
    const { tokens, effects } = this.attention;
    const predicted = visible(tokens[row + 1]);
    element("bars-title").textContent = `Predicting “${predicted}”: ${this.headName}`;
    const largest = Math.max(...weights);
    const strongest = Math.max(0.01, ...effects[row].map(Math.abs));
    element("bars").tBodies[0].innerHTML = tokens.slice(0, row + 1).map((text, key) => {
      const effect = this.effect(key, row);
      const bar = (share, kind) =>
        `<span class="bar ${kind}" style="width:${(3 * share).toFixed(2)}em"></span>`;
      const change = effect === undefined ? "itself: always seen"
        : `${bar(Math.abs(effect) / strongest, effect < 0 ? "loss" : "")}${effect.toFixed(3)}`;
      return `<tr><td>${escape(visible(text))}</td><td>${bar(weights[key] / largest, "")}` +
        `${weights[key].toFixed(3)}</td><td>${scores[key].toFixed(2)}</td><td>${change}</td></tr>`;
    }).join("");
  }

  describe(key) {
    const { state, attention, token } = this;
    const row = token - 1;
    const name = `“${visible(attention.tokens[key])}”`;
    if (key > row) {
      element("hover").textContent = `${name} comes later than what predicts ` +
        `“${visible(attention.tokens[token])}”.`;
      return;
    }
    const weight = this.row(attention.weights, state.block, state.head, row)[key].toFixed(3);
    const score = this.row(attention.scores, state.block, state.head, row)[key].toFixed(2);
    const effect = this.effect(key, row);
    element("hover").textContent = `${name}: weight ${weight}, score ${score}` +
      (effect === undefined ? "" : `, hiding it changes log p by ${effect.toFixed(3)} nats`);
  }

  buildInversion() {
    const slider = element("step");
    slider.max = this.data.inversion.losses.length - 1;
    slider.value = slider.max;
    slider.addEventListener("input", () => this.showStep());
  }

  showStep() {
    const { target, losses, decoded } = this.data.inversion;
    const step = Number(element("step").value);
    element("step-shown").value = step;
    element("decoded").innerHTML = decoded[step].map((text, i) => {
      const right = text === target[i];
      const mark = right ? "✓" : " ";
      return `<span class="${right ? "right" : ""}">${mark}${escape(visible(text))}</span>`;
    }).join("");
    const [last, most] = [losses.length - 1, Math.max(...losses)];
    drawChart(element("losses"), {
      lines: [{ name: "loss", colour: theme().accent, values: losses.map((v, k) => [k, v]) }],
      x: { label: "step", range: [0, last], ticks: roundTicks([0, last]) },
      y: { range: [0, most], ticks: roundTicks([0, most]) },
      now: step,
    });
  }

  buildScoring() {
    const { tokens, log_p: logP, best } = this.data.scoring;
    const least = Math.min(...logP);
    tokens.forEach((text, i) => {
      const button = create("button", visible(text));
      paint(button, logP[i] / least);
      const tell = () => {
        const likeliest = best[i].map(([other, p]) => `“${visible(other)}” ${p.toFixed(2)}`);
        const sum = logP.slice(0, i + 1).reduce((a, b) => a + b, 0);
        element("scored-text").textContent =
          `“${visible(text)}”: log p = ${logP[i].toFixed(2)} nats, ` +
          `sum so far ${sum.toFixed(2)}. Likeliest here: ${likeliest.join(", ")}.`;
      };
      for (const kind of ["click", "pointerenter", "focus"]) button.addEventListener(kind, tell);
      element("scored").append(button);
    });
    const total = logP.reduce((a, b) => a + b, 0);
    element("scored-text").textContent = `Together ${total.toFixed(2)} nats, perplexity ` +
      `${Math.exp(-total / logP.length).toFixed(1)} per token.`;
  }

  drawRunning() {
    let sum = 0;
    const values = [[0, 0], ...this.data.scoring.log_p.map((p, i) => [i + 1, (sum += p)])];
    const last = values.length - 1;
    drawChart(element("running"), {
      lines: [{ name: "log p", colour: theme().accent, values }],
      x: { label: "tokens", range: [0, last], ticks: roundTicks([0, last]) },
      y: { range: [sum, 0], ticks: roundTicks([sum, 0]) },
    });
  }
}
