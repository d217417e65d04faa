"""The commands `list` and `train`."""

import os
import pathlib
import re
import sys
import time
from typing import Annotated

import typer

from kgen.cli.common import (
    EvaluateEvery,
    Json,
    KeepBest,
    ReplaceRun,
    app,
    make_table,
    parse_devices,
    parse_settings,
    parse_shape,
    print_result,
    work,
)
from kgen.training.errors import RunError
from kgen.training.run_config import EPOCHS, FINE_TUNING_RATE, RunConfig


@app.command("list")
def list_(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A model or preset, to be shown in full."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Build the presets of MODEL, or the one named, and take a few steps: parameters "
            "and seconds per step on this machine.",
        ),
    ] = False,
    as_json: Json = False,
):
    """Show trained models, models by family, presets and data sources; or all of one model.

    Of one model: when to choose it, its arguments for --set of `kgen train` and the options for
    --set of `kgen sample`, with their meanings and defaults, and its presets.

    Example: kgen list

    Example: kgen list vae

    Example: kgen list vae_28x28 --measure
    """
    from kgen import data, models

    if model is not None:
        with work(as_json):
            shown, lines = _show(model, measure)
        print_result(shown, as_json, *lines)
        return
    if measure:
        raise ValueError("--measure goes with a model or preset: kgen list vae --measure")
    families, presets = models.families(), models.presets()
    zoo = {name: what for family in families.values() for name, what in family.models.items()}
    rows = [
        (preset, values["model"], "x".join(map(str, values["image_shape"])))
        for preset, values in presets.items()
    ]
    trained = models.trained()
    print_result(
        {
            "trained": trained,
            "families": {
                name: {"what": family.what, "models": list(family.models)}
                for name, family in families.items()
            },
            "models": zoo,
            "presets": presets,
            "sources": data.SOURCES,
        },
        as_json,
        *_trained_table(trained),
        *(
            make_table(
                "model",
                "what it is for, CPU minutes on MNIST",
                rows=family.models.items(),
                title=f"{name}: {family.what}",
            )
            for name, family in families.items()
        ),
        make_table("preset", "model", "image shape", rows=rows, title="Presets"),
        make_table("source", "what it is", rows=data.SOURCES.items(), title="Sources for --data"),
        "Next: kgen list vae               all of a model",
        "      kgen train vae --data digits",
    )


def _trained_table(trained):
    """The trained models that come with kgen, which draw at once; nothing where there are none."""
    if not trained:
        return
    rows = []
    for name, known in trained.items():
        training, scores = known["training"] or {}, (known["scores"] or {}).get("metrics") or {}
        seconds = training.get("seconds")
        score = next(iter(scores.items()), None)
        rows.append(
            (
                name,
                known["model"],
                "x".join(map(str, known["image_shape"])),
                (known["data"] or {}).get("name") or "",
                _budget(training),
                "" if seconds is None else f"{seconds / 60:.0f}",
                f"{score[0]} {score[1]['value']:.4g}" if score else "",
                f"{score[1]['floor']:.4g}" if score and score[1]["floor"] is not None else "",
                known["license"] or "",
            )
        )
    columns = ("trained", "model", "image shape", "data", "budget", "minutes", "score", "floor")
    yield make_table(*columns, "license", rows=rows, title="Trained: they draw at once")
    yield f"Next: kgen sample {rows[0][0]} -o grid.png\n"


def _budget(training):
    if epochs := training.get("epochs"):
        return f"{epochs} epochs"
    return f"{training['steps']:,} steps" if training.get("steps") else ""


