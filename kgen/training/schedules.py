"""How the learning rate changes over a run: `RunSchedule`, on Keras's schedules."""

import numbers

import keras
import numpy as np
from keras import ops
from keras.optimizers import schedules

from kgen.checks import check_ints, unknown_name

SCHEDULES = ("constant", "cosine", "linear")

#: The share of the rate that a run ends with.
LAST_SHARE = 0.01


@keras.saving.register_keras_serializable(package="kgen")
class RunSchedule(schedules.LearningRateSchedule):
    """A rise over the first steps, then a learning rate that stays or falls to 1 % at the last.

    Args:
        schedule: `"constant"`; `"cosine"`, half a wave as in Loshchilov and Hutter, "SGDR" (ICLR
            2017; arXiv 1608.03983), equation 5; or `"linear"`.
        learning_rate: Float, the highest rate.
        total_steps: Int, steps of the run, those of the rise among them. After them the rate
            stays.
        warmup_steps: Int, steps of the rise, linear as in Goyal et al., "Accurate, large minibatch
            SGD" (2017; arXiv 1706.02677), section 2.2, below `total_steps`; `None` for a twentieth
            of the run, at most 1000, or none where the rate is constant.
        updates: Int, updates that the optimizer makes in a step (a GAN's critic makes several).

    A `ValueError` where one is out of range or unknown.
    """

    def __init__(self, schedule, learning_rate, total_steps, warmup_steps=None, updates=1):
        if schedule not in SCHEDULES:
            raise ValueError(unknown_name("schedule", str(schedule), SCHEDULES))
        check_ints(1, total_steps=total_steps, updates=updates)
        self.given_warmup_steps = warmup_steps
        if warmup_steps is None:
            warmup_steps = 0 if schedule == "constant" else min(1000, total_steps // 20)
        check_ints(0, warmup_steps=warmup_steps)
        if warmup_steps >= total_steps:
            raise ValueError(
                f"warmup_steps must be below the {total_steps} steps of the run. Received: "
                f"warmup_steps={warmup_steps}"
            )
        self.schedule = schedule
        self.learning_rate = float(learning_rate)
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.updates = updates
        rate, steps = self.learning_rate, updates * (total_steps - warmup_steps)
        self._after = {
            "constant": lambda step: rate,
            "cosine": schedules.CosineDecay(rate, steps, alpha=LAST_SHARE),
            "linear": schedules.PolynomialDecay(rate, steps, end_learning_rate=LAST_SHARE * rate),
        }[schedule]

    def __call__(self, step):
        """The rate, a float32 scalar, of the update after `step` ones."""
        step, warmup = ops.cast(step, "float32"), self.warmup_steps * self.updates
        after = self._after(ops.maximum(step - warmup, 0.0))
        # From above 0, so that no step is lost.
        rising = self.learning_rate * (step + 1) / (warmup + 1)
        return ops.where(step < warmup, rising, ops.cast(after, "float32"))

    def over(self, total_steps):
        """The same schedule of a run of another length."""
        return RunSchedule(**{**self.get_config(), "total_steps": total_steps})

    def slower(self, share):
        """The same schedule of a share of its rate."""
        return RunSchedule(**{**self.get_config(), "learning_rate": share * self.learning_rate})

    def get_config(self):
        return {
            "schedule": self.schedule,
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.given_warmup_steps,
            "updates": self.updates,
        }


def scheduled_optimizer(
    model,
    learning_rate=None,
    schedule=None,
    warmup_steps=None,
    total_steps=None,
    updates=1,
    **options,
):
    """A model's default optimizer, whose rate follows a `RunSchedule` where it is to change.

    The arguments are those of `ImageGenerator.compile` and of `RunSchedule`; `options` go to
    `default_optimizer`.
    """
    is_number = isinstance(learning_rate, (numbers.Real, type(None)))
    chosen = schedule
    if schedule is None:
        fixed = total_steps is None or not is_number
        schedule = "constant" if fixed else model.default_schedule
    if schedule not in SCHEDULES:
        raise ValueError(unknown_name("schedule", str(schedule), SCHEDULES))
    optimizer = model.default_optimizer(learning_rate, **options)
    if schedule == "constant" and not warmup_steps:
        return optimizer
    if not is_number:
        raise ValueError(
            "A learning_rate that is a schedule already takes no other, and no warmup_steps. "
            f"Received: schedule={chosen!r}, warmup_steps={warmup_steps}"
        )
    if schedule == "constant":
        total_steps = max(total_steps or 0, warmup_steps + 1)
    elif total_steps is None:
        raise ValueError(
            f"schedule='{schedule}' is fitted to the length of training: give total_steps, "
            "epochs * (len(images) // batch_size). Received: total_steps=None"
        )
    rate = rate_of(optimizer)
    changing = RunSchedule(schedule, rate, total_steps, warmup_steps, updates)
    return model.default_optimizer(changing, **options)


def half_cosine(step, steps):
    """From 1 at step 0 to 0 at `steps` and after, along half a wave; 0 where `steps` is `None`."""
    if steps is None:
        return ops.zeros((), "float32")
    share = ops.minimum(ops.cast(step, "float32") / steps, 1.0)
    return (1 + ops.cos(np.pi * share)) / 2


def plain_optimizer(optimizer):
    """An optimizer itself, where another one scales its loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def schedule_of(optimizer):
    """The `RunSchedule` of an optimizer, or `None`."""
    schedule = getattr(plain_optimizer(optimizer), "_learning_rate", None)
    return schedule if isinstance(schedule, RunSchedule) else None


def slow_down(model, share):
    """Takes a share of the learning rates that a model was compiled with."""
    for optimizer in map(plain_optimizer, model._optimizers()):
        schedule = schedule_of(optimizer)
        changed = share * rate_of(optimizer) if schedule is None else schedule.slower(share)
        optimizer.learning_rate = changed


def rate_of(optimizer):
    """The learning rate that an optimizer has now, the shortest float that is it in float32."""
    return float(str(np.float32(ops.convert_to_numpy(plain_optimizer(optimizer).learning_rate))))
