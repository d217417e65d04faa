"""The command `kgen`.

Nothing heavy is imported here at the top, so that `kgen --help` answers at once; a command
imports what it needs. What a command is about goes to standard output, progress and
messages to standard error where they can; with `--json` standard output holds JSON alone.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import sys
import time
import traceback
import warnings
from typing import Annotated

import typer

app = typer.Typer(
    name="kgen",
    help="Image generators for Keras: train, sample, evaluate, export and prove them.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Options that several commands share.
Model = Annotated[
    pathlib.Path,
    typer.Argument(
        metavar="RUN", help="Folder of a run, a .keras file, or the folder of a preset."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of what is drawn.")]
Label = Annotated[
    str | None,
    typer.Option(
        help="For a class-conditional model: a class, a list such as 0,1,2 (one per image), or "
        "'each' for every class in turn."
    ),
]


def main(arguments=None):
    """Runs a command line.

    Args:
        arguments: List of strings; `None` for those of the process.

    Returns:
        Int, the exit status: 0, 1 for a failure, 2 for a wrong command line, 130 and 143
        for a run that Ctrl-C or SIGTERM stopped.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if debug else "3")
    try:
        with _plain_warnings():
            return app(arguments, prog_name="kgen", standalone_mode=False) or 0
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130
    except BrokenPipeError:  # `kgen list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if hasattr(error, "format_message"):  # a wrong command line
            _say(f"Error: {_usage(error, arguments)}")
            return error.exit_code
        from kgen.training.errors import Interrupted

        if isinstance(error, Interrupted):
            _say(str(error))
            return 128 + error.signum
        _say(f"Error: {_message(error)}")
        return 1


def _usage(error, arguments):
    """What is wrong with a command line, in one line."""
    message = error.format_message().rstrip(".?") + ("?" if "Did you" in str(error) else ".")
    options = getattr(getattr(error, "param", None), "opts", ())
    for option, value in itertools.pairwise(arguments):
        if option in options:
            message += f" Received: {option} {value}."
    if getattr(error, "ctx", None):
        message += f" See: {error.ctx.command_path} --help"
    return message


def _message(error):
    """An error in one or two lines."""
    from kgen.training.errors import RunError

    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(lines[:2])
    if not isinstance(error, RunError | ValueError | OSError | ImportError):
        message = f"{type(error).__name__}: {message[:300]} (--debug shows where)"
    return message


