// The denoiser eps_theta(x, sigma, label) of diffusion/denoiser.py, on typed arrays.
//
// A layer is {weight, bias}: weight row by row, (outputs x inputs). Points are (x, y, x, y, ...).

const BLOCK = 8; // points carried through a layer together, so that a weight is read once for all

const silu = (v) => v / (1 + Math.exp(-v));

function linear({ weight, bias }, input) {
  const output = Float64Array.from(bias);
  for (let row = 0, at = 0; row < output.length; row++) {
    for (let i = 0; i < input.length; i++, at++) output[row] += weight[at] * input[i];
  }
  return output;
}

export class Network {
  /**
   * centre (2), variance: moments of the data; noiseEmbedding: two layers; scaleShift, inputLayer,
   * outputLayer: a layer each; hidden: layers; classEmbedding: one vector a class, or none.
   */
  constructor({ inputLayer, classEmbedding, ...parts }) {
    Object.assign(this, parts);
    const { weight, bias } = inputLayer;
    this.width = bias.length;
    const inputs = weight.length / this.width;
    const column = (i) => Float64Array.from(bias, (_, row) => weight[row * inputs + i]);
    this.inputX = column(0);
    this.inputY = column(1);
    // What a class adds to the first layer is one vector: its bias.
    const constant = (vector) => linear(inputLayer, Float64Array.of(0, 0, ...vector));
    this.inputBias = classEmbedding.length ? classEmbedding.map(constant) : [constant([])];
  }

  /** The first layer at one noise level: its two columns, and its bias for every class. */
  inputLayerAt(sigma) {
    const level = Float64Array.of(1 + 0.4 * Math.log(sigma));
    const [first, second] = this.noiseEmbedding;
    const embedding = linear(second, linear(first, level).map(silu)).map(silu);
    const scaleShift = linear(this.scaleShift, embedding);
    const scale = scaleShift.subarray(0, this.width).map(Math.exp);
    const shift = scaleShift.subarray(this.width);
    return {
      x: this.inputX.map((w, j) => w * scale[j]),
      y: this.inputY.map((w, j) => w * scale[j]),
      bias: this.inputBias.map((bias) => bias.map((b, j) => b * scale[j] + shift[j])),
    };
  }

  /** eps_theta of points (2 n) at one noise level; labels: one class a point, or null. */
  noise(points, sigma, labels) {
    const n = points.length / 2;
    const cIn = 1 / Math.sqrt(sigma * sigma + this.variance);
    const first = this.inputLayerAt(sigma);
    const out = new Float32Array(2 * n);
    const rows = Math.max(this.width, 2) * BLOCK;
    let [input, output] = [new Float64Array(rows), new Float64Array(rows)];
    for (let start = 0; start < n; start += BLOCK) {
      const size = Math.min(BLOCK, n - start);
      for (let p = 0; p < size; p++) {
        const x = cIn * (points[2 * (start + p)] - this.centre[0]);
        const y = cIn * (points[2 * (start + p) + 1] - this.centre[1]);
        const bias = first.bias[labels ? labels[start + p] : 0];
        for (let j = 0; j < this.width; j++) {
          input[j * BLOCK + p] = silu(first.x[j] * x + first.y[j] * y + bias[j]);
        }
      }
      for (const layer of this.hidden) {
        carry(layer, input, output);
        for (let j = 0; j < this.width * BLOCK; j++) output[j] = silu(output[j]);
        [input, output] = [output, input];
      }
      carry(this.outputLayer, input, output);
      const scale = Math.sqrt(this.variance) * cIn;
      for (let p = 0; p < size; p++) {
        for (let axis = 0; axis < 2; axis++) {
          const at = 2 * (start + p) + axis;
          const guess = sigma * cIn * cIn * (points[at] - this.centre[axis]);
          out[at] = guess - scale * output[axis * BLOCK + p];
        }
      }
    }
    return out;
  }

  /** eps_theta (2) of one point and its Jacobian [dx/dx, dx/dy, dy/dx, dy/dy], in float64. */
  linearised([x, y], sigma, label) {
    const cIn = 1 / Math.sqrt(sigma * sigma + this.variance);
    const first = this.inputLayerAt(sigma);
    const u = cIn * (x - this.centre[0]);
    const v = cIn * (y - this.centre[1]);
    const bias = first.bias[label ?? 0];
    // Values and their derivatives by u and by v go through the layers side by side.
    let value = bias.map((b, j) => b + first.x[j] * u + first.y[j] * v);
    let [byU, byV] = [first.x, first.y];
    for (const layer of [...this.hidden, this.outputLayer]) {
      const slope = value.map(siluSlope);
      const unbiased = { weight: layer.weight, bias: new Float64Array(layer.bias.length) };
      value = linear(layer, value.map(silu));
      byU = linear(unbiased, byU.map((d, j) => d * slope[j]));
      byV = linear(unbiased, byV.map((d, j) => d * slope[j]));
    }
    const guess = sigma * cIn;
    const scale = Math.sqrt(this.variance) * cIn;
    return {
      eps: [guess * u - scale * value[0], guess * v - scale * value[1]],
      jacobian: [
        cIn * (guess - scale * byU[0]), -cIn * scale * byV[0],
        -cIn * scale * byU[1], cIn * (guess - scale * byV[1]),
      ],
    };
  }
}

function siluSlope(v) {
  const gate = 1 / (1 + Math.exp(-v));
  return gate * (1 + v * (1 - gate));
}

/** output = weight input + bias for BLOCK points at once; both are (units x BLOCK). */
function carry({ weight, bias }, input, output) {
  const inputs = weight.length / bias.length;
  for (let row = 0; row < bias.length; row++) {
    const b = bias[row];
    let [s0, s1, s2, s3, s4, s5, s6, s7] = [b, b, b, b, b, b, b, b];
    for (let i = 0, at = 0; i < inputs; i++, at += BLOCK) {
      const w = weight[row * inputs + i];
      s0 += w * input[at];
      s1 += w * input[at + 1];
      s2 += w * input[at + 2];
      s3 += w * input[at + 3];
      s4 += w * input[at + 4];
      s5 += w * input[at + 5];
      s6 += w * input[at + 6];
      s7 += w * input[at + 7];
    }
    output.set([s0, s1, s2, s3, s4, s5, s6, s7], row * BLOCK);
  }
}
