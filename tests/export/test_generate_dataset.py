"""Data sets of what an artifact draws: read by those who read such files, and never half there."""

import contextlib
import hashlib
import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL.Image
import psutil
import pytest
import tensorflow as tf
import webdataset

import export
import kgen
from export import generation

NUM_CLASSES = 3  # of the painter

#: Seeds 5 to 29 in shards of 10, 10 and 5 images.
FEW = {"num_images": 25, "first_seed": 5, "images_per_shard": 10, "batch_size": 4}
#: So many that a signal comes in time.
MANY = {"num_images": 20_000, "images_per_shard": 200}


def draw(artifact, folder, file_format="npz", workers=0, **arguments):
    arguments = {**FEW, **arguments}
    return export.generate_dataset(
        artifact, folder, file_format=file_format, workers=workers, progress=False, **arguments
    )


def expected(artifact, seeds):
    """Seeds, labels and the images that the artifact draws from them."""
    seeds = np.array(seeds, "int32")
    labels = seeds % NUM_CLASSES
    [images] = artifact.onnx_session().run(["image"], {"seed": seeds, "label": labels})
    return seeds, labels, images


def read_png(folder):
    rows = []
    for path in sorted(folder.rglob("*.png"), key=lambda path: path.name):
        claim = kgen.origin.read(path)["claim"]
        rows.append((int(path.stem), int(path.parents[1].name), np.array(PIL.Image.open(path))))
        assert (*claim.seeds, *claim.labels) == rows[-1][:2]
    return rows


def read_webdataset(folder):
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    rows = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pilrgb")
    return [(int(row["__key__"]), row["cls"], np.array(row["png"])) for row in rows]


def read_tfrecord(folder):
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "seed": tf.io.FixedLenFeature([], tf.int64),
    }
    files = [str(path) for path in sorted(folder.glob("*.tfrecord"))]
    rows = tf.data.TFRecordDataset(files).map(lambda row: tf.io.parse_single_example(row, features))
    return [
        (int(row["seed"]), int(row["label"]), tf.io.decode_png(row["image"]).numpy())
        for row in rows
    ]


def read_npz(folder):
    rows = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            rows += zip(arrays["seed"], arrays["y_train"], arrays["x_train"], strict=True)
    return rows


READERS = {
    "png": read_png,
    "webdataset": read_webdataset,
    "npz": read_npz,
    "tfrecord": read_tfrecord,
}


@pytest.mark.parametrize("file_format", READERS)
def test_every_format_has_each_image_once(artifact, tmp_path, file_format):
    record = draw(artifact, tmp_path / "drawn", file_format)
    rows = READERS[file_format](tmp_path / "drawn")
    seeds, labels, images = (np.array(column) for column in zip(*rows, strict=True))
    for received, wanted in zip(
        (seeds, labels, images), expected(artifact, range(5, 30)), strict=True
    ):
        np.testing.assert_array_equal(received, wanted)
    assert record["complete"] and [row["images"] for row in record["shards"]] == [10, 10, 5]
    for row in record["shards"]:
        paths = sorted((tmp_path / "drawn").glob(row["path"]), key=lambda path: path.name)
        content = b"".join(path.read_bytes() for path in paths)
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert len(content) == row["bytes"]


@pytest.mark.filterwarnings("error")
def test_kgen_trains_on_it(artifact, tmp_path):
    draw(artifact, tmp_path / "png", "png")
    draw(artifact, tmp_path / "npz", images_per_shard=25)
    seeds, labels, images = expected(artifact, range(5, 30))
    first = tmp_path / "npz" / "shard-000000.npz"
    for source, order in ((first, seeds - 5), (tmp_path / "png", np.lexsort((seeds, labels)))):
        data = kgen.data.load(
            source, test_fraction=0, validation_fraction=0, cache_dir=tmp_path / "cache"
        ).split("train")
        np.testing.assert_array_equal(data.labels, labels[order])
        np.testing.assert_array_equal(data.images, images[order])


