"""How models are called, as examples: the signatures of a SavedModel in TF Serving, and ONNX files
by the Open Inference Protocol.
"""

import math

from export import manifest as schema

#: Where TF Serving listens by default.
ADDRESS = "http://localhost:8501"

#: Pixels of a picture in a file, for calls that take arrays; a mask is 1 where it is white.
PIXELS = """\
def pixels(path, mode, *shape):
    return np.asarray(PIL.Image.open(path).convert(mode)).reshape(shape)
"""


def curl(manifest, signature, address=ADDRESS):
    """A call of one row over REST, in the shell.

    `manifest` is an artifact's; pictures are read from files by the names of their inputs, such as
    `image.png`: where the signature takes arrays, by Python, whose JSON curl is given. Latent
    vectors are those of the mean.
    """
    url = f"{address}/v1/models/{manifest['name']}:predict"
    inputs = _inputs(manifest, signature)
    if any(_kind(spec) and not png for spec, png in inputs.values()):
        given = ", ".join(
            f'"{name}": {_python(name, spec, png, rows=False)}'
            for name, (spec, png) in inputs.items()
        )
        body = f'{{"signature_name": "{signature}", "instances": [{{{given}}}]}}'
        return (
            f"python3 -c 'import json, numpy as np, PIL.Image\n{PIXELS}"
            f"print(json.dumps({body}, default=np.ndarray.tolist))' |\n  curl -d @- {url}"
        )
    given = ", ".join(f'"{key}": {_shell(name, *inputs[name])}' for name, key in _keys(inputs))
    body = f'"signature_name": "{signature}", "instances": [{{{given}}}]'
    return f"curl -d '{{{body}}}' \\\n  {url}"


def grpc(manifest, signature):
    """A call of one row over gRPC, in Python: of `predict(model, signature, **inputs)`, as the
    README of a deployment has it.
    """
    inputs = _inputs(manifest, signature)
    given = [f"{key}={_python(name, *inputs[name], rows=True)}" for name, key in _keys(inputs)]
    line = f'predict("{manifest["name"]}", "{signature}", {", ".join(given)})'
    if len(line) <= 100:
        return line
    return "\n    ".join([f'predict("{manifest["name"]}", "{signature}",', *_comma(given)]) + "\n)"


def _comma(given):
    return [f"{each}," for each in given]


def _inputs(manifest, signature):
    """The endpoint's inputs by name: what each is, and whether the signature takes it as PNG."""
    description = manifest["formats"]["saved_model"]["signatures"][signature]
    specs = manifest["endpoints"][description["endpoint"]]["inputs"]
    return {name: (spec, name not in description["inputs"]) for name, spec in specs.items()}


def _keys(inputs):
    return [(name, schema.png_name(name) if png else name) for name, (_, png) in inputs.items()]


def _kind(spec):
    return schema.picture(spec["dtype"], tuple(spec["shape"]))


def _scalar(name, spec):
    return spec.get("default", 7 if name == "seed" else 0)


def _shell(name, spec, png):
    """One value, within a JSON body in single quotes."""
    if png:
        return f"""{{"b64": "'"$(base64 -w0 {name}.png)"'"}}"""
    shape = spec["shape"][1:]
    if not shape:
        return _scalar(name, spec)
    return f"""'"$(python3 -c 'print({_zeros(spec)})')"'"""


def _zeros(spec):
    """A nested list of zeros, in Python."""
    text = "0.0" if spec["dtype"] == "float32" else "0"
    for size in reversed(schema.row_shape(spec)):
        text = f"[{text}] * {size}"
    return text


def _python(name, spec, png, rows):
    """A value, or an array of one row, in Python; pictures by `pixels`."""
    if png:
        return f'[open("{name}.png", "rb").read()]'
    shape, kind = schema.row_shape(spec), _kind(spec)
    if kind:
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[shape[-1] if kind == "image" else 1]
        sides = ", ".join(map(str, [1, *shape] if rows else shape))
        return f'pixels("{name}.png", "{mode}", {sides})' + (" // 128" if kind == "mask" else "")
    if not rows:
        return _zeros(spec) if shape else _scalar(name, spec)
    if not shape:
        return f"np.{spec['dtype']}([{_scalar(name, spec)}])"
    return f'np.zeros({[1, *shape]}, "{spec["dtype"]}")'


#: The Open Inference Protocol's names of dtypes.
DATATYPES = {
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "uint32": "UINT32",
    "float32": "FP32",
}


def infer(manifest, endpoint, model, address):
    """A call of one row by the Open Inference Protocol, of the served `model`.

    Pictures are grey, and nothing is known of them where there is a mask; a value for a row has
    the shape (1, 1), as Triton has it.
    """
    names = manifest["formats"]["onnx"]["signatures"][endpoint]["inputs"]
    given = []
    for name, spec in manifest["endpoints"][endpoint]["inputs"].items():
        row = schema.row_shape(spec) or [1]
        if len(spec["shape"]) == 1:
            data = f"[{_scalar(name, spec)}]"
        else:
            value = 128 if _kind(spec) == "image" else 0
            value = float(value) if spec["dtype"] == "float32" else value
            data = f"""'"$(python3 -c 'print([{value}] * {math.prod(row)})')"'"""
        datatype = DATATYPES[spec["dtype"]]
        given.append(
            f'{{"name": "{names[name]}", "datatype": "{datatype}", "shape": {[1, *row]}, '
            f'"data": {data}}}'
        )
    inputs = ",\n  ".join(given)
    return f"curl -d '{{\"inputs\": [{inputs}]}}' \\\n  {address}/v2/models/{model}/infer"