def _say(text):
    """A line for the user on standard error."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _plain_warnings():
    """Shows warnings of kgen as one line, and none of what lies under it."""

    def show(message, category, *args, **kwargs):
        if category is UserWarning:
            _say(f"Warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _work(as_json=False):
    """Imports Keras without its backend's greetings, and keeps standard output for JSON."""
    quiet = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3"
    with _silenced() if quiet else contextlib.nullcontext():
        import keras  # noqa: F401
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _silenced():
    """Standard error of the process to nowhere: TensorFlow's C++ writes there on import."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _print(value, as_json, *lines):
    """The result of a command: JSON, or lines and tables for a person."""
    if as_json:
        print(json.dumps(value, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for line in lines:
        if isinstance(line, str):
            console.print(line, markup=False, soft_wrap=True)
        else:
            console.print(line)


def _table(*columns, rows, title=None):
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    rows = [tuple(row) for row in rows]
    for i, column in enumerate(columns):
        # A name stays whole, where the terminal lets it.
        longest = max((len(str(row[i])) for row in rows), default=0) if i == 0 else 0
        table.add_column(column, overflow="fold", min_width=min(longest, 24))
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


# What is written on a command line -------------------------------------------------------


def _settings(texts):
    """`["beta=4", "likelihood=gaussian"]` to a dict; values are JSON, or else strings."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes name=value. Received: --set {text}")
        try:
            settings[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            named = {"None": None, "True": True, "False": False}
            settings[name.replace("-", "_")] = named.get(value, value)
    return settings


def _shape(text):
    """`"32x32x3"` to `(32, 32, 3)`."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+x\d+x\d+", text):
        raise ValueError(
            "--image-shape takes HEIGHTxWIDTHxCHANNELS, such as 32x32x3. "
            f"Received: --image-shape {text}"
        )
    return tuple(int(side) for side in text.split("x"))


def _integers(option, text):
    """`"1,2,3"` to `[1, 2, 3]`."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"{option} takes integers such as 1,2,3. Received: {option} {text}")
    return [int(number) for number in text.split(",")]


def _devices(text):
    if text in (None, "all"):
        return text
    if not text.isdecimal():
        raise ValueError(f"--devices takes a number or 'all'. Received: --devices {text}")
    return int(text)


def _labels(model, text, n):
    """The labels that `--label` means, for `n` images."""
    if text is None:
        if model.num_classes is not None:
            raise ValueError(
                f"{type(model).__name__} is class-conditional and needs a label in 0 to "
                f"{model.num_classes - 1}. Received none: give --label 3, --label 0,1,2 or "
                "--label each."
            )
        return None
    if text == "each" and model.num_classes is not None:
        return [i % model.num_classes for i in range(n)]
    labels = _integers("--label", text if text != "each" else "0")
    return labels[0] if len(labels) == 1 else labels


def _default_run(model, data):
    name = re.sub(r"[^A-Za-z0-9_]+", "-", pathlib.Path(data).name.removesuffix(".npz"))
    return pathlib.Path("runs") / f"{pathlib.Path(model).name}-{name.strip('-')}"


def _load_model(path):
    from kgen.training.run import load_model

    return load_model(path, report=_say)


# Commands --------------------------------------------------------------------------------


def _data(loaded, run, path, source):
    """The images of a source, or those of the model's run."""
    import kgen

    if source is not None:
        return kgen.data.load(source, image_shape=loaded.image_shape, progress=sys.stderr.isatty())
    if run is None:
        raise ValueError(f"{path} belongs to no run, so it needs --data SOURCE.")
    return run.load_data(report=_say)


@app.callback(invoke_without_command=True)
def _kgen(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; goes with every command.")
    ] = False,
):
    if version:
        import kgen

        print(f"kgen {kgen.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_(as_json: Json = False):
    """Show models, presets and data sources.

    Example: kgen list
    """
    with _work(as_json):
        from kgen import data, models

        zoo = models.registered()
        summary = {name: c.__doc__.strip().splitlines()[0] for name, c in zoo.items()}
        presets = {
            preset: {"model": name, **arguments}
            for name, c in zoo.items()
            for preset, arguments in c.presets.items()
        }
    rows = [
        (preset, values["model"], "x".join(map(str, values["image_shape"])))
        for preset, values in presets.items()
    ]
    _print(
        {"models": summary, "presets": presets, "sources": data.SOURCES},
        as_json,
        _table("model", "what it is", rows=summary.items(), title="Models"),
        _table("preset", "model", "image shape", rows=rows, title="Presets"),
        _table("source", "what it is", rows=data.SOURCES.items(), title="Sources for --data"),
        "Next: kgen train vae --data digits",
    )


@app.command()
def train(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model or preset that `kgen list` shows, or the folder of a preset; with "
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
        int | None, typer.Option(min=1, help="Epochs to train.", show_default="20")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per step.", show_default="64")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the optimizer.", show_default="the model's own")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**31 - 1, help="Seed of weights, order and noise.", show_default="0"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any argument of the model; repeatable."),
    ] = None,
    conditional: Annotated[
        bool | None, typer.Option("--conditional", help="Train on the labels of the data.")
    ] = None,
    image_shape: Annotated[
        str | None, typer.Option(metavar="HxWxC", help="Crop and resize to this shape.")
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
    evaluate_every: Annotated[
        int | None,
        typer.Option(min=1, help="Measure samples every so many epochs.", show_default="never"),
    ] = None,
    keep_best: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Keep the best epoch by this metric, such as fd."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the run that is in the folder.")
    ] = False,
    as_json: Json = False,
):
    """Train a model in a run folder.

    The folder gets run.json, checkpoints, samples of every epoch,
    metrics.csv, TensorBoard logs and model.keras. A run that was stopped or
    killed goes on with --resume.

    Example: kgen train vae --data digits --epochs 30

    Example: kgen train dcgan --data photos/ --image-shape 64x64x3 --conditional

    Example: kgen train dcgan --data mnist.npz --evaluate-every 2 --keep-best fd

    Example: kgen train --resume runs/vae-digits
    """
    if resume and force:
        raise ValueError("--resume goes on with a run, --force replaces it: give one of them.")
    if resume and model is not None and (pathlib.Path(model) / "run.json").is_file():
        if run is not None:
            raise ValueError(f"Which run goes on? Received: {model} and --run {run}")
        model, run = None, pathlib.Path(model)
    if model is None and not resume:
        raise ValueError(
            "Which model? Give one that `kgen list` shows: kgen train vae --data digits"
        )
    if data is None and not resume:
        raise ValueError(f"Which data? Give a source: kgen train {model} --data digits")
    if run is None and (model is None or data is None):
        raise ValueError("Which run goes on? Give its folder: kgen train --resume RUN")
    data_arguments = {
        "image_shape": _shape(image_shape),
        "horizontal_flip": horizontal_flip,
        "background": background,
        "strict": strict,
        "data_dir": None if data_dir is None else str(data_dir.resolve()),
    }
    model_arguments = _settings(settings or [])
    with _work(as_json):
        from kgen.training.run import train

        start = time.perf_counter()
        done = train(
            model,
            data,
            run or _default_run(model, data),
            model_arguments=model_arguments or None,
            conditional=conditional,
            data_arguments={k: v for k, v in data_arguments.items() if v is not None} or None,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            mixed_precision=mixed_precision,
            jit=jit,
            devices=_devices(devices),
            hosts=hosts,
            evaluate_every=evaluate_every,
            keep_best=keep_best,
            resume=resume,
            force=force,
            verbose=1 if sys.stdout.isatty() else 2,
            report=_say,
        )
        seconds = time.perf_counter() - start
    last = done.metrics[-1]
    samples = done.path / "samples" / f"epoch_{last['epoch']:04d}.png"
    result = {
        "run": str(done.path),
        "model": str(done.model_path),
        "metrics": last,
        "samples": str(samples) if samples.is_file() else None,
        "seconds": round(seconds, 1),
    }
    _print(
        result,
        as_json,
        f"Trained {last['epoch']} epochs in {seconds:.0f} s: {done.model_path}",
        f"Samples: {samples if samples.is_file() else 'none'}",
        f"Next:    kgen sample {done.path} -o grid.png",
        f"         kgen evaluate {done.path}",
        f"         kgen export {done.path} -o artifacts/{done.path.name}",
    )


