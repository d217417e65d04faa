"""What happens around the steps of a run: checks, pictures, tables, logs, checkpoints.

All are plain Keras callbacks; `kgen.training.run.train` uses them together, in the order
in which they stand here. A checkpoint comes last: when it is there, so is all the rest of
its epoch.
"""

import csv
import io
import os
import pathlib
import shutil
import signal
import threading
import time

import keras
import numpy as np

from kgen import files, images
from kgen.generation import row_seeds
from kgen.origin import of_model
from kgen.training.checkpoints import Position, restore_metrics, sums_of_metrics
from kgen.training.errors import Interrupted, NonFiniteError
from kgen.training.metrics_csv import rows_and_damage, warn_of
from kgen.training.schedules import rate_of, schedule_of


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops when a logged value is NaN or infinite, and says which one, and where.

    Keras hands the logs of each step to a thread of its own, so that looking at every one
    does not hold up the device. The stop then comes a step or two late, and names the step
    at which it happened. At the end of an epoch all weights are looked at too: a
    checkpoint must not hold a NaN that no loss has met yet.

    `fit` then raises a `NonFiniteError`, which names what `last_good()` gives, the last good
    checkpoint.
    """

    async_safe = True  # on_train_batch_end reads its logs and nothing of the model

    def __init__(self, last_good=lambda: "none"):
        super().__init__()
        self.last_good = last_good
        self.first_step = 0  # at which `fit` enters its first epoch
        self._lock = threading.Lock()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch + 1
        self._found = {}  # number of a step to the names of what is not finite

    def on_train_batch_begin(self, batch, logs=None):
        self._stop_if_found()

    def on_train_batch_end(self, batch, logs=None):
        names = _not_finite(logs)
        if names:
            with self._lock:
                self._found[self.first_step + batch + 1] = names

    def on_epoch_end(self, epoch, logs=None):
        self.first_step = 0
        self._stop_if_found()
        weights = {v.path: np.sum(_array(v), dtype="float64") for v in self.model.trainable_weights}
        names = _not_finite(logs) + _not_finite(weights)
        if names:
            self._stop(names, f"at the end of epoch {self._epoch}")

    def _stop_if_found(self):
        with self._lock:
            if self._found:
                step = min(self._found)
                self._stop(self._found[step], f"at step {step} of epoch {self._epoch}")

    def _stop(self, names, where):
        names = [name for name in names if name != "loss"] or names  # the parts say more
        raise NonFiniteError(
            f"{', '.join(names[:3])} became NaN or infinite {where}. Last good checkpoint: "
            f"{self.last_good()}. Begin another run with a smaller learning rate."
        )


class LearningRateLog(keras.callbacks.Callback):
    """Logs `learning_rate`, at the end of an epoch, where it changes: a GAN's generator's.

    It changes by a schedule of the optimizer, or where the run `moves` it.
    """

    def __init__(self, moves=False):
        super().__init__()
        self.moves = moves

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model._optimizers()[0]
        if self.moves or schedule_of(optimizer) is not None:
            logs["learning_rate"] = rate_of(optimizer)


class TimeEstimate(keras.callbacks.Callback):
    """Says after the first steps, and after the first epoch, how long the rest will take.

    Of `total` steps, with so many `steps` in an epoch, from a `Position` on; `report` is given the
    lines, the first of them `after` so many seconds.
    """

    def __init__(self, total, steps, position, report, after=2.0):
        super().__init__()
        self.total, self.steps, self.position, self.report = total, steps, position, report
        self.after = after
        self._first = self._began = None
        self._told = self._told_epoch = False

    def on_epoch_begin(self, epoch, logs=None):
        now = time.perf_counter()
        if self._began is not None and self._whole and not self._told_epoch:
            self._told_epoch = True
            seconds, left = now - self._began, self.total / self.steps - epoch
            self.report(
                f"{'Time:':<12}{in_words(seconds)} for epoch {epoch} with validation and samples, "
                f"so about {in_words(left * seconds)} for {left:.3g} more"
            )
        self._epoch, self._began, self._first = epoch, now, None
        self._done = self.position.step if epoch == self.position.epoch else 0
        self._whole = self._done == 0

    def on_train_batch_begin(self, batch, logs=None):
        if self._told or batch == 0:  # the first step is traced and compiled
            return
        now = time.perf_counter()
        if self._first is None:
            self._first = (batch, now)
            return
        steps, seconds = batch - self._first[0], now - self._first[1]
        if seconds < self.after and steps < 200:
            return
        self._told = True
        rest = self.total - self._epoch * self.steps - self._done - batch
        self.report(
            f"{'Time:':<12}{in_words(seconds / steps)} a step, so about "
            f"{in_words(rest * seconds / steps)} for the {rest:,} steps to "
            f"{last_step(self.total, self.steps)}, without validation and samples"
        )


def last_step(total, steps):
    """Where a run of `total` steps ends, in words, with so many `steps` in an epoch."""
    return f"step {total:,}" if total % steps else f"epoch {total // steps}"


class CPUMinutes(keras.callbacks.Callback):
    """Counts the CPU time of training steps as `minutes`, and ends training after `most` of it.

    What other callbacks do at the end of an epoch, and the first step, which is traced and
    compiled, are not counted: so different models can be compared at equal cost.
    """

    def __init__(self, most=None):
        super().__init__()
        self.most = most
        self.minutes = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self._began = time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        if self.model.steps_trained > 1:
            self.minutes += (time.process_time() - self._began) / 60
        if self.most is not None and self.minutes >= self.most:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        logs["cpu_minutes"] = self.minutes


def in_words(seconds):
    """A time for people: `0.13 s`, `41 s`, `12 min`, `3.5 h`."""
    if seconds < 99:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.2g} h"


class SampleGrid(keras.callbacks.Callback):
    """Draws images from the same seeds after every epoch, and writes `epoch_NNNN.png`.

    A class-conditional model gives one row per class (the first 16), the same seeds in
    each row; about `n` images in all. A translator shows what it makes of the first images of a
    `split`: input, output and truth in a row.
    """

    def __init__(self, folder, n=64, seed=0, split=None, name=None):
        super().__init__()
        self.split = split
        self.name = name  # of the model, in the marks of its pictures
        self.folder = pathlib.Path(folder)
        self.n = n
        self.seed = seed
        self.latest = None  # uint8 array [height, width, C]
        self.claim = None  # what it says of itself

    def on_epoch_end(self, epoch, logs=None):
        self.latest, self.claim = self.draw(self.model)
        images.save_png(self.latest, self.path(epoch), self.claim)

    def path(self, epoch):
        """Where the grid of an epoch is, counted from 0."""
        return self.folder / f"epoch_{epoch + 1:04d}.png"

    def draw(self, model):
        """The grid of a model as it is now, see `draw_grid`."""
        return draw_grid(model, self.n, self.seed, self.split, of_model(model, self.name))


def draw_grid(model, n=64, seed=0, split=None, origin=None, **options):
    """A grid of about `n` images from one seed, uint8 `[height, width, C]`, by rows of classes if
    the model knows classes; and its `kgen.origin.Claim`, by the model's `Origin`.

    `options` are those of `generate`. Of a translator the images of a `split` are shown.
    """
    origin = origin or of_model(model)
    scale = images.viewing_scale(model.image_shape)
    if hasattr(model, "beside"):
        columns = [images.over_white(part) for part in model.beside(split, max(1, n // 3), seed)]
        channels = max(part.shape[-1] for part in columns)
        columns = [np.broadcast_to(p, (*p.shape[:-1], channels)) for p in columns]
        rows = np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])
        claim = origin.claim(inputs={"image": ""})
        claim = claim.in_grid(
            len(columns) * 4, scale=scale, cells=range(1, len(rows), len(columns))
        )
        return images.grid(rows, len(columns) * 4, scale=scale), claim
    columns = labels = None
    if model.num_classes is None:
        seeds = row_seeds(n, seed)
    else:
        rows = min(model.num_classes, 16)
        columns = max(1, n // rows)
        seeds = np.tile(row_seeds(columns, seed), rows)
        labels = np.repeat(np.arange(rows), columns)
    pictures = model.generate(seeds=seeds, labels=labels, progress=False, **options)
    claim = origin.claim("generate", seeds, labels, options).in_grid(columns, scale=scale)
    return images.grid(pictures, columns, scale=scale), claim


class MetricsTable(keras.callbacks.Callback):
    """Writes a `.csv` with a row per epoch, and goes on with the one that is there.

    It holds no times, so a run that was resumed ends with the table of one that was not. Rows
    after `epoch`, the last that is complete when the run begins, are dropped. What is damaged is
    told, see `read_metrics`, and kept as `<name>.damaged.csv`.
    """

    def __init__(self, path, epoch=0):
        super().__init__()
        self.path = pathlib.Path(path)
        self.rows, damage = rows_and_damage(self.path, epoch)
        warn_of(damage, self.path)
        if damage and self.path.is_file():
            kept = self.path.with_suffix(f".damaged{self.path.suffix}")
            with files.replacing(kept) as temporary:
                shutil.copyfile(self.path, temporary)
        self.rows = [row for row in self.rows if row["epoch"] <= epoch]

    def on_epoch_end(self, epoch, logs=None):
        steps = int(_array(self.model.training_steps))
        self.rows.append({"epoch": epoch + 1, "steps": steps, **logs})
        text = io.StringIO()
        # Metrics of samples stand in the epochs alone that were evaluated.
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.write_text(self.path, text.getvalue())


class TensorBoardLogs(keras.callbacks.Callback):
    """Writes the metrics of every epoch, and what a `SampleGrid` drew, for TensorBoard.

    It needs the `tensorboard` package alone, so it works on every backend. `train` and
    `validation` go into folders of their own, so that TensorBoard draws both into one chart.
    """

    def __init__(self, folder, samples=None):
        super().__init__()
        self.train = EventFile(pathlib.Path(folder, "train"))
        self.validation = EventFile(pathlib.Path(folder, "validation"))
        self.samples = samples

    def on_epoch_end(self, epoch, logs=None):
        validation = {k.removeprefix("val_"): v for k, v in logs.items() if k.startswith("val_")}
        train = {k: v for k, v in logs.items() if not k.startswith("val_")}
        pictures = {}
        if self.samples is not None:
            pictures["samples"] = self.samples.latest, self.samples.claim
        self.train.write(epoch + 1, train, pictures)
        if validation:
            self.validation.write(epoch + 1, validation)


class EventFile:
    """A file of TensorBoard's in a folder, made at the first write."""

    def __init__(self, folder):
        name = f"events.out.tfevents.{time.time_ns() / 1e9:.6f}.{os.getpid()}"
        self.path = pathlib.Path(folder) / name

    def write(self, step, scalars, pictures=None):
        """Adds one event, whole or not at all: numbers by name, and pictures, each a uint8 array
        `[H, W, C]` and its `kgen.origin.Claim` or `None`.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        for tag, (picture, claim) in (pictures or {}).items():
            height, width, channels = picture.shape
            png = images.encode_png(picture, claim)
            image = Summary.Image(
                height=height, width=width, colorspace=channels, encoded_image_string=png
            )
            values.append(Summary.Value(tag=tag, image=image))
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))

        records = io.BytesIO()
        writer = RecordWriter(records)
        if not self.path.exists():
            header = Event(wall_time=event.wall_time, file_version="brain.Event:2")
            writer.write(header.SerializeToString())
        writer.write(event.SerializeToString())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.record(self.path)
        data = records.getvalue()
        with files.naming(self.path), open(self.path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(end)
                raise


class StopSignals:
    """Turns Ctrl-C and SIGTERM into a request to stop; a second Ctrl-C stops at once.

    Use it as a context manager around `fit`, with a `Checkpointing` that looks at it.
    """

    def __init__(self):
        self.signum = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) != signal.SIG_IGN:  # as under nohup
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _handle(self, signum, frame):
        self.signum = signum
        self.__exit__()
        os.write(2, b"\nStopping after this step. Press Ctrl-C again to stop at once.\n")


class Checkpointing(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, and when `signals` ask to stop.

    The run goes on from `position`, inside an epoch with `metrics`, the sums behind its figures.
    An epoch that ends before its `steps`, since training does, is gone on with from there. Before a
    checkpoint is written `record` is told how many steps of the run it comes after.
    """

    def __init__(
        self, checkpoints, position, metrics=(), signals=None, steps=None, record=lambda step: None
    ):
        super().__init__()
        self.checkpoints = checkpoints
        self.position = position
        self.metrics = metrics
        self.signals = signals or StopSignals()
        self.steps = steps
        self.record = record

    def on_epoch_begin(self, epoch, logs=None):
        self._first_step = self.position.step  # 0 but where a run goes on inside an epoch
        self._trained = self.model.steps_trained - self._first_step
        self._sums = None
        if self._first_step and self.metrics:
            restore_metrics(self.model, self.metrics)

    def on_train_batch_begin(self, batch, logs=None):
        # Between two steps the state is whole, on JAX too.
        if self.signals.signum is None:
            return
        position = Position(self.position.epoch, self._first_step + batch)
        if position.step:
            self._save(position, None)
        raise Interrupted(f"Stopped after {position}.", self.signals.signum)

    def on_test_begin(self, logs=None):
        if self.model.stop_training:  # validation will use the same metrics
            self._sums = sums_of_metrics(self.model)

    def on_epoch_end(self, epoch, logs=None):
        done = self.model.steps_trained - self._trained
        whole = self.steps is None or done >= self.steps
        self.position = Position(epoch + 1) if whole else Position(epoch, done)
        self._save(self.position, self._sums)

    def _save(self, position, sums):
        self.record(position.epoch * (self.steps or 0) + position.step)
        self.checkpoints.save(self.model, position, sums)


def _array(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable), "float64")


def _not_finite(values):
    return [name for name, value in values.items() if not np.isfinite(value)]
