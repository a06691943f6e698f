// Entry of the tests that hold the numbers against Python, without a page around them.

import { DEFAULTS, format, parse, readField } from "./address.js";
import { halves, network, shorts } from "./data.js";
import { ExactDenoiser, logDensity, mills, truncatedNormal } from "./exact.js";
import { eq9, integrand, latticeDraws, logLikelihood, restOfBound } from "./likelihood.js";
import { floor, measures } from "./metrics.js";
import { Generator } from "./random.js";
import { SPACINGS, schedule } from "./schedule.js";
import { energy, invert } from "./steering.js";
import { labelsOf, walk } from "./worker.js";

Object.assign(globalThis, {
  halves, network, shorts, ExactDenoiser, logDensity, mills, truncatedNormal, eq9, integrand,
  latticeDraws, logLikelihood, restOfBound, floor, measures, Generator, SPACINGS, schedule, energy,
  invert, labelsOf, walk, DEFAULTS, format, parse, readField,
});
