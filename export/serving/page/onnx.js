// The backend that draws in this browser: onnxruntime-web in a worker, so that the page stays alive.

export class Backend {
  where = "in this browser";
  rows = 4; // drawn at once: then the page shows them, and can be stopped
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #number = 0;

  constructor() {
    this.#worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error) reject(new Error(data.error));
      else resolve(data);
    };
    this.#worker.onerror = () => {
      for (const { reject } of this.#waiting.values()) {
        reject(new Error("onnxruntime-web does not start in this browser."));
      }
      this.#waiting.clear();
    };
  }

  async run(model, version, endpoint, rows) {
    const { inputs, outputs } = model.endpoints[endpoint];
    const feeds = {};
    for (const [name, { dtype, shape }] of Object.entries(inputs)) {
      // Where height and width are free, they are the picture's own.
      const free = { height: rows[0][name].height, width: rows[0][name].width };
      const own = shape.slice(1).map((side) => free[side] ?? side);
      const size = own.reduce((product, side) => product * side, 1);
      const data = new ARRAYS[dtype](rows.length * size);
      rows.forEach((row, i) => {
        const value = row[name].data ?? row[name];
        data.set(ArrayBuffer.isView(value) || Array.isArray(value) ? value : [value], i * size);
      });
      const given = model.inputs?.[endpoint]?.[name] ?? name;
      feeds[given] = { type: dtype, data, dims: [rows.length, ...own] };
    }
    const id = ++this.#number;
    const answer = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    const url = (file) => file && new URL(file, document.baseURI).href;
    this.#worker.postMessage({
      id,
      model: url(model.files[endpoint]),
      weights: url(model.weights),
      feeds,
      outputs: Object.keys(outputs),
    });
    const { results, milliseconds } = await answer;
    return {
      outputs: rows.map((_, i) =>
        Object.fromEntries(
          Object.entries(results).map(([name, { data, dims }]) => [name, part(data, dims, i)]),
        ),
      ),
      milliseconds,
    };
  }

  request() {
    return null;
  }
}

const ARRAYS = {
  uint8: Uint8Array,
  int32: Int32Array,
  uint32: Uint32Array,
  float32: Float32Array,
};

function part(data, dims, i) {
  const size = dims.slice(1).reduce((product, side) => product * side, 1);
  const own = data.slice(i * size, (i + 1) * size);
  if (dims.length === 1) return own[0];
  if (dims.length !== 4) return own;
  const [, height, width, channels] = dims;
  return { width, height, channels, data: own };
}
