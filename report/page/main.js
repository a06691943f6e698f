// The page: its three parts, its address, and what went wrong.

import { format, parse } from "./address.js";
import { DigitsPart } from "./digits.js";
import { PointsPart } from "./points.js";
import { WordsPart } from "./words.js";

const element = (id) => document.getElementById(id);

function problem(text) {
  element("problem").hidden = !text;
  element("problem").textContent = text ?? "";
}

function begin() {
  const data = JSON.parse(element("data").textContent);
  const { state, problems } = parse(location.hash);
  const parts = {};
  let written = null;

  const changed = () => {
    written = format(state);
    history.replaceState(null, "", written);
  };
  const show = () => {
    for (const view of ["points", "words", "digits"]) {
      element(view).hidden = state.view !== view;
      const tab = element(`tab-${view}`);
      if (state.view === view) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    // A part is built when it is first looked at.
    if (state.view === "digits") parts.digits ??= new DigitsPart(data.digits, state, changed);
    else if (state.view === "words") parts.words ??= new WordsPart(data.words, state, changed);
    else parts.points ??= new PointsPart(data.points, state, changed, problem);
  };
  for (const view of ["points", "words", "digits"]) {
    element(`tab-${view}`).addEventListener("click", (event) => {
      event.preventDefault();
      state.view = view;
      changed();
      show();
    });
  }
  addEventListener("hashchange", () => {
    if (location.hash === written) return;
    const next = parse(location.hash);
    Object.assign(state, next.state);
    problem(next.problems.join(" "));
    show();
    parts[state.view].show();
  });
  problem(problems.join(" "));
  show();
}

begin();
