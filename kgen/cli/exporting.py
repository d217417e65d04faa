"""The commands `export`, `verify`, `deploy` and `quickstart`."""

import contextlib
import json
import os
import pathlib
import sys
import time
from typing import Annotated

import typer

from kgen import files
from kgen.cli.common import (
    Json,
    Model,
    app,
    load,
    make_table,
    name_of,
    parse_integers,
    parse_settings,
    print_result,
    say,
    told,
    work,
)

#: The preset that `quickstart` trains, and the trained one that it draws with.
QUICKSTART, TRAINED = "vae_8x8", "dcgan_mnist"


@app.command("export")
def export_(
    model: Model,
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="Folder of the artifact to write.")
    ],
    formats: Annotated[
        str, typer.Option(help="Of saved_model, onnx, litert, onnx_fp16, onnx_int8 and web.")
    ] = "saved_model,onnx",
    opset: Annotated[int, typer.Option(min=18, max=23, help="ONNX operator set.")] = 18,
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes to prove and warm up.")] = "1,8",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="Option of the sampler, for all that draws, such as num_steps=8; kgen list MODEL "
            "names them.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="A further endpoint, generate with other options: generate_4_steps:num_steps=4.",
            metavar="ENDPOINT:NAME=VALUE[,...]",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name in the manifest.", show_default="the run's")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the artifact that is there.")
    ] = False,
    sign: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Ed25519 private key (PEM) to sign with; openssl genpkey -algorithm ed25519 -out "
            "KEY makes one.",
            metavar="KEY",
        ),
    ] = None,
    as_json: Json = False,
):
    """Write a model as SavedModel and ONNX, and prove that both equal Keras.

    Example: kgen export runs/vae-digits -o artifacts/vae-digits --formats saved_model,onnx

    Example: kgen export runs/vae-digits -o artifacts/vae-phone --formats litert,onnx_int8

    Example: kgen export runs/dit-photos -o artifacts/dit --option num_steps=16 --variant
    generate_4_steps:num_steps=4
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # a .keras file of either backend loads there
    options, variants = parse_settings(option or [], "--option"), _parse_variants(variant or [])
    with work(as_json, model):
        artifact = _export(
            model,
            output,
            formats=tuple(part.strip() for part in formats.split(",") if part.strip()),
            opset=opset,
            batch_sizes=tuple(parse_integers("--batch-sizes", batch_sizes)),
            options=options,
            variants=variants,
            name=name,
            overwrite=overwrite,
            sign=sign,
        )
    result = {
        "artifact": str(artifact.path),
        "name": artifact.name,
        "bytes": artifact.size,
        "signed_by": artifact.manifest.get("signed_by"),
        "signatures": artifact.summary(),
    }
    print_result(
        result,
        as_json,
        _parity_table(artifact.summary(), f"{artifact.path}: proven against Keras"),
        f"Next: kgen verify {artifact.path}",
    )


def _parse_variants(variants):
    parsed = {}
    for text in variants:
        name, colon, settings = text.partition(":")
        if not colon or name in parsed:
            raise ValueError(
                "--variant takes a name of its own and options, such as "
                f"generate_4_steps:num_steps=4. Received: {text}"
            )
        parsed[name] = parse_settings(settings.split(","), "--variant")
    return parsed


def _export(model, output, name=None, **options):
    """Exports a model; what is known of its run goes into the manifest."""
    import export

    loaded, run = load(model)
    artifact = export.export(
        loaded,
        output,
        name=name or name_of(model, run),
        metadata=told(model, run),
        progress=sys.stderr.isatty(),
        **options,
    )
    if run is not None:
        from kgen.training.tracking import tell_artifact

        tell_artifact(run, artifact)
    return artifact


def _parity_table(rows, title):
    return make_table(
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
    hashes_only: Annotated[
        bool,
        typer.Option(
            "--hashes-only", help="Check the files alone: no graph is read or run, in a moment."
        ),
    ] = False,
    key: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Ed25519 public key (PEM) that must have signed it; openssl pkey -in KEY -pubout "
            "-out PUBLIC writes it.",
            metavar="PUBLIC",
        ),
    ] = None,
    follow_links: Annotated[
        bool,
        typer.Option("--follow-links", help="Take links for their files, as hub caches have them."),
    ] = False,
    as_json: Json = False,
):
    """Check every file of an artifact and prove it again, without Keras.

    Example: kgen verify artifacts/vae-digits
    """
    import export

    files.recover(artifact)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        found = export.verify(
            artifact,
            progress=sys.stderr.isatty(),
            hashes_only=hashes_only,
            key=key,
            follow_links=follow_links,
        )
    result = {
        "artifact": str(artifact),
        "verified": True,
        "hashes_only": hashes_only,
        "files": len(found.artifact.manifest["files"]),
        "seconds": round(found.seconds, 2),
        "signed_by": found.signed_by,
        "authentic": found.authentic,
        "parity": found.parity,
    }
    proven = f" and all {len(found.artifact.summary())} signatures give their golden outputs"
    print_result(
        result,
        as_json,
        f"{artifact} is what was exported: {result['files']} files are unchanged"
        f"{'; nothing was run' if hashes_only else proven} ({found.seconds:.2g} s).",
        _said_of_signature(found, key),
    )


def _said_of_signature(found, key):
    if found.authentic:
        return f"It was signed by the owner of {key}."
    if found.signed_by:
        return (
            f"It says that it was signed by the key sha256 {found.signed_by[:12]}...; that was not "
            f"checked: --key PUBLIC does."
        )
    return "It is not signed: who made it, these checks cannot tell."


#: What is typed to start a deployment.
_START = {
    "tf-serving": "docker compose up",
    "triton": "docker compose up",
    "kserve": "kubectl apply -f kubernetes/models.yaml",  # the models are copied there first
    "ray": "serve run serve_config.yaml",
}


@app.command()
def deploy(
    artifacts: Annotated[
        list[pathlib.Path],
        typer.Argument(metavar="ARTIFACT...", help="Folders that `kgen export` wrote."),
    ],
    output: Annotated[pathlib.Path, typer.Option("-o", "--output", help="Folder to write.")],
    target: Annotated[
        str, typer.Option(help="What serves them: tf-serving, triton, kserve or ray.")
    ] = "tf-serving",
    image: Annotated[
        str | None,
        typer.Option(help="Container image of the engine.", show_default="that of its release"),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="What runs the models in triton: onnxruntime, or python with ONNX Runtime inside, "
            "where Triton has no other backend.",
            show_default="onnxruntime",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the deployment that is there.")
    ] = False,
    as_json: Json = False,
):
    """Write all that a serving engine is mounted with: models, configuration, how to call it.

    Artifacts of one name are versions of one model.

    Example: kgen deploy artifacts/vae-digits -o deployments/digits

    Example: kgen deploy artifacts/vae artifacts/dit -o deployments/both --target triton
    """
    import export

    for artifact in artifacts:
        files.recover(artifact)
    record = export.deploy(
        artifacts, output, target, image=image, backend=backend, overwrite=overwrite
    )
    rows = [
        (name, version, next((k for k, v in model["labels"].items() if v == version), ""))
        for name, model in record["models"].items()
        for version in model["versions"]
    ]
    print_result(
        {"deployment": str(output), **record},
        as_json,
        make_table("model", "version", "label", rows=rows, title=f"{output}: {record['image']}"),
        f"Next: {_START[target]}, in {output}; its README.md tells how else, and how to call it",
    )


def _is_quickstart(folder):
    """Whether a folder is empty or holds what `quickstart` wrote, and nothing else."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not path.name.endswith(".kgen-lock")}
    try:
        info = json.loads((folder / "run" / "run.json").read_text())
        own = info["model"]["name"] == QUICKSTART and info["data"]["name"] == "digits"
    except (OSError, ValueError, KeyError, TypeError):
        own = not names
    return own and names <= {"run", "samples.png", "artifact", f"{TRAINED}.png"}


