"""The format `web`: a static folder that draws in a browser, without a server of its own.

It holds the page of `kgen serve`, `onnxruntime-web`, and every endpoint as ONNX with inputs that
must all be given, as onnxruntime-web asks for.
"""

import json
import pathlib
import shutil

import onnx

from export import manifest as schema
from export import onnx_inputs, onnxruntime_web
from export.manifest import WEB
from kgen.origin import Origin

PAGE = pathlib.Path(__file__).parent / "serving" / "page"
RUNTIME = f"{WEB}/onnxruntime"


def page_files():
    """The page's files that lie under `static`: all but `index.html`."""
    return sorted(p for p in PAGE.iterdir() if p.suffix in (".js", ".css", ".svg"))


def write(folder, source, manifest):
    """Writes `web` into a folder, from the ONNX files of an artifact; returns its section.

    `source` is the folder with these files, and `manifest` a dict that has `name`, `model`,
    `endpoints`, and of `formats` what tells of `onnx`.
    """
    folder, source = pathlib.Path(folder), pathlib.Path(source)
    web, section = folder / WEB, manifest["formats"]["onnx"]
    onnxruntime_web.fetch(folder / RUNTIME)
    (web / "static").mkdir()
    (web / "onnx").mkdir()
    shutil.copyfile(PAGE / "index.html", web / "index.html")
    for path in page_files():
        shutil.copyfile(path, web / "static" / path.name)
    signatures = {}
    for name in schema.whole(manifest["endpoints"]):
        signature = section["signatures"][name]
        file = schema.web_file(name)
        model = onnx.load(source / signature["file"], load_external_data=False)
        (folder / file).write_bytes(onnx_inputs.required(model).SerializeToString())
        signatures[name] = {**signature, "file": file}
    described = {
        "path": WEB,
        "onnxruntime_web": onnxruntime_web.VERSION,
        "signatures": signatures,
    }
    if "external_data" in section:
        shutil.copyfile(source / section["external_data"], folder / schema.WEB_WEIGHTS)
        described["external_data"] = schema.WEB_WEIGHTS
    models = [_describe(manifest, described)]
    text = json.dumps({"models": models, "runtime": "onnxruntime-web"}, indent=1)
    (web / "models.json").write_text(text + "\n", encoding="utf-8")
    return described


def _describe(manifest, section):
    """A model as the page is told of it."""

    def inside(file):
        return file.removeprefix(f"{WEB}/")

    files = {key: inside(value["file"]) for key, value in section["signatures"].items()}
    renamed = {
        key: value["inputs"]
        for key, value in section["signatures"].items()
        if any(name != given for name, given in value["inputs"].items())
    }
    weights = section.get("external_data")
    return {
        "name": manifest["name"],
        "versions": [1],
        "image_shape": manifest["model"]["image_shape"],
        "num_classes": manifest["model"]["num_classes"],
        "endpoints": manifest["endpoints"],
        # Without the hash of the manifest, which this file is named in.
        "marks": {"1": Origin(manifest["name"], manifest["model"]["sha256"]).packet_parts()},
        "files": files,
        **({"inputs": renamed} if renamed else {}),
        **({"weights": inside(weights)} if weights else {}),
    }
