// Numbers that the page carries in base64.

import { Network } from "./network.js";

export const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => Float64Array.from(new Float32Array(bytes(text).buffer));

export const shorts = (text) => new Int16Array(bytes(text).buffer);

/** IEEE 754 half precision. */
export function halves(text) {
  return Float64Array.from(new Uint16Array(bytes(text).buffer), (h) => {
    const sign = h & 0x8000 ? -1 : 1;
    const exponent = (h >> 10) & 31;
    const fraction = (h & 1023) / 1024;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  });
}

/** The network of a model that report/explore.py packed. */
export function network(packed) {
  const layer = ({ weight, bias }) => ({ weight: floats(weight), bias: floats(bias) });
  return new Network({
    ...packed,
    noiseEmbedding: packed.noiseEmbedding.map(layer),
    scaleShift: layer(packed.scaleShift),
    classEmbedding: packed.classEmbedding.map(floats),
    inputLayer: layer(packed.inputLayer),
    hidden: packed.hidden.map(layer),
    outputLayer: layer(packed.outputLayer),
  });
}
