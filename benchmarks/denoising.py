"""What decides how good a denoising model is after a few CPU minutes: one thing changed at a time.

python benchmarks/denoising.py mnist.npz --minutes 3 --out denoising.json

Every variant of VARIANTS trains for as many CPU minutes from one seed, single-threaded and alone on
its core; FD-lenet128 of 10,000 images in 16 steps. A variant that is named alone is run alone:
`--only muon`. Results are added to the file, so that several processes may share the work.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import kgen
from kgen.cli.common import parse_settings
from kgen.training.callbacks import CPUMinutes

#: The preset's arguments that differ, and those of `compile` and `fit`.
VARIANTS = {
    "default": ({}, {}),
    "constant rate": ({}, {"schedule": "constant"}),
    "no warm-up": ({}, {"warmup_steps": 0}),
    "times uniform": ({"times": "uniform"}, {}),
    "muon": ({}, {"optimizer": "muon"}),
    "bfloat16": ({"dtype": "mixed_bfloat16"}, {}),
    "rate 4e-3": ({}, {"learning_rate": 4e-3}),
    "rate 1e-3": ({}, {"learning_rate": 1e-3}),
    "32 filters": ({"filters": 32}, {}),
    "56 filters": ({"filters": 56}, {}),
    "patches of 4": ({"patch_size": 4, "multipliers": (2,), "blocks": 2}, {}),
    "patches of 14": ({"patch_size": 14}, {}),
    "attention": ({"attention": (1,)}, {}),
    "batches of 16": ({}, {"batch_size": 16}),
    "batches of 32": ({}, {"batch_size": 32}),
}

#: Layers, by parts of their names, that lead into and out of a network: Adam's.
NOT_BY_MUON = ["first", "last", "time", "modulation", "patches", "velocity"]

#: Of averages of the weights that are kept beside the model's own. Before step 3,000 those of 0.997
#: and more are one: an average is never longer than what has been trained.
DECAYS = (0.0, 0.99, 0.997, 0.999, 0.9997)


class Averages(keras.callbacks.Callback):
    """Keeps an average of the weights for each of some decays."""

    def __init__(self, model):
        super().__init__()
        self.networks = {decay: model.ema_network.get_weights() for decay in DECAYS}

    def on_train_batch_end(self, batch, logs=None):
        weights = [keras.ops.convert_to_numpy(v) for v in self.model.network.weights]
        steps = self.model.steps_trained
        for decay, average in self.networks.items():
            share = min(decay, (1 + steps) / (10 + steps))
            for ours, theirs in zip(average, weights, strict=True):
                ours *= share
                ours += (1 - share) * theirs


class StopAfter(keras.callbacks.Callback):
    """Ends training after so many steps, wherever the epoch is."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        if self.model.steps_trained >= self.steps:
            self.model.stop_training = True


def steps_in(minutes, model, train, batch_size):
    """How many steps a model takes in CPU minutes here: from those of six seconds, after 5."""
    labels = None if train.labels is None else train.labels[:batch_size]
    batch = (train.images[:batch_size], labels)
    for _ in range(5):
        model.train_on_batch(*batch)
    start, steps = time.process_time(), 0
    while time.process_time() - start < 6:
        model.train_on_batch(*batch)
        steps += 1
    return int(minutes * 60 / (time.process_time() - start) * steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="mnist.npz, or another source of images of the preset's shape")
    parser.add_argument("--preset", default="flow_matching_28x28")
    parser.add_argument(
        "--set", action="append", default=[], help="NAME=VALUE of every model; repeatable"
    )
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--only", action="append", choices=VARIANTS, help="a variant; repeatable")
    parser.add_argument("--conditional", action="store_true")
    parser.add_argument("--num-samples", type=int, default=10_000)
    parser.add_argument("--averages", action="store_true", help="measure averages of other lengths")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("denoising.json"))
    args = parser.parse_args()
    preset = kgen.models.presets()[args.preset]
    data = kgen.data.load(args.data, image_shape=preset["image_shape"], validation_fraction=0.0)
    reference = kgen.evaluation.Reference(data.test, data.train)
    train = data.train if args.conditional else kgen.data.Split(data.train.images)

    for name in args.only or VARIANTS:
        arguments, compiled = VARIANTS[name]

        def build(total_steps, arguments=arguments, compiled=compiled):
            keras.utils.set_random_seed(args.seed)
            model = kgen.models.get(preset["model"]).from_preset(
                args.preset,
                num_classes=data.num_classes if args.conditional else None,
                seed=args.seed,
                **{**parse_settings(args.set), **arguments},
            )
            options = {k: v for k, v in compiled.items() if k != "batch_size"}
            if options.pop("optimizer", None) == "muon":
                rate = kgen.training.schedules.RunSchedule("cosine", 0.02, total_steps)
                options["optimizer"] = keras.optimizers.Muon(
                    rate, adam_lr_ratio=0.1, exclude_layers=NOT_BY_MUON
                )
            else:
                options["total_steps"] = total_steps
            model.compile(**options)
            return model

        tried = build(100)
        batch_size = compiled.get("batch_size", tried.default_batch_size)
        steps = steps_in(args.minutes, tried, train, batch_size)
        model = build(steps)
        averages = Averages(model) if args.averages else None
        minutes = CPUMinutes(1e9)
        callbacks = [minutes, StopAfter(steps), *([averages] if averages else [])]
        epochs = -(-steps // (len(train) // batch_size))
        model.fit(train, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=callbacks)

        def score(model=model):
            labels = reference.labels_like(args.num_samples, 1) if args.conditional else None
            drawn = model.generate(args.num_samples, labels, 1, num_steps=16, progress=False)
            found = reference.measure(drawn, labels, ("fd",))["metrics"]
            return round(next(iter(found.values()))["value"], 3)

        entry = {
            "steps": model.steps_trained,
            "cpu_minutes": round(minutes.minutes, 2),
            "parameters": int(sum(np.prod(v.shape) for v in model.trainable_variables)),
            "fd": score(),
        }
        if averages:
            entry["fd_by_decay"] = {}
            for decay, weights in averages.networks.items():
                model.ema_network.set_weights(weights)
                entry["fd_by_decay"][str(decay)] = score()
        print(f"{name}: {json.dumps(entry)}", flush=True)
        found = json.loads(args.out.read_text()) if args.out.exists() else {}
        args.out.write_text(json.dumps({**found, name: entry}, indent=1) + "\n")


if __name__ == "__main__":
    main()
