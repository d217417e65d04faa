// The page: what to draw, by which backend, and what came of it.
import { Editor } from "./editor.js";
import { normal, spherical } from "./noise.js";
import { packet } from "./origin.js";
import { decode, encode, tile } from "./png.js";
import { request } from "./server.js";

const WITH_OPTIONS = "_with_options";
const MOST_CLASSES = 2000;
const $ = (id) => document.getElementById(id);
const plain = (name) => name.replaceAll("_", " ");
const sentence = (text) => text && `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;

let backend;
let models = [];
let model; // the chosen one
let drawn = []; // { endpoint, row, outputs, url }, in the grid
let drawnBy = ""; // the version that was chosen for them
let kept = []; // { seed, label, url, model }
let chosen = null;
let style = null; // the picture whose style others get
let busy = false;
let stopped = false;

// What a model can do ----------------------------------------------------------------------

/** The endpoint as it is called: with its options, where it has any. */
function published(name) {
  return name + WITH_OPTIONS in model.endpoints ? name + WITH_OPTIONS : name;
}

const isImage = ({ dtype, shape }) => dtype === "uint8" && shape.length === 4;
const isNumber = ({ shape }) => shape.length === 1;

/** Endpoints by their names without options that a person can use: pictures in, pictures or a few
 * numbers out. */
function usable() {
  const names = Object.keys(model.endpoints).filter((name) => !(name + WITH_OPTIONS in model.endpoints));
  return names
    .filter((name) => {
      const { inputs, outputs } = model.endpoints[name];
      const known = Object.entries(inputs).every(
        ([key, spec]) =>
          ["seed", "label"].includes(key) || spec.default !== undefined
          || (["image", "style"].includes(key) && isImage(spec))
          || (key === "mask" && spec.shape.length === 3),
      );
      return known && Object.values(outputs).every((spec) => isImage(spec) || isNumber(spec));
    })
    .map((name) => (name.endsWith(WITH_OPTIONS) ? name.slice(0, -WITH_OPTIONS.length) : name));
}

function canWalk() {
  const latent = model.endpoints.decode?.inputs.latent;
  const draws = "seed" in (model.endpoints.generate?.inputs ?? {});
  return draws && latent?.dtype === "float32" && latent.shape.length === 2;
}

/** The size that a picture gets on its way in: null where it keeps its own. */
function sizeOfInput() {
  const [, height, width] = inputs().image.shape;
  return typeof height === "number" ? { height, width } : null;
}

const inputs = () => model.endpoints[published($("endpoint").value)].inputs;

// The form ---------------------------------------------------------------------------------

function option(text, value = text) {
  return new Option(text, value);
}

function showModels() {
  $("model").replaceChildren(...models.map(({ name }) => option(name)));
  $("model").onchange = () => chooseModel(models[$("model").selectedIndex]);
  chooseModel(models[0]);
}

function chooseModel(next) {
  model = next;
  const [height, width, channels] = model.image_shape;
  const words = [
    `${width} × ${height} pixels`,
    { 1: "grey", 3: "colour", 4: "colour with transparency" }[channels] ?? `${channels} channels`,
    model.num_classes ? `${model.num_classes} classes` : "no classes",
    `drawn ${backend.where}`,
  ];
  $("facts").textContent = words.join(" · ");
  document.title = `${model.name} – kgen playground`;
  const versions = [...model.versions].sort((a, b) => b - a);
  $("version").replaceChildren(option(`latest (${versions[0]})`, ""), ...versions.map((v) => option(v)));
  $("endpoint").replaceChildren(...usable().map((name) => option(plain(name), name)));
  const classes = Array.from({ length: Math.min(model.num_classes ?? 0, MOST_CLASSES) }, (_, i) => option(i));
  $("label").replaceChildren(option("Each in turn", ""), ...classes);
  $("walk_label").replaceChildren(...classes.map((each) => each.cloneNode(true)));
  $("walk_label_field").hidden = !("label" in (model.endpoints.decode?.inputs ?? {}));
  $("walk_panel").hidden = !canWalk();
  $("way").replaceChildren();
  drawn = [];
  editor.show(null, false);
  kept = [];
  style = null;
  choose(null);
  showGrid();
  showKept();
  chooseEndpoint();
}

async function chooseEndpoint() {
  const name = $("endpoint").value;
  const endpoint = model.endpoints[published(name)];
  $("description").textContent = sentence(endpoint.description);
  $("label_field").hidden = !("label" in endpoint.inputs);
  $("seeds").hidden = !("seed" in endpoint.inputs);
  $("picture").hidden = !("image" in endpoint.inputs);
  $("mask").hidden = !("mask" in endpoint.inputs);
  $("style_field").hidden = !("style" in endpoint.inputs);
  $("draw_one").hidden = !model.endpoints.generate;
  $("count").disabled = $("seed").disabled = !("seed" in endpoint.inputs);
  const specs = Object.entries(endpoint.inputs).filter(([, spec]) => spec.default !== undefined);
  $("options").hidden = !specs.length;
  $("options").replaceChildren($("options").querySelector("legend"), ...specs.map(optionField));
  if ("image" in endpoint.inputs) {
    const [height, width] = model.image_shape;
    const largest = Math.max(1, Math.floor(Math.min(height, width) / 4));
    const sizes = [1, 2, 4, 8, 16, 32].filter((size) => size <= largest);
    $("brush_size").replaceChildren(...sizes.map((size) => option(`${size} px`, size)));
    $("brush_size").value = editor.brush.size = sizes[Math.max(0, sizes.length - 2)];
    editor.show(editor.picture ?? chosen?.outputs.image ?? drawn[0]?.outputs.image ?? null, "mask" in endpoint.inputs);
    describePicture();
    if (!editor.picture && model.endpoints.generate) await drawPicture();
  }
}

function optionField([name, spec]) {
  const field = document.createElement("div");
  field.className = "option";
  const { minimum, maximum } = spec;
  const both = minimum !== null && maximum !== null;
  const step = both && maximum - minimum <= 2 ? 0.01 : 0.1;
  // What must be above 0 is at least a step.
  const least = minimum === null ? "" : Math.ceil(minimum / step) * step;
  const [label, input, output, hint] = ["label", "input", "output", "p"].map((tag) => document.createElement(tag));
  input.id = label.htmlFor = `option_${name}`;
  label.textContent = plain(name);
  Object.assign(input, {
    type: both ? "range" : "number",
    name,
    min: least,
    max: maximum ?? "",
    step: both ? step : "any",
    value: spec.default,
    required: true,
  });
  input.dataset.default = spec.default;
  output.htmlFor = input.id;
  hint.className = "hint";
  hint.id = `${input.id}_hint`;
  const from = minimum > 0 && minimum < step ? "above 0" : `${minimum} or more`;
  const range = both
    ? `${Number(least.toFixed(2))} to ${maximum}, `
    : minimum !== null ? `${from}, ` : maximum !== null ? `${maximum} or less, ` : "";
  const meaning = spec.description ? `${sentence(spec.description)} ` : "";
  hint.textContent = `${meaning}${sentence(`${range}${spec.default} by default`)}`;
  input.setAttribute("aria-describedby", hint.id);
  const show = () => (output.textContent = both ? optionValue(input) : "");
  input.oninput = show;
  show();
  field.append(label, input, output, hint);
  return field;
}

/** Its number; a slider that stands as it stood gives the default to the last digit. */
function optionValue(input) {
  const given = input.valueAsNumber;
  const standard = Number(input.dataset.default);
  return Math.abs(given - standard) < 1e-6 ? standard : Number(given.toPrecision(6));
}

// Rows: the inputs of each image -------------------------------------------------------------

function rowsOf() {
  const specs = inputs();
  const count = "seed" in specs ? Number($("count").value) : 1;
  const first = Number($("seed").value);
  let seeds = Array.from({ length: count }, (_, i) => (first + i) % 2 ** 31);
  if ("seed" in specs && $("use_kept").checked && kept.length) seeds = kept.map(({ seed }) => seed);
  const options = Object.fromEntries(
    [...$("options").querySelectorAll("input")].map((input) => [input.name, optionValue(input)]),
  );
  const picture = editor.picture;
  const mask = "mask" in specs ? editor.mask() : null;
  return seeds.map((seed, i) => {
    const label = $("label").value === "" ? i % (model.num_classes ?? 1) : Number($("label").value);
    const values = { seed, label, image: picture, style, mask, ...options };
    return Object.fromEntries(Object.keys(specs).map((name) => [name, values[name]]));
  });
}

/** One row of an endpoint with all options as they stand where it has none of its own. */
function plainRow(endpoint, values) {
  const specs = model.endpoints[endpoint].inputs;
  return Object.fromEntries(
    Object.entries(specs).map(([name, spec]) => {
      const field = $(`option_${name}`);
      return [name, values[name] ?? (field ? optionValue(field) : spec.default)];
    }),
  );
}

// Drawing ----------------------------------------------------------------------------------

/** Another model was chosen while one was drawing. */
class Gone extends Error {}

function fail(error) {
  $("error").textContent = error.message ?? String(error);
  $("error").hidden = false;
  $("status").textContent = "";
}

/** Says what cannot be pressed now; a button that were disabled would lose the focus. */
function setBusy(busy) {
  $("results").setAttribute("aria-busy", String(busy));
  for (const button of [$("draw"), $("draw_one"), $("walk_go")]) button.setAttribute("aria-disabled", String(busy));
}

/** Runs a task that asks the backend; one at a time. */
async function work(task) {
  if (busy) return;
  busy = true;
  stopped = false;
  $("error").hidden = true;
  setBusy(true);
  try {
    await task();
  } catch (error) {
    if (!(error instanceof Gone)) fail(error);
  } finally {
    busy = false;
    $("progress").hidden = $("stop").hidden = true;
    setBusy(false);
  }
}

/** Runs rows, a few at a time where the backend says so; tells of each part as it comes. */
async function run(endpoint, rows, each = () => {}) {
  const size = Math.min(backend.rows, rows.length);
  const outputs = [];
  const own = model;
  const version = $("version").value;
  let milliseconds = 0;
  $("stop").hidden = rows.length <= size;
  for (let start = 0; start < rows.length && !stopped; start += size) {
    $("status").textContent = rows.length > size
      ? `Drawing ${start + 1} to ${Math.min(start + size, rows.length)} of ${rows.length}…`
      : "Drawing…";
    $("progress").hidden = rows.length <= size;
    $("progress").max = rows.length;
    $("progress").value = start;
    const part = rows.slice(start, start + size);
    const found = await backend.run(own, version, endpoint, part);
    if (model !== own) throw new Gone();
    milliseconds += found.milliseconds;
    outputs.push(...found.outputs);
    await each(part, found.outputs);
  }
  return { outputs, milliseconds };
}

function tell(count, milliseconds) {
  const duration = (ms) => (ms >= 10000 ? `${(ms / 1000).toFixed(1)} s` : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`);
  const what = count === 1 ? "1 image" : `${count} images`;
  const mean = count > 1 ? `, ${duration(milliseconds / count)} each` : "";
  $("status").textContent = `${what} ${backend.where} in ${duration(milliseconds)}${mean}.`;
}