@app.command()
def quickstart(
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="Folder to write everything to.")
    ] = pathlib.Path("kgen-quickstart"),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 80,
    as_json: Json = False,
):
    """Train a VAE on handwritten digits, look at it, measure it, export it and prove it.

    Beside it a model draws that comes with kgen, and was trained for minutes, not seconds.

    Takes one to two minutes on two CPU cores and needs no network.

    Example: kgen quickstart
    """
    run, grid, artifact = output / "run", output / "samples.png", output / "artifact"
    if output.exists() and not _is_quickstart(output):
        raise ValueError(f"{output} holds other files; choose another folder with -o.")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # export needs it
    start = time.perf_counter()
    with work(as_json):
        import kgen
        from kgen import images
        from kgen.origin import of_model
        from kgen.training.callbacks import draw_grid
        from kgen.training.run import train

        print(f"Training a VAE on 1,437 handwritten digits for {epochs} epochs")
        done = train(
            QUICKSTART,
            "digits",
            run,
            conditional=True,
            epochs=epochs,
            force=True,
            verbose=1 if sys.stdout.isatty() else 2,
            report=say,
        )
        print("Drawing, measuring, exporting, proving")
        model, _ = load(run)
        drawn, claim = draw_grid(model, 100, origin=of_model(model, "vae-digits"))
        images.save_png(drawn, grid, claim)
        report = kgen.evaluation.evaluate(
            model,
            done.load_data(report=say),
            num_samples=2000,
            metrics=("kd", "precision", "recall", "density", "coverage", "authenticity"),
            importance_samples=100,
            folder=run,
            history=done.metrics,
            path=str(run),
        )
        exported = _export(run, artifact, name="vae-digits", overwrite=True)
        better, beside = kgen.load(TRAINED), output / f"{TRAINED}.png"
        drawn, claim = draw_grid(better, 100, origin=of_model(better, TRAINED))
        images.save_png(drawn, beside, claim)
    seconds = time.perf_counter() - start
    result = {
        "run": str(run),
        "samples": str(grid),
        "trained": str(beside),
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
        ("trained", beside, f"100 digits by {TRAINED}, which comes with kgen"),
    ]
    following = [
        (f"kgen sample {run} -n 64 --label 7 --seed 1 -o sevens.png", "64 other sevens"),
        (f"kgen interpolate {run} --label 3 -o threes.png", "from three to three"),
        (f"kgen verify {artifact}", "prove the artifact again, without Keras"),
        (
            f"kgen sample {TRAINED} --label 7 -o better.png",
            "sevens of a model that comes with kgen",
        ),
        ("kgen list", "trained models, others, data"),
        ("kgen train dcgan --data FOLDER --image-shape 64x64x3", "a GAN on your own images"),
    ]
    width = max(len(command) for command, _ in following)
    print_result(
        result,
        as_json,
        make_table("what", "where", "", rows=made, title=f"Made in {seconds:.0f} seconds"),
        "\nWhat to type next:",
        *(f"  {command:<{width}}  {what}" for command, what in following),
    )
