"""The commands that draw pictures: `sample`, `interpolate`, `complete` and `vary`."""

import pathlib
from typing import Annotated

import typer

from kgen.cli.common import (
    BatchSize,
    C2paCert,
    C2paKey,
    Json,
    Label,
    Model,
    Seed,
    Settings,
    Source,
    Split,
    app,
    check_output,
    data_of,
    drawn_with,
    labels_of,
    load,
    origin_of,
    parse_integers,
    parse_settings,
    print_result,
    signer_of,
    work,
)

#: Endings of pictures that are not written.
PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf")


@app.command()
def sample(
    model: Model,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--number", min=1, help="How many images.", show_default="64, or so of each class"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**31 - 1, help="Seed of what is drawn.", show_default="0"),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="One seed per image, such as 1,2,3, in place of -n, --seed.")
    ] = None,
    label: Label = None,
    output: Annotated[
        pathlib.Path,
        typer.Option("-o", "--output", help="A .png for a grid; else a new folder of PNGs."),
    ] = pathlib.Path("samples.png"),
    columns: Annotated[int | None, typer.Option(min=1, help="Images per row of the grid.")] = None,
    settings: Settings = None,
    batch_size: BatchSize = 64,
    c2pa_cert: C2paCert = None,
    c2pa_key: C2paKey = None,
    as_json: Json = False,
):
    """Draw images from a trained model.

    Of a class-conditional model without --label: of each class in turn.

    Example: kgen sample runs/vae-digits -n 64 --seed 0 -o grid.png

    Example: kgen sample runs/dcgan-photos -n 1000 --label 3 -o pictures/ --set temperature=0.8
    """
    options = parse_settings(settings or [])
    row_seeds = None if seeds is None else parse_integers("--seeds", seeds)
    for option, value in {"-n": n, "--seed": seed}.items():
        if seeds is not None and value is not None:
            raise ValueError(
                f"--seeds has one seed per image, in place of -n and --seed. Received: {option} "
                f"{value} --seeds {seeds}"
            )
    grid = output.suffix.lower() == ".png"
    if columns is not None and not grid:
        raise ValueError(f"--columns goes with a .png. Received: --columns {columns} -o {output}")
    if grid:
        check_output(output, ".png")
    elif output.suffix.lower() in PICTURES:
        raise ValueError(f"-o takes a .png file, or a new folder. Received: -o {output}")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder; choose another with -o.")
    signer = signer_of(c2pa_cert, c2pa_key)
    with work(as_json, model):
        from kgen import generation, images

        loaded, run = load(model)
        each = loaded.num_classes is not None and label in (None, "each")
        if row_seeds is None:
            if n is None:  # as many of each class
                n = loaded.num_classes * max(1, 64 // loaded.num_classes) if each else 64
            row_seeds = generation.row_seeds(n, seed or 0).tolist()
        labels = labels_of(loaded, label, len(row_seeds))
        pictures = loaded.generate(seeds=row_seeds, labels=labels, batch_size=batch_size, **options)
        claim = origin_of(model, loaded, run, signer).claim(
            "generate", row_seeds, labels, drawn_with(loaded, options)
        )
        if grid:
            if each:  # a column for each class
                columns = columns or min(loaded.num_classes, len(pictures))
            scale = images.viewing_scale(loaded.image_shape)
            picture = images.grid(pictures, columns, scale=scale)
            images.save_png(picture, output, claim.in_grid(columns, scale=scale))
        else:
            images.save_folder(pictures, output, claim=claim)
    result = {"output": str(output), "images": len(pictures), "seeds": row_seeds}
    print_result(result, as_json, f"{len(pictures)} images: {output}")


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
    c2pa_cert: C2paCert = None,
    c2pa_key: C2paKey = None,
    as_json: Json = False,
):
    """Draw images on arcs through the latent space of a trained model.

    Example: kgen interpolate runs/vae-digits --rows 8 --steps 10 -o ways.png
    """
    check_output(output, ".png")
    signer = signer_of(c2pa_cert, c2pa_key)
    with work(as_json, model):
        import numpy as np

        from kgen import evaluation, generation, images

        loaded, run = load(model)
        labels = labels_of(loaded, label, rows)
        pictures = evaluation.interpolate(
            loaded, rows, steps, seed, labels=labels, batch_size=batch_size
        )
        flat = pictures.reshape(rows * steps, *loaded.image_shape)
        scale = images.viewing_scale(loaded.image_shape)
        # The ends of each way are what `generate` draws of seeds; what is between has none.
        claim = origin_of(model, loaded, run, signer).claim(
            "generate",
            generation.row_seeds(2 * rows, seed),
            None if labels is None else np.repeat(np.broadcast_to(labels, rows), 2),
        )
        ends = np.arange(rows)[:, None] * steps + (0, steps - 1)
        claim = claim.in_grid(steps, scale=scale, cells=ends.ravel())
        images.save_png(images.grid(flat, steps, scale=scale), output, claim)
    result = {"output": str(output), "rows": rows, "steps": steps, "seed": seed}
    print_result(result, as_json, f"{rows} ways of {steps} images: {output}")