async function drawImages() {
  const endpoint = published($("endpoint").value);
  if ("image" in inputs() && !editor.picture) throw new Error("Upload a picture first, or draw one.");
  if ("style" in inputs() && !style) throw new Error("Upload a picture of the style first.");
  const rows = rowsOf();
  forget(drawn);
  drawn = [];
  drawnBy = $("version").value;
  choose(null);
  showGrid();
  await showRequest(endpoint, rows);
  const { outputs, milliseconds } = await run(endpoint, rows, async (part, found) => {
    for (const [i, row] of part.entries()) {
      drawn.push({ endpoint, row, outputs: found[i], url: await urlOf(found[i].image ?? row.image) });
    }
    showGrid();
  });
  tell(outputs.length, milliseconds);
}

async function urlOf(picture, mark = null) {
  return URL.createObjectURL(await encode(picture, mark));
}

function forget(images) {
  const used = new Set(kept.map(({ url }) => url));
  for (const { url } of images) if (!used.has(url)) URL.revokeObjectURL(url);
}

async function showRequest(endpoint, rows) {
  const text = await backend.request(model, $("version").value, endpoint, rows);
  $("request_panel").hidden = text === null;
  $("request").textContent = text ?? "";
}

async function drawPicture(next = false) {
  await work(async () => {
    const endpoint = published("generate");
    const seed = next ? Math.floor(Math.random() * 2 ** 31) : Number($("seed").value);
    const label = Number($("label").value);
    const { outputs } = await run(endpoint, [plainRow(endpoint, { seed, label })]);
    $("status").textContent = `Drew the picture of seed ${seed}.`;
    show(outputs[0].image);
  });
}

