"""onnxruntime-web: what browsers run ONNX with, fetched from npm, and run in Node.js for the proof.

It is of one version, by the sha256 of each file, so that what Node.js runs for `export.verify` is
that package and nothing that an artifact brought along.
"""

import functools
import hashlib
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

import numpy as np

from export.errors import ExportError

VERSION = "1.30.0"
#: Of the npm package's folder `dist`: its JavaScript, and ONNX Runtime for the CPU as WebAssembly.
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
_PACKAGE = f"onnxruntime-web@{VERSION}"
_NODE = 18  # the first that has all that the script and the package need
_SECONDS = 600


def check():
    """`ExportError` where Node.js or npm is missing, before any work is done."""
    for program, purpose in (("node", "to prove it with"), ("npm", f"to fetch {_PACKAGE}")):
        if not shutil.which(program):
            raise ExportError(
                f"The format web needs {program} {purpose}, which is not on the PATH. Install "
                f"Node.js {_NODE} or newer, which brings npm, or leave web out of the formats."
            )


def fetch(folder):
    """Writes the files of onnxruntime-web into a folder, which is made; from npm, by `npm pack`."""
    files = _files()
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    check_files(folder)


@functools.cache
def _files():
    """What the files hold, by name: a process fetches them once."""
    check()
    command = ["npm", "pack", _PACKAGE, "--prefer-offline", "--loglevel=error"]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            subprocess.run(
                [shutil.which("npm"), *command[1:]],
                cwd=temporary,
                check=True,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
            )
            [archive] = pathlib.Path(temporary).glob("*.tgz")
            with tarfile.open(archive) as package:
                return {name: package.extractfile(f"package/dist/{name}").read() for name in FILES}
        except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
            lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise ExportError(
                f"`{' '.join(command)}` failed: {lines[0] if lines else 'it said nothing'}. The "
                f"format web takes its files from npm: see that this command works here, or leave "
                f"web out of the formats."
            ) from error


def check_files(folder):
    """`ExportError` where a file of the folder is not the npm package's."""
    for name, expected in FILES.items():
        path = pathlib.Path(folder) / name
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ExportError(f"{path} is not the file of {_PACKAGE}: it was not run")


def run(folder, calls):
    """Runs ONNX files in Node.js with the onnxruntime-web of a folder; yields each call's outputs.

    `calls` are dicts of `model`, the path of an ONNX file without inputs that have defaults;
    `weights`, that of the file beside it with its weights, or `None`; `inputs`, arrays by name;
    `outputs`, names; and `batch_size`, of which the rows of the inputs are a multiple. Outputs are
    dicts of arrays. `ExportError` where one does not load or run.
    """
    check_files(folder)
    if not shutil.which("node"):
        raise ExportError(
            f"The format web is proven with Node.js, which is not on the PATH. Install Node.js "
            f"{_NODE} or newer."
        )
    script = pathlib.Path(__file__).with_name("_onnxruntime_web.mjs")
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        job = {"runtime": str(pathlib.Path(folder).absolute()), "out": str(temporary), "calls": []}
        for number, call in enumerate(calls):
            inputs = {}
            for position, (name, array) in enumerate(call["inputs"].items()):
                path = temporary / f"{number}-input-{position}"
                array.tofile(path)
                inputs[name] = {
                    "file": str(path),
                    "type": array.dtype.name,
                    "shape": list(array.shape),
                }
            job["calls"].append(
                {
                    "model": str(pathlib.Path(call["model"]).absolute()),
                    "weights": call["weights"] and str(pathlib.Path(call["weights"]).absolute()),
                    "inputs": inputs,
                    "outputs": call["outputs"],
                    "batch_size": call["batch_size"],
                }
            )
        (temporary / "job.json").write_text(json.dumps(job))
        with (
            (temporary / "stderr").open("w+") as stderr,
            subprocess.Popen(
                [shutil.which("node"), str(script), str(temporary / "job.json")],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as process,
        ):
            try:
                yield from _answers(process, calls, temporary)
            except BaseException:
                process.kill()
                raise
            if process.wait():
                stderr.seek(0)
                lines = [line for line in stderr.read().splitlines() if line.strip()]
                raise ExportError(f"onnxruntime-web ended: {' '.join(lines[-1:])}")


def _answers(process, calls, temporary):
    for number, call in enumerate(calls):
        line = process.stdout.readline()
        if not line:
            return  # it has ended, and says why
        answer = json.loads(line)
        if "error" in answer:
            said = (answer["error"].splitlines() or [""])[0]
            name = pathlib.Path(call["model"]).name
            raise ExportError(
                f"{name} does not run in onnxruntime-web at batch size {call['batch_size']}: {said}"
            )
        yield {
            name: np.fromfile(
                temporary / f"{number}-output-{position}", answer["types"][position]
            ).reshape(answer["shapes"][position])
            for position, name in enumerate(call["outputs"])
        }