@app.command()
def sample(
    model: Model,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 64,
    seed: Seed = 0,
    seeds: Annotated[
        str | None, typer.Option(help="One seed per image, such as 1,2,3, in place of -n, --seed.")
    ] = None,
    label: Label = None,
    output: Annotated[
        pathlib.Path,
        typer.Option("-o", "--output", help="A .png for a grid; else a new folder of PNGs."),
    ] = pathlib.Path("samples.png"),
    columns: Annotated[int | None, typer.Option(min=1, help="Images per row of the grid.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any option of the model's sampler."),
    ] = None,
    batch_size: BatchSize = 64,
    as_json: Json = False,
):
    """Draw images from a trained model.

    Example: kgen sample runs/vae-digits -n 64 --seed 0 -o grid.png

    Example: kgen sample runs/dcgan-photos -n 1000 --label 3 -o pictures/ --set temperature=0.8
    """
    options = _settings(settings or [])
    row_seeds = None if seeds is None else _integers("--seeds", seeds)
    grid = output.suffix.lower() == ".png"
    if not grid and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder; choose another with -o.")
    with _work(as_json):
        import keras

        from kgen import images, random

        loaded, _ = _load_model(model)
        if row_seeds is None:
            row_seeds = keras.ops.convert_to_numpy(random.row_seeds(seed, n)).tolist()
        pictures = loaded.generate(
            seeds=row_seeds,
            labels=_labels(loaded, label, len(row_seeds)),
            batch_size=batch_size,
            **options,
        )
        if grid:
            if label == "each":  # a column for each class
                columns = columns or loaded.num_classes
            scale = images.viewing_scale(loaded.image_shape)
            images.save_png(images.grid(pictures, columns, scale=scale), output)
        else:
            images.save_folder(pictures, output)
    result = {"output": str(output), "images": len(pictures), "seeds": row_seeds}
    _print(result, as_json, f"{len(pictures)} images: {output}")


