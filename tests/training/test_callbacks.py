import re
import shutil
import signal
import time
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from kgen.models import VAE
from kgen.training import callbacks
from kgen.training.checkpoints import Checkpoints, Position
from kgen.training.errors import NonFiniteError
from kgen.training.metrics_csv import read_metrics


def tiny(model_class=VAE, **overrides):
    model = model_class(**{**VAE.presets["vae_tiny"], **overrides})
    model.compile()
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (64, 8, 8, 1)).astype("uint8")


class Breaks(VAE):
    """A VAE whose KL is NaN from the eleventh step on."""

    def objective(self, batch, training):
        loss, logs = super().objective(batch, training)
        broken = ops.where(self.training_steps > 10, np.nan, 0.0)
        return loss + broken, {**logs, "loss": loss + broken, "kl_loss": logs["kl_loss"] + broken}


def test_the_time_that_is_left():
    said = []
    estimate = callbacks.TimeEstimate(12, 4, Position(0), said.append, after=0)
    for epoch in range(3):  # as `fit` calls it
        estimate.on_epoch_begin(epoch)
        for batch in range(4):
            estimate.on_train_batch_begin(batch)
    step, epoch = said
    assert re.fullmatch(
        r"Time:       .* s a step, so about .* s for the 10 steps to epoch 3, without .*", step
    )
    assert re.fullmatch(r"Time:       .* s for epoch 1 with .*, so about .* s for 2 more", epoch)
    late = callbacks.TimeEstimate(12, 4, Position(), said.append, after=10**6)
    for epoch in range(2):
        late.on_epoch_begin(epoch)
        for batch in range(4):
            late.on_train_batch_begin(batch)
        late.after = 0  # an epoch has been too short
    assert "for the 6 steps to epoch 3" in said[-1], "it counts from this epoch's steps"
    assert [callbacks.last_step(total, 4) for total in (12, 13)] == ["epoch 3", "step 13"]
    assert [callbacks.in_words(s) for s in (0.1234, 59, 600, 6e4)] == [
        *("0.12 s", "59 s", "10 min", "17 h"),
    ]


@pytest.mark.filterwarnings("ignore:.*posterior collapse")
def test_non_finite_loss_is_named_with_its_step_and_the_last_good_checkpoint(images):
    model = tiny(Breaks)
    stop = callbacks.StopOnNonFinite(lambda: "epoch_0001.keras")
    with pytest.raises(NonFiniteError) as error:
        model.fit(images, batch_size=8, epochs=3, callbacks=[stop], verbose=0)
    assert str(error.value).startswith("kl_loss became NaN or infinite at step 3 of epoch 2.")
    assert "Last good checkpoint: epoch_0001.keras." in str(error.value)


@pytest.mark.filterwarnings("ignore:.*posterior collapse")
def test_non_finite_loss_in_the_last_step_of_an_epoch(images):
    stop = callbacks.StopOnNonFinite()
    with pytest.raises(NonFiniteError, match="at step 11 of epoch 1"):
        tiny(Breaks).fit(images[:44], batch_size=4, callbacks=[stop], verbose=0)


def test_non_finite_weight_is_found_before_a_checkpoint_holds_it(images):
    model = tiny()

    def spoil(epoch, logs):
        weight = model.trainable_variables[3]
        weight.assign(np.full(weight.shape, np.inf))

    spoiler = keras.callbacks.LambdaCallback(on_epoch_end=spoil)
    with pytest.raises(NonFiniteError, match=f"{model.trainable_variables[3].path} became NaN"):
        model.fit(images, callbacks=[spoiler, callbacks.StopOnNonFinite()], verbose=0)


def test_looking_at_every_step_does_not_make_keras_wait():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("Keras waits for the logs of every step on this backend, with or without us")
    stop = callbacks.StopOnNonFinite()
    checkpointing = callbacks.Checkpointing(None, Position())
    found = keras.callbacks.CallbackList([stop, checkpointing], model=tiny())
    assert found._async_train


@pytest.mark.parametrize(("num_classes", "size"), [(None, (8, 8)), (3, (3, 21))])
def test_sample_grid_draws_the_same_seeds(tmp_path, num_classes, size):
    model = tiny(num_classes=num_classes)
    grid = callbacks.SampleGrid(tmp_path)
    grid.set_model(model)
    grid.on_epoch_end(0)
    grid.on_epoch_end(1)
    pictures = [np.asarray(Image.open(tmp_path / f"epoch_{n:04d}.png")) for n in (1, 2)]
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].shape == tuple(n * (32 + 2) + 2 for n in size)


def test_metrics_table_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    table = callbacks.MetricsTable(path)
    table.set_model(tiny())
    for epoch in range(4):
        table.on_epoch_end(epoch, {"loss": 0.1 + epoch})
    assert path.read_text().splitlines()[:2] == ["epoch,steps,loss", "1,0,0.1"]

    table = callbacks.MetricsTable(path, epoch=2)
    table.set_model(tiny())
    table.on_epoch_end(2, {"loss": 7.0})
    assert [row["epoch"] for row in read_metrics(path)] == [1, 2, 3]
    assert read_metrics(path)[-1] == {"epoch": 3, "steps": 0, "loss": 7.0}


