"""How long a run trains: for so many steps, for so many minutes, or at the pace of another run."""

import bisect
import csv
import io
import math
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from kgen import files
from kgen.training.callbacks import in_words
from kgen.training.schedules import LAST_SHARE, plain_optimizer

#: The share of the time over which the rate rises, where it falls after that, and the most steps.
WARMUP_SHARE, WARMUP_STEPS = 0.05, 1000


class Pace:
    """What a run of minutes did: which share of the highest rate from which step on.

    It is kept as `pace.csv`, of rows `(step, seconds, starting, share)`: steps that had been taken,
    seconds that had been used, how many of them on starting (measuring, tracing, compiling), and
    the share from there on. The last row is where the run has come to.
    """

    COLUMNS = ("step", "seconds", "starting", "share")

    def __init__(self, path, rows=()):
        self.path, self.rows = pathlib.Path(path), list(rows)

    @classmethod
    def read(cls, path):
        """The pace in a file, empty where there is none; `ValueError` where it cannot be read."""
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = [[row[name] for name in cls.COLUMNS] for row in csv.DictReader(file)]
            return cls(path, [(int(step), *map(float, rest)) for step, *rest in rows])
        except FileNotFoundError:
            return cls(path)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the pace of a run: {error}") from error

    @property
    def steps(self):
        """Int, the steps that were taken."""
        return self.rows[-1][0] if self.rows else 0

    @property
    def seconds(self):
        """Float, the seconds that were used."""
        return self.rows[-1][1] if self.rows else 0.0

    @property
    def starting(self):
        """Float, those that were used on starting."""
        return self.rows[-1][2] if self.rows else 0.0

    def share(self, step):
        """The share of the highest rate in the step after `step` ones."""
        after = bisect.bisect_right(self.rows, step, key=lambda row: row[0])
        return self.rows[after - 1][3] if after else 1.0

    def forget_after(self, step):
        """Forgets what came after `step` steps, which are taken again."""
        self.rows = [row for row in self.rows if row[0] <= step]

    def add(self, step, seconds, starting, share):
        self.rows.append((step, round(seconds, 3), round(starting, 3), share))

    def write(self):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.COLUMNS, *self.rows])
        files.write_text(self.path, text.getvalue())


class Length(keras.callbacks.Callback):
    """Ends a run after `total` steps, inside an epoch too; with a `pace`, at its rates.

    It comes last among the callbacks: what the others do at the end of an epoch is done then.

    Args:
        total: Int, steps of the whole run; `None` for no end.
        steps_per_epoch: Int.
        position: `Position` from which `fit` goes on.
        pace: `Pace`.
        rates: Sequence of floats, the highest rates of the model's optimizers, which the shares of
            the pace are of; empty where they are not to be moved.
    """

    def __init__(self, total, steps_per_epoch, position, pace=None, rates=()):
        super().__init__()
        self.total, self.steps_per_epoch, self.position = total, steps_per_epoch, position
        self.pace, self.rates = pace, rates
        self._share = None  # of the highest rates, which the optimizers have

    def record(self, step):
        """Is called before a checkpoint after `step` steps is written."""

    def on_epoch_begin(self, epoch, logs=None):
        begun = self.position.step if epoch == self.position.epoch else 0
        self._before = epoch * self.steps_per_epoch + begun
        self._at_once = self.model.steps_per_execution

    def on_train_batch_begin(self, batch, logs=None):
        step = self._before + batch
        if self.pace is not None:
            self._move(self.pace.share(step))
        if self.total is not None and step + self._at_once >= self.total:
            self.model.stop_training = True  # after this step

    def _move(self, share):
        """Sets the rates, which are variables: nothing is traced again."""
        if share == self._share:
            return
        self._share = share
        for optimizer, rate in zip(self.model._optimizers(), self.rates, strict=bool(self.rates)):
            plain_optimizer(optimizer).learning_rate = np.float32(rate * share)


class StepBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar, which also says of an epoch that is not whole how many steps it had.

    Where a run has no number of `epochs`, it leaves out the line "Epoch 1/20".
    """

    async_safe = True  # as Keras takes its own one to be

    def __init__(self, epochs=True):
        super().__init__()
        self._of_epochs = epochs

    def set_params(self, params):
        super().set_params(params if self._of_epochs else {**params, "epochs": 1})

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._at_once = self.model.steps_per_execution

    def on_train_batch_begin(self, batch, logs=None):
        self._steps = batch + self._at_once  # `seen` comes from several threads

    def on_epoch_end(self, epoch, logs=None):
        whole = self.target
        self.target = self.progbar.target = min(self._steps, whole)
        super().on_epoch_end(epoch, logs)
        self.target = whole


class Ending(NamedTuple):
    """A part of what follows the last step of an epoch, which is measured before the first one.

    `once()` does it; it is done `times`, `evaluating` more where samples are evaluated, and `after`
    more when the run ends.
    """

    once: Callable[[], object]
    times: float
    evaluating: float = 0.0
    after: float = 0.0


class Minutes(Length):
    """Ends a run after so many minutes, and fits the rate to them by the clock.

    The rate's way is that of `kgen.training.schedules.RunSchedule`, with time in the place of
    steps: it rises over `warmup_steps`, or where there are none over a twentieth of the time and at
    most 1000 steps, and then falls along a cosine or a line, by the time that has passed since the
    first step, which is traced. So it ends with 1 % in time, also on a machine that slows. It is
    moved in thousandths of the highest rate, and each move is kept in the `pace`, by which the run
    can be repeated.

    Minutes are all that passes, tracing, validation, samples and checkpoints too. What follows the
    last step is measured before the first one, and then at the end of every epoch, and the last
    step is taken so early that it fits in. One step is always taken.

    Args:
        minutes: Float.
        endings: Sequence of `Ending`.
        evaluation: `EvaluateSamples`, or `None`. It is given up where it would not end in time.
        schedule: `"constant"`, `"cosine"` or `"linear"`.
        warmup_steps: Int, or `None`.
        report: Callable that is given lines for the user.
        clock: Callable, seconds.
    """

    #: Seconds between two looks at the clock: each waits for the device.
    LOOK = 0.05

    #: What a measured time is multiplied with.
    SAFETY = 1.1

    def __init__(
        self,
        minutes,
        steps_per_epoch,
        position,
        pace,
        rates=(),
        *,
        endings=(),
        evaluation=None,
        schedule="constant",
        warmup_steps=None,
        report=lambda line: None,
        clock=time.monotonic,
    ):
        super().__init__(None, steps_per_epoch, position, pace, rates)
        self.seconds, self.endings, self.evaluation = 60 * minutes, endings, evaluation
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.report, self.clock = report, clock
        self._began = clock() - pace.seconds
        self._ends = None  # of an epoch in seconds, by whether samples are evaluated
        self._step_seconds = 0.0
        self._told = False
        self._before_start = pace.seconds, pace.starting
        self._stepped = False
        self._started = None  # seconds used on starting, once that is over
        self._progress = 0.0
        self._risen = 0.0 if schedule == "constant" and not warmup_steps else None
        whole = [row for row in pace.rows if row[3] == 1]
        if self._risen is None and whole:
            self._risen = self._progress_at(whole[0][1], whole[0][2], self.seconds)

    def used(self):
        """Seconds so far."""
        return self.clock() - self._began

    def record(self, step):
        share = self.pace.share(step) if self._share is None else self._share
        now = self.used()
        self.pace.add(step, now, self._starting(now), share)
        self.pace.write()

    def on_train_begin(self, logs=None):
        if self._ends is not None:  # `fit` is called again after the rest of an epoch
            return
        measured = [(self._measure(ending), ending) for ending in self.endings]
        self._ends = {
            evaluated: sum(s * (e.times + evaluated * e.evaluating) for s, e in measured)
            for evaluated in (False, True)
        }
        self._after = sum(seconds * ending.after for seconds, ending in measured)
        if (end := self._end(self.position.epoch)) > self.seconds / 2:
            self.report(
                f"{'Time:':<12}what follows the last step, such as validation and samples, takes "
                f"{in_words(end)} of the {in_words(self.seconds)}"
            )

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch)
        self._epoch, self._mark = epoch, None
        if epoch > self.position.epoch:
            self.report(
                f"{'Time:':<12}{in_words(self.used())} of {in_words(self.seconds)} after {epoch} "
                f"epoch{'s' * (epoch > 1)}"
            )

    def on_train_batch_begin(self, batch, logs=None):
        self._last_batch, mark = self.used(), self._mark
        if mark is not None:
            steps, passed = batch - mark[0], self._last_batch - mark[1]
            if max(passed, steps * self._step_seconds) < self.LOOK:
                return
        if batch:
            self.model.steps_trained  # noqa: B018  waits for the device, of which JAX runs ahead
            self._last_batch = self.used()
        if mark is not None:
            self._step_seconds = (self._last_batch - mark[1]) / steps
        # The first step of all is traced and compiled: the next ones tell how long one takes.
        if self._stepped and self._started is None:
            self._started = self._starting(self._last_batch)
        self._stepped = True
        later = batch or self._epoch > self.position.epoch  # than the step that is traced
        self._mark = (batch, self._last_batch) if later else None
        self._look(self._before + batch, self._last_batch)

    def on_epoch_end(self, epoch, logs=None):
        # All other callbacks have done what they do.
        if self._started is not None:  # else the last step was the first one
            self._ends[self._evaluates(epoch)] = self.used() - self._last_batch - self._step_seconds
        if self._evaluates(epoch + 1) and not self._fits(True) and self._fits(False):
            self.evaluation.every = math.inf
            self.report(f"{'Time:':<12}what is left is too short to evaluate samples again")
        if not self._fits(self._evaluates(epoch + 1)):
            self.model.stop_training = True

    def _fits(self, evaluated):
        """Whether there is time for a step more, and for what follows an epoch then."""
        end = self.SAFETY * (self._ends[evaluated] + self._after)
        return self.used() + self._step_seconds + end <= self.seconds

    def _look(self, step, now):
        """Moves the rate, and ends training after this step where there is no time for more."""
        end = last = self.seconds - self.SAFETY * self._end(self._epoch)
        left = (self._epoch + 1) * self.steps_per_epoch - step
        if now + left * self._step_seconds < end:  # there will be another epoch
            last = max(end, self.seconds - self.SAFETY * self._end(self._epoch + 1))
        self._move_to(step, now, self._progress_at(now, self._starting(now), last))
        if now + 2 * self._at_once * self._step_seconds > end:
            self.model.stop_training = True
        if not self._told and self._step_seconds and now > 2.0:
            self._told = True
            steps, seconds = self.steps_per_epoch, max(0.0, end - now)
            epoch = steps * self._step_seconds
            if seconds > epoch:  # what follows others than the last one
                epoch += self._ends[False]
            steps = step + round(seconds / epoch * steps)
            self.report(
                f"{'Time:':<12}{in_words(self._step_seconds)} a step, so about {steps:,} steps, "
                f"{steps / self.steps_per_epoch:.3g} epochs, in {in_words(self.seconds)}"
            )

    def _move_to(self, step, now, progress):
        self._progress = max(self._progress, progress)
        share = round(max(self._share_at(step, self._progress), 0.001), 3)
        if share != self._share:
            self.pace.add(step, now, self._starting(now), share)
        self._move(share)

    def _starting(self, now):
        """Seconds of those up to `now` that were used on starting."""
        if self._started is not None:
            return self._started
        seconds, starting = self._before_start
        return starting + now - seconds

    def _progress_at(self, now, starting, end):
        """How much of the time that steps have is over, 0 to 1."""
        return min(1.0, max(0.0, now - starting) / max(end - starting, 1e-9))

    def _share_at(self, step, progress):
        if self._risen is None:
            rise = max(progress / WARMUP_SHARE, (step + 1) / (WARMUP_STEPS + 1))
            if self.warmup_steps is not None:
                rise = (step + 1) / (self.warmup_steps + 1)
            if rise < 1:
                return rise
            self._risen = progress
            if self.warmup_steps is None:  # a slow step may have left the rise far behind
                self._risen = min(progress, WARMUP_SHARE)
        if self.schedule == "constant":
            return 1.0
        passed = max(0.0, progress - self._risen) / max(1 - self._risen, 1e-9)
        left = (1 + math.cos(math.pi * passed)) / 2 if self.schedule == "cosine" else 1 - passed
        return LAST_SHARE + (1 - LAST_SHARE) * left

    def _measure(self, ending):
        seconds = self._timed(ending.once)
        whole = seconds * (ending.times + ending.evaluating + ending.after)
        # The first time is traced and compiled, which is done then.
        return self._timed(ending.once) if whole > 0.01 * self.seconds else seconds

    def _timed(self, once):
        began = self.clock()
        once()
        return self.clock() - began

    def _evaluates(self, epoch):
        return self.evaluation is not None and (epoch + 1) % self.evaluation.every == 0

    def _end(self, epoch):
        return self._ends[self._evaluates(epoch)] + self._after
