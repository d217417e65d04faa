// Marks of origin: what a picture says of how it was drawn, in the words of kgen/origin.py.

/** The packet of XMP for images, { endpoint, row }, of one call; side by side where there are columns. */
export function packet(model, version, images, columns = null) {
  const [{ endpoint, row }] = images;
  const { inputs, options } = model.endpoints[endpoint];
  const of = (wanted) => Object.keys(inputs).filter(wanted);
  const chosen = of((name) => inputs[name].default !== undefined).map((name) => [name, row[name]]);
  const pictures = of((name) => typeof row[name] === "object" && inputs[name].dtype === "uint8");
  const fields = {
    endpoint: endpoint.replace(/_with_options$/, ""),
    seed: numbers(images, "seed"),
    label: numbers(images, "label"),
    options: json({ ...options, ...Object.fromEntries(chosen) }),
    inputs: json(Object.fromEntries(pictures.map((name) => [name, ""]))),
    grid: json(columns ? { columns, gap: 0, scale: 1 } : {}),
  };
  const said = Object.entries(fields).filter(([, text]) => text).map(([name, text]) => ` kgen:${name}="${escaped(text)}"`);
  const marks = model.marks[version || Math.max(...model.versions)];
  return marks[pictures.length ? "made_of_pictures" : "drawn"].join(said.join(""));
}

const numbers = (images, name) => images.map(({ row }) => row[name]).filter((number) => number !== undefined).join(" ");

const json = (value) => (Object.keys(value).length ? JSON.stringify(value) : "");

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text) => text.replace(/[&<>"]/g, (character) => ESCAPES[character]);
