"""What a person looks at first: a grid of samples and a README."""

import pathlib

import numpy as np

from export import calls
from export import manifest as schema
from export.manifest import WITH_OPTIONS
from kgen import images
from kgen.card import PIPELINES, front_matter

SAMPLES = "samples.png"
README = "README.md"

_COLUMNS = 8


def write_samples(folder, reference, origin):
    """Writes a grid of 64 images from the seeds 0 to 63 into a folder; classes take turns.

    `origin` is the `kgen.origin.Origin` of the model: the artifact's hash is not known yet.
    """
    if "generate" not in reference.endpoints:
        return  # without images that go in there is nothing to show
    generate = reference.endpoints["generate"]
    shape = generate.outputs["image"].shape
    if set(generate.inputs) - {"seed", "label"} or shape[-1] not in (1, 3, 4):
        return
    seeds = np.arange(_COLUMNS**2, dtype="int32")
    inputs = {"seed": seeds}
    if "label" in generate.inputs:
        inputs["label"] = seeds % np.int32(generate.inputs["label"].maximum + 1)
    samples = reference("generate", inputs)["image"]
    scale = images.viewing_scale(shape)
    claim = origin.claim("generate", seeds, inputs.get("label"), generate.options)
    grid = images.grid(samples, _COLUMNS, scale=scale)
    images.save_png(grid, pathlib.Path(folder) / SAMPLES, claim.in_grid(_COLUMNS, scale=scale))


def write_readme(folder, manifest):
    """Writes the model card into a folder, from what the manifest (without its hashes) says."""
    folder = pathlib.Path(folder)
    sections = [
        _head(folder, manifest),
        _endpoints(manifest),
        _saved_model(manifest),
        _onnx(manifest),
        _rounded(folder, manifest),
        _litert(manifest),
        _web(manifest),
        _parity(manifest),
        _RUNTIMES,
        _metadata(manifest),
        _versions(manifest),
        _LIMITS,
    ]
    text = "\n\n".join(section.strip() for section in sections if section) + "\n"
    (folder / README).write_text(f"{_front_matter(manifest)}\n{text}", encoding="utf-8")


def _front_matter(manifest):
    """What the Hugging Face hub reads, where the artifact is published."""
    return front_matter(
        pipeline_tag=PIPELINES["generate" not in manifest["endpoints"]],
        license=manifest["metadata"].get("license") or "unknown",
        tags=["kgen", *(name.replace("_", "-") for name in manifest["formats"])],
    )


def _head(folder, manifest):
    model = manifest["model"]
    height, width, channels = model["image_shape"]
    classes = f", {model['num_classes']} classes" if model["num_classes"] else ""
    samples = f"\n\n![samples]({SAMPLES})" if (folder / SAMPLES).exists() else ""
    what = f"{height}x{width} pixels, {channels} channel{'s' if channels > 1 else ''}{classes}"
    if "generate" not in manifest["endpoints"]:
        return (
            f"# {manifest['name']}\n\n"
            f"A `{model['class']}` that makes images of images, trained on {what}. Exported by "
            "kgen; it runs without kgen and without Keras. All of it is in the files, from the "
            "grey levels that go in to those that come out; an image is the same at any batch size."
        )
    return (
        f"# {manifest['name']}\n\n"
        f"A `{model['class']}` image generator: {what}. Exported by kgen; it runs without kgen "
        f"and without Keras. The whole sampler is in the files, noise included: the same seed "
        f"gives the same image at any batch size.{samples}"
    )


def _endpoints(manifest):
    parts = ["## Endpoints"]
    endpoints = manifest["endpoints"]
    for name, endpoint in endpoints.items():
        if name + WITH_OPTIONS in endpoints:
            continue  # it is told with its options
        rows = [
            (
                kind,
                f"`{key}`",
                spec["dtype"],
                f"[{', '.join(map(str, spec['shape']))}]",
                _range(spec),
                spec.get("default", ""),
                spec["description"],
            )
            for kind in ("inputs", "outputs")
            for key, spec in endpoint[kind].items()
        ]
        rows = [(kind.removesuffix("s"), *rest) for kind, *rest in rows]
        base = name.removesuffix(WITH_OPTIONS)
        both = f"{base}, {name}" if name != base and base in endpoints else name
        parts.append(f"### {both}\n\n{endpoint['description']}")
        parts.append(_table(("", "name", "type", "shape", "range", "default", ""), rows))
    return "\n\n".join(parts)


