"""What README.md and the pages of docs/ show runs as it stands there; a page is a test.

Each page is in a folder of its own beside photos and `mnist.npz`, and its blocks run one after the
other. Smaller are `IN_PYTHON` and `SMALLER` alone: fewer epochs and images, and tiny networks, in
place of minutes. What `GIVEN` has is made once, by the commands that stand there, and is put where
a page needs it, or makes it by that same command. The Hugging Face hub is a server of the
tests, and trackers keep what they are told.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import kgen as package

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}

#: What is put in the place of a page's own, in Python.
IN_PYTHON = (
    (r'from_preset\("(\w+?)_8x8"', r'from_preset("\1_tiny"'),
    (r'run\.train\("vae"', 'run.train("vae_tiny"'),
    (r"VAE\(\(8, 8, 1\)", "VAE((8, 8, 1), filters=4, units=16"),
    (r'from_preset\("(\w+?)_28x28"', r'from_preset("\1_tiny", image_shape=(28, 28, 1)'),
    (r'from_preset\("(\w+?)_64x64"', r'from_preset("\1_tiny", image_shape=(16, 16, 3)'),
    (r"\(64, 64, 3\)", "(16, 16, 3)"),
    (r"Restorer\(", "Restorer(filters=4, image_shape="),
    (r"MaskGIT\(", "MaskGIT(dim=16, num_layers=1, num_heads=2, image_shape="),
    (r"epochs=\d+", "epochs=1"),
    (r"epochs, steps = 20", "epochs, steps = 2"),
    (r"num_steps=(8|16)", "num_steps=2"),
    (r"importance_samples=\d+", "importance_samples=2"),
    (r'folder="evaluation"', 'folder="evaluation", num_samples=16, metrics=["fd"], force=True'),
    (r"every=5,", 'every=1, num_samples=256, metrics=["fd"],'),
)

#: What comes after a command, at the command line.
SMALLER = {
    "kgen train": "--epochs 1 --set filters=4",
    "kgen train vae": "--epochs 1 --set filters=4 --set units=16",
    "kgen train vae --data digits --minutes": "--minutes 0.05 --set filters=4 --set units=16",
    "kgen train vae --data digits --pace": "--set filters=4 --set units=16",
    "kgen train vae --data photos/": "--epochs 1 --set filters=4 --set units=16 --batch-size 16 "
    "--image-shape 16x16x3",
    "kgen train vae --data photos/ --image-shape 32x32x3": "--epochs 1 --set filters=4 "
    "--set units=16",
    "kgen train dcgan": "--epochs 1 --set filters=4 --batch-size 16 --image-shape 16x16x3",
    "kgen train restorer": "--epochs 1 --set filters=4 --image-shape 16x16x3",
    "kgen train gated_pixelcnn": "--epochs 1 --set filters=8 --set num_layers=1 --batch-size 256",
    "kgen train flow_matching": "--epochs 1 --set filters=16 --batch-size 256",
    "kgen train runs/": "--epochs 1 --batch-size 16",
    "kgen train --resume": "--epochs 2",
    "kgen distill": "--epochs 1 --set own_steps=1",
    "kgen sample": "",
    "kgen interpolate": "--rows 2",
    "kgen complete": "-n 2",
    "kgen vary": "-n 2",
    "kgen edit": "-n 2",
    "kgen translate": "",
    "kgen evaluate": "--num-samples 32 --metrics kd",
    "kgen compare": "",
    "kgen export": "--batch-sizes 1,2",
    "kgen export runs/vae-digits -o artifacts/options": "--batch-sizes 1,2 --formats onnx",
    "kgen export runs/vae-digits -o artifacts/signed": "--batch-sizes 1,2 --formats onnx",
    "kgen verify": "--hashes-only",
    "kgen verify artifacts/photos": "",
    "kgen deploy": "",
    "kgen publish": "",
    "kgen inspect": "",
    "kgen serve": "--port 0 --hashes-only",
    "kgen generate": "--num-images 20 --workers 0",
    "kgen list": "",
    "kgen cache": "",
}

#: What pages take for granted, and by which commands it is made.
GIVEN = {
    "runs/vae-digits": ["kgen train vae --data digits"],
    "runs/vae-photos": [
        "kgen train vae --data photos/ --image-shape 32x32x3 --conditional "
        "--horizontal-flip --batch-size 32 --epochs 40",
        "kgen evaluate runs/vae-photos --num-samples 1000",
    ],
    "runs/restorer-photos": [
        "kgen train restorer --data photos/ --image-shape 64x64x3 --degrade noise:5-50",
    ],
    "runs/gated_pixelcnn-digits": ["kgen train gated_pixelcnn --data digits"],
    "runs/flow_matching-digits": ["kgen train flow_matching --data digits"],
    "artifacts/vae": ["kgen export runs/vae-digits -o artifacts/vae"],
}

#: The commands that do not run here, and why. There are no others.
NOT_RUN = {
    "pip install": "continuous integration has installed the package before any test",
    "ruff": "continuous integration runs it before any test",
    "pytest": "this is it",
    "sphinx-build": "tests/test_docs.py builds the site",
    "kgen quickstart": "it takes a minute; tests/cli/test_cli.py runs it with one epoch",
    "kgen evaluate runs/dcgan-photos": "it takes Inception's weights, which kgen may not hand on; "
    "tests/evaluation/test_features.py reads a file of their form",
}

PROGRAMS = r"(\w+=\S+ )?(kgen|pip|ruff|pytest|sphinx-build|openssl|curl)\b"


def blocks(page):
    """The code blocks of a page, without directives: pairs of the language and the text."""
    found = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if not language.startswith("{")]


def commands(text):
    """The commands of a block, without what is said of them beside."""
    text = re.sub(r"\\\n\s*", "", text)
    lines = [re.split(r"(?:^|\s+)# ", line)[0].strip() for line in text.splitlines()]
    return [part for line in lines for part in line.split(" && ") if part]


def matching(command, table):
    """The longest of the table's beginnings of commands that a command has, or `None`."""
    return max((name for name in table if command.startswith(name)), key=len, default=None)


