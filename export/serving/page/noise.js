// The noise of a seed, as kgen.random.normal draws it, and the arc between two latent vectors.

const rotate = (x, distance) => (x << distance) | (x >>> (32 - distance));
const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];

/** Threefry-2x32 with 20 rounds (Salmon and others, 2011), of a counter [i, 0]. */
function threefry(key, i) {
  const schedule = [key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bda];
  let x0 = (i + key[0]) | 0;
  let x1 = key[1] | 0;
  for (let group = 0; group < 5; group++) {
    for (const distance of ROTATIONS[group % 2]) {
      x0 = (x0 + x1) | 0;
      x1 = rotate(x1, distance) ^ x0;
    }
    x0 = (x0 + schedule[(group + 1) % 3]) | 0;
    x1 = (x1 + schedule[(group + 2) % 3] + group + 1) | 0;
  }
  return [x0, x1];
}

/** The inverse of the normal distribution function: algorithm AS 241 (Wichura, 1988). */
function quantile(p) {
  const ratio = (r, above, below) =>
    above.reduceRight((sum, c) => sum * r + c) / below.reduceRight((sum, c) => sum * r + c);
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    return q * ratio(0.180625 - q * q, [
      3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
      45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727,
    ], [
      1, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077,
      21213.794301586595867, 39307.89580009271061, 28729.085735721942674, 5226.495278852854561,
    ]);
  }
  const r = Math.sqrt(-Math.log(Math.min(p, 1 - p)));
  const value = r <= 5 ? ratio(r - 1.6, [
    1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504,
    1.27045825245236838258, 0.24178072517745061177, 0.0227238449892691845833, 7.7454501427834140764e-4,
  ], [
    1, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455,
    0.14810397642748007459, 0.0151986665636164571966, 5.475938084995344946e-4, 1.05075007164441684324e-9,
  ]) : ratio(r - 5, [
    6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358, 0.29656057182850489123,
    0.026532189526576123093, 0.0012426609473880784386, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
  ], [
    1, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525,
    7.868691311456132591e-4, 1.8463183175100546818e-5, 1.4215117583164458887e-7, 2.04426310338993978564e-15,
  ]);
  return q < 0 ? -value : value;
}

let table; // equally likely values of a normal of variance 1/2

function quantiles() {
  if (!table) {
    const values = Float64Array.from({ length: 65536 }, (_, i) => quantile((i + 0.5) / 65536));
    const spread = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    table = Float32Array.from(values, (x) => (x / spread) * Math.SQRT1_2);
  }
  return table;
}

/** Standard normal noise of one seed: Float32Array of so many numbers. */
export function normal(seed, size, stream = 0) {
  const half = (size + 1) >> 1;
  const words = new Uint32Array(2 * half);
  for (let i = 0; i < half; i++) [words[i], words[half + i]] = threefry([seed, stream], i);
  const values = quantiles();
  return Float32Array.from(words.subarray(0, size), (x) => values[x >>> 16] + values[x & 0xffff]);
}

/** Points on the arc between two vectors, both ends included; lengths are interpolated too. */
export function spherical(start, end, steps) {
  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const lengths = [Math.sqrt(dot(start, start)), Math.sqrt(dot(end, end))];
  const cosine = dot(start, end) / (lengths[0] * lengths[1] || 1);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.max(Math.sin(angle), 1e-6);
  return Array.from({ length: steps }, (_, step) => {
    const t = step / (steps - 1);
    if (t === 0 || t === 1) return t ? end : start;
    const length = (1 - t) * lengths[0] + t * lengths[1];
    const [a, b] = [Math.sin((1 - t) * angle) / lengths[0], Math.sin(t * angle) / lengths[1]];
    return start.map((x, i) => ((a * x + b * end[i]) / sine) * length);
  });
}