def _saved_model(manifest):
    section = manifest["formats"].get("saved_model")
    if not section:
        return ""
    main = schema.main(manifest["endpoints"])
    png = schema.png_signature(main)
    takers = [key for key, d in section["signatures"].items() if "image_bytes" in d["inputs"]]
    takers = [key for key in takers if key != png]
    examples = [
        ("An image as numbers:", main),
        ("As PNG, in base64 under `predictions[0].b64`:", png),
        (
            "With options of its own for each image (TensorFlow Serving asks for all inputs of a "
            "signature):",
            main + WITH_OPTIONS,
        ),
        (
            "Pictures go in as PNG too, of the image's size, and masks, white where a pixel is "
            "known:",
            min(takers, default=None),
        ),
    ]
    shown = [
        f"{text}\n\n```sh\n{calls.curl(manifest, signature)}\n```"
        for text, signature in examples
        if signature in section["signatures"]
    ]
    rows = [
        (
            f"`{signature}`",
            description["endpoint"],
            "PNG" if description.get("png") else "XLA" if description.get("xla") else "",
            ", ".join(f"`{key}`" for key in description["inputs"]),
        )
        for signature, description in section["signatures"].items()
    ]
    return "\n\n".join(
        [
            "## TensorFlow Serving",
            "`saved_model` is the model's folder (`--model_base_path`), `1` its version. `kgen "
            "deploy` writes all else that TensorFlow Serving is mounted with.",
            *shown,
            _table(("signature", "endpoint", "", "inputs"), rows),
            f"`serving_default` is `{main}`. XLA compiles once per batch size. Warmup requests "
            f"for the batch sizes {', '.join(map(str, manifest['batch_sizes']))} are enclosed; "
            "with dynamic batching, allow these sizes only.",
        ]
    )


def _onnx(manifest):
    section = manifest["formats"].get("onnx")
    if not section:
        return ""
    main = schema.main(manifest["endpoints"])
    inputs, names = manifest["endpoints"][main]["inputs"], section["signatures"][main]["inputs"]
    inputs = {names[key]: spec for key, spec in inputs.items()}
    python = ", ".join(f'"{key}": {_python_array(key, spec)}' for key, spec in inputs.items())
    script = ", ".join(f"{key}: {_script_tensor(key, spec)}" for key, spec in inputs.items())
    optional = sorted(
        {
            f"`{key}`"
            for endpoint in manifest["endpoints"].values()
            for key, spec in endpoint["inputs"].items()
            if "default" in spec
        }
    )
    left_out = ""
    if optional:
        left_out = (
            f" Inputs with a default ({', '.join(optional)}) may be left out; they take one value "
            "for each image, or one for all. (onnxruntime-web takes none of these.)"
        )
    renamed = "".join(
        f" In `{signature['file']}` the input `{key}` is called `{name}`, because the output has "
        f"its name."
        for signature in section["signatures"].values()
        for key, name in signature["inputs"].items()
        if key != name
    )
    external = section.get("external_data")
    options, note = "", "The file holds its weights and stands alone."
    elsewhere = " (`web` has files for it)" if "web" in manifest["formats"] else ""
    elsewhere = elsewhere or " (not part of the proof below; `--formats web` writes files for it)"
    if external:
        file = external.rpartition("/")[2]
        options = f', {{ externalData: [{{ path: "{file}", data: "{external}" }}] }}'
        note = (
            f"All files take their weights from `{external}`, which has to lie beside them. "
            f'`export.load(folder).save_onnx("{main}", "{main}.onnx")` makes one file of two.'
        )
    return (
        f"## ONNX Runtime\n\nOpset {section['opset']}, any batch size. {note}{left_out}{renamed}"
        "\n\n"
        f"```python\nimport numpy as np\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("onnx/{main}.onnx")\n'
        f'image = session.run(["image"], {{{python}}})[0]  # uint8 [B, H, W, C]\n```\n\n'
        f"In a browser, with onnxruntime-web{elsewhere}:\n\n"
        f"```js\nconst session = "
        f'await ort.InferenceSession.create("onnx/{main}.onnx"{options});\n'
        f"const {{ image }} = await session.run({{ {script} }});\n```"
    )


def _rounded(folder, manifest):
    rounded = {"onnx_fp16": "float16", "onnx_int8": "int8, with a scale for each channel"}
    rows = []
    for name in ("onnx", *rounded):
        if name in manifest["formats"]:
            size = sum(path.stat().st_size for path in (folder / name).iterdir())
            rows.append((f"`{name}`", rounded.get(name, "float32"), f"{size:,}"))
    if not manifest["formats"].keys() & rounded.keys():
        return ""
    file = f"/{schema.main(manifest['endpoints'])}.onnx"
    return (
        "## Smaller ONNX files\n\nThe same graphs with their weights rounded, computed in float32 "
        "from the same noise; they are called alike, as "
        f"{' and '.join(f'`{name}{file}`' for name in rounded if name in manifest['formats'])}. "
        "How far their images are from Keras's, the table of parity says.\n\n"
        + _table(("", "weights", "bytes"), rows)
    )


