"""Bad input gets one line that names the thing, what was received and what would be right."""

import numpy as np
import pytest
from PIL import Image

from kgen import data
from kgen.training.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*collapse")


@pytest.fixture
def nothing_written(tmp_path, monkeypatch):
    """The current folder, which must be as empty after the test as before."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def pictures(tmp_path):
    """A folder with 20 pictures of 8x8 in two classes."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 255, (8, 8, 3)).astype("uint8")
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        # names, with the nearest one that is known
        ("train vea --data digits", ["model or preset 'vea'", "Did you mean 'vae'?"]),
        ("train vae_28x27 --data digits", ["'vae_28x27'", "Did you mean 'vae_28x28'?"]),
        ("train vae --data digitz", ["digitz", "digits"]),
        ("train vae --data keras:mnits", ["mnits", "mnist"]),
        ("train vae --data digits --set likelihood=gausian", ["'gausian'", "'gaussian'"]),
        ("train vae --data digits --set latentdim=3", ["'latentdim'", "'latent_dim'"]),
        ("train dcgan --data digits --set loss=hindge", ["'hindge'", "'hinge'"]),
        ("train vae --data digits --mixed-precision bfloat", ["'bfloat'", "'bfloat16'"]),
        ("evaluate RUN --split tests", ["split 'tests'", "Did you mean 'test'?"]),
        ("evaluate RUN --metrics fid", ["metric 'fid'", "Did you mean 'fd'?"]),
        ("evaluate RUN --features lenet", ["extractor 'lenet'", "Did you mean 'lenet128'?"]),
        ("train vae_tiny --data digits --keep-best fid", ["'fid'", "Did you mean 'fd'?"]),
        ("sample RUN --set temprature=2", ["option 'temprature'", "'temperature'"]),
        # values
        ("train vae --data digits --set latent_dim", ["name=value", "latent_dim"]),
        (
            "train vae --data digits --set latent_dim=x",
            ["latent_dim must be a positive int", "'x'"],
        ),
        ("train vae --data digits --set beta=nan --learning-rate 0", ["learning_rate=0"]),
        ("train vae --data digits --image-shape 32x32", ["32x32x3", "Received", "32x32"]),
        ("train vae --data digits --image-shape 9x9x1", ["divide by 4", "(9, 9, 1)"]),
        ("train vae --data digits --image-shape 8x8x2", ["1, 3 or 4 channels"]),
        ("train vae --data digits --devices many", ["a number or 'all'", "many"]),
        ("train vae --data digits --devices 99", ["devices", "99"]),
        ("train vae --data digits --resume --force", ["one of them"]),
        ("sample RUN --seeds 1,x", ["--seeds", "1,2,3", "1,x"]),
        ("sample RUN -n 5 --seeds 1,2", ["in place of -n", "Received: -n 5 --seeds 1,2"]),
        ("sample RUN --seed 5 --seeds 1,2", ["in place of", "Received: --seed 5 --seeds 1,2"]),
        ("sample RUN --columns 5 -o folder", ["goes with a .png", "--columns 5 -o folder"]),
        ("complete RUN --keep 0.1 --mask m.png", ["one of them", "--keep 0.1 --mask m.png"]),
        ("interpolate RUN --label 3", ["unconditional and takes no labels"]),
        # what is missing
        ("train", ["Which model?", "kgen train vae --data digits"]),
        ("train vae", ["Which data?", "kgen train vae --data digits"]),
        ("train --resume", ["Which run", "kgen train --resume RUN"]),
        ("train --resume --run nowhere", ["no run in nowhere"]),
        ("train --resume nowhere --data digits", ["nowhere"]),
        ("train vae --data nowhere.npz", ["nowhere.npz"]),
        ("sample nowhere", ["There is no model in nowhere: it does not exist", ".keras"]),
        ("sample RUN/samples", ["is a folder without run.json or config.json"]),
        ("sample RUN/run.json", ["is not a model that Keras can load"]),
        ("compare RUN", ["two runs or more", "1"]),
        ("compare RUN GAN", ["evaluation.json", "kgen evaluate"]),
        ("verify RUN", ["is not an artifact", "manifest.json"]),
        # labels
        ("sample RUN --label 3", ["unconditional and takes no labels"]),
        ("sample GAN --label 10", ["0 to 9", "10"]),
        ("sample GAN --label 1,2", ["64 integers", "(2,)"]),
        ("sample GAN --label cat", ["--label", "cat"]),
        # what a model has not
        ("evaluate GAN --importance-samples 5", ["DCGAN has no likelihood"]),
        ("evaluate RUN --metrics cas", ["'cas' needs labels"]),
        ("evaluate RUN --metrics is", ["'is' needs an extractor with classes"]),
        ("evaluate RUN --features lenet128", ["takes images of 28x28x1. Received: 8x8x1"]),
        ("evaluate RUN --features inception:nowhere.pth", ["nowhere.pth"]),
        ("evaluate RUN --metrics fd --num-samples 100", ["128 images. Received: 100"]),
        # runs
        ("train vae_tiny --data digits --run RUN", ["already holds a run", "--resume", "--force"]),
        ("train --resume RUN --batch-size 3", ["batch_size=32", "batch_size=3"]),
        ("train --resume RUN --set beta=2", ["model_arguments", "beta"]),
    ],
)
def test_one_line(refused, nothing_written, vae_run, dcgan_run, line, messages):
    before = Run(vae_run).info
    line = line.replace("RUN", str(vae_run)).replace("GAN", str(dcgan_run))
    received = refused(*line.split())
    for message in messages:
        assert message in received
    assert len(received) < 600
    assert Run(vae_run).info == before


