"""The contract that every generator in the zoo keeps."""

import math
import pathlib

import keras
import numpy as np

from kgen import docstrings
from kgen.checks import (
    Number,
    check_image_shape,
    check_int,
    check_numbers,
    check_seed,
)
from kgen.configurable import Configurable, dtype_policy_scope
from kgen.data import Split
from kgen.data.batches import Batches
from kgen.data.datasets import Takes, is_dataset, plain_errors
from kgen.endpoint import Endpoint, image_spec, label_spec, seed_spec
from kgen.generation import Generation
from kgen.presets import Presets
from kgen.training import fitting
from kgen.training.schedules import scheduled_optimizer
from kgen.training.step import TrainingStep, check_image_data_format


class _Constructing(type(keras.Model)):
    """Marks what is constructed, when the last constructor is done."""

    def __call__(cls, *args, **kwargs):
        model = super().__call__(*args, **kwargs)
        model.__dict__["_constructed"] = True
        return model


class ImageGenerator(
    TrainingStep, Generation, Presets, Configurable, keras.Model, metaclass=_Constructing
):
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

    Its constructor's arguments are kept as attributes of the same names, see `Configurable`. Its
    networks stay those of the constructor: another assigned to their names is a `ValueError`.

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

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        docstrings.complete(cls)

    #: Names of the scalars that `objective` (or `update`) returns, as they are logged.
    metric_names: tuple[str, ...] = ("loss",)

    #: Names of further scalars, which `update` alone returns: `evaluate` does not log them.
    training_metric_names: tuple[str, ...] = ()

    def __init__(self, image_shape, num_classes=None, seed=0, **kwargs):
        super().__init__(**kwargs)
        check_image_data_format()
        self.image_shape = check_image_shape(image_shape)
        check_numbers(Number(least=1, whole=True, optional=True), num_classes=num_classes)
        self.seed = check_seed(seed)
        names = (*self.metric_names, *self.training_metric_names)
        self.trackers = [keras.metrics.Mean(name=name) for name in names]
        # What makes the noise of each step different; saved, so that a resumed run goes on.
        self.training_steps = self._counter("training_steps")
        self.test_steps = self._counter("test_steps")
        self._compiled_functions = {}

    def _counter(self, name):
        return self.add_weight(
            (), "zeros", "int32", trainable=False, name=name, aggregation="only_first_replica"
        )

    def dtype_policy_scope(self):
        """Layers built inside take the model's dtype policy."""
        return dtype_policy_scope(self.dtype_policy)

    def __setattr__(self, name, value):
        before = self.__dict__.get(name)
        if self.__dict__.get("_constructed") and value is not before and _is_network(name, before):
            kind = type(self)
            argument = name.removeprefix("ema_")
            remedy = (
                f"Give it to the constructor, as {kind.__name__}(..., {argument}=...)"
                if argument in kind.__signature__.parameters
                else "Choose its size by the constructor's arguments, or write a subclass whose "
                "constructor builds another"
            )
            raise ValueError(
                f"{name} cannot be replaced in a {kind.__name__} that is constructed: saved and "
                f"loaded, it would have its old network again. {remedy}. Received: "
                f"{name}={value!r}"
            )
        super().__setattr__(name, value)

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

    #: How the learning rate of the default optimizer changes where the length of the run is known:
    #: one of `kgen.training.schedules.SCHEDULES`.
    default_schedule = "constant"

    #: Images per step of `kgen.training.run.train`.
    default_batch_size = 64

    def default_optimizer(self, learning_rate=None):
        """The optimizer that `compile()` uses when none is given."""
        return keras.optimizers.Adam(1e-3 if learning_rate is None else learning_rate)

    def compile(
        self,
        optimizer=None,
        *,
        learning_rate=None,
        schedule=None,
        warmup_steps=None,
        total_steps=None,
        jit_compile="auto",
        steps_per_execution=1,
        run_eagerly=False,
        auto_scale_loss=True,
        **keras_arguments,
    ):
        """Configures training. Called without arguments it chooses good defaults.

        Freeze layers before, by `model.encoder.trainable = False`. Regularizers of weights are
        added to what is minimised, and not to the losses that are logged.

        Args:
            optimizer: A Keras optimizer or its name; `None` for the model's own default.
            learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule` for
                the default optimizer.
            schedule: `"constant"`, `"cosine"` or `"linear"`: how the rate of the default optimizer
                changes, see `kgen.training.schedules.RunSchedule`. `None` for the model's own,
                `default_schedule`, where `total_steps` are given; else the rate is constant.
            warmup_steps: Int, steps over which the rate rises; `None` for the schedule's own.
            total_steps: Int, steps of the whole training, `epochs * (len(images) // batch_size)`,
                to which `"cosine"` and `"linear"` are fitted; `kgen.training.run.train` gives it.
            jit_compile: Bool or `"auto"`: XLA on JAX and on GPUs, not on TensorFlow's CPU,
                where it is slower.
            steps_per_execution: Int, training steps per call of the compiled function.
            run_eagerly: Bool, for debugging.
            auto_scale_loss: Bool, scale the loss under `mixed_float16`.
            **keras_arguments: `loss`, `loss_weights`, `metrics` and `weighted_metrics` of
                `keras.Model.compile` must be `None`: a model has its own, see `metric_names`.
        """
        self._check_keras_arguments(keras_arguments)
        rate = {
            "learning_rate": learning_rate,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "total_steps": total_steps,
        }
        if optimizer is None:
            optimizer = scheduled_optimizer(self, **rate)
        else:
            for name, value in rate.items():
                if value is not None:
                    raise ValueError(
                        f"{name} goes with the default optimizer; give a custom optimizer its own. "
                        f"Received: optimizer={optimizer}, {name}={value}"
                    )
        optimizer = keras.optimizers.get(optimizer)
        self._check_optimizer(optimizer, self.trainable_variables)
        self._compile(optimizer, jit_compile, steps_per_execution, run_eagerly, auto_scale_loss)
        self._compile_arguments["optimizer"] = optimizer

    def _compile(self, optimizer, jit_compile, steps_per_execution, run_eagerly, auto_scale_loss):
        """Compiles with one optimizer; keeps the other arguments in `_compile_arguments`."""
        self._replicas()  # refuses a strategy that trains otherwise
        self._freeze_networks()
        super().compile(
            optimizer=optimizer,
            jit_compile=self._resolve_jit() if jit_compile == "auto" else jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            auto_scale_loss=auto_scale_loss,
        )
        self.optimizer.build(self.trainable_variables)
        self._trained = _ids(self.trainable_variables)
        self._compile_arguments = {
            "jit_compile": jit_compile,
            "steps_per_execution": steps_per_execution,
            "run_eagerly": run_eagerly,
            "auto_scale_loss": auto_scale_loss,
        }

    def _optimizers(self):
        """The optimizers that train, a list."""
        return [self.optimizer]

    def _check_keras_arguments(self, arguments):
        for name, value in arguments.items():
            if name not in ("loss", "loss_weights", "metrics", "weighted_metrics"):
                raise TypeError(f"compile() got an unexpected keyword argument '{name}'")
            if value is not None:
                raise ValueError(
                    f"{type(self).__name__} has losses and metrics of its own "
                    f"({', '.join(self.metric_names)}), and takes no others. Received: "
                    f"{name}={value!r}"
                )

    def _check_optimizer(self, optimizer, variables):
        """Refuses an optimizer that was built for other variables: its state would not fit."""
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if optimizer.built and _ids(optimizer._trainable_variables) != _ids(variables):
            raise ValueError(
                "The optimizer was built for other variables: for another model, or before "
                "trainable was changed. Give compile() a fresh one. Received: "
                f"{type(optimizer).__name__}"
            )

    def get_compile_config(self):
        if not self.compiled:
            return {}
        return keras.saving.serialize_keras_object(dict(self._compile_arguments))

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    # What does not train --------------------------------------------------------------

    #: Names of networks that training never moves, whatever `trainable` says: averages of
    #: weights, and what was trained before.
    frozen_networks: tuple[str, ...] = ()

    @property
    def trainable(self):
        """Bool, whether the model trains. To set it sets it for all layers that can be trained."""
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        keras.Model.trainable.fset(self, value)
        self._freeze_networks()

    def _freeze_networks(self):
        for name in self.frozen_networks:
            network = getattr(self, name, None)
            if network is not None:
                network.trainable = False

    def _layers_to_train(self):
        """The layers that may be trained, outer ones first, always in the same order."""
        networks = [getattr(self, name, None) for name in self.frozen_networks]
        never = {
            id(layer)
            for network in networks
            if network is not None
            for layer in network._flatten_layers()
        }
        layers = self._flatten_layers(include_self=False)
        return [layer for layer in layers if id(layer) not in never]

    def get_config(self):
        config = super().get_config()
        layers = self._layers_to_train() if self.trainable else []
        frozen = [number for number, layer in enumerate(layers) if not layer.trainable]
        return {**config, "frozen": frozen} if frozen else config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        frozen = set(config.pop("frozen", ()))
        model = super().from_config(config, custom_objects)
        if frozen:
            for number, layer in enumerate(model._layers_to_train()):
                layer.trainable = number not in frozen
        return model

    # Fitting --------------------------------------------------------------------------

    def fit(
        self,
        x,
        y=None,
        batch_size=64,
        epochs=1,
        *,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        callbacks=None,
        horizontal_flip=False,
        **kwargs,
    ):
        """Trains the model, as `keras.Model.fit` does, on images.

        Args:
            x: uint8 images `[N, H, W, C]`, a `kgen.data.Split` (`data.train`), or a
                `tf.data.Dataset`, `keras.utils.PyDataset` or generator of batches `images` or
                `(images, labels)`. A translator learns from inputs and images, see `Translator`.
            y: Integer labels `[N]` for a class-conditional model, or a translator's images, when
                `x` is an array.
            batch_size: Int, images per step (over all devices); `None` for 64. A last, smaller
                batch of an epoch is left out.
            epochs: Int, the epoch to train up to.
            validation_split: Float, 0 to 1, the share of an array's images, its last ones, to
                validate with and not to train on.
            validation_data: As `x`, or a tuple `(images, labels)`.
            shuffle: Bool. The order of an epoch follows from the model's `seed` and from how many
                steps it has trained, which it keeps and saves: a second `fit` sees another order,
                a resumed one what an unbroken one sees.
            class_weight, sample_weight: Refused: a loss here is no sum over rows (free bits, batch
                statistics, two players).
            initial_epoch: Int, the epoch to start at.
            callbacks: `keras.callbacks.Callback`, or a list of them.
            horizontal_flip: Bool, mirror half of the images, for arrays.
            **kwargs: As in `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: Images or labels are not what the model takes, there are weights, or
                `trainable` was changed after `compile`.
        """
        fitting.without_weights(class_weight=class_weight, sample_weight=sample_weight)
        self._check_trainable()
        epochs = check_int(0, epochs=epochs)
        batch_size = 64 if batch_size is None else batch_size
        if validation_split and validation_data is None:
            x, validation_data = self._cut(x, y, validation_split, horizontal_flip)
            y = None
        if self.needs_adapting():
            images = getattr(x, "images", x)
            if not hasattr(images, "shape"):
                raise ValueError(
                    f"{type(self).__name__} must look at images before it trains on a dataset of "
                    "batches: call model.adapt(images) with uint8 images [N, H, W, C] first, and "
                    "their labels where it takes any."
                )
            split = self.check_split(x, y)
            self.adapt(split.images, split.labels)
        x = self._batches(x, y, batch_size, shuffle=shuffle, horizontal_flip=horizontal_flip)
        fitting.warn_of_few(x)
        if validation_data is not None:
            given = validation_data
            if not isinstance(given, (tuple, list)):
                given = (given,)
            validation_data = self._batches(
                *fitting.pair(*given),
                batch_size=kwargs.pop("validation_batch_size", None) or batch_size,
            )
        callbacks = self._callbacks(callbacks, fitting.Diagnosis(), fitting.Order(x))
        with plain_errors(), self._keeping_state():
            return super().fit(
                x,
                shuffle=False,  # `x` has its order; Keras's own comes from Python's global state
                epochs=epochs,
                validation_data=validation_data,
                initial_epoch=initial_epoch,
                callbacks=callbacks,
                **kwargs,
            )

    def evaluate(self, x, y=None, batch_size=64, sample_weight=None, **kwargs):
        """Measures the model's losses on images, as `keras.Model.evaluate` does.

        The noise is the same at every call, so equal weights give equal figures: a list of
        floats, or with `return_dict=True` a dict. Images are given as for `fit`.
        """
        self.test_steps.assign(0)
        if not kwargs.get("_use_cached_eval_dataset"):  # inside `fit`, which has checked them
            batch_size = 64 if batch_size is None else batch_size
            x = self._batches(*fitting.pair(x, y, sample_weight), batch_size)
        with plain_errors(), self._keeping_state():
            figures = super().evaluate(x, **kwargs)
        # Keras gives a single figure without its list.
        return figures if isinstance(figures, (list, dict)) else [figures]

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """One training step on one batch of arrays, given as for `fit`, on one device."""
        fitting.without_weights(class_weight=class_weight, sample_weight=sample_weight)
        self._check_trainable()
        return super().train_on_batch(*self._one_batch(x, y), return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """What `evaluate` measures, of one batch of arrays, on one device."""
        fitting.without_weights(sample_weight=sample_weight)
        return super().test_on_batch(*self._one_batch(x, y), return_dict=return_dict)

    def _check_trainable(self):
        """Refuses to train what the optimizer was not compiled for."""
        if self.compiled and self._trained != _ids(self.trainable_variables):
            raise ValueError(
                "trainable was changed after compile(). Call compile() again, with a fresh "
                f"optimizer, so that {type(self).__name__} trains, and saves, what it says."
            )

    def _one_batch(self, x, y):
        if self._replicas() > 1:
            raise ValueError(
                "train_on_batch and test_on_batch work on one device, and fit on several. "
                f"Received: a model on {self._replicas()} devices"
            )
        split = self.check_split(x, y)
        return tuple(keras.ops.convert_to_tensor(part) for part in split.arrays())

    @property
    def steps_trained(self):
        """Int, training steps that the model has taken, which it keeps and saves."""
        return int(keras.ops.convert_to_numpy(self.training_steps))

    def needs_adapting(self):
        """Whether `fit` must call `adapt(images, labels)`, which a subclass has, at first."""
        return False

    def diagnose_before(self):
        """What `diagnose` can say before the first step."""
        return []

    def diagnose(self, logs):
        """Names what is going wrong in training, from the metrics of an epoch.

        Returns a list of strings, `"<name of the failure>: <figures and remedy>"`; empty when
        all is well.
        """
        return []

    def _batches(self, x, y=None, batch_size=64, shuffle=False, horizontal_flip=False):
        """Batches of checked images and labels, from all that `fit` takes."""
        if is_dataset(x):
            if y is not None:
                raise ValueError("y must be None when x is a dataset: it yields both")
            if isinstance(x, Batches):  # its labels are left out where the model has no classes
                self.check_split(x.split)
                return x
            return self._takes().check(x)
        split = self.check_split(x, y, horizontal_flip)
        return split.batches(batch_size, shuffle=shuffle, seed=self.seed, drop_remainder=shuffle)

    def example_data(self, count, seed=0):
        """A `kgen.data.Split` of so many random images, and labels, as the model takes them."""
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (count, *self.image_shape), "uint8")
        labels = None if self.num_classes is None else rng.integers(0, self.num_classes, count)
        return Split(images, labels)

    def _takes(self):
        return Takes(type(self).__name__, self.image_shape, self.num_classes)

    def _cut(self, x, y, share, horizontal_flip):
        """The first images of an array to train on, and the last ones to validate with."""
        if is_dataset(x):
            raise ValueError(
                "validation_split takes its share of an array or a kgen.data.Split; of a dataset "
                f"give validation_data. Received: x={type(x).__name__}"
            )
        split = self.check_split(x, y, horizontal_flip)
        count = math.floor(len(split) * (1 - share))
        if not 0 < count < len(split):
            raise ValueError(
                "validation_split must be above 0 and below 1, and leave an image on either side. "
                f"Received: validation_split={share} of {len(split)} images"
            )
        return split.part(slice(count)), split.part(slice(count, None))

    def _callbacks(self, given, *ours):
        """The callbacks that `fit` was given, in whatever form Keras takes them, with ours."""
        callbacks = getattr(given, "callbacks", keras.tree.flatten(given))
        fitting.check_monitors(self, [callback for callback in callbacks if callback is not None])
        if isinstance(given, keras.callbacks.CallbackList):
            for callback in ours:
                callback.set_model(self)
                given.callbacks.append(callback)
            return given
        return [*ours, *(() if given is None else keras.tree.flatten(given))]

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

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """Saves the model as a `.keras` file, as `keras.Model.save` does.

        Another ending is a `ValueError`: an HDF5 file of Keras 2 does not hold what a model needs
        to be loaded again.
        """
        path = pathlib.Path(str(filepath))
        if zipped is not False and path.suffix != ".keras":
            raise ValueError(
                f"A model is saved as a .keras file, such as {path.with_suffix('.keras')}, or its "
                f"weights alone by save_weights. Received: {path}"
            )
        super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)

    def endpoint(
        self,
        function,
        description,
        outputs=None,
        *,
        seeded=True,
        labelled=True,
        unused=(),
        **inputs,
    ):
        """An `Endpoint` of this model, which adds the seed, and the class where there are any.

        `function` takes tensors by the names of `inputs` (to `TensorSpec`), where `seeded` a `seed`
        and the options of `sample`, and where `labelled`, in a class-conditional model, a `label`.
        It returns a tensor, the endpoint's one output (an image, where `outputs` is `None`), or a
        dict of several. `description` is one line that says what it does, `unused` names inputs
        that decide nothing.
        """
        if seeded:
            inputs["seed"] = seed_spec()
        if labelled and self.num_classes is not None:
            inputs["label"] = label_spec(self.num_classes)
        if seeded:
            inputs |= self.option_specs()
        outputs = outputs or {"image": image_spec(self.image_shape)}

        def named(**tensors):
            result = function(**tensors)
            return result if isinstance(result, dict) else {next(iter(outputs)): result}

        return Endpoint(named, inputs, outputs, description, unused=unused)


def _is_network(name, value):
    """Whether an attribute is a network, or several; what begins with _ is Keras's own."""
    parts = value if isinstance(value, (tuple, list)) else [value]
    return not name.startswith("_") and any(isinstance(part, keras.layers.Layer) for part in parts)


def _ids(variables):
    return tuple(id(variable) for variable in variables)