def _litert(manifest):
    if "litert" not in manifest["formats"]:
        return ""
    main = schema.main(manifest["endpoints"])
    inputs = manifest["endpoints"][main]["inputs"]
    given = ", ".join(f"{key}={_python_array(key, spec)}" for key, spec in inputs.items())
    return (
        "## LiteRT\n\nOne file per endpoint, of LiteRT's own operators alone, at any batch size. A "
        "file with options has two signatures, `NAME` and `NAME_with_options`; each takes "
        "all of its inputs.\n\n"
        "```python\nimport numpy as np\n"
        "from ai_edge_litert.interpreter import Interpreter  # pip install ai-edge-litert\n\n"
        f'{main} = Interpreter("litert/{main}.tflite").get_signature_runner("{main}")\n'
        f'image = {main}({given})["image"]  # uint8 [B, H, W, C]\n```'
    )


def _web(manifest):
    section = manifest["formats"].get("web")
    if not section:
        return ""
    return (
        "## In a browser\n\n`web` is a page that draws without a server of its own: the samplers "
        f"run in the browser, in onnxruntime-web {section['onnxruntime_web']}, which lies beside "
        "them. Any server of static files serves the folder, such as\n\n"
        "```sh\npython -m http.server --directory web --bind 127.0.0.1 8000\n```\n\n"
        "at http://127.0.0.1:8000. Nothing is fetched from elsewhere, and no picture leaves the "
        "browser. In these ONNX files every input has to be given; `web/models.json` has the "
        "defaults."
    )


def _parity(manifest):
    figures = {}
    for row in manifest["parity"]:
        key = (row["runtime"], row["signature"], row["output"])
        figures.setdefault(key, []).append(row)
    rounded = any("mean_limit" in row for row in manifest["parity"])
    rows = [
        (
            *key,
            f"{max(row['max_difference'] for row in group):.3g}",
            f"{group[0]['limit']:.3g}",
            # Floats are rarely equal to the last bit, and need not be.
            f"{min(row['equal'] for row in group):.4%}" if group[0]["min_equal"] else "",
            *([_mean(group)] if rounded else []),
        )
        for key, group in figures.items()
    ]
    head = ("runtime", "signature", "output", "difference", "limit", "equal")
    return (
        "## Parity with Keras\n\nThe largest difference from Keras on the golden inputs in "
        "`golden.npz`, over the batch sizes "
        f"{', '.join(map(str, manifest['batch_sizes']))}; for uint8 in grey levels. "
        "`kgen verify` repeats this, after it has checked every file and read every graph; who "
        "made the artifact, only a signature can say (`kgen verify --key`).\n\n"
        + _table((*head, *(["mean difference, limit"] if rounded else [])), rows)
    )


def _mean(group):
    """Of rounded weights, where the largest difference tells least."""
    if "mean_limit" not in group[0]:
        return ""
    mean = max(row["mean_difference"] for row in group)
    return f"{mean:.3g}, {group[0]['mean_limit']:.3g}"


def _metadata(manifest):
    if not manifest["metadata"]:
        return "## Training\n\nThe exporter was told nothing of the data or of scores."
    rows = [(f"`{key}`", str(value)) for key, value in _flat(manifest["metadata"])]
    return "## Training\n\n" + _table(("", ""), rows)


def _versions(manifest):
    rows = list(manifest["versions"].items())
    return f"## Versions\n\nWritten {manifest['created']}.\n\n" + _table(
        ("package", "version"), rows
    )


_RUNTIMES = """
## Other runtimes

What this artifact was proven in stands in the table above. kgen's own tests draw the same images,
but for a grey level in a pixel of a hundred, with every model in onnxruntime-web (WebAssembly), in
`onnx.reference` and in LiteRT, whose files `kgen export --formats litert` writes and proves. Do not
use OpenVINO: it takes the unsigned integers of the random numbers for signed ones and draws other
images, without an error.
"""


_LIMITS = """
## Limits

A value outside of the ranges above counts as the nearest inside. Inputs of one call have the same
batch size, or it is an error; a batch of none gives none. The proof ran on a CPU: a GPU
or another accelerator may round differently. The images are drawn from what the model has
learnt and show its training data's gaps and biases.
"""


def _flat(data, prefix=""):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _range(spec):
    if spec["minimum"] is None and spec["maximum"] is None:
        return ""
    low, high = (("" if v is None else v) for v in (spec["minimum"], spec["maximum"]))
    return f"{low} to {high}"


def _python_array(key, spec):
    if len(spec["shape"]) == 1:
        return f'np.array([{7 if key == "seed" else 0}], "{spec["dtype"]}")'
    return f'np.zeros((1, {", ".join(map(str, schema.row_shape(spec)))}), "{spec["dtype"]}")'


_SCRIPT_ARRAYS = {"int32": "Int32Array", "uint8": "Uint8Array", "float32": "Float32Array"}


def _script_tensor(key, spec):
    kind = _SCRIPT_ARRAYS[spec["dtype"]]
    size = int(np.prod(schema.row_shape(spec)))
    data = f"{kind}.of({7 if key == 'seed' else 0})" if size == 1 else f"new {kind}({size})"
    shape = ", ".join(map(str, [1, *schema.row_shape(spec)]))
    return f'new ort.Tensor("{spec["dtype"]}", {data}, [{shape}])'


def _table(head, rows):
    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
