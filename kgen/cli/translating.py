"""The command `translate`."""

import pathlib
import sys
import warnings
from typing import Annotated

import typer

from kgen.cli.common import (
    BatchSize,
    C2paCert,
    C2paKey,
    Json,
    Model,
    Seed,
    Settings,
    app,
    drawn_with,
    load,
    origin_of,
    parse_settings,
    print_result,
    say,
    signer_of,
    work,
)


@app.command()
def translate(
    model: Model,
    pictures: Annotated[
        pathlib.Path,
        typer.Argument(metavar="FOLDER", help="Folder of pictures, at any depth, or one picture."),
    ],
    output: Annotated[
        pathlib.Path,
        typer.Option("-o", "--output", help="New folder of PNGs under the same names."),
    ] = pathlib.Path("translated"),
    variants: Annotated[
        int,
        typer.Option(min=1, help="Answers to each picture, by several seeds: NAME-1.png and on."),
    ] = 1,
    style: Annotated[
        pathlib.Path | None,
        typer.Option(help="Of a style transfer: the picture whose style all of them get."),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side of the tiles that large pictures go through the model in.",
            show_default="256, over 512x512 pixels",
        ),
    ] = None,
    resize: Annotated[
        str,
        typer.Option(
            metavar="crop|pad|stretch",
            help="How pictures get the size of a model that takes one size alone.",
        ),
    ] = "crop",
    background: Annotated[str, typer.Option(help="Colour behind transparent pictures.")] = "white",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop where a file cannot be read.")
    ] = False,
    settings: Settings = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    c2pa_cert: C2paCert = None,
    c2pa_key: C2paKey = None,
    as_json: Json = False,
):
    """Make pictures of pictures: restored, enlarged, coloured, translated, in another style.

    A model of convolutions alone takes pictures of any size, large ones in
    tiles without seams; another one takes them in its own size. What is hidden
    of a picture to be completed is transparent in it. Names stay, with .png
    behind; the folder is there when all is done.

    Example: kgen translate runs/restorer-photos noisy/ -o clean

    Example: kgen translate runs/palette-photos torn.png --variants 4 -o answers

    Example: kgen translate runs/style_transfer-photos photos/ --style wave.jpg --set strength=0.7
    """
    options = parse_settings(settings or [])
    if not pictures.exists():
        raise FileNotFoundError(f"{pictures} does not exist; give a folder of pictures, or one.")
    if output.suffix:
        raise ValueError(f"-o takes a new folder. Received: -o {output}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder; choose another with -o.")
    signer = signer_of(c2pa_cert, c2pa_key)
    with work(as_json, model):
        from kgen.data import decoding
        from kgen.files import new_folder
        from kgen.generation import row_seeds, track
        from kgen.images import encode_png

        loaded, run = load(model)
        origin = origin_of(model, loaded, run, signer)
        job = _Job(loaded, style, resize, background, tile, batch_size, options)
        names = _pictures(pictures)
        seeds = row_seeds(len(names) * variants, seed).reshape(len(names), variants).tolist()
        targets, skipped, done = _targets(names), [], 0
        with new_folder(output) as folder, warnings.catch_warnings():
            # Of every new size of pictures, TensorFlow says that it costs time.
            warnings.simplefilter("ignore")
            shown = track(list(names), "Translating", sys.stderr.isatty())
            for number, name in enumerate(shown):
                image, reason = decoding.attempt(job.read, str(names[name]))
                if image is None:
                    if strict:
                        raise ValueError(f"{names[name]} could not be read: {reason}")
                    skipped.append((name, reason))
                    continue
                for variant, made in enumerate(job(image, seeds[number])):
                    path = folder / targets[name]
                    if variants > 1:
                        path = path.with_name(f"{path.name}-{variant + 1}")
                    path = path.with_name(f"{path.name}.png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    claim = job.claim(origin, image, seeds[number][variant])
                    path.write_bytes(encode_png(made, claim))
                done += 1
            if not done:
                name, reason = skipped[-1]
                raise ValueError(
                    f"None of the {len(names)} pictures in {pictures} could be read (the last: "
                    f"{name}: {reason})."
                )
    for name, reason in skipped:
        say(f"Warning: skipped {name}: {reason}")
    result = {"output": str(output), "pictures": done, "variants": variants, "skipped": skipped}
    print_result(result, as_json, f"{done} pictures translated: {output}")


class _Job:
    """Reads pictures as a model takes them, and translates them one by one."""

    def __init__(self, model, style, resize, background, tile, batch_size, options):
        from kgen.models.translation.base import Translator
        from kgen.models.translation.style_transfer import StyleTransfer

        if not isinstance(model, Translator):
            raise ValueError(
                f"kgen translate takes a translator's run. Received: a {type(model).__name__}, "
                "which draws images of nothing: kgen sample"
            )
        self.of_styles = isinstance(model, StyleTransfer)
        if self.of_styles != (style is not None):
            raise ValueError(
                "StyleTransfer takes --style PICTURE, and no other model does. Received: a "
                f"{type(model).__name__} and --style {style}"
            )
        self.model, self.resize, self.background = model, resize, background
        self.run = {"batch_size": batch_size, "progress": False, **options}
        if tile is not None:
            self.run["tile"] = model._check_tile(tile)
        self.style = self.read(str(style)) if self.of_styles else None
        self.options = drawn_with(model, options)

    def read(self, path):
        """The picture of a file, uint8 `[h, w, c]`, of its own size where the model takes any."""
        from kgen.data import decoding

        *sides, channels = self.model.input_shape
        if self.model.convolutional:
            sides = decoding.probe(path)[:2]
        shape = (*sides, channels)
        return decoding.decode(path, shape, self.background, self.resize)

    def __call__(self, image, seeds):
        """What the model makes of a picture, by each of several seeds."""
        import numpy as np

        if self.of_styles:
            made = self.model.stylize(image[None], self.style, **self.run)
            return np.repeat(made, len(seeds), axis=0)
        images = np.repeat(image[None], len(seeds), axis=0)
        return self.model.translate(images, seeds=seeds, **self.run)

    def claim(self, origin, image, seed):
        """What is said of the picture that was made of an image by a seed."""
        from kgen.origin import fingerprint

        pictures = {"image": image} | ({"style": self.style} if self.of_styles else {})
        return origin.claim(
            seeds=() if self.of_styles else (seed,),
            options=self.options,
            inputs={name: fingerprint(picture) for name, picture in pictures.items()},
        )


def _pictures(path):
    """The files to read: a dict of name, relative to the folder, to path."""
    from kgen.data.decoding import SUFFIXES

    if path.is_file():
        return {path.name: path}
    found = {
        str(file.relative_to(path)): file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    }
    if not found:
        raise ValueError(f"{path} holds no picture; expected {', '.join(SUFFIXES)} files.")
    return found


def _targets(names):
    """Where each goes, without an ending; those that would meet keep their own."""
    stems = [str(pathlib.PurePath(name).with_suffix("")) for name in names]
    return {
        name: name if stems.count(stem) > 1 else stem
        for name, stem in zip(names, stems, strict=True)
    }
