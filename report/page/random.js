// torch.Generator on a processor: a seed gives the numbers here that it gives in Python.

const N = 624; // words of state of MT19937 (Matsumoto and Nishimura 1998)
const M = 397;

export class Generator {
  /** seed: a whole number below 2^32. */
  constructor(seed) {
    this.state = new Uint32Array(N);
    this.state[0] = seed;
    for (let i = 1; i < N; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(before, 1812433253) + i;
    }
    this.next = N;
  }

  /** A whole number in [0, 2^32). */
  word() {
    if (this.next === N) this.twist();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  twist() {
    const s = this.state;
    for (let i = 0; i < N; i++) {
      const y = (s[i] & 0x80000000) | (s[(i + 1) % N] & 0x7fffffff);
      s[i] = s[(i + M) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  /** torch.rand, float32: 24 random bits each, in [0, 1). */
  uniforms(length) {
    return Float32Array.from({ length }, () => (this.word() & 0xffffff) / 0x1000000);
  }

  /** torch.randn, float32, of at least 16 numbers: Box-Muller within runs of 16. */
  normals(length) {
    const out = this.uniforms(length);
    for (let i = 0; i + 15 < length; i += 16) boxMuller(out, i);
    if (length % 16) {
      out.set(this.uniforms(16), length - 16);
      boxMuller(out, length - 16);
    }
    return out;
  }
}

function boxMuller(out, offset) {
  for (let i = offset; i < offset + 8; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - out[i]));
    const angle = 2 * Math.PI * out[i + 8];
    out[i] = radius * Math.cos(angle);
    out[i + 8] = radius * Math.sin(angle);
  }
}
