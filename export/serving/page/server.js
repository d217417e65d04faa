// The backend that asks `kgen serve`, by TensorFlow Serving's REST interface.
import { decode, encode } from "./png.js";

const TOKEN = "kgen-token";

/** `fetch` with the token of this tab; asks for one where the server wants it. */
export async function request(url, init = {}) {
  for (let refused = false; ; refused = true) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...init.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await fetch(url, { ...init, headers });
    if (answer.status !== 401) return answer;
    sessionStorage.setItem(TOKEN, await askForToken(refused && token !== null));
  }
}

function askForToken(refused) {
  const dialog = document.getElementById("token_dialog");
  const input = document.getElementById("token");
  document.getElementById("token_hint").textContent = refused
    ? "The server does not know this token. Try another one."
    : "It is kept until this tab is closed.";
  input.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const form = document.getElementById("token_form");
    dialog.oncancel = (event) => event.preventDefault(); // there is nothing behind it
    form.onsubmit = (event) => {
      event.preventDefault();
      dialog.close();
      resolve(input.value.trim());
    };
  });
}

export class Backend {
  where = "on the server";
  rows = Infinity;

  async run(model, version, endpoint, rows) {
    const { path, body } = await this.#call(model, version, endpoint, rows);
    const start = performance.now();
    const answer = await request(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body,
    });
    const text = await answer.text();
    const milliseconds = performance.now() - start;
    if (!answer.ok) throw new Error(said(answer, text));
    const { outputs } = model.endpoints[endpoint];
    const names = Object.keys(outputs);
    const results = JSON.parse(text).predictions.map(async (row) => {
      const values = {};
      for (const name of names) {
        const picture = isPicture(outputs[name]);
        const value = names.length === 1 ? row : row[picture ? `${name}_bytes` : name];
        values[name] = picture ? await fromBase64(value.b64, outputs[name].shape.at(-1)) : value;
      }
      return values;
    });
    return { outputs: await Promise.all(results), milliseconds };
  }

  /** The same call in the shell. */
  async request(model, version, endpoint, rows) {
    const { path, body } = await this.#call(model, version, endpoint, rows);
    const token = sessionStorage.getItem(TOKEN) ? ` \\\n  -H "Authorization: Bearer $TOKEN"` : "";
    const quoted = body.replaceAll("'", "'\\''");
    return `curl '${new URL(path, document.baseURI)}'${token} \\\n`
      + `  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
  }

  async #call(model, version, endpoint, rows) {
    const { inputs } = model.endpoints[endpoint];
    const instances = rows.map(async (row) => {
      const instance = {};
      for (const [name, value] of Object.entries(row)) {
        const picture = isPicture(inputs[name]);
        if (picture) instance[`${name}_bytes`] = { b64: await toBase64(value) };
        else instance[name] = ArrayBuffer.isView(value) ? Array.from(value, float32) : value;
      }
      return instance;
    });
    const signature = signatureOf(endpoint, model.endpoints[endpoint]);
    const chosen = version ? `/versions/${version}` : "";
    return {
      path: `v1/models/${encodeURIComponent(model.name)}${chosen}:predict`,
      body: JSON.stringify({ signature_name: signature, instances: await Promise.all(instances) }),
    };
  }
}

/** As short as says which float32 it is. */
const float32 = (x) => Number(x.toPrecision(9));

/** The name of the signature in which pictures are PNG. */
function signatureOf(endpoint, { inputs, outputs }) {
  if (![...Object.values(inputs), ...Object.values(outputs)].some(isPicture)) return endpoint;
  const options = endpoint.endsWith("_with_options") ? "_with_options" : "";
  const base = endpoint.slice(0, endpoint.length - options.length);
  return (base === "generate" ? "image_bytes" : `${base}_image_bytes`) + options;
}

function isPicture({ dtype, shape }) {
  const image = shape.length === 4 && [1, 2, 3, 4].includes(shape[3]);
  return dtype === "uint8" && (image || shape.length === 3);
}

const encoded = new WeakMap();

async function toBase64(picture) {
  if (!encoded.has(picture)) {
    // A mask is white where a pixel is known.
    const data = picture.mask ? picture.data.map((known) => 255 * known) : picture.data;
    const bytes = new Uint8Array(await (await encode({ ...picture, data })).arrayBuffer());
    encoded.set(picture, btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));
  }
  return encoded.get(picture);
}

function fromBase64(text, channels) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return decode(new Blob([bytes], { type: "image/png" }), channels);
}

function said(answer, text) {
  let message = text.slice(0, 300);
  try {
    message = JSON.parse(text).error ?? message;
  } catch {} // not from the server itself, such as a proxy's page
  const seconds = answer.headers.get("Retry-After");
  return seconds ? `${message} (try again in ${seconds} s)` : `${message || answer.statusText}`;
}
