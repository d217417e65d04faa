"""How the signatures of a SavedModel are called over TF Serving's REST interface, as examples."""

import math

from export import manifest as schema

#: Where TF Serving listens by default.
ADDRESS = "http://localhost:8501"


def curl(manifest, signature, address=ADDRESS):
    """A call of one row in the shell, or `None` where an input is an array of pixels.

    `manifest` is an artifact's; pictures are read from files by the names of their inputs, such as
    `image.png`. Latent vectors are those of the mean.
    """
    given = _instance(manifest, signature)
    if given is None:
        return None
    body = f'"signature_name": "{signature}", "instances": [{{{given}}}]'
    return f"curl -d '{{{body}}}' \\\n  {address}/v1/models/{manifest['name']}:predict"


def _instance(manifest, signature):
    description = manifest["formats"]["saved_model"]["signatures"][signature]
    specs = manifest["endpoints"][description["endpoint"]]["inputs"]
    given = []
    for name, spec in specs.items():
        key = name if name in description["inputs"] else schema.png_name(name)
        if key != name:
            value = f"""{{"b64": "'"$(base64 -w0 {name}.png)"'"}}"""
        elif len(spec["shape"]) == 1:
            value = spec.get("default", 7 if key == "seed" else 0)
        elif spec["dtype"] == "float32":
            size = math.prod(spec["shape"][1:])
            value = f"""'"$(python3 -c 'print([0.0] * {size})')"'"""
        else:
            return None
        given.append(f'"{key}": {value}')
    return ", ".join(given)
