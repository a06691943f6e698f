// Small line charts in SVG.

const HEIGHT = 200;
const MARGIN = { left: 46, right: 10, top: 8, bottom: 34 };

/** Replace what `holder` shows by a chart.
 *
 * lines: [{name, colour, values: [[x, y], ...], dash}]; x, y: {label, range: [from, to], log,
 * ticks}; now: x of a vertical line; level: {value, name}, a horizontal one.
 */
export function drawChart(holder, { lines, x, y, now, level }) {
  const width = Math.max(200, holder.clientWidth);
  const right = width - MARGIN.right;
  const across = scale(x, MARGIN.left, right);
  const up = scale(y, HEIGHT - MARGIN.bottom, MARGIN.top);
  const parts = [];
  const line = (kind, x1, y1, x2, y2) =>
    parts.push(`<line class="${kind}" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"/>`);
  const text = (at, left, top, anchor) =>
    parts.push(`<text x="${left}" y="${top}" text-anchor="${anchor}">${at}</text>`);
  for (const tick of y.ticks) {
    line("axis", MARGIN.left, up(tick), right, up(tick));
    text(tick, MARGIN.left - 6, up(tick) + 4, "end");
  }
  for (const tick of x.ticks) text(tick, across(tick), HEIGHT - MARGIN.bottom + 16, "middle");
  text(x.label, right, HEIGHT - 3, "end");
  if (level) {
    line("level", MARGIN.left, up(level.value), right, up(level.value));
    text(level.name, MARGIN.left + 4, up(level.value) - 4, "start");
  }
  for (const { colour, values, dash } of lines) {
    const points = values.filter(([, v]) => Number.isFinite(v))
      .map(([u, v]) => `${across(u).toFixed(1)},${up(v).toFixed(1)}`);
    const style = dash ? ' stroke-dasharray="5 4"' : "";
    if (points.length) parts.push(`<path stroke="${colour}"${style} d="M${points.join("L")}"/>`);
  }
  lines.forEach(({ name, colour, dash }, i) => {
    const left = MARGIN.left + 80 * i;
    const style = dash ? ' stroke-dasharray="5 4"' : "";
    parts.push(`<path stroke="${colour}"${style} d="M${left},${HEIGHT - 7}h22"/>`);
    text(name, left + 28, HEIGHT - 3, "start");
  });
  const marker = now === undefined ? "" :
    `<line class="now" y1="${MARGIN.top}" y2="${HEIGHT - MARGIN.bottom}"/>`;
  const summary = `${lines.map((l) => l.name).join(" and ")} against ${x.label}`;
  holder.innerHTML = `<svg viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="${summary}">` +
    `${parts.join("")}${marker}</svg>`;
  holder.moveTo = (value) => {
    const element = holder.querySelector(".now");
    element.setAttribute("x1", across(value));
    element.setAttribute("x2", across(value));
  };
  if (now !== undefined) holder.moveTo(now);
}

function scale({ range: [from, to], log }, start, end) {
  const f = log ? (v) => Math.log(Math.max(v, 1e-9)) : (v) => v;
  const slope = (end - start) / (f(to) - f(from));
  const [low, high] = start < end ? [start, end] : [end, start];
  return (v) => Math.min(high, Math.max(low, start + (f(v) - f(from)) * slope));
}

/** About five round numbers within a range. */
export function roundTicks([from, to]) {
  const rough = Math.abs(to - from) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= rough);
  const [low, high] = from < to ? [from, to] : [to, from];
  const count = Math.floor(high / step) - Math.ceil(low / step) + 1;
  return Array.from({ length: count }, (_, i) =>
    Number(((Math.ceil(low / step) + i) * step).toPrecision(6)));
}