@app.command()
def interpolate(
    model: Model,
    rows: Annotated[int, typer.Option(min=1, help="How many ways.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Images on each way.")] = 10,
    seed: Seed = 0,
    label: Label = None,
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="The .png to write.")
    ] = pathlib.Path("interpolation.png"),
    batch_size: BatchSize = 64,
    as_json: Json = False,
):
    """Draw images on arcs through the latent space of a trained model.

    Example: kgen interpolate runs/vae-digits --rows 8 --steps 10 -o ways.png
    """
    with _work(as_json):
        from kgen import evaluation, images

        loaded, _ = _load_model(model)
        pictures = evaluation.interpolate(
            loaded, rows, steps, seed, labels=_labels(loaded, label, rows), batch_size=batch_size
        )
        flat = pictures.reshape(rows * steps, *loaded.image_shape)
        scale = images.viewing_scale(loaded.image_shape)
        images.save_png(images.grid(flat, steps, scale=scale), output)
    result = {"output": str(output), "rows": rows, "steps": steps, "seed": seed}
    _print(result, as_json, f"{rows} ways of {steps} images: {output}")


@app.command()
def complete(
    model: Model,
    data: Annotated[
        str | None, typer.Option(help="Source of the images.", show_default="the run's own")
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 8,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each image.")] = 6,
    keep: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the rows, from the top, to keep.")
    ] = 0.5,
    mask: Annotated[
        pathlib.Path | None,
        typer.Option(help="Picture of the images' size, white where pixels are kept."),
    ] = None,
    any_order: Annotated[
        bool,
        typer.Option(
            "--any-order",
            help="Also keep pixels after those to draw, which these cannot be conditioned on.",
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any option of the model's sampler."),
    ] = None,
    seed: Seed = 0,
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="The .png to write.")
    ] = pathlib.Path("completions.png"),
    batch_size: BatchSize = 64,
    as_json: Json = False,
):
    """Keep a part of images and have the model draw the rest.

    Each row of the picture is an image, what is kept of it (the rest in grey), and
    its completions. An autoregressive model draws a pixel given all pixels above it
    and left of it; MaskGIT and DiT see all that is kept.

    Example: kgen complete runs/gated_pixelcnn-mnist --keep 0.4 -o completions.png

    Example: kgen complete runs/dit-photos --data mine/ --mask mask.png --set num_steps=16
    """
    options = _settings(settings or [])
    with _work(as_json):
        import numpy as np

        from kgen import images

        loaded, run = _load_model(model)
        method = getattr(loaded, "complete", None) or getattr(loaded, "inpaint", None)
        if method is None:
            raise ValueError(f"{type(loaded).__name__} cannot complete images.")
        given, labels = _given(loaded, run, model, data, split, n)
        if hasattr(loaded, "cut_to_levels"):
            given = loaded.cut_to_levels(given)
            options |= {"strict": not any_order}
        height, width, _ = loaded.image_shape
        if mask is None:
            known = np.arange(height)[:, None] < round(keep * height)
            known = np.broadcast_to(known, (height, width))
        else:
            known = images.load_mask(mask)
        drawn = method(
            np.repeat(given, samples, axis=0),
            known,
            None if labels is None else np.repeat(labels, samples),
            seed,
            batch_size=batch_size,
            **options,
        )
        kept = np.where(known[..., None], given, np.uint8(128))
        _save_rows([given[:, None], kept[:, None], drawn], samples + 2, output)
    result = {"output": str(output), "images": len(given), "samples": samples, "seed": seed}
    _print(result, as_json, f"{len(given)} images with {samples} completions each: {output}")


@app.command()
def vary(
    model: Model,
    data: Annotated[
        str | None, typer.Option(help="Source of the images.", show_default="the run's own")
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 8,
    strengths: Annotated[
        str, typer.Option(help="How far to go from the image, each 0 to 1; one column each.")
    ] = "0.2,0.4,0.6,0.8,1",
    label: Annotated[
        int | None, typer.Option(help="Class to turn them into.", show_default="their own")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any option of the model's sampler."),
    ] = None,
    seed: Seed = 0,
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="The .png to write.")
    ] = pathlib.Path("variations.png"),
    batch_size: BatchSize = 64,
    as_json: Json = False,
):
    """Draw variations of images, from near to far.

    Each row of the picture is an image and its variations, one for each strength.

    Example: kgen vary runs/dit-photos --data mine/ --strengths 0.3,0.6 -o variations.png

    Example: kgen vary runs/dit-mnist --label 3 --set guidance_scale=2
    """
    options = _settings(settings or [])
    try:
        far = [float(part) for part in strengths.split(",")]
    except ValueError as error:
        raise ValueError(
            f"--strengths takes numbers such as 0.3,0.6. Received: --strengths {strengths}"
        ) from error
    with _work(as_json):
        import numpy as np

        loaded, run = _load_model(model)
        if not hasattr(loaded, "vary"):
            raise ValueError(f"{type(loaded).__name__} cannot vary images.")
        given, labels = _given(loaded, run, model, data, split, n)
        if label is not None:
            labels = np.full(len(given), label)
        drawn = loaded.vary(
            np.repeat(given, len(far), axis=0),
            np.tile(far, len(given)),
            None if labels is None else np.repeat(labels, len(far)),
            seed,
            batch_size=batch_size,
            **options,
        )
        _save_rows([given[:, None], drawn], len(far) + 1, output)
    result = {"output": str(output), "images": len(given), "strengths": far, "seed": seed}
    _print(result, as_json, f"{len(given)} images with {len(far)} variations each: {output}")


