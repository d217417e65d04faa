"""What a training run is told beside its model and its data."""

import dataclasses

#: What a run that goes on may do otherwise than before.
MAY_CHANGE = ("epochs", "devices", "hosts", "evaluate_every", "keep_best")

# As in kgen.training.schedules, which imports Keras.
_SCHEDULES = ("constant", "cosine", "linear")

_POLICIES = {name: f"mixed_{name.removeprefix('mixed_')}" for name in ("bfloat16", "float16")}
_POLICIES |= {policy: policy for policy in _POLICIES.values()}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The options of `kgen.training.run.train`, which `run.json` keeps as `arguments`.

    `ValueError` where a number is not positive, or `mixed_precision` is not known.
    """

    #: Dict of arguments of the model that replace the preset's.
    model_arguments: dict = dataclasses.field(default_factory=dict)
    #: Bool, train on the labels of the data.
    conditional: bool = False
    #: Dict of further arguments of `kgen.data.load`.
    data_arguments: dict = dataclasses.field(default_factory=dict)
    #: Path of a run, a `.keras` file or a preset whose weights the model begins with, or `None`.
    begin_with: str | None = None
    #: Int, the epoch to train up to.
    epochs: int = 20
    #: Int, images per step, of all devices and hosts together; `None` for the model's own default,
    #: which `run.json` then names.
    batch_size: int | None = None
    #: Float; `None` for the model's own default.
    learning_rate: float | None = None
    #: `"constant"`, `"cosine"` or `"linear"`, over all epochs, see
    #: `kgen.training.schedules.RunSchedule`; `None` for the model's own default.
    schedule: str | None = None
    #: Int, steps over which the learning rate rises; `None` for the schedule's own default.
    warmup_steps: int | None = None
    #: Int, for the initial weights, the order of the images and all noise.
    seed: int = 0
    #: `"bfloat16"`, `"float16"` or `None`.
    mixed_precision: str | None = None
    #: Bool or `"auto"`, compile with XLA.
    jit: bool | str = "auto"
    #: `"all"` or int, the devices that share each batch, see
    #: `kgen.training.distribution.data_parallel`; `None` for one.
    devices: int | str | None = None
    #: Bool, train together with other hosts. The first one writes the run; there are no
    #: samples, and Ctrl-C goes back to the last epoch.
    hosts: bool = False
    #: Int, epochs between evaluations of samples on the validation images, see
    #: `kgen.evaluation.EvaluateSamples`; `None` for none.
    evaluate_every: int | None = None
    #: Name of a metric; the model of the epoch that is best by it is kept as `best.keras`.
    #: Without `evaluate_every` every epoch is evaluated.
    keep_best: str | None = None

    def __post_init__(self):
        from kgen.checks import check_int, check_seed, unknown_name  # with NumPy

        for name in ("epochs", "batch_size", "evaluate_every"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_int(1, **{name: value}))
        if self.warmup_steps is not None:
            warmup_steps = check_int(0, warmup_steps=self.warmup_steps)
            object.__setattr__(self, "warmup_steps", warmup_steps)
        object.__setattr__(self, "seed", check_seed(self.seed))
        if self.schedule not in (None, *_SCHEDULES):
            raise ValueError(unknown_name("schedule", str(self.schedule), _SCHEDULES))
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(
                f"learning_rate must be positive. Received: learning_rate={self.learning_rate}"
            )
        if self.mixed_precision is not None:
            if self.mixed_precision not in _POLICIES:
                name = str(self.mixed_precision)
                raise ValueError(unknown_name("mixed precision", name, _POLICIES))
            object.__setattr__(self, "mixed_precision", _POLICIES[self.mixed_precision])
