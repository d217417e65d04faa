"""The contract that every generator in the zoo keeps."""

import contextlib
import difflib
import inspect
import json
import numbers
import os
import pathlib
import shutil
import tempfile
import warnings

import keras
import numpy as np
from keras import ops

from kgen import random
from kgen.endpoint import Endpoint, image_spec, label_spec, seed_spec
from kgen.training.step import TrainingStep, compile_function


class ImageGenerator(TrainingStep, keras.Model):
    """Base class of all image generators.

    Four promises hold for every subclass: images are `uint8 [B, H, W, C]` in 0 to 255 at
    every border; `sample` is a pure, row-wise function of one seed per image; what is
    exported is the whole sampler; and `kgen.models` registers a tiny preset, by which the
    zoo's tests hold the subclass to all of this.

    A subclass builds its networks in `__init__`, sets `metric_names` and states

    - `objective(batch, training)`, or `update` and `test_update` when it has more than one
      optimizer,
    - `sample(seeds, labels=None, ...)`,
    - `get_config`, and `endpoints` when it offers more than `generate`.

    Args:
        image_shape: Tuple `(H, W, C)`; `C` is 1 (grey), 3 (RGB) or 4 (RGBA).
        num_classes: Int for a class-conditional model, `None` for an unconditional one.
        seed: Int, 0 to 2**31 - 1, from which all noise of training and evaluation is
            drawn. (Initial weights follow `keras.utils.set_random_seed`, as in Keras.)

    Example:

    >>> model = kgen.models.VAE(image_shape=(28, 28, 1))
    >>> model.compile()
    >>> model.fit(images, epochs=10)              # uint8 [N, 28, 28, 1]
    >>> model.generate(16, seed=0).shape
    (16, 28, 28, 1)
    """

    #: Names of the scalars that `objective` (or `update`) returns, as they are logged.
    metric_names = ("loss",)

    #: Dict of preset name to constructor arguments.
    presets = {}

    #: The preset that the zoo's tests use: small enough to train in a second.
    tiny_preset = None

    def __init__(self, image_shape, num_classes=None, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.image_shape = _check_image_shape(image_shape)
        if num_classes is not None and (int(num_classes) != num_classes or num_classes < 1):
            raise ValueError(
                "num_classes must be a positive int, or None for an unconditional model. "
                f"Received: num_classes={num_classes}"
            )
        self.num_classes = num_classes
        self.seed = check_seed(seed)
        self.trackers = [keras.metrics.Mean(name=name) for name in self.metric_names]
        # What makes the noise of each step different; saved, so that a resumed run goes on.
        self.training_steps = self._counter("training_steps")
        self.test_steps = self._counter("test_steps")
        self._compiled_functions = {}

    def _counter(self, name):
        return self.add_weight(
            (), "zeros", "int32", trainable=False, name=name, aggregation="only_first_replica"
        )

    def get_config(self):
        return {
            **super().get_config(),
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "seed": self.seed,
        }

    @contextlib.contextmanager
    def dtype_policy_scope(self):
        """Layers built inside take the model's dtype policy."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype_policy)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(before)

    # Training ------------------------------------------------------------------------

    def objective(self, batch, training):
        """The loss to minimise and what to log.

        Args:
            batch: `kgen.training.step.Batch`.
            training: Bool.

        Returns:
            Tuple `(loss, logs)`: a float32 scalar and a dict with a float32 scalar for
            every name in `metric_names`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement objective or update")

    def default_optimizer(self, learning_rate=None):
        """The optimizer that `compile()` uses when none is given."""
        return keras.optimizers.Adam(1e-3 if learning_rate is None else learning_rate)

    def compile(
        self,
        optimizer=None,
        *,
        learning_rate=None,
        jit_compile="auto",
        steps_per_execution=1,
        run_eagerly=False,
        auto_scale_loss=True,
    ):
        """Configures training. Called without arguments it chooses good defaults.

        Args:
            optimizer: A Keras optimizer or its name; `None` for the model's own default.
            learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule` for
                the default optimizer.
            jit_compile: Bool or `"auto"`: XLA on JAX and on GPUs, not on TensorFlow's CPU,
                where it is slower.
            steps_per_execution: Int, training steps per call of the compiled function.
            run_eagerly: Bool, for debugging.
            auto_scale_loss: Bool, scale the loss under `mixed_float16`.
        """
        if optimizer is None:
            optimizer = self.default_optimizer(learning_rate)
        elif learning_rate is not None:
            raise ValueError(
                "learning_rate goes with the default optimizer; give a custom optimizer its own. "
                f"Received: optimizer={optimizer}, learning_rate={learning_rate}"
            )
        self._compile(optimizer, jit_compile, steps_per_execution, run_eagerly, auto_scale_loss)
        self._compile_arguments = {
            "optimizer": optimizer,
            "jit_compile": jit_compile,
            "steps_per_execution": steps_per_execution,
        }

    def _compile(self, optimizer, jit_compile, steps_per_execution, run_eagerly, auto_scale_loss):
        super().compile(
            optimizer=optimizer,
            jit_compile=self._resolve_jit() if jit_compile == "auto" else jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            auto_scale_loss=auto_scale_loss,
        )
        self.optimizer.build(self.trainable_variables)

    def get_compile_config(self):
        if not self.compiled:
            return {}
        return keras.saving.serialize_keras_object(dict(self._compile_arguments))

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    def fit(
        self,
        x,
        y=None,
        batch_size=64,
        epochs=1,
        *,
        validation_data=None,
        shuffle=True,
        initial_epoch=0,
        callbacks=None,
        horizontal_flip=False,
        **kwargs,
    ):
        """Trains the model, as `keras.Model.fit` does, on images.

        Args:
            x: uint8 images `[N, H, W, C]`, a `kgen.data.Split` (`data.train`), or a
                `tf.data.Dataset` or `keras.utils.PyDataset` of batches `images` or
                `(images, labels)`.
            y: Integer labels `[N]` for a class-conditional model, when `x` is an array.
            batch_size: Int, images per step (over all devices). A last, smaller batch of
                an epoch is left out.
            epochs: Int, the epoch to train up to.
            validation_data: As `x`, or a tuple `(images, labels)`.
            shuffle: Bool. The order of an epoch follows from the model's `seed` and the
                epoch's number alone, so a resumed run sees what an unbroken one sees.
            initial_epoch: Int, the epoch to start at.
            callbacks: List of `keras.callbacks.Callback`.
            horizontal_flip: Bool, mirror half of the images, for arrays.
            **kwargs: As in `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: Images or labels are not what the model takes.
        """
        if self.needs_adapting():
            images = getattr(x, "images", x)
            if not hasattr(images, "shape"):
                raise ValueError(
                    f"{type(self).__name__} must look at images before it trains on a dataset of "
                    "batches: call model.adapt(images) with uint8 images [N, H, W, C] first."
                )
            self.adapt(self.check_split(x, y).images)
        x = self._batches(x, y, batch_size, shuffle=shuffle, horizontal_flip=horizontal_flip)
        if hasattr(x, "epoch"):
            x.epoch = initial_epoch
        if validation_data is not None:
            pair = validation_data if isinstance(validation_data, tuple) else (validation_data,)
            validation_data = self._batches(
                *pair, batch_size=kwargs.pop("validation_batch_size", None) or batch_size
            )
        return super().fit(
            x,
            shuffle=False,  # `x` has its order; Keras's own comes from Python's global state
            epochs=epochs,
            validation_data=validation_data,
            initial_epoch=initial_epoch,
            callbacks=[_Diagnosis(), *(callbacks or [])],
            **kwargs,
        )

    def evaluate(self, x, y=None, batch_size=64, **kwargs):
        """Measures the model's losses on images, as `keras.Model.evaluate` does.

        The noise is the same at every call, so equal weights give equal figures.

        Args:
            x: As for `fit`.
            y: As for `fit`.
            batch_size: Int, images per step.
            **kwargs: As in `keras.Model.evaluate`; `return_dict=True` names the figures.

        Returns:
            List of floats, or a dict.
        """
        self.test_steps.assign(0)
        figures = super().evaluate(self._batches(x, y, batch_size), **kwargs)
        # Keras gives a single figure without its list.
        return figures if isinstance(figures, (list, dict)) else [figures]

    def needs_adapting(self):
        """Whether `fit` must call `adapt(images)`, which a subclass has, before it begins."""
        return False

    def diagnose(self, logs):
        """Names what is going wrong in training.

        Args:
            logs: Dict of an epoch's metrics.

        Returns:
            List of strings, `"<name of the failure>: <figures and remedy>"`; empty when all
            is well.
        """
        return []

    def _batches(self, x, y=None, batch_size=64, shuffle=False, horizontal_flip=False):
        """Batches of checked images and labels; a dataset is handed through."""
        if isinstance(x, keras.utils.PyDataset) or hasattr(x, "element_spec"):
            if y is not None:
                raise ValueError("y must be None when x is a dataset: it yields (images, labels)")
            return x
        split = self.check_split(x, y, horizontal_flip)
        return split.batches(batch_size, shuffle=shuffle, seed=self.seed, drop_remainder=shuffle)

    def check_split(self, x, y=None, horizontal_flip=False):
        """A `kgen.data.Split` of what this model takes, from a split or from arrays.

        Args:
            x: uint8 images `[N, H, W, C]`, or a `kgen.data.Split`, whose labels are left
                out when the model is unconditional.
            y: Integer labels `[N]` for a class-conditional model, when `x` is an array.
            horizontal_flip: Bool, for arrays.

        Raises:
            ValueError: Images or labels are not what the model takes.
        """
        from kgen.data import Split

        if not isinstance(x, Split):
            if y is not None and self.num_classes is None:
                raise ValueError(
                    f"{type(self).__name__} is unconditional and takes no labels. Received: y of "
                    f"shape {np.shape(y)}. Leave y out, or build the model with num_classes."
                )
            x = Split(np.asarray(x), y, horizontal_flip=horizontal_flip)
        if tuple(x.images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"{type(self).__name__} takes images of shape {self.image_shape}. Received: "
                f"{tuple(x.images.shape[1:])}. Load the data with image_shape={self.image_shape}."
            )
        if self.num_classes is None:
            x = Split(x.images, horizontal_flip=x.horizontal_flip)
        else:
            self._check_labels(x.labels, len(x))
        return x

    def _check_labels(self, labels, n):
        """int32 `[n]` labels in range, from an int or a sequence; None when unconditional."""
        name = type(self).__name__
        if self.num_classes is None:
            if labels is not None:
                raise ValueError(
                    f"{name} is unconditional and takes no labels. Received: labels={labels!r}"
                )
            return None
        if labels is None:
            raise ValueError(
                f"{name} is class-conditional and needs labels, one per image, in 0 to "
                f"{self.num_classes - 1}. Received: None"
            )
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu" or labels.shape not in ((), (n,)):
            raise ValueError(
                f"labels must be one integer or {n} integers, one per image. Received: "
                f"shape {labels.shape}, dtype {labels.dtype}"
            )
        if n and (labels.min() < 0 or labels.max() >= self.num_classes):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ValueError(f"labels must be in 0 to {self.num_classes - 1}. Received: {wrong}")
        return np.broadcast_to(labels.astype("int32"), (n,))

    # Sampling ------------------------------------------------------------------------

    def sample(self, seeds, labels=None):
        """Draws images: a pure function of tensors, row by row.

        Args:
            seeds: int32 tensor `[B]`, one seed per image.
            labels: int32 tensor `[B]` for a class-conditional model, else `None`.

        Returns:
            uint8 tensor `[B, H, W, C]`. Row *i* depends on row *i* of the inputs alone.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement sample")

    def generate(
        self, n=None, labels=None, seed=0, *, seeds=None, batch_size=64, progress="auto", **options
    ):
        """Draws images, compiled and in batches.

        Args:
            n: Int, how many images; or a sequence of ints, one seed per image.
            labels: For a class-conditional model, one class for all images or one each.
            seed: Int; image *i* is drawn from the *i*-th seed derived from it.
            seeds: Sequence of ints, one seed per image, in place of `n` and `seed`. The
                same seed gives the same image here, in TF Serving and in ONNX Runtime.
            batch_size: Int, images per call of the compiled sampler.
            progress: Bool, or `"auto"` for a progress bar when there are over 8 batches.
            **options: Further arguments of the model's `sample`, the same for all images.

        Returns:
            uint8 NumPy array `[n, H, W, C]`.

        Raises:
            ValueError: Labels are missing, out of range or not wanted, or an option is
                unknown.
        """
        options = self.check_options(options)
        if n is not None and np.ndim(n):
            n, seeds = None, n
        if (n is None) == (seeds is None):
            raise ValueError(f"Give either n or seeds. Received: n={n}, seeds={seeds}")
        if seeds is None:
            if n < 0:
                raise ValueError(f"n must not be negative. Received: n={n}")
            seeds = ops.convert_to_numpy(random.row_seeds(check_seed(seed), int(n)))
        else:
            seeds = np.array([check_seed(s) for s in seeds], "int32")
        inputs = {"seeds": seeds}
        labels = self._check_labels(labels, len(seeds))
        if labels is not None:
            inputs["labels"] = labels
        return self.run_batched(
            ("sample", *options.items()),
            lambda **tensors: self.sample(**tensors, **options),
            inputs,
            batch_size=batch_size,
            progress=progress,
            description="Generating",
        )

    def redraw(
        self,
        name,
        function,
        images,
        labels=None,
        seed=0,
        seeds=None,
        batch_size=64,
        progress="auto",
        description="Drawing",
        options=None,
        **inputs,
    ):
        """Draws images anew from given ones: what `complete` and its like share.

        Args:
            name: String; the compiled function is kept under it and the options.
            function: Callable of tensors `images`, `seeds`, `labels` (class-conditional models
                alone) and `inputs`, by keyword, and of the options, that returns images.
            images: uint8 array `[N, H, W, C]`.
            labels: One class for all images or one each.
            seed: Int; image *i* is drawn from the *i*-th seed derived from it.
            seeds: Sequence of ints, one seed per image, in place of `seed`.
            batch_size: Int.
            progress: Bool or `"auto"`.
            description: What the progress bar says.
            options: Dict of further arguments of `sample`.
            **inputs: Arrays `[N, ...]`.

        Returns:
            uint8 NumPy array `[N, H, W, C]`.
        """
        options = self.check_options(options or {})
        images = np.asarray(images)
        labels = self._check_labels(labels, len(images))
        self.check_split(images, labels)
        if seeds is None:
            seeds = ops.convert_to_numpy(random.row_seeds(check_seed(seed), len(images)))
        elif len(seeds) != len(images):
            raise ValueError(f"seeds must be one per image, {len(images)}. Received: {len(seeds)}")
        inputs |= {"images": images, "seeds": np.array([check_seed(s) for s in seeds], "int32")}
        if labels is not None:
            inputs["labels"] = labels
        return self.run_batched(
            (name, *options.items()),
            lambda **tensors: function(**tensors, **options),
            inputs,
            batch_size=batch_size,
            progress=progress,
            description=description,
        )

    def check_options(self, options):
        """Options of `sample`, sorted by their names.

        Args:
            options: Dict.

        Raises:
            ValueError: `sample` has no argument of a name.
        """
        known = list(inspect.signature(self.sample).parameters)[2:]
        for option in options:
            if option not in known:
                raise ValueError(unknown_name("option", option, known))
        return dict(sorted(options.items()))

    def run_batched(
        self, name, function, inputs, batch_size=64, progress="auto", description="Running"
    ):
        """Runs a pure, row-wise function over arrays, compiled, in batches of one size.

        Args:
            name: Hashable; the compiled function is kept under it.
            function: Callable of the tensors in `inputs`, by keyword, that returns a
                tensor `[B, ...]` or a dict of them.
            inputs: Dict of arrays `[N, ...]`.
            batch_size: Int. The last batch is padded to it, so nothing compiles twice.
            progress: Bool or `"auto"`.
            description: What the progress bar says.

        Returns:
            NumPy array `[N, ...]`, or a dict of them.
        """
        total = len(next(iter(inputs.values())))
        batch_size = max(1, min(batch_size, total))
        if name not in self._compiled_functions:
            # XLA compiles anew for every batch size: worth it only where it is home.
            self._compiled_functions[name] = compile_function(
                self, function, jit_compile=keras.backend.backend() == "jax"
            )
        compiled = self._compiled_functions[name]
        starts = range(0, max(total, 1), batch_size)
        if progress == "auto":
            progress = len(starts) > 8
        outputs = []
        for start in _track(starts, description, progress):
            chunk = {k: np.asarray(v[start : start + batch_size]) for k, v in inputs.items()}
            size = len(next(iter(chunk.values())))
            chunk = {
                k: np.concatenate([v, np.zeros((batch_size - size, *v.shape[1:]), v.dtype)])
                for k, v in chunk.items()
            }
            result = compiled(**{k: ops.convert_to_tensor(v) for k, v in chunk.items()})
            outputs.append(
                keras.tree.map_structure(lambda t, n=size: ops.convert_to_numpy(t)[:n], result)
            )
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)

    # Shipping ------------------------------------------------------------------------

    def endpoints(self):
        """The functions that `export` ships.

        Returns:
            Dict of name to `kgen.Endpoint`; `"generate"` is always among them.
        """
        inputs = {"seed": seed_spec()}
        if self.num_classes is not None:
            inputs["label"] = label_spec(self.num_classes)
        return {
            "generate": Endpoint(
                lambda seed, label=None: {"image": self.sample(seed, label)},
                inputs,
                {"image": image_spec(self.image_shape)},
                "draws one image per seed",
            )
        }

    @classmethod
    def from_preset(cls, preset, **overrides):
        """Builds a model from a preset's name, or loads one from a preset's folder.

        Args:
            preset: String, a name from `presets` (fresh weights), or the path of a folder
                written by `save_to_preset` (its weights).
            **overrides: Constructor arguments that replace the preset's; for names only.

        Raises:
            ValueError: There is no such preset.
        """
        folder = pathlib.Path(preset)
        if (folder / "config.json").is_file():
            if overrides:
                raise ValueError(
                    "A preset folder's weights fit its own arguments only. Received: "
                    f"{', '.join(overrides)}"
                )
            config = json.loads((folder / "config.json").read_text())
            model = keras.saving.deserialize_keras_object(config)
            if not isinstance(model, cls):
                raise ValueError(
                    f"The preset in {folder} is a {type(model).__name__}, not a {cls.__name__}."
                )
            model.load_weights(folder / "model.weights.h5")
            return model
        from kgen import models

        known = {}
        for model_class in models.registered().values():
            if issubclass(model_class, cls):
                known |= dict.fromkeys(model_class.presets, model_class)
        if preset not in known:
            raise ValueError(unknown_name("preset", str(preset), known))
        return known[preset](**{**known[preset].presets[preset], **overrides})

    def save_to_preset(self, path):
        """Writes `config.json` and `model.weights.h5` into a new folder.

        Args:
            path: The folder to write. It appears only when it is complete.

        Raises:
            FileExistsError: The folder is there already.
        """
        path = pathlib.Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists already; choose another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            config = keras.saving.serialize_keras_object(self)
            config.pop("compile_config", None)  # a preset is a model, not a training run
            (temporary / "config.json").write_text(json.dumps(config, indent=2))
            self.save_weights(temporary / "model.weights.h5")
            os.chmod(temporary, 0o755)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


class _Diagnosis(keras.callbacks.Callback):
    """Warns of what `ImageGenerator.diagnose` finds, when it begins."""

    def on_train_begin(self, logs=None):
        self.found = set()

    def on_epoch_end(self, epoch, logs=None):
        texts = {text.partition(":")[0]: text for text in self.model.diagnose(logs)}
        for name in texts.keys() - self.found:
            warnings.warn(f"Epoch {epoch + 1}: {texts[name]}", stacklevel=2)
        self.found = set(texts)


def unknown_name(kind, name, known):
    """The message for a name that is not known, with the nearest one that is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    known = sorted(known)
    if len(known) > 20:  # one line holds the nearest of them
        nearest = difflib.get_close_matches(name, known, n=8, cutoff=0)
        more = f" and {len(known) - len(nearest)} more"
        return f"Unknown {kind} '{name}'.{hint} Known: {', '.join(nearest)}{more}."
    return f"Unknown {kind} '{name}'.{hint} Known: {', '.join(known) or 'none'}."


def _check_image_shape(image_shape):
    shape = tuple(int(side) for side in image_shape)
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3, 4):
        raise ValueError(
            "image_shape must be (height, width, channels) with 1, 3 or 4 channels. "
            f"Received: image_shape={tuple(image_shape)}"
        )
    return shape