LINES = (
    *(
        "sample NO",
        "interpolate NO",
        "complete NO",
        "vary NO",
        "edit NO",
        "evaluate NO",
        "export NO -o x",
    ),
    *("compare NO NO", "train --resume --run NO"),
)
NOT_THERE = """
import sys
from kgen.cli import main
for line in sys.argv[1:]:
    assert main(line.split()) == 1
print(sorted({"keras", "tensorflow", "jax"} & set(sys.modules)))
"""


def test_what_is_not_there_is_said_before_a_framework_is_imported(run_python, nothing_written):
    lines = [line.replace("NO", "runs/nowhere") for line in LINES]
    result = run_python(NOT_THERE, *lines)
    errors = result.stderr.splitlines()
    assert result.stdout == "[]\n" and len(errors) == len(LINES)
    assert all(error.startswith("Error: ") and "runs/nowhere" in error for error in errors)


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ("trian", ["'trian'", "Did you mean 'train'?"]),
        ("train vae --epoch 3", ["--epoch", "--epochs"]),
        ("train vae --epochs 0", ["--epochs 0", "1"]),
        ("train vae --epochs many", ["--epochs many", "integer"]),
        ("sample", ["RUN", "kgen sample --help"]),
        ("export x", ["--output", "kgen export --help"]),
        ("export x -o y --opset 30", ["--opset 30", "23"]),
    ],
)
def test_a_wrong_command_line_has_status_2(refused, nothing_written, line, messages):
    received = refused(*line.split(), status=2)
    for message in messages:
        assert message in received


def test_folder_without_an_image(refused, nothing_written, tmp_path):
    (tmp_path / "empty").mkdir()
    received = refused("train", "vae", "--data", tmp_path / "empty")
    assert str(tmp_path / "empty") in received


def test_file_that_is_no_image(kgen, refused, pictures, tmp_path):
    (pictures / "cat" / "broken.png").write_bytes((pictures / "cat/0.png").read_bytes()[:40])
    (pictures / "dog" / "text.jpg").write_text("no image")
    run = tmp_path / "run"
    line = ("train", "vae_tiny", "--data", pictures, "--run", run, "--epochs", 1)
    received = refused(*line, "--batch-size", 4, "--strict")
    assert "2 files" in received and "broken.png" in received and "text.jpg" in received
    assert not run.exists()
    status, _, err = kgen(*line, "--batch-size", 4, "--image-shape", "8x8x3")
    assert status == 0
    assert "Warning: 2 files" in err and "broken.png" in err and "skipped" in err
    assert Run(run).info["data"]["skipped"] == 2


def test_mixed_sizes_without_image_shape(refused, nothing_written, pictures):
    Image.new("RGB", (12, 16)).save(pictures / "cat" / "large.png")
    received = refused("train", "vae", "--data", pictures)
    assert "16x12" in received and "8x8" in received and "image_shape" in received


def test_a_shape_is_refused_before_images_are_decoded(refused, nothing_written, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.effect_noise((9, 9), 50).save(folder / f"{i}.png")
        content = (folder / f"{i}.png").read_bytes()
        (folder / f"{i}.png").write_bytes(content[:60])  # with its size and without its pixels
    with pytest.raises(ValueError, match=r"files for the train split .* could be read"):
        data.load(folder, (9, 9, 1), test_fraction=0, validation_fraction=0)
    for shape in ((), ("--image-shape", "10x10x3")):
        received = refused("train", "vae", "--data", folder, *shape)
        assert "sides divide by 4" in received


def test_conditional_model_without_labels(refused, nothing_written, tmp_path):
    np.savez(tmp_path / "images.npz", x_train=np.zeros((40, 8, 8), "uint8"))
    received = refused("train", "vae", "--data", tmp_path / "images.npz", "--conditional")
    assert "A conditional model needs labels" in received and "images" in received


def test_folder_of_pictures_is_not_overwritten(refused, vae_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.png").write_bytes(b"")
    assert "is not an empty folder" in refused("sample", vae_run, "-o", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.png"]


def test_non_finite_loss(kgen, tmp_path):
    line = ("train", "vae_tiny", "--data", "digits", "--run", tmp_path / "run")
    status, _, err = kgen(*line, "--learning-rate", 1e30)
    assert status == 1
    assert "became NaN or infinite at step" in err.splitlines()[-1]
    assert "of epoch 1. Last good checkpoint: none." in err.splitlines()[-1]


def test_debug_shows_the_traceback(kgen):
    status, _, err = kgen("sample", "nowhere", "--debug")
    assert status == 1
    assert "Traceback" in err and "There is no model in nowhere" in err
