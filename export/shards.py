"""Shards of a data set: files of so many images, each whole or not there.

Readers are those that others have: Keras and kgen read the folders of PNGs, `webdataset` the tar
files, `tf.data` the TFRecords and NumPy the rest.
"""

import hashlib
import io
import pathlib
import tarfile

import numpy as np

from export import artifact
from kgen import files
from kgen.images import encode_png

#: Endings of the formats' files; a shard of PNGs is folders.
SUFFIXES = {"png": "", "webdataset": ".tar", "npz": ".npz", "tfrecord": ".tfrecord"}

_WAIT = 60  # seconds for what a run that was killed has left running


def name_of(shard):
    return f"shard-{shard:06d}"


def pattern_of(file_format, shard, labelled):
    """What `pathlib.Path.glob` finds the files of a shard by, in the folder of the data set."""
    if file_format != "png":
        return name_of(shard) + SUFFIXES[file_format]
    return f"{'*/' if labelled else ''}{name_of(shard)}/*.png"


def write(folder, file_format, shard, batches, claim_of, num_classes=None):
    """Writes one shard, which takes the place of one that is there, when it is complete.

    `batches` are tuples of seeds `[N]`, labels `[N]` or `None` (then `num_classes` is too) and
    images `[N, H, W, C]`, NumPy arrays. `claim_of` is a function of a seed and a label, or `None`,
    that gives the `kgen.origin.Claim` of a PNG. Returns a dict with the `sha256` of the file, of
    PNGs that of all one after the other, and the `bytes` of it.
    """
    folder = pathlib.Path(folder)
    if file_format == "png":
        with files.together(folder, name_of(shard), wait=_WAIT) as temporary:
            return _write_png(temporary, name_of(shard), _rows(batches, claim_of), num_classes)
    path = folder / (name_of(shard) + SUFFIXES[file_format])
    with files.replacing(path) as temporary:
        if file_format == "npz":
            _write_npz(temporary, batches)
        else:
            _WRITERS[file_format](temporary, _rows(batches, claim_of))
        described = artifact.describe(temporary)
    return {"sha256": described["sha256"], "bytes": described["size"]}


def _rows(batches, claim_of):
    """Tuples of seed, label or `None`, and the PNG of one image after the other."""
    for seeds, labels, images in batches:
        for i, image in enumerate(images):
            seed, label = int(seeds[i]), None if labels is None else int(labels[i])
            yield seed, label, encode_png(image, claim_of(seed, label))


def _write_png(root, name, rows, num_classes):
    digest, size, made = hashlib.sha256(), 0, set()
    for seed, label, png in rows:
        # Names of one length: kgen numbers classes in the order of their folders' names.
        top = "" if label is None else f"{label:0{len(str(num_classes - 1))}d}"
        folder = root / top / name
        if folder not in made:
            folder.mkdir(parents=True)
            made.add(folder)
        (folder / f"{_key(seed)}.png").write_bytes(png)
        digest.update(png)
        size += len(png)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _write_webdataset(path, rows):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
        for seed, label, png in rows:
            parts = {"png": png} if label is None else {"png": png, "cls": str(label).encode()}
            for ending, content in parts.items():
                member = tarfile.TarInfo(f"{_key(seed)}.{ending}")  # of no time and no owner
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))


def _write_npz(path, batches):
    seeds, labels, images = zip(*batches, strict=True)
    arrays = {"x_train": np.concatenate(images), "seed": np.concatenate(seeds)}
    if labels[0] is not None:
        arrays["y_train"] = np.concatenate(labels)
    np.savez(path, **arrays)


def _write_tfrecord(path, rows):
    import tensorflow as tf

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as file:
        for seed, label, png in rows:
            values = {"image": png, "seed": seed} | ({} if label is None else {"label": label})
            features = tf.train.Features(feature={key: feature(values[key]) for key in values})
            example = tf.train.Example(features=features)
            file.write(example.SerializeToString(deterministic=True))


def _key(seed):
    """A seed in a file's name, so that names are in the order of seeds."""
    return f"{seed:010d}"


_WRITERS = {"webdataset": _write_webdataset, "tfrecord": _write_tfrecord}