def test_damaged_metrics_are_told(tmp_path):
    path = tmp_path / "metrics.csv"
    whole = b"epoch,steps,loss,val_loss\n1,5,0.5,\n2,10,0.25,0.5\n"
    path.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = read_metrics(path)
    assert rows == [
        {"epoch": 1, "steps": 5, "loss": 0.5},
        {"epoch": 2, "steps": 10, "loss": 0.25, "val_loss": 0.5},
    ]
    damaged = whole + b"3,15,0.1\n\0\0\0\nx,y,z,u\n6,30,0.2,0.3\n\xff\n8,40,0.2,0.3"
    path.write_bytes(damaged)
    said = (
        "metrics.csv is damaged: line 4, 5, 6, 8 cannot be read and is left out; epoch 3, 4, 5, 7"
    )
    with pytest.warns(UserWarning, match=said):
        assert [row["epoch"] for row in read_metrics(path)] == [1, 2, 6, 8]
    with pytest.warns(UserWarning, match=f"{said}, 9 is missing"):
        table = callbacks.MetricsTable(path, epoch=9)
    assert len(table.rows) == 4
    assert (tmp_path / "metrics.damaged.csv").read_bytes() == damaged, "it is written anew"
    path.write_bytes(b"\0" * 100)
    with pytest.warns(UserWarning, match="epoch 1, 2, 3, 4, 5 and 4 more is missing"):
        assert callbacks.MetricsTable(path, epoch=9).rows == []


def test_tensorboard_reads_the_logs(tmp_path, tensorflow_only):
    from tensorflow.compat.v1.train import summary_iterator

    samples = callbacks.SampleGrid(tmp_path / "samples", n=4)
    samples.latest = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype("uint8")
    logs = callbacks.TensorBoardLogs(tmp_path, samples)
    for epoch in range(2):
        logs.on_epoch_end(epoch, {"loss": 2.0 + epoch, "val_loss": 3.0})
    (train,) = (tmp_path / "train").iterdir()
    (validation,) = (tmp_path / "validation").iterdir()
    events = list(summary_iterator(str(train)))
    assert events[0].file_version == "brain.Event:2"
    assert [event.step for event in events[1:]] == [1, 2]
    loss, picture = events[2].summary.value
    assert (loss.tag, loss.simple_value) == ("loss", 3.0)
    assert (picture.image.height, picture.image.width) == (9, 7)
    assert list(summary_iterator(str(validation)))[1].summary.value[0].tag == "loss"


def test_a_signal_is_a_request_and_the_next_one_is_not():
    before = signal.getsignal(signal.SIGINT)
    with callbacks.StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


# Checkpoints -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, images):
    """A model and a folder with its checkpoints, from which tests take a copy."""
    model, folder = tiny(), tmp_path_factory.mktemp("checkpoints")
    keeper = callbacks.Checkpointing(Checkpoints(folder), Position())
    model.fit(images, batch_size=16, epochs=4, callbacks=[keeper], verbose=0)
    return model, folder


@pytest.fixture
def saved(tmp_path, trained):
    """Checkpoints after epochs 2 to 4, and the model."""
    model, folder = trained
    return Checkpoints(shutil.copytree(folder, tmp_path / "checkpoints")), model


def test_checkpoint_holds_weights_optimizer_and_step(saved):
    checkpoints, model = saved
    assert [path.name for path in checkpoints.paths()] == [
        f"epoch_{epoch:04d}.keras" for epoch in (2, 3, 4)
    ]
    loaded, position, sums = checkpoints.load_last()
    assert (position, sums) == (Position(4), [])
    assert int(loaded.training_steps) == 16
    before = [*model.variables, *model.optimizer.variables]
    after = [*loaded.variables, *loaded.optimizer.variables]
    for a, b in zip(before, after, strict=True):
        if not a.path.endswith(("/total", "/count")):  # of metrics, which begin anew
            np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, change_a_byte, lambda path: path.unlink()])
def test_corrupt_checkpoint_falls_back_and_says_so(saved, damage):
    checkpoints, _ = saved
    damage(checkpoints.folder / "epoch_0004.keras")
    said = []
    _, position, _ = checkpoints.load_last(said.append)
    assert position == Position(3)
    assert len(said) == 1
    assert said[0].startswith("Checkpoint is corrupt: ") and "epoch_0004.keras" in said[0]
    assert said[0].endswith("Falling back to epoch_0003.keras.")


def test_corrupt_record_falls_back(saved):
    checkpoints, _ = saved
    truncate(checkpoints.folder / "epoch_0004.json")
    assert checkpoints.load_last(lambda line: None)[1] == Position(3)


def test_all_checkpoints_corrupt(saved):
    checkpoints, _ = saved
    for path in checkpoints.paths():
        truncate(path)
    said = []
    assert checkpoints.load_last(said.append) is None
    assert len(said) == 3 and said[-1].endswith("Falling back to the beginning.")


def test_checkpoint_without_its_record_is_none_and_goes_with_the_next(saved):
    checkpoints, model = saved
    (checkpoints.folder / "epoch_0004.json").unlink()
    assert checkpoints.last().name == "epoch_0003.keras"
    checkpoints.save(model, Position(3, 5))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "epoch_0002.json",
        "epoch_0002.keras",
        "epoch_0003.json",
        "epoch_0003.keras",
        "epoch_0003_step_5.json",
        "epoch_0003_step_5.keras",
    ]


def test_cpu_minutes_end_training():
    """Busy steps are counted, but for the first; what happens between epochs is not."""

    class Model:
        steps_trained = 0
        stop_training = False

    def busy(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    minutes = callbacks.CPUMinutes(0.25 / 60)
    model = Model()
    minutes.set_model(model)
    for step in range(4):
        minutes.on_train_batch_begin(step)
        busy(0.1)
        model.steps_trained += 1
        minutes.on_train_batch_end(step)
        assert model.stop_training == (step == 3)
        busy(0.05)
    logs = {}
    minutes.on_epoch_end(0, logs)
    assert logs["cpu_minutes"] == pytest.approx(0.3 / 60, rel=0.3)
