"""What a training run is told beside its model and its data."""

import dataclasses

#: Epochs of a run that is told no other length.
EPOCHS = 20

#: The share of a model's own learning rate that a run takes which goes on from trained weights.
#: `benchmarks/fine_tuning.py --rate` compares others.
FINE_TUNING_RATE = 0.3

#: What says how long a run is: one of these.
LENGTHS = ("epochs", "steps", "minutes", "pace")

#: What a run that goes on may do otherwise than before.
MAY_CHANGE = (
    *("epochs", "steps", "minutes", "devices", "hosts", "evaluate_every", "keep_best"),
    "track",
)

# As in kgen.training.schedules, which imports Keras.
_SCHEDULES = ("constant", "cosine", "linear")

_POLICIES = {name: f"mixed_{name.removeprefix('mixed_')}" for name in ("bfloat16", "float16")}
_POLICIES |= {policy: policy for policy in _POLICIES.values()}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The options of `kgen.training.run.train`, which `run.json` keeps as `arguments`.

    `ValueError` where a number is not positive, `mixed_precision` is not known, or a run is told
    two lengths.
    """

    #: Dict of arguments of the model that replace the preset's.
    model_arguments: dict = dataclasses.field(default_factory=dict)
    #: Bool, train on the labels of the data.
    conditional: bool = False
    #: Dict of further arguments of `kgen.data.load`.
    data_arguments: dict = dataclasses.field(default_factory=dict)
    #: What holds a trained model, see `kgen.load`, whose weights a model begins with that is built
    #: by its name, see `ImageGenerator.begin_with`; or `None`.
    begin_with: str | None = None
    #: Int, the epoch to train up to; `None` where another length is given, else 20.
    epochs: int | None = None
    #: Int, the step to train up to, inside an epoch too.
    steps: int | None = None
    #: Float, minutes to train for, by the clock: from the first step, which is traced, to the model
    #: that is saved, with validation, samples and checkpoints. Not with several hosts.
    minutes: float | None = None
    #: Path of a run of minutes, to take as many steps as it did, at the rates at which it did.
    pace: str | None = None
    #: Int, images per step, of all devices and hosts together; `None` for the model's own default,
    #: which `run.json` then names.
    batch_size: int | None = None
    #: Float; `None` for the model's own default, and `FINE_TUNING_RATE` of it where a trained model
    #: goes on.
    learning_rate: float | None = None
    #: `"constant"`, `"cosine"` or `"linear"`, over the whole run, see
    #: `kgen.training.schedules.RunSchedule` and `kgen.training.length.Minutes`; `None` for the
    #: model's own default.
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
    #: Sequence of `"wandb"` and `"mlflow"`, each with a project behind a colon where it is to be
    #: another than `kgen`, such as `"wandb:digits"`; see `kgen.training.tracking`.
    track: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        from kgen.checks import Number, check_int, check_seed, unknown_name  # with NumPy

        track = [self.track] if isinstance(self.track, str) else list(self.track)
        object.__setattr__(self, "track", track)
        if self.minutes is not None:
            object.__setattr__(self, "minutes", Number(above=0).check("minutes", self.minutes))
        lengths = self._lengths()
        if len(lengths) > 1:
            raise ValueError(
                "A run has one length: epochs, steps, minutes or the pace of another one. "
                f"Received: {', '.join(f'{name}={value!r}' for name, value in lengths.items())}"
            )
        if not lengths:
            object.__setattr__(self, "epochs", EPOCHS)
        if self.minutes is not None and self.hosts:
            raise ValueError(
                "Hosts have clocks of their own and would not stop at the same step: with several "
                f"hosts give epochs or steps. Received: minutes={self.minutes}"
            )
        for name in ("schedule", "warmup_steps"):
            if self.pace is not None and getattr(self, name) is not None:
                raise ValueError(
                    "The pace of another run says the rate of every step. Received: "
                    f"pace={self.pace!r}, {name}={getattr(self, name)!r}"
                )
        for name in ("epochs", "steps", "batch_size", "evaluate_every"):
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

    @property
    def length(self):
        """The name of the one among `LENGTHS` that is given, and its value."""
        [pair] = self._lengths().items()
        return pair

    def _lengths(self):
        given = {name: getattr(self, name) for name in LENGTHS}
        return {name: value for name, value in given.items() if value is not None}
