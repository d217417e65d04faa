"""The command `inspect`."""

import contextlib
import pathlib
import sys
from typing import Annotated

import typer

from kgen import files
from kgen.cli.common import MODEL, Json, app, load, make_table, name_of, print_result, work


@app.command()
def inspect(
    picture: Annotated[
        pathlib.Path, typer.Argument(metavar="PICTURE", help="A PNG, JPEG or WebP file.")
    ],
    artifact: Annotated[
        str | None,
        typer.Option(
            metavar="ARTIFACT|RUN",
            help="Prove it: what is to have drawn it, which draws it again. An artifact of "
            f"`kgen export`. {MODEL}",
        ),
    ] = None,
    input_: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--input",
            metavar="PICTURE",
            help="The picture that went in, of one that was translated, completed or varied.",
        ),
    ] = None,
    mask: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="PICTURE", help="The mask that went in, white where pixels are kept."),
    ] = None,
    style: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="PICTURE", help="The picture of the style that went in."),
    ] = None,
    trust: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="CERTIFICATES",
            help="Certificates (PEM) that are trusted to say who signed Content Credentials.",
        ),
    ] = None,
    as_json: Json = False,
):
    """Say what a picture claims of its origin, and prove it where its model is at hand.

    What kgen draws says so in its file: model, seed, label, options. With --artifact
    the model draws it again, and the pixels are compared: a true claim is told from
    a false seed, from another model's picture, and from one that was edited.

    A claim is what somebody wrote into a file, and a copy may have lost it; what is
    proven is that the model draws these pixels from it. Content Credentials (C2PA)
    say who signed a picture (pip install 'kgen[c2pa]').

    The exit status is 0 where a picture claims its origin, with --artifact where that
    is proven; else 1, and where its Content Credentials do not hold.

    Example: kgen inspect grid.png

    Example: kgen inspect grid.png --artifact artifacts/vae-digits

    Example: kgen inspect clean/photo.png --artifact runs/restorer-photos --input noisy/photo.jpg
    """
    given = {"image": input_, "mask": mask, "style": style}
    given = {name: path for name, path in given.items() if path is not None}
    for path in (picture, *given.values()):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file; give a picture.")
    if given and artifact is None:
        raise ValueError("What went in is for --artifact, which draws the picture again.")
    import export

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        source = None if artifact is None else _prover(artifact, as_json)
        found = export.inspect(picture, source, given)
    credentials = _credentials(picture, trust)
    result = {
        "picture": str(picture),
        "source_type": found.source_type,
        "creator": found.creator,
        "claim": None if found.claim is None else found.claim.as_dict(),
        "verdict": found.verdict,
        "said": found.said,
        "figures": found.figures,
        "credentials": credentials,
    }
    lines = [*_of_claim(picture, found), *_of_credentials(credentials, trust)]
    if artifact is not None or found.claim is None:
        lines.append(f"{found.verdict.capitalize()}: {found.said}")
    else:
        lines.append("A claim, not a proof: --artifact ARTIFACT draws it again and compares.")
    print_result(result, as_json, *lines)
    good = found.claim is not None if artifact is None else found.proven
    if not good or (credentials and credentials["state"] == "invalid"):
        raise typer.Exit(1)


def _prover(path, as_json):
    """What draws: an artifact without Keras, or a model in it."""
    from export import artifact, redrawing

    folder = pathlib.Path(path)
    files.recover(folder)
    if (folder / artifact.MANIFEST).is_file():
        return redrawing.prover_of(folder)
    with work(as_json, path):
        loaded, run = load(path)
        return redrawing.prover_of(loaded, name_of(path, run))


def _credentials(picture, trust):
    """What Content Credentials say, or `None`; `"unread"` without the package that reads them."""
    from kgen import credentials

    try:
        return credentials.read(picture, trust)
    except ImportError as error:
        return {"state": "unread", "wrong": [str(error)]}


def _of_claim(picture, found):
    if found.claim is None:
        said = found.creator or found.source_type
        return [f"{picture}: {found.creator or 'it'} says {found.source_type}"] if said else []
    fields, grid = found.claim.fields(), found.claim.grid
    if grid is not None:
        fields["grid"] = f"{grid.columns} in a row, {grid.gap} pixels apart, {grid.scale} times"
    rows = [("digital source type", (found.source_type or "").rpartition("/")[2])]
    rows += [(_NAMES.get(name, name), _short(text)) for name, text in fields.items()]
    title = f"{picture} says that {found.creator} drew it"
    return [make_table("of its origin", "what it claims", rows=rows, title=title)]


_NAMES = {"modelSha256": "model, sha256", "artifactSha256": "artifact, sha256"}


def _short(text):
    return text if len(text) <= 70 else f"{text[:67]}..."


def _of_credentials(found, trust):
    if found is None:
        return []
    if found["state"] == "unread":
        return [f"Content Credentials are in it too. {found['wrong'][0]}"]
    by = f"{found['signer'] or 'nobody'} ({found['issuer'] or 'no issuer'})"
    if found["state"] == "invalid":
        return [f"Its Content Credentials, by {by}, do not hold: {'; '.join(found['wrong'])}."]
    if found["state"] == "trusted":
        return [f"It is as {by} signed it, for whom {trust} vouches."]
    return [
        f"It is as it was signed by one who says to be {by}; that was not checked: --trust "
        "CERTIFICATES does."
    ]