def smaller(command):
    """The arguments of a command, with those that make it a matter of seconds."""
    return shlex.split(command)[1:] + shlex.split(SMALLER[matching(command, SMALLER)])


# What is on the pages ----------------------------------------------------------------------


def test_every_block_is_run_or_named():
    for page in PAGES:
        for language, text in blocks(page):
            assert language in ("sh", "python", "text"), f"{page}: a block of {language or 'none'}"
            for command in commands(text) if language == "sh" else ():
                assert re.match(PROGRAMS, command), f"{page}: {command}"
                command = re.sub(r"^\w+=\S+ ", "", command)
                if command.startswith("kgen "):
                    known = matching(command, NOT_RUN) or matching(command, SMALLER)
                    assert known, f"{page}: {command}: SMALLER has no entry"
    for name in NOT_RUN:
        assert any(
            command.startswith(name)
            for page in PAGES
            for language, text in blocks(page)
            if language == "sh"
            for command in commands(text)
        ), f"NOT_RUN has {name}, which stands nowhere"


def test_every_model_has_its_row():
    """On the page that helps to choose, and on its family's."""
    for family, members in package.models.families().items():
        for page in ("docs/choose.md", f"docs/families/{family}.md"):
            rows = re.findall(r"^\| `(\w+)`", PAGES[page], re.MULTILINE)
            assert set(members.models) <= set(rows), page


# Running them ------------------------------------------------------------------------------