def _show(name, measure):
    """All of a model, by its name or a preset's: a dict for JSON, and lines and tables."""
    from kgen import docstrings, models
    from kgen.checks import unknown_name

    presets = models.presets()
    model = presets[name]["model"] if name in presets else name
    families = [family for family in models.families().values() if model in family.models]
    if not families:
        known = [n for family in models.families().values() for n in family.models]
        raise ValueError(unknown_name("model or preset", name, [*known, *presets]))
    model_class = models.get(model)
    own = {
        preset: {key: value for key, value in values.items() if key != "model"}
        for preset, values in presets.items()
        if values["model"] == model and name in (model, preset)
    }
    defaults = docstrings.defaults(model_class)
    arguments = {
        key: {"default": defaults[key], "meaning": meaning}
        for key, meaning in docstrings.followed(model_class).items()
    }
    defaults = docstrings.defaults(model_class.sample)
    options = {
        key: {"default": defaults[key], "meaning": meaning}
        for key, meaning in docstrings.of_sampler(model_class).items()
    }
    cost = {}
    if measure:
        from kgen.training.size import measure_step

        # Of several, those that a CPU builds in seconds.
        small = [p for p, a in own.items() if name == p or a.get("dim", 0) <= 256]
        cost = {preset: measure_step(model_class, preset) for preset in small}
    shown = {
        "model": model,
        "class": f"kgen.models.{model_class.__name__}",
        "family": families[0].what,
        "when": families[0].models[model],
        "schedule": model_class.default_schedule,
        "arguments": arguments,
        "options": options,
        "presets": own,
        **({"cost": cost} if measure else {}),
    }
    columns = ["preset", "image shape", "other arguments"]
    columns += ["parameters", "seconds per step, of images"] if measure else []
    rows = []
    for preset, values in own.items():
        others = ", ".join(f"{k}={v}" for k, v in values.items() if k != "image_shape")
        row = [preset, "x".join(map(str, values["image_shape"])), others]
        if measure:
            found = cost.get(preset)
            row += [
                f"{found['parameters']:,}" if found else "",
                f"{found['seconds']:.2g}, {found['batch_size']}" if found else "too large to try",
            ]
        rows.append(row)

    def table(first, entries, title):
        rows = [(key, entry["default"], entry["meaning"]) for key, entry in entries.items()]
        return make_table(first, "default", "meaning", rows=rows, title=title)

    lines = [
        f"{model}, {shown['class']}: {shown['when']}",
        f"Family: {shown['family']}",
        table("argument", arguments, "Arguments (kgen train --set NAME=VALUE)"),
    ]
    if options:
        lines.append(table("option", options, "Options (kgen sample --set NAME=VALUE)"))
    lines.append(make_table(*columns, rows=rows, title="Presets"))
    lines.append(f"Next: kgen train {name} --data digits")
    return shown, lines