def test_labels_and_batches_leave_a_seed_its_image(artifact, tmp_path):
    whole = draw(artifact, tmp_path / "whole", images_per_shard=25, labels=[2, 0])
    draw(
        artifact, tmp_path / "parts", first_seed=6, num_images=4, images_per_shard=3, labels=[2, 0]
    )
    rows = {seed: (label, image) for seed, label, image in read_npz(tmp_path / "whole")}
    for seed, label, image in read_npz(tmp_path / "parts"):
        assert label == rows[seed][0] == (2, 0)[seed % 2]
        np.testing.assert_array_equal(image, rows[seed][1])
    draw(artifact, tmp_path / "one", labels=1)
    assert {label for _, label, _ in read_npz(tmp_path / "one")} == {1}
    assert whole["labels"] == [2, 0]


@pytest.mark.parametrize("file_format", ["png", "npz"])
def test_goes_on_with_what_is_missing(artifact, tmp_path, tree, file_format):
    folder = tmp_path / "drawn"
    draw(artifact, folder, file_format)
    whole = tree(folder)
    assert draw(artifact, folder, file_format)["made"] == 0
    names = sorted(folder.rglob(f"*.{file_format}"), key=lambda path: path.name)
    one, other = names[0], names[-10 if file_format == "png" else 1]  # of the first two shards
    one.unlink()
    assert draw(artifact, folder, file_format)["made"] == 10
    other.write_bytes(other.read_bytes()[:-1])
    assert draw(artifact, folder, file_format)["made"] == 10
    # As a process that was killed leaves it: a record without the last shards, and a journal.
    record = json.loads((folder / generation.RECORD).read_text())
    rows, record["shards"], record["complete"] = record["shards"], [], False
    (folder / generation.RECORD).write_text(json.dumps(record))
    lines = [json.dumps(rows[1]), json.dumps(rows[2])[:40]]
    (folder / ".dataset.kgen-shards.jsonl").write_text("\n".join(lines))
    (folder / ".shard-000002.kgen.npz").write_bytes(b"half")
    (folder / ".shard-000002.kgen-new").mkdir()
    assert draw(artifact, folder, file_format)["made"] == 15
    assert tree(folder) == whole


