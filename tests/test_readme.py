"""What the README shows runs as it stands there, in an empty folder beside a folder of photos.

Smaller is `SMALLER` alone: fewer epochs and images, and tiny networks, in place of minutes.
"""

import contextlib
import importlib.metadata
import pathlib
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

README = pathlib.Path(__file__).parents[1] / "README.md"

#: What is put in the place of the README's own, in Python; and after it, at the command line.
SMALLER = {
    'from_preset("vae_64x64")': 'from_preset("vae_tiny", image_shape=(64, 64, 3))',
    "epochs=20": "epochs=1",
    "every=5,": "every=1, num_samples=256, metrics=['fd'],",
    "epochs=50": "epochs=1",
    'folder="evaluation"': 'folder="evaluation", num_samples=32, metrics=["kd"]',
    "kgen train": "--epochs 1",
    "kgen train dcgan": "--epochs 1 --batch-size 16 --set filters=2",
    "kgen train --resume": "--epochs 2",
    "kgen train restorer": "--epochs 1 --set filters=4",
    "kgen translate": "",
    "kgen distill": "--epochs 1",
    "kgen sample": "",
    "kgen interpolate": "",
    "kgen complete": "-n 2",
    "kgen vary": "-n 2",
    "kgen edit": "-n 2",
    "kgen evaluate": "--num-samples 32 --metrics kd",
    "kgen compare": "",
    "kgen export": "--batch-sizes 1,2",
    "kgen verify": "",
    "kgen deploy": "",
    "kgen serve": "--port 0",
    "kgen inspect": "",
    "kgen generate": "--num-images 60 --workers 0",
    "kgen publish": "--dry-run",
    "kgen list": "",
    "kgen cache": "",
}

#: What the commands take for granted: runs on other data, and one that was evaluated.
GIVEN = """
kgen train gated_pixelcnn_tiny --data digits --run runs/gated_pixelcnn-mnist
kgen train dit_tiny --data digits --run runs/dit-mnist
kgen train flow_matching_tiny --data digits --run runs/flow_matching-mnist
kgen evaluate runs/dcgan-photos
"""

#: What other tests run, or continuous integration before any.
ELSEWHERE = ("pip install", "pytest", "kgen quickstart")

COMMAND = re.compile(r"(\w+=\S+ )?(kgen|pip|pytest|openssl|curl)\b")


def blocks():
    """The fenced blocks of the README: pairs of the language, if one is named, and the text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def commands():
    """The commands of the README, in its order, without what is said of them beside."""
    lines = [line for language, text in blocks() if not language for line in text.splitlines()]
    parts = [part for line in lines for part in re.split(r"\s{2,}", line)[0].split(" && ")]
    return [part for part in parts if COMMAND.match(part)]


def smaller(command):
    """The arguments of a command, with those that make it a matter of seconds."""
    known = [name for name in SMALLER if command.startswith(name)]
    assert known, f"{command}: SMALLER has no entry"
    return shlex.split(command)[1:] + shlex.split(SMALLER[max(known, key=len)])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to be in, with photos of two kinds."""
    rng = np.random.default_rng(0)
    for name, grey in (("cats", 60), ("dogs", 180)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(grey - 50, grey + 50, (70, 64, 3), "uint8")
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def kgen(arguments):
    """Runs a command by the console script's own entry, in this process."""
    [script] = importlib.metadata.entry_points(group="console_scripts", name="kgen")
    return script.load()(arguments)


def test_no_block_is_left_out():
    """What is neither Python nor commands is the one listing of files."""
    others = [text for language, text in blocks() if not language and not COMMAND.match(text)]
    assert {language for language, _ in blocks()} == {"", "python"}
    assert len(others) == 1 and others[0].startswith("artifacts/vae/\n")
    for command in commands():
        if not command.startswith((*ELSEWHERE, "openssl", "curl", "KERAS_BACKEND=jax ")):
            smaller(command)


@pytest.mark.slow
def test_python(home, tensorflow_only):
    """Block after block, in one namespace; each does what its comments say."""
    names = {}
    for text in [text for language, text in blocks() if language == "python"]:
        for there, here in SMALLER.items():
            text = text if there.startswith("kgen") else text.replace(there, here)
        exec(compile(text, README.name, "exec"), names)
    assert names["images"].shape == (16, 64, 64, 3) and names["images"].dtype == np.uint8
    assert (home / "evaluation" / "report.html").is_file() and (home / "best.keras").is_file()
    assert (home / "artifacts" / "vae" / "manifest.json").is_file()


@contextlib.contextmanager
def serving(command):
    """The address of a server that a command starts."""
    with subprocess.Popen(
        [shutil.which("kgen"), *smaller(command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = next(line.split()[-1] for line in process.stderr if " at http" in line)
            yield address
        finally:
            process.terminate()


@pytest.mark.slow
def test_commands(home, tensorflow_only, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    given = dict(
        zip(("complete", "vary", "distill", "compare"), GIVEN.strip().splitlines(), strict=True)
    )
    for command in commands():
        if command.startswith((*ELSEWHERE, "KERAS_BACKEND=", "curl")):
            continue
        before = given.get(command.split()[1])
        if command.startswith("openssl"):
            subprocess.run(shlex.split(command), check=True, capture_output=True)
            continue
        if before is not None:
            assert kgen(smaller(before)) == 0, before
        if command.startswith("kgen serve"):
            with serving(command) as address:
                for call in commands() if "--port" in command else ():
                    if call.startswith("curl"):
                        call = call.replace("http://localhost:8501", address)
                        subprocess.run([*shlex.split(call), "--fail"], check=True)
            continue
        if command.split()[1] in ("list", "cache"):  # in a moment, in a process of its own
            result = subprocess.run([shutil.which("kgen"), *smaller(command)], capture_output=True)
            status = result.returncode
        else:
            status = kgen(smaller(command))
        assert status == 0, command
    # What an artifact holds, by the listing.
    [listing] = [text for _, text in blocks() if text.startswith("artifacts/vae/\n")]
    [folder], *entries = [
        re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in listing.splitlines()
    ]
    for names, *said in entries:
        where = home / ("artifacts/signed" if "--sign" in "".join(said) else folder)
        for name in names.split():
            assert (where / name).exists(), name


JAX = """
import contextlib, importlib.metadata, os, sys
with contextlib.chdir(sys.argv[1]):
    os.environ["KGEN_CACHE_DIR"] = os.path.join(sys.argv[1], "cache")
    [script] = importlib.metadata.entry_points(group="console_scripts", name="kgen")
    assert script.load()(sys.argv[2:]) == 0
"""


@pytest.mark.slow
def test_commands_on_jax(home, run_python):
    found = [command for command in commands() if command.startswith("KERAS_BACKEND=jax ")]
    assert len(found) == 1
    line = smaller(found[0].removeprefix("KERAS_BACKEND=jax "))
    run_python(JAX, home, *line, backend="jax", env={"XLA_FLAGS": ""})  # of 64x64 pixels
    assert (home / "runs" / "dcgan-photos" / "model.keras").is_file()
