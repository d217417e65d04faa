"""The contract that every generator in the zoo keeps."""

import contextlib
import warnings

import keras
import numpy as np

from kgen.checks import check_image_shape, check_seed
from kgen.configurable import Configurable
from kgen.data import Split
from kgen.endpoint import Endpoint, image_spec, label_spec, seed_spec
from kgen.generation import Generation
from kgen.presets import Presets
from kgen.training.step import TrainingStep


class ImageGenerator(TrainingStep, Generation, Presets, Configurable, keras.Model):
    """Base class of all image generators.

    Four promises hold for every subclass: images are `uint8 [B, H, W, C]` in 0 to 255 at
    every border; `sample` is a pure, row-wise function of one seed per image; what is
    exported is the whole sampler; and `kgen.models` registers a tiny preset, by which the
    zoo's tests hold the subclass to all of this.

    A subclass builds its networks in `__init__`, sets `metric_names` and states

    - `objective(batch, training)`, or `update` and `test_update` when it has more than one
      optimizer,
    - `sample(seeds, labels=None, ...)`,
    - `endpoints`, when it offers more than `generate`.

    Its constructor's arguments are kept as attributes of the same names, see `Configurable`.

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

    def __init__(self, image_shape, num_classes=None, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.image_shape = check_image_shape(image_shape)
        if num_classes is not None and (int(num_classes) != num_classes or num_classes < 1):
            raise ValueError(
                "num_classes must be a positive int, or None for an unconditional model. "
                f"Received: num_classes={num_classes}"
            )
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

        The noise is the same at every call, so equal weights give equal figures: a list of
        floats, or with `return_dict=True` a dict. Images are given as for `fit`.
        """
        self.test_steps.assign(0)
        figures = super().evaluate(self._batches(x, y, batch_size), **kwargs)
        # Keras gives a single figure without its list.
        return figures if isinstance(figures, (list, dict)) else [figures]

    def needs_adapting(self):
        """Whether `fit` must call `adapt(images)`, which a subclass has, before it begins."""
        return False

    def diagnose(self, logs):
        """Names what is going wrong in training, from the metrics of an epoch.

        Returns a list of strings, `"<name of the failure>: <figures and remedy>"`; empty when
        all is well.
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
        """A `kgen.data.Split` of what this model takes, from a split or from arrays as for `fit`.

        Of a split the labels are left out when the model is unconditional. A `ValueError` where
        images or labels are not what the model takes.
        """
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

    # Shipping ------------------------------------------------------------------------

    def endpoints(self):
        """The functions that `export` ships: `kgen.Endpoint` by name, `"generate"` among them."""
        return {
            "generate": self.endpoint(
                lambda seed, label=None, **options: self.sample(seed, label, **options),
                "draws one image per seed",
            )
        }

    def export(self, filepath, *args, **kwargs):
        """Refuses, and names what exports an image generator: it ships nothing without proof."""
        raise ValueError(
            f"Keras's export knows one call of a model, and not its sampler. Use export.export("
            f"model, {str(filepath)!r}) after `import export`, or the command `kgen export`: they "
            "write every endpoint as a SavedModel and as ONNX, and prove them."
        )

    def endpoint(
        self, function, description, outputs=None, *, seeded=True, labelled=True, **inputs
    ):
        """An `Endpoint` of this model, which adds the seed, and the class where there are any.

        `function` takes tensors by the names of `inputs` (to `TensorSpec`), where `seeded` a `seed`
        and the options of `sample`, and where `labelled`, in a class-conditional model, a `label`.
        It returns a tensor, the endpoint's one output (an image, where `outputs` is `None`), or a
        dict of several. `description` is one line that says what it does.
        """
        if seeded:
            inputs["seed"] = seed_spec()
        if labelled and self.num_classes is not None:
            inputs["label"] = label_spec(self.num_classes)
        outputs = outputs or {"image": image_spec(self.image_shape)}

        def named(**tensors):
            result = function(**tensors)
            return result if isinstance(result, dict) else {next(iter(outputs)): result}

        return Endpoint(named, inputs, outputs, description)


class _Diagnosis(keras.callbacks.Callback):
    """Warns of what `ImageGenerator.diagnose` finds, when it begins."""

    def on_train_begin(self, logs=None):
        self.found = set()

    def on_epoch_end(self, epoch, logs=None):
        texts = {text.partition(":")[0]: text for text in self.model.diagnose(logs)}
        for name in texts.keys() - self.found:
            warnings.warn(f"Epoch {epoch + 1}: {texts[name]}", stacklevel=2)
        self.found = set(texts)
