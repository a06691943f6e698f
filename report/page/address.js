// What is shown, as the fragment of the page's address: a view can be shared.

import { SPACINGS } from "./schedule.js";

const choice = (...values) => ({
  read: (text) => (values.includes(text) ? text : undefined),
  allowed: `one of ${values.join(", ")}`,
});

const number = (low, high, whole) => ({
  read: (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    const fits = value >= low && value <= high && (!whole || Number.isInteger(value));
    return fits ? value : undefined;
  },
  allowed: `${whole ? "a whole number" : "a number"} from ${low} to ${high}`,
});

const optional = (kind) => ({
  read: (text) => (text === "" ? null : kind.read(text)),
  allowed: `${kind.allowed}, or nothing`,
});

const coordinate = number(-20, 20, false);
const pair = {
  read: (text) => {
    const values = text.split(",").map(coordinate.read);
    return values.length === 2 && !values.includes(undefined) ? values : undefined;
  },
  allowed: "two numbers from -20 to 20 with a comma between",
};

/** Every field of the state: its value without an address, and what may stand there. */
const FIELDS = {
  view: ["points", choice("points", "words", "digits")],
  model: ["unconditional", choice("unconditional", "conditional")],
  label: ["all", choice("all", "0", "1", "2", "3", "4")],
  solver: ["ddim", choice("ddim", "ddpm", "euler", "heun", "dpm++")],
  lam: [1, number(0, 2, false)],
  steps: [50, number(1, 1000, true)],
  spacing: ["exponential", choice(...SPACINGS)],
  prior: ["matched", choice("matched", "standard")],
  n: [2000, number(10, 5000, true)],
  seed: [0, number(0, 2 ** 32 - 1, true)],
  camera: ["wide", choice("wide", "near", "all")],
  ground: ["none", choice("none", "density", "difference")],
  frame: [null, optional(number(0, 1000, true))],
  point: [null, optional(number(0, 4999, true))],
  star: [null, optional(pair)],
  token: [null, optional(number(1, 31, true))],
  block: [5, number(0, 5, true)],
  visit: [null, optional(number(0, 40, true))],
  head: [null, optional(number(0, 5, true))],
};

export const DEFAULTS = Object.fromEntries(
  Object.entries(FIELDS).map(([name, [value]]) => [name, value]));

/** The value of a field that a text stands for: {value}, or {problem}, a sentence. */
export function readField(name, text) {
  const field = FIELDS[name];
  if (!field) return { problem: `There is no "${name}".` };
  const value = field[1].read(text);
  const shown = text.length > 30 ? `${text.slice(0, 30)}...` : text;
  return value === undefined
    ? { problem: `${name} must be ${field[1].allowed}, not "${shown}".` } : { value };
}

/** A text without percent signs; as it is where they do not stand for characters. */
function plain(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** {state, problems} of a fragment; what cannot be read keeps its default. */
export function parse(fragment) {
  const state = { ...DEFAULTS };
  const problems = [];
  for (const part of fragment.replace(/^#/, "").split("&").filter(Boolean)) {
    const [name, ...rest] = part.split("=");
    const { value, problem } = readField(name, plain(rest.join("=")));
    if (problem) problems.push(problem);
    else state[name] = value;
  }
  for (const name of ["point", "frame"]) {
    const most = name === "point" ? state.n - 1 : state.steps;
    if (state[name] !== null && state[name] > most) {
      problems.push(`${name} must be at most ${most}, not ${state[name]}.`);
      state[name] = null;
    }
  }
  return { state, problems };
}

/** The fragment of a state: only what differs from the default. */
export function format(state) {
  const fields = Object.keys(FIELDS).filter((name) => name === "view" ||
    String(state[name]) !== String(DEFAULTS[name]));
  return `#${fields.map((name) => `${name}=${state[name] ?? ""}`).join("&")}`;
}
