"""Runs of so many minutes or steps: that they end in time, and can be repeated."""

import types

import keras
import numpy as np
import pytest

from kgen.training.checkpoints import Position
from kgen.training.errors import RunError
from kgen.training.length import Ending, Minutes, Pace
from kgen.training.run import load_model, train


class Machine:
    """A clock, and `fit` as Keras calls callbacks.

    The first step of each `fit` takes `starting` seconds, every other what `step_seconds(n)` says,
    and what follows an epoch `ending`, with an evaluation in it ten times as much; where that is
    done for the first time it takes `tracing` more.
    """

    steps_per_execution, steps_trained, stop_training = 1, 0, False

    def __init__(self, folder, step_seconds, ending=0.0, starting=0.0, tracing=0.0):
        self.now, self.step_seconds, self.ending = 100.0, step_seconds, ending
        self.starting, self.tracing, self.pace = starting, tracing, Pace(folder / "pace.csv")
        self.said, self.at = [], []  # at what time each step began

    def wait(self, seconds):
        self.now += seconds

    def end_once(self):
        self.wait(self.ending + self.tracing)
        self.tracing = 0.0

    def _optimizers(self):
        return []

    def train(self, minutes, steps_per_epoch, every=10**9, **options):
        """Trains from where the pace has come to; returns the seconds that were used in all."""
        position = Position(*divmod(self.pace.steps, steps_per_epoch))
        began, self.stop_training = self.now - self.pace.seconds, False
        length = Minutes(
            minutes,
            steps_per_epoch,
            position,
            self.pace,
            endings=[Ending(self.end_once, 1, 9)],
            evaluation=(evaluation := types.SimpleNamespace(every=every)),
            report=self.said.append,
            clock=lambda: self.now,
            **options,
        )
        length.set_model(self)
        length.on_train_begin()
        epoch, step, first = position.epoch, position.step, self.starting
        while not self.stop_training:
            length.on_epoch_begin(epoch)
            for batch in range(steps_per_epoch - step):
                length.on_train_batch_begin(batch)
                self.at.append(self.now - began)
                self.wait(first or self.step_seconds(len(self.at)))
                first = 0
                if self.stop_training:
                    break
            self.wait(self.ending * (1 if (epoch + 1) % evaluation.every else 10))
            length.record(len(self.at))
            length.on_epoch_end(epoch)
            epoch, step = epoch + 1, 0
        return self.now - began


def cosine(progress):
    passed = np.clip((progress - 0.05) / 0.95, 0, 1)
    return 0.01 + 0.99 * (1 + np.cos(np.pi * passed)) / 2


@pytest.mark.parametrize("steps_per_epoch", [100, 10**6])
def test_a_machine_that_slows_ends_in_time_with_the_rate_at_its_lowest(tmp_path, steps_per_epoch):
    machine = Machine(tmp_path, lambda n: 0.4 if n <= 600 else 1.3, ending=7.0, starting=50.0)
    used = machine.train(20, steps_per_epoch, schedule="cosine")
    assert 1200 - 2 * 7 - 2 * 1.3 < used <= 1200
    pace, last = machine.pace, len(machine.at) - 1
    assert pace.share(last) < 0.012 and pace.steps == last + 1
    assert pace.starting == pytest.approx(64, abs=0.1), "measuring, and the first step"
    for step in (300, 599, 700, last):
        progress = (machine.at[step] - 64) / (1200 - 1.1 * 7 - 64)
        assert pace.share(step) == pytest.approx(cosine(progress), abs=2e-3)
    rising = (machine.at[20] - 64) / (1200 - 1.1 * 7 - 64) / 0.05
    assert pace.share(20) == pytest.approx(rising, abs=2e-3)
    assert "0.4 s a step, so about 2," in machine.said[0]


def test_what_is_left_is_trained_on_at_the_rate_of_the_longer_run(tmp_path):
    machine = Machine(tmp_path, lambda n: 0.5, ending=1.0, starting=3.0)
    assert machine.train(1, 40, schedule="linear", warmup_steps=10) <= 60
    shares = [row[3] for row in machine.pace.rows]
    assert shares[0] == pytest.approx(1 / 11, abs=1e-3) and max(shares) == 1
    done = machine.pace.steps
    assert machine.pace.share(done) < 0.03
    machine.pace = Pace.read(machine.pace.path)
    assert 115 < machine.train(2, 40, schedule="linear", warmup_steps=10) <= 120
    assert machine.pace.share(done) == pytest.approx(0.5, abs=0.05)
    assert machine.pace.share(machine.pace.steps) < 0.02
    assert machine.pace.starting == pytest.approx(10, abs=0.1)


