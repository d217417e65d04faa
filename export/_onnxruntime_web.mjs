// Runs ONNX files with onnxruntime-web, for export/onnxruntime_web.py, which writes the job.
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const job = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const ort = await import(pathToFileURL(`${job.runtime}/ort.wasm.bundle.min.mjs`));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = fs.readFileSync(`${job.runtime}/ort-wasm-simd-threaded.wasm`);
ort.env.logLevel = "error";

const ARRAYS = {
  uint8: Uint8Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  float32: Float32Array,
};

let opened = {};

async function open({ model, weights }) {
  if (opened.model !== model) {
    await opened.session?.release();
    const externalData = weights ? [{ path: "weights.bin", data: fs.readFileSync(weights) }] : [];
    const session = await ort.InferenceSession.create(fs.readFileSync(model), { externalData });
    opened = { model, session };
  }
  return opened.session;
}

function read({ file, type, shape }) {
  const bytes = fs.readFileSync(file);
  const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const size = shape.slice(1).reduce((product, side) => product * side, 1);
  return { type, size, shape, data: new ARRAYS[type](copy) };
}

async function run(call, number) {
  const session = await open(call);
  const inputs = Object.entries(call.inputs).map(([name, input]) => [name, read(input)]);
  const types = [];
  const shapes = [];
  const rows = inputs[0][1].shape[0];
  for (let start = 0; start < rows; start += call.batch_size) {
    const feeds = {};
    for (const [name, { type, size, shape, data }] of inputs) {
      const part = data.slice(start * size, (start + call.batch_size) * size);
      feeds[name] = new ort.Tensor(type, part, [call.batch_size, ...shape.slice(1)]);
    }
    const results = await session.run(feeds, call.outputs);
    call.outputs.forEach((name, position) => {
      const { type, dims, data } = results[name];
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      fs.appendFileSync(`${job.out}/${number}-output-${position}`, bytes);
      types[position] = type;
      shapes[position] = [-1, ...dims.slice(1)];
    });
  }
  return { types, shapes };
}

for (const [number, call] of job.calls.entries()) {
  const answer = await run(call, number).catch((error) => ({ error: String(error) }));
  console.log(JSON.stringify(answer));
  if (answer.error) break;
}
