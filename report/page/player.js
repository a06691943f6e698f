// The frames of one run, as the worker makes them, and the position within them.

const SECONDS = 4; // that a whole replay takes

export class Player {
  /** data: the points of the page; onFrames(): told of new frames; onProblem(text). */
  constructor(data, onFrames, onProblem) {
    this.onFrames = onFrames;
    const source = `${document.getElementById("worker").textContent}\nworker_js.serve(self);`;
    this.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    this.worker.onerror = (event) => onProblem(`The computation stopped: ${event.message}`);
    this.worker.onmessage = ({ data: message }) => this.receive(message);
    this.worker.postMessage({ points: data });
    this.id = 0;
    this.frames = [];
    this.steps = 1;
    this.position = 0;
    this.playing = false;
  }

  /** Begin a new run, at the same time t. */
  run(request) {
    this.position *= request.steps / this.steps;
    this.steps = request.steps;
    this.began = performance.now();
    this.done = false;
    this.pending = true; // the old frames stay in sight until the first new one
    this.worker.postMessage({ ...request, id: ++this.id });
  }

  receive({ id, frames, done }) {
    if (id !== this.id) return;
    if (this.pending) this.frames = [];
    this.pending = false;
    this.frames.push(...frames);
    this.done = done;
    this.seconds = (performance.now() - this.began) / 1000;
    this.onFrames();
  }

  /** Whole step shown, no later than what is computed. */
  get step() {
    return Math.min(Math.floor(this.position + 1e-9), this.frames.length - 1);
  }

  /** Move on by some seconds; stops at the end. */
  advance(seconds) {
    const next = this.position + (seconds * this.steps) / SECONDS;
    this.position = Math.min(next, this.steps, Math.max(0, this.frames.length - 1));
    if (this.position >= this.steps) this.playing = false;
  }
}
