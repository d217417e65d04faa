"""Presets: a model by a name, or in a folder of its configuration and its weights."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np

import kgen
from kgen import card, images, models, places, safe_config
from kgen.checks import unknown_name
from kgen.files import new_folder
from kgen.weights import Transfer, transfer
from kgen.weights import read as read_weights
from kgen.weights import write as write_weights


class Presets:
    """Gives a model `from_preset` and `save_to_preset`."""

    #: Dict of preset name to constructor arguments.
    presets: dict[str, dict[str, Any]] = {}

    #: The preset that the zoo's tests use: small enough to train in a second.
    tiny_preset: str | None = None

    @classmethod
    def from_preset(cls, preset: str | os.PathLike[str], **overrides: Any) -> Self:
        """Builds a model from a preset's name, or loads one with its weights.

        Args:
            preset: String, a name from `presets` (fresh weights); or what holds a trained model:
                the path of a preset's folder, a run's or a `.keras` file, the name of a trained
                preset (`kgen.models.trained`), or `hf://USER/NAME`, see `kgen.load`. Else a
                `ValueError`. Nothing that a preset's folder holds is executed, see
                `kgen.safe_config`; of runs and `.keras` files take your own alone.
            **overrides: Constructor arguments that replace the preset's; for names from `presets`
                only.
        """
        path = places.find(preset)
        if path is not None:
            if overrides:
                raise ValueError(
                    f"The weights in {preset} fit their own arguments only. Received: "
                    f"{', '.join(overrides)}"
                )
            model = cls._load_preset(path) if (path / "config.json").is_file() else kgen.load(path)
            if not isinstance(model, cls):
                raise ValueError(
                    f"The model in {preset} is a {type(model).__name__}, not a {cls.__name__}."
                )
            return model
        known: dict[str, Any] = {}
        for model_class in models.registered().values():
            if issubclass(model_class, cls):
                known |= dict.fromkeys(model_class.presets, model_class)
        if preset not in known:
            raise ValueError(unknown_name("preset", str(preset), [*known, *models.trained()]))
        return known[preset](**{**known[preset].presets[preset], **overrides})

    @staticmethod
    def _load_preset(folder):
        file = folder / "config.json"
        try:
            model = safe_config.build(json.loads(file.read_text(encoding="utf-8")), Presets)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} cannot be loaded: {error}") from error
        read_weights(model, folder)
        return model

    def begin_with(self, source: Any) -> Transfer:
        """Takes the weights of a trained model as the beginning, layer by layer, where they fit.

        Layers are told by their ways in the model, such as `generator.dense`, so the other may have
        another image shape, other classes, or be of another class that has the same networks: a
        `SRGAN` begins with a `Restorer`. The averaged weights begin as the weights do. Steps are
        counted from 0, and an optimizer has nothing of the other's. A tokenizer or autoencoder
        that is trained already stays.

        Args:
            source: `ImageGenerator`, or what `kgen.load` takes: the name of a trained preset, a
                preset's or a run's folder, a `.keras` file, `hf://USER/NAME`.

        Returns:
            `kgen.weights.Transfer`: the layers that were `taken` and those that are `fresh`.

        Raises:
            ValueError: No layer fits, or not all of a first stage that was never trained.

        Example:

        >>> model = kgen.models.DCGAN((28, 28, 1), num_classes=3, filters=32)
        >>> model.begin_with("runs/dcgan-mnist").fresh
        ('discriminator.dense', 'generator.dense')
        """
        if not isinstance(source, Presets):
            source = kgen.load(source)
        return self._begin_with(source)

    def _begin_with(self, source):
        return transfer(self, source)

    def save_to_preset(
        self,
        path: str | os.PathLike[str],
        *,
        weights: Sequence[str] = ("h5",),
        dtype: str | None = None,
        about: dict[str, Any] | None = None,
        samples: np.ndarray | None = None,
        claim: Any = None,
    ) -> None:
        """Writes a preset's folder, as a whole or not at all, as KerasHub and the hub have it.

        - `config.json`: the model, as Keras serialises it
        - `model.weights.h5`, `model.safetensors`, or both: its weights, without the optimizer's
        - `metadata.json`: KerasHub's fields and what is known of the training
        - `README.md`: a model card, which the Hugging Face hub reads and shows
        - `samples.png`: with `samples`

        Args:
            path: Path of a folder, which must not be there: else a `FileExistsError`.
            weights: Sequence of `"h5"`, which Keras and KerasHub read, and `"safetensors"`, which
                kgen prefers where both are there.
            dtype: `"float16"` halves the files; the model is float32 again when it is loaded, with
                weights that are rounded to 11 bits. `None` for the model's own.
            about: Dict of what the files are to say, all of it optional: `"name"`; `"license"`, an
                identifier of the hub's such as `"apache-2.0"`; `"datasets"`, a list of names on the
                hub; and `"data"`, `"training"` and `"scores"`, as `kgen.training.facts.facts` has
                them of a run. `"place"` is what the card says that it is loaded by, such as
                `"hf://me/dcgan-photos"`; else it is `path`.
            samples: uint8 images `[N, H, W, C]` that the card shows in a grid, or `None`.
            claim: `kgen.origin.Claim` of how they were drawn, for the mark in their picture.

        Raises:
            ValueError: There is no such format or dtype, or a weight is too large for it.

        Example:

        >>> model.save_to_preset("dcgan-photos", dtype="float16", about={"license": "cc0-1.0"})
        """
        path = pathlib.Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists already; choose another folder")
        about = dict(about or {})
        place = about.pop("place", None) or str(path)
        about.setdefault("name", path.resolve().name)
        known = card.metadata(self, about, dtype)
        with new_folder(path) as temporary:
            config = keras.saving.serialize_keras_object(self)
            config.pop("compile_config", None)  # a preset is a model, not a training run
            (temporary / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
            write_weights(self, temporary, weights, dtype)
            (temporary / "metadata.json").write_text(
                json.dumps(known, indent=2) + "\n", encoding="utf-8"
            )
            if samples is not None:
                scale = images.viewing_scale(samples.shape[1:])
                grid = images.grid(samples, scale=scale)
                claim = claim and claim.in_grid(scale=scale)
                images.save_png(grid, temporary / "samples.png", claim)
            (temporary / "README.md").write_text(
                card.text(known, place, samples is not None), encoding="utf-8"
            )
