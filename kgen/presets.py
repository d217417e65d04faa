"""Presets: a model by a name, or in a folder of its configuration and its weights."""

import json
import pathlib

import keras

import kgen
from kgen import models
from kgen.checks import unknown_name
from kgen.files import new_folder

#: What a folder that holds a model has in it: a preset's and a run's file.
_IN_A_FOLDER = ("config.json", "run.json")


class Presets:
    """Gives a model `from_preset` and `save_to_preset`."""

    #: Dict of preset name to constructor arguments.
    presets = {}

    #: The preset that the zoo's tests use: small enough to train in a second.
    tiny_preset = None

    @classmethod
    def from_preset(cls, preset, **overrides):
        """Builds a model from a preset's name, or loads one with its weights.

        Args:
            preset: String, a name from `presets` (fresh weights); or the path of what
                `save_to_preset` or `kgen train` wrote: a preset's folder, a run's or a `.keras`
                file, see `kgen.load`. Else a `ValueError`.
            **overrides: Constructor arguments that replace the preset's; for names only.
        """
        path = pathlib.Path(preset)
        if path.is_file() or any((path / name).is_file() for name in _IN_A_FOLDER):
            if overrides:
                raise ValueError(
                    f"The weights in {path} fit their own arguments only. Received: "
                    f"{', '.join(overrides)}"
                )
            model = cls._load_preset(path) if (path / "config.json").is_file() else kgen.load(path)
            if not isinstance(model, cls):
                raise ValueError(
                    f"The model in {path} is a {type(model).__name__}, not a {cls.__name__}."
                )
            return model
        known = {}
        for model_class in models.registered().values():
            if issubclass(model_class, cls):
                known |= dict.fromkeys(model_class.presets, model_class)
        if preset not in known:
            raise ValueError(unknown_name("preset", str(preset), known))
        return known[preset](**{**known[preset].presets[preset], **overrides})

    @staticmethod
    def _load_preset(folder):
        config = json.loads((folder / "config.json").read_text())
        model = keras.saving.deserialize_keras_object(config)
        model.load_weights(folder / "model.weights.h5")
        return model

    def save_to_preset(self, path):
        """Writes `config.json` and `model.weights.h5` into a new folder, as a whole or not at all.

        `FileExistsError` where the folder is there already.
        """
        path = pathlib.Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists already; choose another folder")
        with new_folder(path) as temporary:
            config = keras.saving.serialize_keras_object(self)
            config.pop("compile_config", None)  # a preset is a model, not a training run
            (temporary / "config.json").write_text(json.dumps(config, indent=2))
            self.save_weights(temporary / "model.weights.h5")