def check_ints(least, **arguments):
    """Raises a ValueError that names an argument which is no int of `least` or more."""
    kind = "a positive int" if least == 1 else f"an int of {least} or more"
    for name, value in arguments.items():
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{name} must be {kind}. Received: {name}={value!r}")


def check_seed(seed):
    if not 0 <= seed < 2**31 or int(seed) != seed:
        raise ValueError(f"A seed must be an integer in 0 to 2**31 - 1. Received: {seed}")
    return int(seed)


def check_mask(mask, images):
    """What is known of images, as an array for each of them.

    Args:
        mask: Bool or 0/1 array `[H, W]`, `[N, H, W]` or `[N, H, W, 1]`, 1 where a pixel is known.
        images: Array `[N, H, W, C]`.

    Returns:
        uint8 NumPy array `[N, H, W]`.

    Raises:
        ValueError: The mask has another shape or other values.
    """
    mask = np.asarray(mask)
    if mask.ndim == 4 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.shape not in (images.shape[1:3], images.shape[:3]):
        raise ValueError(
            f"mask must have shape {images.shape[1:3]} or {images.shape[:3]}, 1 where a pixel is "
            f"known. Received: {mask.shape}"
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            "mask must be 1 (or True) where a pixel is known and 0 where it is to be drawn. "
            f"Received: values from {mask.min()} to {mask.max()}"
        )
    return np.broadcast_to(mask.astype("uint8"), images.shape[:3])


def _track(items, description, progress):
    if not progress:
        return items
    from rich.progress import track

    return track(items, description=description)