/** The picture of a file, as an input takes it; null, and a word, where it is none. */
async function read(file, spec) {
  $("error").hidden = true;
  try {
    const found = await decode(file, spec.shape.at(-1), sizeOfInput());
    $("status").textContent = `${file.name}, as ${found.width} × ${found.height} pixels.`;
    return found;
  } catch {
    fail(new Error(`${file.name} is no picture that this browser reads.`));
    return null;
  }
}

function show(picture) {
  editor.show(picture, "mask" in inputs());
  describePicture();
}

function describePicture() {
  $("canvas").hidden = !editor.picture;
  if (!editor.known) $("canvas").setAttribute("aria-label", "The picture that goes in");
  $("canvas").setAttribute("aria-describedby", editor.known ? "mask_help" : "");
  $("place").textContent = "";
}

// Images -----------------------------------------------------------------------------------

function words({ seed, label }) {
  const parts = [seed !== undefined && `seed ${seed}`, label !== undefined && `class ${label}`];
  return parts.filter(Boolean).join(", ");
}

function picture(url, alt) {
  const image = new Image(...model.image_shape.slice(0, 2).reverse());
  image.src = url;
  image.alt = alt;
  return image;
}

function showGrid() {
  $("empty").hidden = drawn.length > 0;
  $("save_grid").hidden = drawn.length < 2 || !drawn[0].outputs.image;
  $("grid").hidden = !drawn.length;
  $("grid").replaceChildren(...drawn.map((image) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tile";
    button.setAttribute("aria-pressed", String(image === chosen));
    const caption = document.createElement("span");
    const lines = (words(image.row) || plain(image.endpoint.replace(WITH_OPTIONS, ""))).split(", ");
    caption.append(...lines.flatMap((line) => [line, document.createElement("br")]).slice(0, -1));
    button.append(picture(image.url, ""), caption); // the button's own name tells of both
    button.setAttribute("aria-label", `Image of ${words(image.row) || "the picture"}`);
    button.onclick = () => {
      choose(image === chosen ? null : image);
      if (image === chosen && image.row.seed !== undefined) keep(image);
    };
    image.button = button;
    item.append(button);
    return item;
  }));
}

