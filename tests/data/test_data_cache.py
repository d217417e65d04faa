import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import kgen.data
from kgen.data import cache


@pytest.fixture
def folder(make_folder, random_images):
    return make_folder({f"{i:03}.bmp": image for i, image in enumerate(random_images(60, 8, 8, 3))})


def entries(cache_folder):
    return sorted((cache_folder / "data").iterdir())


def assert_equal(left, right):
    assert left.fingerprint == right.fingerprint
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(left, name).images, getattr(right, name).images)


def test_second_load_maps_the_cache_and_decodes_nothing(folder, cache_folder):
    first = kgen.data.load(folder)
    (entry,) = entries(cache_folder)
    written = {path: path.stat().st_mtime_ns for path in entry.iterdir()}
    second = kgen.data.load(folder)
    assert_equal(first, second)
    assert isinstance(second.train.images, np.memmap)
    assert {path: path.stat().st_mtime_ns for path in entry.iterdir()} == written


def test_an_entry_for_every_shape_background_and_split(folder, cache_folder):
    for count, options in enumerate(
        [
            *({}, {"image_shape": (4, 4, 1)}, {"background": "black"}, {"seed": 1}),
            *({"test_fraction": 0}, {"resize": "pad"}, {"interpolation": "nearest"}),
            *({"max_pixels": 100}, {"recursive": True}),
        ]
    ):
        kgen.data.load(folder, **options)
        assert len(entries(cache_folder)) == count + 1


def test_a_given_split_does_not_depend_on_the_seed(make_folder, random_images, cache_folder):
    tops = ("train", "val", "test")
    folder = make_folder(
        {f"{top}/0.png": image for top, image in zip(tops, random_images(3, 4, 4, 3), strict=True)}
    )
    kgen.data.load(folder, seed=0)
    kgen.data.load(folder, seed=1, validation_fraction=0.3)
    assert len(entries(cache_folder)) == 1


def test_a_changed_file_is_never_served_from_the_cache(folder, make_folder, random_images):
    before = kgen.data.load(folder)
    file = folder / "007.bmp"
    status = file.stat()
    (image,) = random_images(1, 8, 8, 3, seed=99)
    make_folder({"007.bmp": image})
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same mtime
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = kgen.data.load(folder)
    assert before.fingerprint != after.fingerprint
    everything = np.concatenate([after.train.images, after.validation.images, after.test.images])
    assert (everything == image).all(axis=(1, 2, 3)).sum() == 1


def test_a_new_and_a_removed_file_are_noticed(folder):
    assert len(kgen.data.load(folder).train) == 48
    (folder / "000.bmp").rename(folder / "x.bmp")
    (folder / "001.bmp").unlink()
    data = kgen.data.load(folder)
    assert len(data.train) + len(data.validation) + len(data.test) == 59


def test_a_touched_file_makes_no_copy_and_is_not_decoded_again(folder, cache_folder):
    before = kgen.data.load(folder)
    (first,) = entries(cache_folder)
    os.utime(folder / "007.bmp")
    assert_equal(kgen.data.load(folder), before)
    (second,) = set(entries(cache_folder)) - {first}
    for name in ("train_images.npy", "validation_images.npy", "test_images.npy"):
        assert (first / name).samefile(second / name)
    items = cache.kept(cache_folder)
    assert items[0].path == second
    assert sum(item.size for item in items) < 1.5 * 60 * 8 * 8 * 3
    cache.prune(cache_folder, items[0].size)
    assert entries(cache_folder) == [second]
    assert_equal(kgen.data.load(folder), before)
    good = np.array(before.train.images)
    flip_a_byte(second)  # and a damaged one is not taken over
    os.utime(folder / "008.bmp")
    np.testing.assert_array_equal(kgen.data.load(folder).train.images, good)
    assert len(entries(cache_folder)) == 2


def test_a_changed_npz_is_never_served_from_the_cache(tmp_path, random_images):
    path = tmp_path / "images.npz"
    for seed in (0, 1):
        images = random_images(20, 8, 8, 3, seed=seed)
        np.savez(path, x_train=images, x_test=images[:3])
        np.testing.assert_array_equal(kgen.data.load(path).test.images, images[:3])


def flip_a_byte(entry):
    path = entry / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def cut_off(entry):
    path = entry / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-100])


def remove_an_array(entry):
    (entry / "test_images.npy").unlink()


def cut_off_description(entry):
    path = entry / "entry.json"
    path.write_text(path.read_text()[:-10])


def change_description(entry):
    (entry / "entry.json").write_text(json.dumps([1, 2]))


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut_off, remove_an_array, cut_off_description, change_description]
)
def test_a_damaged_entry_is_rebuilt(folder, cache_folder, damage):
    good = kgen.data.load(folder)
    fingerprint, images = good.fingerprint, np.array(good.train.images)
    (entry,) = entries(cache_folder)
    damage(entry)
    with pytest.warns(UserWarning, match="is damaged .*: rebuilding it"):
        rebuilt = kgen.data.load(folder)
    np.testing.assert_array_equal(rebuilt.train.images, images)
    assert rebuilt.fingerprint == fingerprint
    assert entries(cache_folder) == [entry]
    assert_equal(rebuilt, kgen.data.load(folder))