@app.command()
def complete(
    model: Model,
    data: Source = None,
    split: Split = "test",
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 8,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each image.")] = 6,
    keep: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of the rows, from the top, to keep.", show_default="0.5"
        ),
    ] = None,
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
    settings: Settings = None,
    seed: Seed = 0,
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="The .png to write.")
    ] = pathlib.Path("completions.png"),
    batch_size: BatchSize = 64,
    c2pa_cert: C2paCert = None,
    c2pa_key: C2paKey = None,
    as_json: Json = False,
):
    """Keep a part of images and have the model draw the rest.

    Each row of the picture is an image, what is kept of it (the rest in grey), and
    its completions. An autoregressive model draws a pixel given all pixels above it
    and left of it; MaskGIT and DiT see all that is kept.

    Example: kgen complete runs/gated_pixelcnn-mnist --keep 0.4 -o completions.png

    Example: kgen complete runs/dit-photos --data mine/ --mask mask.png --set num_steps=16
    """
    options = parse_settings(settings or [])
    check_output(output, ".png")
    if keep is not None and mask is not None:
        raise ValueError(
            "--keep and --mask both say what is kept: give one of them. Received: "
            f"--keep {keep} --mask {mask}"
        )
    keep = 0.5 if keep is None else keep
    signer = signer_of(c2pa_cert, c2pa_key)
    with work(as_json, model):
        import numpy as np

        from kgen import generation, images, origin

        loaded, run = load(model)
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
        labels = None if labels is None else np.repeat(labels, samples)
        drawn = method(
            np.repeat(given, samples, axis=0), known, labels, seed, batch_size=batch_size, **options
        )
        kept = np.where(known[..., None], given, np.uint8(128))
        claim = origin_of(model, loaded, run, signer).claim(
            method.__name__,
            generation.row_seeds(len(drawn), seed),
            labels,
            drawn_with(loaded, options),
            {"image": _places(len(given), samples, samples + 2), "mask": origin.mask_text(known)},
        )
        _save_rows([given[:, None], kept[:, None]], drawn, claim, output)
    result = {"output": str(output), "images": len(given), "samples": samples, "seed": seed}
    print_result(result, as_json, f"{len(given)} images with {samples} completions each: {output}")


@app.command()
def vary(
    model: Model,
    data: Source = None,
    split: Split = "test",
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 8,
    strengths: Annotated[
        str, typer.Option(help="How far to go from the image, each 0 to 1; one column each.")
    ] = "0.2,0.4,0.6,0.8,1",
    label: Annotated[
        int | None, typer.Option(help="Class to turn them into.", show_default="their own")
    ] = None,
    settings: Settings = None,
    seed: Seed = 0,
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="The .png to write.")
    ] = pathlib.Path("variations.png"),
    batch_size: BatchSize = 64,
    c2pa_cert: C2paCert = None,
    c2pa_key: C2paKey = None,
    as_json: Json = False,
):
    """Draw variations of images, from near to far.

    Each row of the picture is an image and its variations, one for each strength.

    Example: kgen vary runs/dit-photos --data mine/ --strengths 0.3,0.6 -o variations.png

    Example: kgen vary runs/dit-mnist --label 3 --set guidance_scale=2
    """
    options = parse_settings(settings or [])
    check_output(output, ".png")
    try:
        far = [float(part) for part in strengths.split(",")]
    except ValueError as error:
        raise ValueError(
            f"--strengths takes numbers such as 0.3,0.6. Received: --strengths {strengths}"
        ) from error
    signer = signer_of(c2pa_cert, c2pa_key)
    with work(as_json, model):
        import numpy as np

        from kgen import generation

        loaded, run = load(model)
        if not hasattr(loaded, "vary"):
            raise ValueError(f"{type(loaded).__name__} cannot vary images.")
        given, labels = _given(loaded, run, model, data, split, n)
        if label is not None:
            labels = np.full(len(given), label)
        labels = None if labels is None else np.repeat(labels, len(far))
        distances = np.tile(far, len(given))
        drawn = loaded.vary(
            np.repeat(given, len(far), axis=0),
            distances,
            labels,
            seed,
            batch_size=batch_size,
            **options,
        )
        claim = origin_of(model, loaded, run, signer).claim(
            "vary",
            generation.row_seeds(len(drawn), seed),
            labels,
            {**drawn_with(loaded, options), "strength": distances},
            {"image": _places(len(given), len(far), len(far) + 1)},
        )
        _save_rows([given[:, None]], drawn, claim, output)
    result = {"output": str(output), "images": len(given), "strengths": far, "seed": seed}
    print_result(result, as_json, f"{len(given)} images with {len(far)} variations each: {output}")


