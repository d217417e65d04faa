"""The command `publish`."""

import pathlib
import tempfile
from typing import Annotated

import typer

from kgen import hub
from kgen.cli.common import (
    MODEL,
    Json,
    app,
    load,
    make_table,
    origin_of,
    print_result,
    told,
    work,
)


@app.command()
def publish(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help=f"{MODEL} Or an artifact of `kgen export`.")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="hf://USER/NAME",
            help="Repository of the Hugging Face hub, which is made where there is none; or a new "
            "folder, for a preset that is not sent.",
        ),
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")
    ] = False,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="Of the weights, by the hub's identifier, such as apache-2.0.",
            show_default="unknown",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="USER/NAME", help="The data's name on the hub; repeatable.", show_default=False
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Of h5, which Keras and KerasHub read, and safetensors, which the hub shows.",
            show_default="h5,safetensors",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float16 halves the files; the model is float32 again when it is loaded.",
            show_default="the model's own",
        ),
    ] = None,
    message: Annotated[
        str | None, typer.Option(help="Of the commit.", show_default="the version of kgen")
    ] = None,
    as_json: Json = False,
):
    """Publish a model on the Hugging Face hub, where `hf://USER/NAME` loads it.

    What is sent is a preset: the model's configuration, its weights and a model card with what the
    run knows of data, training and scores. Neither images of the data nor the state of the training
    are. A preset's folder, as --to FOLDER writes it, is sent as it is: edit its README.md before.
    So is an artifact, once all its files are found unchanged.

    The token is that of `hf auth login`, or in HF_TOKEN. Nothing is asked.

    Example: kgen publish runs/dcgan-photos --to hf://me/dcgan-photos --license apache-2.0

    Example: kgen publish runs/dcgan-photos --to hf://me/dcgan-photos --private --dry-run

    Example: kgen publish runs/dcgan-photos --to presets/dcgan-photos --dtype float16
    """
    place = hub.destination(to) if hub.is_place(to) else None
    if place is None:
        _check_folder(to, {"--private": private, "--dry-run": dry_run, "--message": message})
    elif not dry_run:
        hub.check_token()
    options = {"--license": license_, "--dataset": dataset, "--weights": weights, "--dtype": dtype}
    with tempfile.TemporaryDirectory(prefix="kgen-") as temporary:
        given = [name for name, value in options.items() if value]
        folder = _as_it_is(model, place, given, as_json)
        if folder is None:
            folder = pathlib.Path(to if place is None else f"{temporary}/preset")
            about = {
                "license": license_,
                "datasets": dataset,
                "name": None if place is None else place.name,
                # A path here is none where it is sent to, and says more than it should.
                "place": folder.resolve().name if place is None else str(place),
            }
            with work(as_json, model):
                _write(model, folder, about, (weights or "h5,safetensors").split(","), dtype)
        sizes = {name: path.stat().st_size for name, path in hub.files_of(folder).items()}
        result = {
            "folder": str(folder) if place is None else None,
            "url": None if place is None else place.url,
            "commit": None,
            "private": private,
        }
        card = (folder / "README.md").read_text(encoding="utf-8")
        if place is not None and not dry_run:
            result |= hub.publish(folder, to, private, message)
    if place is None:
        lines = [f"Look at {folder / 'README.md'}, then: kgen publish {to} --to hf://USER/NAME"]
    elif dry_run:
        whose = "private" if private else "public, unless it is there and private"
        lines = [
            f"README.md:\n\n{card}",
            f"Nothing was sent. It would go to {place.url} ({whose}), in one commit.",
        ]
    else:
        lines = [f"Published: {result['url']}"]
        if "config.json" in sizes:
            lines.append(f"Next: kgen sample {place} -o grid.png")
    if place is not None and "config.json" in sizes and str(place) not in card:
        lines.append(f"Its README.md does not say kgen.load({str(place)!r}): edit it, and send it.")
    rows = [(name, f"{size:,}") for name, size in sizes.items()]
    print_result(
        {**result, "files": sizes}, as_json, make_table("file", "bytes", rows=rows), *lines
    )


def _check_folder(to, options):
    for option, value in options.items():
        if value:
            raise ValueError(f"{option} goes with --to hf://USER/NAME. Received: --to {to}")
    if pathlib.Path(to).exists():
        raise FileExistsError(f"{to} exists already; choose another folder with --to.")


def _as_it_is(model, place, options, as_json):
    """The folder that is sent as it is: an artifact's, or a preset's with its card; else `None`."""
    path = pathlib.Path(model)
    if (path / "manifest.json").is_file():
        what = "an artifact"
    elif place is not None and (path / "config.json").is_file() and (path / "README.md").is_file():
        what = "a preset with its README.md"
    else:
        return None
    if place is None or options:
        received = ", ".join(options) or "another folder to write it to"
        raise ValueError(f"{model} is {what}, and is sent as it is. Received: {received}")
    if what == "an artifact":
        import export

        export.verify(path, hashes_only=True)
    else:
        with work(as_json, model):
            load(model)  # what does not load is not sent
    return path


def _write(model, folder, about, formats, dtype):
    """Writes a model's preset, with images that it draws."""
    import numpy as np

    from kgen.weights import check, round_to

    formats = [name.strip() for name in formats]
    check(formats, dtype)
    loaded, run = load(model)
    round_to(loaded, dtype)  # so that it has drawn what the picture shows
    samples = claim = None
    if "generate" in loaded.endpoints():
        seeds = np.arange(64, dtype="int32")
        labels = None if loaded.num_classes is None else seeds % loaded.num_classes
        samples = loaded.generate(seeds=seeds, labels=labels)
        claim = origin_of(model, loaded, run).claim("generate", seeds, labels)
    loaded.save_to_preset(
        folder,
        weights=formats,
        dtype=dtype,
        about={**told(model, run), **{k: value for k, value in about.items() if value is not None}},
        samples=samples,
        claim=claim,
    )
