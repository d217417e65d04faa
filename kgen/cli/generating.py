"""The command `generate`."""

import contextlib
import pathlib
import sys
import time
from typing import Annotated

import typer

from kgen import files
from kgen.cli.common import Json, app, parse_integers, parse_settings, print_result, say


@app.command()
def generate(
    artifact: Annotated[
        pathlib.Path, typer.Argument(metavar="ARTIFACT", help="Folder that `kgen export` wrote.")
    ],
    num_images: Annotated[
        int, typer.Option("-n", "--num-images", min=1, help="How many images.", show_default=False)
    ],
    output: Annotated[pathlib.Path, typer.Option("-o", "--output", help="Folder to write.")],
    file_format: Annotated[
        str, typer.Option("--format", help="png, webdataset (tar), npz or tfrecord.")
    ] = "png",
    label: Annotated[
        str | None,
        typer.Option(
            help="For a class-conditional model: a class, a list such as 0,1,2 to go through again "
            "and again, or 'each' for every class in turn. A seed always has the same one.",
            show_default="each",
        ),
    ] = None,
    first_seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Seed of the first image; the next follow.")
    ] = 0,
    endpoint: Annotated[
        str, typer.Option(help="Endpoint that draws, such as a variant of generate.")
    ] = "generate",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="Option of the sampler, for all images alike, such as temperature=0.7.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    images_per_shard: Annotated[int, typer.Option(min=1, help="Images in a shard.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that draw; 0 draws in this one, without Ray.",
            show_default="one on each core",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to draw on: HOST:PORT, or auto for the one that this machine is in. "
            "ARTIFACT and the output are on a file system that all its machines see.",
            show_default="this machine alone",
        ),
    ] = None,
    as_json: Json = False,
):
    """Make a data set of what an artifact draws, in shards, on all cores or on a cluster.

    The images are those of the seeds from --first-seed on, each once. The same
    command again goes on where it was stopped. dataset.json says what is there.

    Example: kgen generate artifacts/vae-digits --num-images 10000 -o drawn/

    Example: kgen generate artifacts/dcgan --num-images 1000000 --format webdataset --label each
    --address auto -o /shared/drawn
    """
    options = parse_settings(option or [], "--option")
    labels = label if label in (None, "each") else parse_integers("--label", label)
    import export

    files.recover(artifact)
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        try:
            record = export.generate_dataset(
                artifact,
                output,
                num_images,
                file_format=file_format,
                labels=labels,
                first_seed=first_seed,
                endpoint=endpoint,
                options=options,
                images_per_shard=images_per_shard,
                batch_size=batch_size,
                workers=workers,
                address=address,
                progress=sys.stderr.isatty(),
            )
        except KeyboardInterrupt:
            say("The same command goes on from here.")
            raise
    seconds = time.perf_counter() - start
    made, rate = record["made"], record["made"] / seconds
    result = {
        "output": str(output),
        "images": num_images,
        "made": made,
        "shards": len(record["shards"]),
        "bytes": sum(shard["bytes"] for shard in record["shards"]),
        "labels": record["labels"],
        "seconds": round(seconds, 2),
        "images_per_second": round(rate, 1),
    }
    drawn = f"{made} drawn in {seconds:.3g} s, {rate:.3g} a second" if made else "all were there"
    print_result(
        result,
        as_json,
        f"{num_images} images in {result['shards']} shards: {output} ({drawn})",
        f"{output / 'dataset.json'} says what they are.",
    )