@pytest.mark.parametrize("file_format", ["webdataset", "npz", "tfrecord"])
def test_full_disk(artifact, tmp_path, tree, file_format):
    """Files cannot grow beyond what the record has, and a shard has more."""
    folder, before = tmp_path / "drawn", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            draw(artifact, folder, file_format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "shard-000000" in str(caught.value.filename)
    assert [path for path in folder.iterdir() if "shard-0" in path.name] == []
    assert draw(artifact, folder, file_format)["made"] == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"file_format": "jpg"}, "Unknown file_format 'jpg'. Did you mean 'png'"),
        ({"labels": [0, 3]}, r"labels must be classes in 0 to 2, or 'each'. Received: \[0, 3\]"),
        ({"labels": "every"}, "labels must be classes in 0 to 2, or 'each'"),
        ({"endpoint": "decode"}, "no endpoint 'decode' that draws .* It has: generate"),
        ({"options": {"temperature": 1}}, "Unknown option 'temperature'"),
        ({"first_seed": 2**31 - 2}, "Seeds end at 2147483647"),
        ({"num_images": 0}, "num_images must be a positive int"),
        ({"address": "127.0.0.1:6379"}, "workers=0 draws without Ray"),
    ],
)
def test_what_is_refused_leaves_nothing(artifact, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(artifact, tmp_path / "drawn", **arguments)
    assert not list(tmp_path.iterdir())


def test_folders_of_others_are_refused(artifact, tmp_path, tree):
    draw(artifact, tmp_path / "drawn")
    whole = tree(tmp_path)
    for arguments, message in (
        ({"num_images": 26}, "another data set: its num_images is 25, and 26 is asked for"),
        ({"labels": 1}, r"its labels is \[0, 1, 2\], and \[1\] is asked for"),
        ({"file_format": "png"}, "its file_format is 'npz', and 'png' is asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(artifact, tmp_path / "drawn", **arguments)
    with pytest.raises(ValueError, match="holds other files"):
        draw(artifact, tmp_path)
    (tmp_path / "drawn" / generation.RECORD).write_text("[]")
    with pytest.raises(ValueError, match="is none that this kgen writes"):
        draw(artifact, tmp_path / "drawn")
    (tmp_path / "drawn" / generation.RECORD).unlink()
    assert tree(tmp_path) == {name: whole[name] for name in whole if "dataset" not in name}


def test_a_changed_artifact_is_refused(artifact, tmp_path):
    shutil.copytree(artifact.path, tmp_path / "a")
    with open(tmp_path / "a" / "onnx" / "weights.bin", "r+b") as file:
        file.write(b"x")
    with pytest.raises(export.VerificationError, match=r"onnx/weights\.bin"):
        draw(tmp_path / "a", tmp_path / "drawn")
    assert not (tmp_path / "drawn").exists()


def test_without_ray(artifact, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'kgen\[ray\]', or .* --workers 0"):
        draw(artifact, tmp_path / "drawn", workers=2)
    assert not list(tmp_path.iterdir())


# With Ray, and processes that are killed ------------------------------------------------


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def journal(folder):
    with contextlib.suppress(FileNotFoundError):
        return (folder / ".dataset.kgen-shards.jsonl").read_text().split()
    return []


def start(artifact, folder, *arguments):
    line = [sys.executable, "-m", "kgen", "generate", artifact.path, "--num-images", "20000"]
    line += ["--images-per-shard", "200", "--format", "npz", "-o", folder, *arguments]
    return subprocess.Popen([*map(str, line)], stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def record(artifact, tmp_path_factory):
    """That of `MANY` images, drawn in this process."""
    folder = tmp_path_factory.mktemp("unbroken") / "drawn"
    draw(artifact, folder, first_seed=0, batch_size=64, **MANY)
    return json.loads((folder / generation.RECORD).read_text())


@pytest.fixture(scope="module")
def unbroken(record):
    """Its shards."""
    return record["shards"]


def complete(artifact, folder, unbroken):
    """Goes on in this process where that was not all."""
    arguments = {**MANY, "first_seed": 0, "batch_size": 64}
    record = draw(artifact, folder, **arguments)
    assert record["complete"] and record["shards"] == unbroken
    return record["made"]


@pytest.mark.slow
def test_the_command_is_killed(artifact, tmp_path, unbroken):
    folder = tmp_path / "drawn"
    process = start(artifact, folder, "--workers", "0")
    wait_for(lambda: len(journal(folder)) > 1 or process.poll() is not None)
    process.kill()
    process.communicate()
    assert not json.loads((folder / generation.RECORD).read_text())["complete"]
    assert 0 < complete(artifact, folder, unbroken) < 20_000


@pytest.mark.slow
def test_alone_on_a_machine(artifact, tmp_path, unbroken):
    """Ray listens to this machine alone; stopped, the command leaves no process behind."""
    folder = tmp_path / "drawn"
    process = start(artifact, folder, "--workers", "2")
    wait_for(lambda: journal(folder) or process.poll() is not None)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    heard = {
        connection.laddr.ip.removeprefix("::ffff:")
        for one in family
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert heard == {"127.0.0.1"}
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.splitlines() == ["The same command goes on from here.", "Interrupted."]
    _, alive = psutil.wait_procs(family[1:], timeout=30)
    assert not alive
    assert 0 < complete(artifact, folder, unbroken) < 20_000


@pytest.fixture
def cluster(monkeypatch):
    """The address of a Ray cluster of two nodes on this machine, of one core each."""
    # Sockets have short paths; and others on this machine do not take it for theirs.
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", temporary)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.add_node(**node)
    yield made.address
    made.shutdown()
    shutil.rmtree(temporary, ignore_errors=True)


def painters():
    """The processes of Ray that draw."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
def test_a_worker_is_killed_on_a_cluster(artifact, tmp_path, cluster, unbroken):
    folder, asked = tmp_path / "drawn", ("--workers", "2", "--address", cluster)
    process = start(artifact, folder, *asked)
    wait_for(lambda: (journal(folder) and len(painters()) == 2) or process.poll() is not None)
    nodes = {painter.ppid() for painter in painters()}
    painters()[0].kill()
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert len(nodes) == 2, "all workers were on one node"
    record = json.loads((folder / generation.RECORD).read_text())
    assert record["complete"] and record["shards"] == unbroken
    left = {path.name for path in pathlib.Path(folder).iterdir()}
    assert left == {generation.RECORD, *(row["path"] for row in unbroken)}


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_told_as_it_is(artifact, tmp_path, record):
    (tmp_path / "shard-000000.npz").mkdir()
    (tmp_path / generation.RECORD).write_text(json.dumps({**record, "shards": []}))
    process = start(artifact, tmp_path, "--workers", "2")
    _, err = process.communicate()
    assert process.returncode == 1 and "shard-000000.npz is a folder" in err, err