@app.command()
def edit(
    model: Model,
    data: Source = None,
    split: Split = "test",
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 8,
    towards: Annotated[
        int | None,
        typer.Option(help="Class to go to, with a model that is told none.", show_default="each"),
    ] = None,
    seed: Seed = 0,
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="The .png to write.")
    ] = pathlib.Path("edits.png"),
    batch_size: BatchSize = 64,
    c2pa_cert: C2paCert = None,
    c2pa_key: C2paKey = None,
    as_json: Json = False,
):
    """Find images in a GAN's or VAE's latent space, and change their class there.

    Each row of the picture is an image, what the model draws of the latent vector
    that was found for it, and what it draws of that as every class. Of a model that
    is told no classes the columns go towards each class that the bundled classifier
    sees, or further and further to the one that --towards names.

    Example: kgen edit runs/dcgan-mnist -n 8 -o edits.png

    Example: kgen edit runs/vae-digits --data mine/ --towards 3
    """
    check_output(output, ".png")
    signer = signer_of(c2pa_cert, c2pa_key)
    with work(as_json, model):
        import numpy as np

        from kgen.evaluation import editing

        loaded, run = load(model)
        given, labels = _given(loaded, run, model, data, split, n)
        latents = editing.latents_of(loaded, given, labels, batch_size)
        drawn = editing.decode(loaded, latents, labels, batch_size)
        columns, classes = editing.as_classes(loaded, latents, towards, seed, batch_size)
        drawn = np.concatenate([drawn[:, None], columns], axis=1)
        # Of latent vectors that were searched for: there is no seed to draw them of again.
        inputs = {"image": _places(len(given), drawn.shape[1], drawn.shape[1] + 1)}
        claim = origin_of(model, loaded, run, signer).claim("decode", inputs=inputs)
        _save_rows([given[:, None]], drawn, claim, output)
    result = {"output": str(output), "images": len(given), "classes": classes, "seed": seed}
    print_result(result, as_json, f"{len(given)} images, edited: {output}")


def _given(loaded, run, model, data, split, n):
    """The first images of a source, and their labels for a class-conditional model."""
    chosen = data_of(loaded, run, model, data).split(split)
    labels = None if loaded.num_classes is None or chosen.labels is None else chosen.labels[:n]
    return chosen.images[:n], labels


def _places(rows, drawn, columns):
    """For each image that was drawn, so many in a row, the place of the row's first."""
    return [f"#{row * columns}" for row in range(rows) for _ in range(drawn)]


def _save_rows(given, drawn, claim, output):
    """Writes a picture with a row for each image: parts `[N, 1, ...]` that were given, and what was
    drawn of it, `[N * M, ...]` or `[N, M, ...]`.
    """
    import numpy as np

    from kgen import images

    count, shape = len(given[0]), drawn.shape[-3:]
    rows = np.concatenate([*given, drawn.reshape(count, -1, *shape)], axis=1)
    columns, scale = rows.shape[1], images.viewing_scale(shape)
    places = np.arange(rows.shape[0] * columns).reshape(count, columns)[:, len(given) :]
    claim = claim.in_grid(columns, scale=scale, cells=places.ravel())
    images.save_png(images.grid(rows.reshape(-1, *shape), columns, scale=scale), output, claim)