function choose(image) {
  chosen = image;
  for (const each of drawn) each.button?.setAttribute("aria-pressed", String(each === image));
  $("details").hidden = !image;
  if (!image) return;
  $("large").src = image.url;
  $("large").alt = `Image of ${words(image.row) || "the picture"}, enlarged`;
  const facts = { endpoint: image.endpoint.replace(WITH_OPTIONS, ""), ...image.row };
  delete facts.image;
  delete facts.mask;
  delete facts.style;
  for (const [name, value] of Object.entries(image.outputs)) {
    if (name !== "image") facts[name] = Number(value.toPrecision(6));
  }
  $("facts_of_image").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => {
    const [term, description] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name === "label" ? "class" : plain(name);
    description.textContent = plain(String(value));
    return [term, description];
  }));
  $("use_picture").hidden = !image.outputs.image || !pictureEndpoint();
}

/** An endpoint that takes pictures: the one that is chosen, or the first. */
function pictureEndpoint() {
  const takers = usable().filter((name) => "image" in model.endpoints[published(name)].inputs);
  return takers.includes($("endpoint").value) ? $("endpoint").value : takers[0];
}

function keep(image) {
  const { seed, label } = image.row;
  if (kept.some((other) => other.seed === seed && other.label === label)) return;
  kept.push({ seed, label, url: image.url });
  showKept();
  $("status").textContent = `Kept ${words(image.row)}.`;
}