def test_few_steps_follow_the_time_too(tmp_path):
    machine = Machine(tmp_path, lambda n: 9.0, ending=1.0, starting=9.0)
    assert machine.train(1, 40, schedule="cosine") <= 60
    assert len(machine.at) == 6 and machine.pace.starting == 11
    for step in (2, 3, 4, 5):
        progress = (machine.at[step] - 11) / (60 - 1.1 - 11)
        assert machine.pace.share(step) == pytest.approx(cosine(progress), abs=2e-3)


def test_tracing_is_not_taken_for_what_follows_every_epoch(tmp_path):
    machine = Machine(tmp_path, lambda n: 1.0, ending=1.0, tracing=5.0)
    assert 600 - 1.1 * 10 - 3 < machine.train(10, 10**6, every=1) <= 600


def test_long_steps_end_in_time_with_two_of_them_in_an_epoch(tmp_path):
    machine = Machine(tmp_path, lambda n: 10.0, ending=1.0)
    assert 60 - 21 < machine.train(1, 2) <= 60


def test_one_step_is_taken_and_what_does_not_fit_is_said(tmp_path):
    machine = Machine(tmp_path, lambda n: 3.0, ending=5.0)
    assert machine.train(0.05, 40) > 3
    assert len(machine.at) == 1
    assert "samples, takes 5 s of the 3 s" in machine.said[0]


@pytest.mark.parametrize(
    ("steps_per_epoch", "ending", "every"), [(1, 1, 10**9), (2, 1, 3), (20, 25, 3)]
)
def test_whatever_the_epochs_the_rate_falls_by_the_time(tmp_path, steps_per_epoch, ending, every):
    machine = Machine(tmp_path, lambda n: 1.0, ending=ending, starting=30.0)
    used = machine.train(10, steps_per_epoch, every=every, schedule="linear", warmup_steps=3)
    assert 600 - 2 * ending - 5 < used <= 600
    starting = machine.pace.starting
    for step, seconds in list(enumerate(machine.at))[10:]:
        expected = 1 - (seconds - starting) / (600 - starting)
        assert machine.pace.share(step) == pytest.approx(expected, abs=0.1)
    assert ending == 1 or any("too short to evaluate" in line for line in machine.said)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def begin(run, model="vae_tiny", **options):
    options = {"num_samples": 1, "verbose": 0, "batch_size": 256, **options}
    return train(model, None if options.get("resume") else "digits", run, **options)


def state(run):
    model, _ = load_model(run.path)
    values = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(value) for value in values]


def assert_equal(run, other):
    assert run.metrics == other.metrics
    for x, y in zip(state(run), state(other), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_of_minutes_is_repeated_by_its_pace(tmp_path):
    run = begin(tmp_path / "run", minutes=0.1, schedule="cosine", batch_size=8)
    info = run.info
    starting = Pace.read(run.pace_path).starting  # on a busy machine all that there is
    assert info["seconds"] < max(7, 2 * starting) and info["steps"] == run.metrics[-1]["steps"]
    assert run.metrics[-1]["learning_rate"] < 1e-3 == info["pace"]["rates"][0]
    repeated = begin(tmp_path / "repeated", pace=str(run.path), batch_size=8)
    assert_equal(repeated, run)
    said = []
    go_on = {"run": run.path, "model": None, "resume": True, "report": said.append}
    begin(**go_on, batch_size=None)
    assert said == [
        f"{run.path} is finished: {info['steps']:,} steps are done. Train on with --minutes 0.2."
    ]
    with pytest.raises(RunError, match=r"was begun with minutes=0.1, and goes on by its minutes"):
        begin(**go_on, batch_size=None, epochs=3)


def test_a_run_of_steps_goes_on_from_inside_an_epoch(tmp_path):
    whole = begin(tmp_path / "whole", steps=12)
    begin(tmp_path / "run", steps=7)
    run = begin(tmp_path / "run", model=None, resume=True, steps=12, batch_size=None)
    assert [row["steps"] for row in run.metrics] == [5, 10, 12]
    assert_equal(run, whole)
