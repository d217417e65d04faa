// Draws images in JavaScript: with Node.js, and with no packages. The class works in browsers too,
// where the page comes from the server itself, or the server lets other pages in.
//
//     node examples/clients/client.mjs http://127.0.0.1:8501 vae '{"seed": [7, 8], "label": [3, 3]}'
//
// It writes 0.png, 1.png, ... and draws the same as pixels. A token is read from KGEN_SERVE_TOKEN.

const ARRAYS = { UINT8: Uint8Array, INT32: Int32Array, FP32: Float32Array };

/** A client of `kgen serve`, TensorFlow Serving (predict), Triton and KServe (infer). */
export class Client {
  constructor(address, model, { token, timeout = 60_000, retries = 5 } = {}) {
    Object.assign(this, { address, model, token, timeout, retries });
  }

  /** PNGs, one for each row, over TensorFlow Serving's REST API: an array of Uint8Array. */
  async pngs(inputs, signature = "image_bytes") {
    const body = JSON.stringify({ signature_name: signature, inputs });
    const path = `/v1/models/${this.model}:predict`;
    const response = await this.send(path, body, { "content-type": "application/json" });
    const { outputs } = await response.json();
    return outputs.map(({ b64 }) => Uint8Array.from(atob(b64), (c) => c.charCodeAt(0)));
  }

  /** Pixels by the Open Inference Protocol, as bytes: `{ shape: [N, H, W, C], data: Uint8Array }`. */
  async pixels(inputs, endpoint = "generate") {
    const path = `/v2/models/${this.model}${endpoint === "generate" ? "" : `.${endpoint}`}`;
    const parts = [];
    const known = await (await this.send(path)).json();
    const described = known.inputs
      .filter(({ name }) => name in inputs)
      .map(({ name, datatype, shape }) => {
        const array = new ARRAYS[datatype](inputs[name].flat(Infinity));
        parts.push(array);
        return {
          name,
          datatype,
          shape: [inputs[name].length, ...shape.slice(1)],
          parameters: { binary_data_size: array.byteLength },
        };
      });
    const asked = { inputs: described, parameters: { binary_data_output: true } };
    const head = new TextEncoder().encode(JSON.stringify(asked));
    const response = await this.send(`${path}/infer`, new Blob([head, ...parts]), {
      "content-type": "application/octet-stream",
      "inference-header-content-length": String(head.length),
    });
    const bytes = new Uint8Array(await response.arrayBuffer());
    const length = Number(response.headers.get("inference-header-content-length"));
    const { outputs } = JSON.parse(new TextDecoder().decode(bytes.subarray(0, length)));
    return { shape: outputs[0].shape, data: bytes.subarray(length) };
  }

  /** Asks again where the server is busy (429, 503) or does not answer, as long as there is time. */
  async send(path, body, headers = {}) {
    if (this.token) headers.authorization = `Bearer ${this.token}`;
    const method = body === undefined ? "GET" : "POST";
    const signal = AbortSignal.timeout(this.timeout);
    for (let number = 0; ; number++) {
      let response, failed;
      try {
        response = await fetch(this.address + path, { method, body, headers, signal });
        if (response.ok) return response;
        const text = await response.text();
        failed = new Error(`${response.status}: ${said(text)}`);
      } catch (error) {
        if (signal.aborted) throw error;
        failed = error;
      }
      const again = !response || response.status === 429 || response.status === 503;
      if (!again || number === this.retries) throw failed;
      const seconds = Number(response?.headers.get("retry-after") ?? 0.1 * 2 ** number);
      await new Promise((done) => setTimeout(done, 1000 * seconds * (1 + Math.random() / 4)));
    }
  }
}

/** The server's own words, where there are some. */
function said(text) {
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text.slice(0, 500);
  }
}

if (typeof process !== "undefined" && process.argv[1]?.endsWith("client.mjs")) {
  const { writeFile } = await import("node:fs/promises");
  const [address, model, inputs = '{"seed": [7]}'] = process.argv.slice(2);
  const client = new Client(address, model, { token: process.env.KGEN_SERVE_TOKEN });
  const pngs = await client.pngs(JSON.parse(inputs));
  await Promise.all(pngs.map((png, number) => writeFile(`${number}.png`, png)));
  // What TensorFlow Serving does not speak.
  const { shape, data } = await client.pixels(JSON.parse(inputs)).catch(() => ({}));
  console.log(JSON.stringify({ pngs: pngs.length, shape, sum: data?.reduce((a, b) => a + b, 0) }));
}