function showKept() {
  $("kept_panel").hidden = !kept.length;
  $("use_kept").disabled = !kept.length;
  if (!kept.length) $("use_kept").checked = false;
  $("kept_count").textContent = kept.length ? `(${kept.length})` : "";
  $("kept").replaceChildren(...kept.map((each) => {
    const item = document.createElement("li");
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${words(each)}`);
    remove.onclick = () => {
      kept = kept.filter((other) => other !== each);
      showKept();
      ($("kept").querySelector("button") ?? $("results")).focus();
    };
    const caption = document.createElement("span");
    caption.textContent = words(each);
    item.append(picture(each.url, ""), caption, remove);
    return item;
  }));
  if (kept.length) {
    $("walk_from").value = kept.at(-2)?.seed ?? kept[0].seed;
    if (kept.length > 1) $("walk_to").value = kept.at(-1).seed;
    if (kept.at(-1).label !== undefined) $("walk_label").value = kept.at(-1).label;
  }
}

/** Saves a picture of images that were drawn, which says so. */
async function save(picture, name, images, columns) {
  const link = document.createElement("a");
  const marked = images.every(({ outputs }) => outputs.image);
  link.href = await urlOf(picture, marked ? packet(model, drawnBy, images, columns) : null);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The walk ---------------------------------------------------------------------------------

function differs(one, other) {
  return one.data.reduce((most, value, i) => Math.max(most, Math.abs(value - other.data[i])), 0) > 8;
}

async function walk() {
  const seeds = [Number($("walk_from").value), Number($("walk_to").value)];
  const steps = Number($("walk_steps").value);
  const label = Number($("walk_label").value || 0);
  const generate = published("generate");
  const ends = seeds.map((seed) => plainRow(generate, { seed, label }));
  const size = model.endpoints.decode.inputs.latent.shape[1];
  const [from, to] = seeds.map((seed, i) =>
    normal(seed, size).map((x) => x * (ends[i].temperature ?? 1)),
  );
  const rows = spherical(from, to, steps).map((latent) => plainRow("decode", { latent, label }));
  $("way").replaceChildren();
  const { outputs, milliseconds } = await run("decode", rows);
  if (stopped) return;
  // Not every model makes its latent vectors of the noise as it is, such as a VampPrior.
  const { outputs: images } = await run(generate, ends);
  if (differs(images[0].image, outputs[0].image) || differs(images[1].image, outputs.at(-1).image)) {
    throw new Error(`There is no way for ${model.name}: its latent vectors are not the noise of its seeds.`);
  }
  await showRequest("decode", rows);
  const items = outputs.map(async ({ image }, i) => {
    const item = document.createElement("li");
    const share = Math.round((100 * i) / (steps - 1));
    const end = { 0: `, seed ${seeds[0]}`, 100: `, seed ${seeds[1]}` }[share] ?? "";
    item.append(picture(await urlOf(image), `${share} % of the way${end}`));
    return item;
  });
  $("way").replaceChildren(...(await Promise.all(items)));
  tell(steps, milliseconds);
}

// Events -----------------------------------------------------------------------------------

const editor = new Editor($("canvas"), (text) => ($("place").textContent = text));

function listen() {
  $("endpoint").onchange = chooseEndpoint;
  $("form").onsubmit = (event) => {
    event.preventDefault();
    work(drawImages);
  };
  $("walk").onsubmit = (event) => {
    event.preventDefault();
    work(walk);
  };
  $("stop").onclick = () => (stopped = true);
  $("random").onclick = () => ($("seed").value = Math.floor(Math.random() * 2 ** 31));
  $("forget").onclick = () => {
    kept = [];
    showKept();
    $("results").focus();
  };
  $("draw_one").onclick = () => drawPicture(true);
  $("upload").onchange = async () => {
    const [file] = $("upload").files;
    $("upload").value = "";
    if (!file) return;
    const found = await read(file, inputs().image);
    if (found) show(found);
  };
  $("upload_style").onchange = async () => {
    const [file] = $("upload_style").files;
    $("upload_style").value = "";
    if (file) style = await read(file, inputs().style);
  };
  for (const radio of document.getElementsByName("brush")) {
    radio.onchange = () => (editor.brush.erase = radio.value === "erase");
  }
  $("brush_size").onchange = () => (editor.brush.size = Number($("brush_size").value));
  $("mask_half").onclick = () => editor.fill((x, y) => y < editor.picture.height / 2);
  $("mask_none").onclick = () => editor.fill(() => true);
  $("mask_invert").onclick = () => editor.fill((x, y, known) => !known);
  $("save").onclick = () => {
    const name = `${model.name}-${words(chosen.row).replace(/\W+/g, "-")}.png`;
    save(chosen.outputs.image ?? chosen.row.image, name, [chosen]);
  };
  $("save_grid").onclick = () => {
    const columns = Math.ceil(Math.sqrt(drawn.length));
    save(tile(drawn.map(({ outputs }) => outputs.image), columns), `${model.name}.png`, drawn, columns);
  };
  $("use_picture").onclick = async () => {
    const { image } = chosen.outputs;
    $("endpoint").value = pictureEndpoint();
    await chooseEndpoint();
    show(image);
    $("endpoint").focus();
  };
  $("copy").onclick = async () => {
    try {
      await navigator.clipboard.writeText($("request").textContent);
      $("status").textContent = "Copied the request.";
    } catch {
      getSelection().selectAllChildren($("request")); // a page without TLS may not copy
      $("status").textContent = "Selected the request: copy it with the keyboard.";
    }
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => editor.draw());
}

async function start() {
  const answer = await request("models.json");
  if (!answer.ok) throw new Error(`models.json: ${answer.status} ${answer.statusText}`);
  const description = await answer.json();
  const module = description.runtime === "server" ? "./server.js" : "./onnx.js";
  backend = new (await import(module)).Backend();
  models = description.models;
  if (!models.length) throw new Error("No model is ready here yet. Load this page again in a moment.");
  listen();
  $("main").hidden = false;
  showModels();
}

start().catch((error) => {
  $("facts").textContent = error.message ?? String(error);
});