def _given(loaded, run, model, data, split, n):
    """The first images of a source, and their labels for a class-conditional model."""
    chosen = _data(loaded, run, model, data).split(split)
    labels = None if loaded.num_classes is None or chosen.labels is None else chosen.labels[:n]
    return chosen.images[:n], labels


def _save_rows(parts, columns, output):
    """Writes a picture with a row for each image, from arrays `[N, ...]` of its parts."""
    import numpy as np

    from kgen import images

    count, shape = len(parts[0]), parts[0].shape[-3:]
    rows = np.concatenate([part.reshape(count, -1, *shape) for part in parts], axis=1)
    scale = images.viewing_scale(shape)
    images.save_png(images.grid(rows.reshape(-1, *shape), columns, scale=scale), output)


@app.command()
def evaluate(
    model: Model,
    data: Annotated[
        str | None, typer.Option(help="Source of the images.", show_default="the run's own")
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    num_samples: Annotated[int, typer.Option(min=1, help="Images to draw.")] = 10_000,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Names such as fd,kd,precision,recall, or none.",
            show_default="all that can be computed",
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="What images are compared by: auto, lenet128, cifar_cnn, random_conv, "
            "inception:WEIGHTS or a .keras file."
        ),
    ] = "auto",
    importance_samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="For a VAE: samples per image for the likelihood.", show_default="1"
        ),
    ] = None,
    output: Annotated[
        pathlib.Path | None,
        typer.Option("-o", "--output", help="Folder to write to.", show_default="the run's own"),
    ] = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Compute a Fréchet distance of fewer images than features."),
    ] = False,
    as_json: Json = False,
):
    """Measure a trained model, and write a page about it.

    Draws images and compares them with held-out ones by every metric, beside
    the same metric of real images (the floor). Writes evaluation.json,
    report.html and its pictures into the run's folder.

    Example: kgen evaluate runs/vae-mnist

    Example: kgen evaluate runs/vae-mnist --importance-samples 500 --metrics fd,kd

    Example: kgen evaluate runs/dcgan-mnist/best.keras -o best/

    Example: kgen evaluate runs/dcgan-faces --features inception:weights.pth --num-samples 50000
    """
    with _work(as_json):
        import kgen

        loaded, run = _load_model(model)
        loaded_data = _data(loaded, run, model, data)
        whole = run is not None and model.is_dir()
        folder = output or (model if whole else model.with_name(f"{model.stem}-evaluation"))
        report = kgen.evaluation.evaluate(
            loaded,
            loaded_data,
            split=split,
            num_samples=num_samples,
            metrics=_names(metrics),
            features=features,
            importance_samples=importance_samples,
            batch_size=batch_size,
            seed=seed,
            force=force,
            folder=folder,
            history=run.metrics if whole else (),
            path=str(model),
            progress=sys.stderr.isatty(),
            verbose=1 if sys.stdout.isatty() else 0,
        )
    for warning in report.get("warnings", ()):
        _say(f"Warning: {warning}")
    _print(
        report,
        as_json,
        *_report_tables(report),
        f"Look at {folder / 'report.html'}; all figures: {folder / 'evaluation.json'}",
    )


def _names(text):
    """`"fd,kd"` to `["fd", "kd"]`, `"none"` to `[]`; `None` stays."""
    if text is None:
        return None
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]


