// Runs ONNX files for onnx.js: one message for each run.
import * as ort from "../onnxruntime/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
ort.env.wasm.wasmPaths = {
  wasm: new URL("../onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};
ort.env.logLevel = "error";

const files = new Map();
const sessions = new Map();

function once(map, key, make) {
  if (!map.has(key)) {
    const made = make(key);
    map.set(key, made);
    made.catch(() => map.delete(key)); // another try may succeed
  }
  return map.get(key);
}

async function download(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function open(url, weights) {
  const externalData = weights
    ? [{ path: "weights.bin", data: await once(files, weights, download) }]
    : [];
  return ort.InferenceSession.create(await download(url), { externalData });
}

async function run({ model, weights, feeds, outputs }) {
  const session = await once(sessions, model, (url) => open(url, weights));
  const tensors = {};
  for (const [name, { type, data, dims }] of Object.entries(feeds)) {
    tensors[name] = new ort.Tensor(type, data, dims);
  }
  const start = performance.now();
  const found = await session.run(tensors, outputs);
  const milliseconds = performance.now() - start;
  const results = {};
  for (const name of outputs) results[name] = { data: found[name].data, dims: found[name].dims };
  return { results, milliseconds };
}

let last = Promise.resolve(); // a session runs one call at a time

onmessage = ({ data }) => {
  last = last.then(() => run(data)).then(
    (answer) => postMessage({ id: data.id, ...answer }),
    (error) => postMessage({ id: data.id, error: String(error?.message ?? error) }),
  );
};
