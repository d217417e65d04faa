"""The command `distill`."""

import pathlib
import sys
import time
from typing import Annotated

import typer

from kgen.cli.common import (
    MODEL,
    EvaluateEvery,
    Json,
    KeepBest,
    ReplaceRun,
    app,
    beside,
    load,
    parse_settings,
    print_result,
    say,
    stem_of,
    work,
)
from kgen.training.errors import RunError
from kgen.training.run_config import EPOCHS


@app.command()
def distill(
    model: Annotated[str, typer.Argument(metavar="RUN", help=f"A FlowMatching or DiT. {MODEL}")],
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Passes of the network that draw an image then.")
    ] = 1,
    run: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder of the new run.", show_default="RUN-STEPS-step"),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Source of the images.", show_default="the run's own")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs to train.", show_default="half of the run's")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="In place of --epochs: minutes to train for by the clock.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per step.", show_default="the run's")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the optimizer.", show_default="the model's own")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**31 - 1, help="Seed of order and noise.", show_default="the run's"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any argument of soflow or soflow_dit; repeatable."
        ),
    ] = None,
    evaluate_every: EvaluateEvery = None,
    keep_best: KeepBest = None,
    force: ReplaceRun = False,
    as_json: Json = False,
):
    """Teach a trained model to draw in one pass of its network, or a few.

    A new run begins with what the run has learnt, and is a run like any other: it goes on with
    `kgen train --resume`, is evaluated, compared, exported. From the same seeds both draw much the
    same images; teacher.png shows them, the run's above, the new one's below.

    Example: kgen distill runs/flow_matching-mnist

    Example: kgen distill runs/dit-mnist --steps 2 --epochs 5 --run runs/dit-mnist-fast
    """
    with work(as_json, model):
        from kgen.training.run import train

        start = time.perf_counter()
        teacher, before = load(model)
        if not hasattr(teacher, "distill"):
            raise ValueError(
                f"kgen distill takes a run of FlowMatching or DiT. Received: {model}, a "
                f"{type(teacher).__name__}"
            )
        student = teacher.distill(steps, **parse_settings(settings or []))
        about = {} if before is None else before.info
        begun = about.get("arguments", {})
        source = data or about.get("data", {}).get("source")
        if source is None:
            raise RunError(f"{model} names no source of its data: give --data SOURCE.")
        done = train(
            student,
            source,
            run or beside(model, f"{stem_of(model)}-{steps}-step"),
            data_arguments={
                **begun.get("data_arguments", {}),
                "image_shape": list(teacher.image_shape),
            },
            conditional=begun.get("conditional"),
            **_length(begun, about.get("steps"), epochs=epochs, minutes=minutes),
            batch_size=batch_size or begun.get("batch_size"),
            learning_rate=learning_rate,
            seed=begun.get("seed") if seed is None else seed,
            evaluate_every=evaluate_every,
            keep_best=keep_best,
            force=force,
            verbose=1 if sys.stdout.isatty() else 2,
            report=say,
        )
        shown = _beside(teacher, student, done.path, done.info["arguments"]["seed"])
        seconds = time.perf_counter() - start
    result = {
        "run": str(done.path),
        "model": str(done.model_path),
        "teacher": str(model),
        "steps": steps,
        "metrics": done.metrics[-1] if done.metrics else None,
        "pictures": str(shown),
        "seconds": round(seconds, 1),
    }
    print_result(
        result,
        as_json,
        f"Distilled {model} to {steps} {'pass' if steps == 1 else 'passes'} in {seconds:.0f} s: "
        f"{done.model_path}",
        f"Look at {shown}: the same seeds, by {stem_of(model)} above and in {steps} below",
        f"Next:    kgen evaluate {model} && kgen evaluate {done.path}",
        f"         kgen compare {model} {done.path}",
        f"         kgen export {done.path} -o artifacts/{done.path.name}",
    )


def _length(begun, taken, **given):
    """How long to train: what is given, or half of the run's, which has `taken` so many steps."""
    if any(value is not None for value in given.values()):
        return given
    if begun.get("minutes") is not None:
        return {"minutes": begun["minutes"] / 2}
    if begun.get("pace") is not None and taken:
        return {"steps": max(1, taken // 2)}
    name = "steps" if begun.get("steps") is not None else "epochs"
    return {name: max(1, (begun.get(name) or EPOCHS) // 2)}


def _beside(teacher, student, folder, seed):
    """Draws the same seeds by both: the path of a picture, pairs of rows."""
    import numpy as np

    from kgen import files, images
    from kgen.generation import row_seeds
    from kgen.origin import of_model

    columns, rows = 12, 3
    seeds = row_seeds(columns * rows, seed)
    labels = None
    if teacher.num_classes is not None:
        labels = np.arange(len(seeds)) % teacher.num_classes
    drawn = [each.generate(seeds=seeds, labels=labels) for each in (teacher, student)]
    pairs = np.stack([each.reshape(rows, columns, *each.shape[1:]) for each in drawn], axis=1)
    scale = images.viewing_scale(teacher.image_shape)
    picture = images.grid(pairs.reshape(-1, *pairs.shape[3:]), columns, scale=scale)
    places = np.arange(2 * columns * rows).reshape(rows, 2, columns)[:, 1]
    claim = of_model(student, folder.resolve().name).claim("generate", seeds, labels)
    claim = claim.in_grid(columns, scale=scale, cells=places.ravel())
    with files.recorded(folder):
        images.save_png(picture, folder / "teacher.png", claim)
    return folder / "teacher.png"