def _report_tables(report):
    from kgen.evaluation.page import number

    rows = [(name, number(value)) for name, value in report["losses"].items()]
    if "likelihood" in report:
        likelihood = report["likelihood"]
        rows.append((f"nats per image ({likelihood['kind']})", number(likelihood["nats"])))
        rows.append(("bits per dimension", number(likelihood["bits_per_dimension"])))
    if "reconstruction" in report:
        error = report["reconstruction"]
        rows.append(("reconstruction, mean absolute error", f"{error['mae']:.2f} grey levels"))
        rows.append(("reconstruction, root mean square", f"{error['rmse']:.2f} grey levels"))
    rows.append(("images per second", f"{report['sampling']['images_per_second']:.0f}"))
    title = f"{report['images']} {report['data']['split']} images of {report['data']['name']}"
    tables = [_table("figure", "value", rows=rows, title=title)]
    if "likelihood" in report:
        tables.append(f"Likelihood: {report['likelihood']['protocol']}.")
    if "metrics" in report:
        extractor, reference = report["features"], report["reference"]
        tables.append(
            _table(
                "metric",
                "value",
                "real images (floor)",
                "against training images",
                rows=[
                    (
                        name,
                        number(entry["value"], entry["sd"]),
                        number(entry["floor"], entry["floor_sd"]),
                        number(entry["train"]),
                    )
                    for name, entry in report["metrics"].items()
                ],
                title=f"{report['samples']['n']} samples against {reference['n']} "
                f"{reference['split']} images; {extractor['name']} {extractor['sha256'][:12]}",
            )
        )
    return tables


@app.command()
def compare(
    runs: Annotated[
        list[pathlib.Path],
        typer.Argument(metavar="RUN RUN ...", help="Folders that `kgen evaluate` wrote to."),
    ],
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="The .html to write.")
    ] = pathlib.Path("comparison.html"),
    as_json: Json = False,
):
    """Put evaluated runs side by side, in one table and on one page.

    Example: kgen compare runs/vae-mnist runs/dcgan-mnist -o comparison.html
    """
    from kgen.evaluation.report import compare

    header, rows = compare(runs, output)
    result = {"output": str(output), "header": header, "rows": rows}
    _print(result, as_json, _table(*header, rows=rows), f"Look at {output}")