class Shell:
    """Runs commands in the folder of a page; `given` has what pages take for granted."""

    def __init__(self, given, capfd):
        self.given, self.capfd = given, capfd
        self.servers = contextlib.ExitStack()
        self.address = None

    def need(self, text):
        """Puts here what a text names and `GIVEN` has."""
        for path in GIVEN:
            if re.search(rf"\b{path}\b", text) and not pathlib.Path(path).exists():
                there = self.given(path, self)
                if not pathlib.Path(path).exists():
                    shutil.copytree(there, path)

    def run(self, command):
        """Runs a command as it stands on a page; returns what it printed."""
        for path, own in GIVEN.items():
            if command in own:
                self.need(path)
                return self.given.printed[command]
        self.need(command)
        if command.startswith("kgen serve"):
            self.serve(command)
            return None
        if command.startswith("kgen "):
            return self.kgen(command)
        variables = {}
        while match := re.match(r"(\w+)=(\S+) ", command):
            variables[match[1]] = match[2]
            command = command[match.end() :]
        arguments = shlex.split(command)
        if arguments[0] == "kgen":
            arguments = [sys.executable, "-m", *arguments[:1], *smaller(command)]
        if arguments[0] == "curl":
            arguments = [part.replace("http://localhost:8501", self.address) for part in arguments]
            arguments.append("--fail-with-body")
        done = subprocess.run(
            arguments, env={**os.environ, **variables}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def kgen(self, command):
        """Runs a command by the console script's own entry, in this process."""
        [script] = importlib.metadata.entry_points(group="console_scripts", name="kgen")
        self.capfd.readouterr()
        status = script.load()(smaller(command))
        out, err = self.capfd.readouterr()
        printed = f"{err}\n{out}"
        assert status == 0, f"{command}\n{printed}"
        return printed

    def serve(self, command):
        process = self.servers.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "kgen", *smaller(command)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        self.servers.callback(process.terminate)
        self.address = next(line.split()[-1] for line in process.stderr if " at http" in line)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with photos of two kinds and a small `mnist.npz`."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for name, grey in (("horses", 60), ("ships", 180)):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(grey - 50, grey + 50, (20, 16, 3), "uint8")
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    arrays = {
        f"{kind}_{part}": rng.integers(0, 256, (count, 28, 28), "uint8")
        if kind == "x"
        else np.arange(count) % 10
        for part, count in (("train", 64), ("test", 20))
        for kind in "xy"
    }
    np.savez(folder / "mnist.npz", **arrays)
    return folder


class Given:
    """Makes what `GIVEN` has, once, in a folder: `given(path, shell)` says where it is.

    `printed` has what its commands printed, by command.
    """

    def __init__(self, folder):
        self.folder, self.printed = folder, {}

    def __call__(self, path, shell):
        if not (self.folder / path).exists():
            with contextlib.chdir(self.folder):
                for command in GIVEN[path]:
                    shell.need(command.partition(" -o ")[0])
                    self.printed[command] = shell.kgen(command)
        return self.folder / path


@pytest.fixture(scope="module")
def given(world):
    return Given(world)


def check_printed(shown, printed):
    """What a page says that a command prints it printed, but for figures; `...` leaves out."""

    def plain(text):
        text = re.sub(r"\d[\d.,]*(e-?\d+)?", "#", text)
        return [" ".join(line.split()) for line in text.splitlines()]

    lines = iter(plain(printed))
    for line in plain(shown):
        beginning = line.removesuffix("...").strip()
        assert any(
            found.startswith(beginning) if line.endswith("...") else found == line
            for found in lines
        ), f"It did not print, or not there: {line}\n{printed}"


def check_listing(shown):
    """A folder's listing: what it names is there."""
    [folder], *entries = [
        re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in shown.splitlines()
    ]
    for names, *_ in entries:
        for name in names.split():
            assert (pathlib.Path(folder) / name).exists(), f"{folder}{name}"


RUN = [
    page
    for page in PAGES
    if any(
        language == "python" or any(matching(c, NOT_RUN) is None for c in commands(text))
        for language, text in blocks(page)
        if language in ("sh", "python")
    )
]


@pytest.mark.parametrize(
    "page", [p if p == "README.md" else pytest.param(p, marks=pytest.mark.slow) for p in RUN]
)
def test_a_page_runs(page, world, given, hub_server, tensorflow_only, tmp_path, monkeypatch, capfd):
    for name in ("photos", "mnist.npz"):
        (tmp_path / name).symlink_to(world / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KGEN_CACHE_DIR", str(world / "cache"))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    shell, names, printed = Shell(given, capfd), {"__name__": "__main__"}, ""
    with shell.servers:
        for language, text in blocks(page):
            if language == "python":
                if page != "README.md":
                    shell.need(text)
                if file := re.match(r"# (\w+\.py)\n", text):
                    pathlib.Path(file[1]).write_text(text)
                for there, here in IN_PYTHON:
                    text = re.sub(there, here, text)
                exec(compile(text, page, "exec"), names)
                printed = ""
            elif language == "sh":
                runs = [c for c in commands(text) if matching(c, NOT_RUN) is None]
                printed = "\n".join(shell.run(command) or "" for command in runs)
            elif printed and not text.splitlines()[0].endswith("/"):
                check_printed(text, printed)
            else:
                check_listing(text)
    if page == "README.md":
        assert names["images"].shape == (16, 16, 16, 3) and names["images"].dtype == np.uint8
        assert (tmp_path / "evaluation" / "report.html").is_file()
        assert (tmp_path / "artifacts" / "vae" / "manifest.json").is_file()