def test_damage_far_inside_a_large_file_is_found(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(600 * 2**20)  # sparse
    before = cache._file_digest(path)
    assert cache._file_digest(path) == before
    with open(path, "r+b") as file:
        file.seek(300 * 2**20)
        file.write(b"x" * 3 * 2**20)
    assert cache._file_digest(path) != before


def test_a_full_disk_is_one_line_and_leaves_nothing(
    make_folder, random_images, cache_folder, run_python
):
    folder = make_folder(
        {f"{i}.bmp": image for i, image in enumerate(random_images(40, 64, 64, 3))}
    )
    code = """
import resource, signal, sys
import kgen.data
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # the disk takes no more
try:
    kgen.data.load(sys.argv[1], progress=False)
except OSError as error:
    print(error)
"""
    message = run_python(code, folder).stdout.strip()
    assert "Cannot write the data cache in" in message and "KGEN_CACHE_DIR" in message
    assert "\n" not in message
    assert entries(cache_folder) == []


def test_a_cache_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"Cannot write the data cache in .*file"):
        kgen.data.load(folder, cache_dir=tmp_path / "file")


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.slow
def test_a_killed_decode_leaves_no_entry_and_is_cleaned_up(
    make_folder, random_images, cache_folder
):
    (image,) = random_images(1, 600, 600, 3)
    folder = make_folder({"0.png": image})
    for i in range(1, 400):
        os.link(folder / "0.png", folder / f"{i}.png")
    code = "import sys, kgen.data; kgen.data.load(sys.argv[1], progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code, folder])
    while not list(cache_folder.glob("data/.*/train_images.npy")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (partial,) = entries(cache_folder)
    assert partial.name.startswith(".")
    data = kgen.data.load(folder, (8, 8, 3), progress=False)
    assert len(data.train) == 320
    (entry,) = entries(cache_folder)
    assert not entry.name.startswith(".")


def add_one_image(writer):
    writer.add("train", np.zeros((4, 4, 1), np.uint8), None)
    writer.arrays()


def test_an_interrupted_decode_leaves_nothing(cache_folder):
    def fill(writer):
        writer.add("train", np.zeros((4, 4, 1), np.uint8), None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.load(cache_folder / "data" / "entry", fill)
    assert entries(cache_folder) == []


def test_the_second_of_two_writers_waits_and_takes_the_firsts_entry(cache_folder):
    entry = cache_folder / "data" / "entry"
    waiting = threading.Event()

    def first(writer):
        assert waiting.wait(60)
        add_one_image(writer)
        return {"by": "first"}

    def second(writer):
        raise AssertionError("the first one writes it")

    with concurrent.futures.ThreadPoolExecutor() as pool:
        writing = pool.submit(cache.load, entry, first)
        while not list(cache_folder.glob("data/.*")):
            time.sleep(0.01)
        with pytest.warns(UserWarning, match="Waiting for the process that writes .*entry") as seen:
            reading = pool.submit(cache.load, entry, second)
            while not (seen.list or reading.done()):
                time.sleep(0.01)
            waiting.set()
            reading.result(60)
    assert writing.result()[1] == reading.result()[1] == {"by": "first"}
    assert entries(cache_folder) == [entry]


def test_leftovers_are_told_from_what_another_process_writes(cache_folder):
    folder = cache_folder / "data"

    def outer(writer):
        (folder / ".killed").mkdir()
        cache.load(folder / "inner", add_one_image)
        assert [entry.name for entry in entries(cache_folder)] == [".outer", "inner"]
        add_one_image(writer)

    cache.load(folder / "outer", outer)
    assert [entry.name for entry in entries(cache_folder)] == ["inner", "outer"]


KILLED = """
import os, pathlib, signal, sys
import numpy as np
from kgen.data import cache

def fill(writer):
    writer.add("train", np.zeros((4, 4, 1), np.uint8), None)
    os.kill(os.getpid(), signal.SIGKILL)

cache.load(pathlib.Path(sys.argv[1]), fill)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_nobody_waits_for_a_killed_writer(cache_folder, run_python):
    entry = cache_folder / "data" / "entry"
    assert run_python(KILLED, entry, check=False).returncode == -signal.SIGKILL
    assert [path.name for path in entries(cache_folder)] == [".entry"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays, _ = cache.load(entry, add_one_image)
    assert arrays["train"][0].shape == (1, 4, 4, 1)
    assert entries(cache_folder) == [entry]


def test_two_processes_at_once(folder, cache_folder):
    code = "import sys, kgen.data; print(kgen.data.load(sys.argv[1]).fingerprint)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    fingerprints = [process.communicate()[0].strip() for process in processes]
    assert fingerprints == 3 * [kgen.data.load(folder).fingerprint]
    assert len(entries(cache_folder)) == 1


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "own"))
    assert cache.default_folder() == tmp_path / "own"
    monkeypatch.delenv("KGEN_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default_folder() == tmp_path / "xdg" / "kgen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / ".cache" / "kgen"


def test_cache_dir(folder, tmp_path, cache_folder):
    kgen.data.load(folder, cache_dir=tmp_path / "elsewhere")
    assert len(entries(tmp_path / "elsewhere")) == 1
    assert not cache_folder.exists()


def test_entries_of_before_there_were_options_are_found(folder, cache_folder):
    """The name of an entry follows from what it was first made of."""
    files = {}
    for path in sorted(folder.iterdir()):
        status = path.stat()
        files[path.name] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    fractions = {"validation": 0.1, "test": 0.1}
    kgen.data.load(folder, resize="crop", max_pixels=178_956_970)
    key = [1, files, None, "white", fractions, 0]
    assert [entry.name for entry in entries(cache_folder)] == [f"pictures-{cache.digest(key)[:24]}"]


# What is kept -----------------------------------------------------------------------------


@pytest.fixture
def filled(folder, cache_folder):
    """Four entries of about 12 KB, of which the second was used last, and a file of features."""
    paths = []
    for seed in range(4):
        kgen.data.load(folder, seed=seed)
        (path,) = set(entries(cache_folder)) - set(paths)
        paths.append(path)
        os.utime(path, (1000 + seed, 1000 + seed))
    kgen.data.load(folder, seed=1)
    features = cache_folder / "features" / f"{'0f' * 32}.npy"
    features.parent.mkdir()
    features.write_bytes(bytes(5000))
    os.utime(features, (1002.5, 1002.5))
    return [paths[0], paths[2], features, paths[3], paths[1]]


def test_what_was_not_used_for_longest_is_removed_first(filled, cache_folder):
    items = cache.kept(cache_folder)
    assert [item.path for item in items] == filled[::-1]
    sizes = {item.path: item.size for item in items}
    assert sizes[filled[2]] == 5000 and all(sizes[path] > 60 * 8 * 8 * 3 for path in filled[3:])
    assert cache.prune(cache_folder, sum(sizes.values())) == []
    removed = cache.prune(cache_folder, sizes[filled[3]] + sizes[filled[4]])
    assert [item.path for item in removed] == filled[:3]
    assert [path.exists() for path in filled] == [False] * 3 + [True] * 2
    assert entries(cache_folder) == sorted(filled[3:])


def test_a_new_entry_keeps_the_cache_below_its_limit(folder, filled, cache_folder, monkeypatch):
    monkeypatch.setenv("KGEN_CACHE_LIMIT", "30 KB")
    assert len(kgen.data.load(folder, seed=0).train) == 48, "reading removes nothing"
    assert len(cache.kept(cache_folder)) == 5
    with pytest.warns(UserWarning, match="over its limit: removed 4 of .*KGEN_CACHE_LIMIT"):
        kgen.data.load(folder, seed=9)
    assert len(cache.kept(cache_folder)) == 2 and filled[0].exists(), "the last two that were used"
    monkeypatch.setenv("KGEN_CACHE_LIMIT", "1KB")
    with pytest.warns(UserWarning, match="removed 2"):
        data = kgen.data.load(folder, seed=10)
    assert len(data.train) == 48 and len(entries(cache_folder)) == 1, "the new one stays"
    for text in ("none", ""):
        monkeypatch.setenv("KGEN_CACHE_LIMIT", text)
        kgen.data.load(folder, seed=11 + len(text))
    assert len(entries(cache_folder)) == 3
    assert cache.limit() == 20 * 10**9
    monkeypatch.setenv("KGEN_CACHE_LIMIT", "much")
    with pytest.raises(ValueError, match=r"KGEN_CACHE_LIMIT takes a size such as .*'much'"):
        kgen.data.load(folder)


def test_an_entry_in_use_survives_its_removal(folder, cache_folder):
    data = kgen.data.load(folder)
    before = np.array(data.train.images)
    assert len(cache.prune(cache_folder, 0)) == 1 and entries(cache_folder) == []
    np.testing.assert_array_equal(data.train.images, before)
    assert_equal(kgen.data.load(folder), data)


def test_nothing_of_others_is_removed(folder, filled, cache_folder):
    """Where `KGEN_CACHE_DIR` names a folder that has a folder `data` of its user's."""
    alike = f"photos-{'0a' * 12}"
    own = [
        cache_folder / "data" / name
        for name in (".git/HEAD", "photos/0.png", f"{alike}/entry.json", f"{alike}/0.png")
    ]
    own += [cache_folder / "features" / "mine.npy", cache_folder / "notes.txt"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    kgen.data.load(folder, seed=20)  # which removes what killed processes have left
    assert len(cache.prune(cache_folder, 0)) == 6
    assert [path for path in own if not path.is_file()] == []


NO_HOME = """
import os
import platformdirs.unix
from kgen.data import cache
for name in ("HOME", "XDG_CACHE_HOME", "KGEN_CACHE_DIR"):
    os.environ.pop(name, None)
os.setuid(54321)  # of whom no list of users knows
try:
    cache.default_folder()
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user"
)
def test_without_a_home_the_hint_names_the_way_out(run_python):
    message = run_python(NO_HOME).stdout
    assert "HOME is not set" in message and "KGEN_CACHE_DIR" in message