@app.command("export")
def export_(
    model: Model,
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="Folder of the artifact to write.")
    ],
    formats: Annotated[str, typer.Option(help="saved_model, onnx or both.")] = "saved_model,onnx",
    opset: Annotated[int, typer.Option(min=18, max=23, help="ONNX operator set.")] = 18,
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes to prove and warm up.")] = "1,8",
    name: Annotated[
        str | None, typer.Option(help="Name in the manifest.", show_default="the run's")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the artifact that is there.")
    ] = False,
    as_json: Json = False,
):
    """Write a model as SavedModel and ONNX, and prove that both equal Keras.

    Example: kgen export runs/vae-digits -o artifacts/vae-digits --formats saved_model,onnx
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # a .keras file of either backend loads there
    with _work(as_json):
        artifact = _export(
            model,
            output,
            formats=tuple(part.strip() for part in formats.split(",") if part.strip()),
            opset=opset,
            batch_sizes=tuple(_integers("--batch-sizes", batch_sizes)),
            name=name,
            overwrite=overwrite,
        )
    result = {
        "artifact": str(artifact.path),
        "name": artifact.name,
        "bytes": artifact.size,
        "signatures": artifact.summary(),
    }
    _print(
        result,
        as_json,
        _parity_table(artifact.summary(), f"{artifact.path}: proven against Keras"),
        f"Next: kgen verify {artifact.path}",
    )


def _export(model, output, name=None, **options):
    """Exports a model; what is known of its run goes into the manifest."""
    import export

    loaded, run = _load_model(model)
    metadata = {}
    if run is not None:
        info = run.info
        metadata = {
            "data": info["data"],
            "training": {**info["arguments"], "metrics": (run.metrics or [None])[-1]},
        }
        evaluation = run.path / "evaluation.json"
        if evaluation.is_file() and pathlib.Path(model).is_dir():
            metadata["scores"] = _scores(json.loads(evaluation.read_text()))
    name = name or (run.path.resolve().name if run is not None else loaded.name)
    return export.export(
        loaded, output, name=name, metadata=metadata, progress=sys.stderr.isatty(), **options
    )


def _scores(report):
    """What of an evaluation goes into an artifact: figures, and what they rest on."""
    kept = ("data", "losses", "reconstruction", "likelihood", "features", "samples", "reference")
    scores = {name: report[name] for name in kept if name in report}
    for name, entry in report.get("metrics", {}).items():
        scores[name] = {key: entry[key] for key in ("value", "sd", "floor")}
    return scores


def _parity_table(rows, title):
    return _table(
        "format",
        "signature",
        "largest difference",
        "equal",
        rows=[
            (
                row["format"],
                row["signature"],
                f"{row['max_difference']:.3g}",
                f"{100 * row['equal']:.3f} %",
            )
            for row in rows
        ],
        title=title,
    )


@app.command()
def verify(
    artifact: Annotated[
        pathlib.Path, typer.Argument(metavar="ARTIFACT", help="Folder that `kgen export` wrote.")
    ],
    as_json: Json = False,
):
    """Check every file of an artifact and prove it again, without Keras.

    Example: kgen verify artifacts/vae-digits
    """
    import export

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        found = export.verify(artifact, progress=sys.stderr.isatty())
    result = {
        "artifact": str(artifact),
        "verified": True,
        "files": len(found.artifact.manifest["files"]),
        "seconds": round(found.seconds, 2),
        "parity": found.parity,
    }
    _print(
        result,
        as_json,
        f"{artifact} is what was exported: {result['files']} files are unchanged and all "
        f"{len(found.artifact.summary())} signatures give their golden outputs "
        f"({found.seconds:.1f} s).",
    )


@app.command()
def quickstart(
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="Folder to write everything to.")
    ] = pathlib.Path("kgen-quickstart"),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 80,
    as_json: Json = False,
):
    """Train a VAE on handwritten digits, look at it, measure it, export it and prove it.

    Takes one to two minutes on two CPU cores and needs no network.

    Example: kgen quickstart
    """
    run, grid, artifact = output / "run", output / "samples.png", output / "artifact"
    if output.exists() and any(output.iterdir()) and not (run / "run.json").is_file():
        raise ValueError(f"{output} holds other files; choose another folder with -o.")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # export needs it
    start = time.perf_counter()
    with _work(as_json):
        import kgen
        from kgen import images
        from kgen.training.callbacks import draw_grid
        from kgen.training.run import train

        print(f"Training a VAE on 1,437 handwritten digits for {epochs} epochs")
        done = train(
            "vae_8x8",
            "digits",
            run,
            conditional=True,
            epochs=epochs,
            force=True,
            verbose=1 if sys.stdout.isatty() else 2,
            report=_say,
        )
        print("Drawing, measuring, exporting, proving")
        model, _ = _load_model(run)
        images.save_png(draw_grid(model, 100), grid)
        report = kgen.evaluation.evaluate(
            model,
            done.load_data(report=_say),
            num_samples=2000,
            metrics=("kd", "precision", "recall", "density", "coverage", "authenticity"),
            importance_samples=100,
            folder=run,
            history=done.metrics,
            path=str(run),
        )
        exported = _export(run, artifact, name="vae-digits", overwrite=True)
    seconds = time.perf_counter() - start
    result = {
        "run": str(run),
        "samples": str(grid),
        "artifact": str(artifact),
        "evaluation": report,
        "signatures": exported.summary(),
        "seconds": round(seconds, 1),
    }
    worst = max(
        row["max_difference"] for row in exported.summary() if row["endpoint"] == "generate"
    )
    made = [
        ("run", run, "everything about the training; TensorBoard: logs/"),
        ("samples", grid, "100 digits that the model drew, a row for each class"),
        ("model", run / "model.keras", "for Keras, on TensorFlow or JAX"),
        (
            "report",
            run / "report.html",
            f"test loss {report['losses']['loss']:.2f} nats, metrics beside those of real images",
        ),
        (
            "artifact",
            artifact,
            f"SavedModel and ONNX; largest difference from Keras: {worst:g} grey levels",
        ),
    ]
    following = [
        (f"kgen sample {run} -n 64 --label 7 --seed 1 -o sevens.png", "64 other sevens"),
        (f"kgen interpolate {run} --label 3 -o threes.png", "from three to three"),
        (f"kgen verify {artifact}", "prove the artifact again, without Keras"),
        ("kgen list", "other models and data"),
        ("kgen train dcgan --data FOLDER --image-shape 64x64x3", "a GAN on your own images"),
    ]
    width = max(len(command) for command, _ in following)
    _print(
        result,
        as_json,
        _table("what", "where", "", rows=made, title=f"Made in {seconds:.0f} seconds"),
        "\nWhat to type next:",
        *(f"  {command:<{width}}  {what}" for command, what in following),
    )


if __name__ == "__main__":
    sys.exit(main())