@app.command()
def train(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model or preset that `kgen list` shows; or a trained model to go on from: the "
            "name of one, a preset's or a run's folder, a .keras file, hf://USER/NAME; with "
            "--resume, the folder of the run.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Source of the images; `kgen list` shows them.")
    ] = None,
    run: Annotated[
        pathlib.Path | None, typer.Option(help="Folder of the run.", show_default="runs/MODEL-DATA")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs to train.", show_default=str(EPOCHS))
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="In place of --epochs: minutes to train for by the clock, with validation, "
            "samples and checkpoints; the rate is fitted to them."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="In place of --epochs: steps to train.")
    ] = None,
    pace: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="RUN",
            help="In place of --epochs: as many steps as a run of --minutes took, at its rates.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images per step.", show_default="the model's own, mostly 64"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Of the optimizer.",
            show_default=f"the model's own; from trained weights, {FINE_TUNING_RATE:g} of it",
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="constant|cosine|linear",
            help="How the rate changes over the run; the last two fall to 1 %.",
            show_default="the model's own",
        ),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Steps over which the rate rises.",
            show_default="a twentieth of the run where the rate falls, else 0",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**31 - 1,
            help="Seed of weights, order and noise.",
            show_default=str(RunConfig.seed),
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any argument of the model; repeatable."),
    ] = None,
    conditional: Annotated[
        bool | None, typer.Option("--conditional", help="Train on the labels of the data.")
    ] = None,
    degrade: Annotated[
        str | None,
        typer.Option(
            metavar="STEPS",
            help="Of a translator: what is done to the images to make its inputs, such as noise:25 "
            "or blur:0.5-2,jpeg:40-90. Steps: area, bicubic, blur, noise, poisson, jpeg, box, "
            "strokes, grey.",
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(help="Of a translator: folder of the inputs, by name partners of --data."),
    ] = None,
    unpaired: Annotated[
        bool | None, typer.Option("--unpaired", help="--inputs and --data are no partners.")
    ] = None,
    side_by_side: Annotated[
        bool | None,
        typer.Option("--side-by-side", help="Every picture of --data is input and image."),
    ] = None,
    swap: Annotated[
        bool | None, typer.Option("--swap", help="Side by side, the input is to the right.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Pairs whose names are alike without what this matches go into one split.",
        ),
    ] = None,
    begin_with: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Begin with the weights of another trained model, where its layers fit.",
        ),
    ] = None,
    image_shape: Annotated[
        str | None, typer.Option(metavar="HxWxC", help="Crop and resize to this shape.")
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="HxWxC", help="The same of --inputs.", show_default="as the images'"),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="crop|pad|stretch",
            help="What to do where the aspect ratio is another.",
            show_default="crop",
        ),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            metavar="lanczos|nearest",
            help="How to resize; nearest is for pixel art.",
            show_default="lanczos",
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            min=1, help="Skip pictures of more pixels than that.", show_default="178956970"
        ),
    ] = None,
    recursive: Annotated[
        bool | None,
        typer.Option("--recursive", help="Take subfolders for places of images, not for classes."),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the images for a validation split that the data lacks; 0 for none.",
            show_default="0.1",
        ),
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="The same for a test split.", show_default="0.1")
    ] = None,
    horizontal_flip: Annotated[
        bool | None, typer.Option("--horizontal-flip", help="Mirror half of the images.")
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="Colour behind transparent images.", show_default="white")
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict", help="Refuse data with files that cannot be read.")
    ] = None,
    data_dir: Annotated[
        pathlib.Path | None, typer.Option(help="Folder of tensorflow-datasets.")
    ] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="bfloat16 or float16.")] = None,
    jit: Annotated[
        bool | None,
        typer.Option("--jit/--no-jit", help="Compile with XLA.", show_default="where it is faster"),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Devices that share each batch: a number or 'all'.")
    ] = None,
    hosts: Annotated[
        bool | None,
        typer.Option("--hosts/--no-hosts", help="Train together with the hosts in TF_CONFIG."),
    ] = None,
    evaluate_every: EvaluateEvery = None,
    keep_best: KeepBest = None,
    callback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:CLASS",
            help="A Keras callback, by its module, in this folder or installed, and its class, "
            "with arguments where it takes any. It is code of your own, which runs; --resume does "
            "not take it from the run: give it again, and it begins anew. Repeatable.",
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="wandb|mlflow[:PROJECT]",
            help="Tell Weights & Biases or MLflow of the run, its evaluation and its export; "
            "'none' to stop. Repeatable.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    force: ReplaceRun = False,
    as_json: Json = False,
):
    """Train a model in a run folder.

    The folder gets run.json, checkpoints, samples of every epoch,
    metrics.csv, TensorBoard logs and model.keras. A run that was stopped or
    killed goes on with --resume.

    A model's name takes its preset of the shape of the images, else the one of their height and
    width (colour with alpha for colour without), else its defaults; and where the images are not
    all black and white, a likelihood of grey levels. It says what it took. A preset's name takes
    that preset, and its shape where --image-shape names none.

    A trained model goes on: it is built as it was, for the shape of --image-shape, or else its own,
    and for the classes of the images if it has any. All layers that fit begin with its weights; the
    others begin fresh, and are named. Its learning rate is smaller.

    A run of --minutes ends in time, inside an epoch too: the rate's way is fitted to the clock, so
    that it has fallen when time is up, on a machine that slows as well. --resume goes on with the
    minutes that are left. How far it came is in run.json, and its rate at every step in pace.csv,
    by which --pace repeats it exactly.

    Example: kgen train vae --data digits --epochs 30

    Example: kgen train dcgan --data photos/ --image-shape 64x64x3 --conditional

    Example: kgen train dcgan --data mnist.npz --evaluate-every 2 --keep-best fd

    Example: kgen train restorer --data photos/ --image-shape 64x64x3 --degrade noise:5-50

    Example: kgen train pix2pix --inputs drawings/ --data photos/ --image-shape 64x64x3

    Example: kgen train srgan --data photos/ --degrade bicubic:2 --begin-with runs/restorer-photos

    Example: kgen train dcgan_mnist --data photos/ --minutes 10

    Example: kgen train flow_matching --data mnist.npz --minutes 20

    Example: kgen train vae --data digits --callback 'my_callbacks:Log(every=5)'

    Example: kgen train vae --data digits --track wandb --track mlflow:digits

    Example: kgen train --resume runs/vae-digits
    """
    if resume and force:
        raise ValueError("--resume goes on with a run, --force replaces it: give one of them.")
    if resume and run is None and model and (pathlib.Path(model) / "run.json").is_file():
        run, model = pathlib.Path(model), None
    if model is None and not resume:
        raise ValueError(
            "Which model? Give one that `kgen list` shows: kgen train vae --data digits"
        )
    if data is None and not resume:
        raise ValueError(f"Which data? Give a source: kgen train {model} --data digits")
    if model is None or data is None:  # to go on
        if run is None:
            raise ValueError("Which run goes on? Give its folder: kgen train --resume RUN")
        if not (run / "run.json").is_file():
            raise RunError(f"There is no run in {run} to resume, and no model and data to begin.")
    data_arguments = {
        "image_shape": parse_shape(image_shape),
        "input_shape": parse_shape(input_shape, "--input-shape"),
        "inputs": _whole_path(inputs),
        "paired": False if unpaired else None,
        "side_by_side": side_by_side,
        "swap": swap,
        "group_by": group_by,
        "resize": resize,
        "interpolation": interpolation,
        "max_pixels": max_pixels,
        "recursive": recursive,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "horizontal_flip": horizontal_flip,
        "background": background,
        "strict": strict,
        "data_dir": None if data_dir is None else str(data_dir.resolve()),
    }
    model_arguments = parse_settings(settings or [])
    if degrade is not None:
        if "degradation" in model_arguments:
            raise ValueError("--degrade STEPS is --set degradation=STEPS: give one of them.")
        model_arguments["degradation"] = degrade
    with work(as_json):
        from kgen.training.run import train

        start = time.perf_counter()
        done = train(
            model,
            data,
            run or _default_run(model, data),
            model_arguments=model_arguments or None,
            conditional=conditional,
            begin_with=_whole_path(begin_with),
            data_arguments={k: v for k, v in data_arguments.items() if v is not None} or None,
            epochs=epochs,
            steps=steps,
            minutes=minutes,
            pace=_whole_path(pace),
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            warmup_steps=warmup_steps,
            seed=seed,
            mixed_precision=mixed_precision,
            jit=jit,
            devices=parse_devices(devices),
            hosts=hosts,
            evaluate_every=evaluate_every,
            keep_best=keep_best,
            track=[] if track == ["none"] else track,
            callbacks=callback or (),
            resume=resume,
            force=force,
            verbose=1 if sys.stdout.isatty() else 2,
            report=_report,
        )
        seconds = time.perf_counter() - start
    translates = "input_shape" in done.info["model"]["config"]
    last = (done.metrics or [{"epoch": 0, "steps": done.info["steps"]}])[-1]
    samples = done.path / "samples" / f"epoch_{last['epoch']:04d}.png"
    result = {
        "run": str(done.path),
        "model": str(done.model_path),
        "metrics": last,
        "samples": str(samples) if samples.is_file() else None,
        "seconds": round(seconds, 1),
    }
    print_result(
        result,
        as_json,
        f"Trained {last['epoch']} epochs, {last['steps']:,} steps, in {seconds:.0f} s: "
        f"{done.model_path}",
        f"Samples: {samples if samples.is_file() else 'none'}",
        f"Next:    kgen translate {done.path} FOLDER -o translated"
        if translates
        else f"Next:    kgen sample {done.path} -o grid.png",
        f"         kgen evaluate {done.path}",
        f"         kgen export {done.path} -o artifacts/{done.path.name}",
    )


def _report(line):
    """A line of a run; on a terminal the name before it stands out."""
    from rich.console import Console
    from rich.text import Text

    text = Text(line)
    text.highlight_regex(r"^[A-Z][a-z]+:(?=  )", "bold")
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def _whole_path(path):
    """A path that holds from any folder; anything else as it is."""
    if path is None or not pathlib.Path(path).expanduser().exists():
        return None if path is None else str(path)
    return str(pathlib.Path(path).expanduser().resolve())


def _default_run(model, data):
    path = pathlib.Path(data)
    if path.name in ("", ".."):  # "." and ".." are named as the folders that they are
        path = pathlib.Path(os.path.abspath(path))
    # Letters of every script stay: two names that differ in them alone are two runs.
    name = re.sub(r"[^A-Za-z0-9_\u0080-\U0010ffff]+", "-", path.name.removesuffix(".npz"))
    model = pathlib.Path(model).name.removesuffix(".keras")
    return pathlib.Path("runs") / f"{model}-{name.strip('-')}"
