"""What the commands share: their options, messages, tables and what they are given."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import re
import sys
from typing import Annotated

import typer

from kgen import files, hub, places
from kgen.streams import silenced

app = typer.Typer(
    name="kgen",
    help="Image generators for Keras: train, sample, evaluate, export and prove them.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)


# Options that several commands share.
#: What holds a model: a string, for a path would lose a slash of `hf://`.
MODEL = (
    "Folder of a run, a .keras file, folder of a preset, a trained preset that `kgen list` "
    "shows, or hf://USER/NAME."
)
Model = Annotated[str, typer.Argument(metavar="RUN", help=MODEL)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of what is drawn.")]
Label = Annotated[
    str | None,
    typer.Option(
        help="For a class-conditional model: a class, a list such as 0,1,2 (one per image), or "
        "'each' for every class in turn.",
        show_default="each",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any option of the model's sampler."),
]
Source = Annotated[
    str | None,
    typer.Option(
        help="Source of other images. They are decoded as the run's were, and their classes are "
        "the run's, by name. All of them count as held out, unless the source has splits of its "
        "own. Data that the run names, or that holds the same images, is the run's own and keeps "
        "its splits; so does the data of a model without a run.",
        show_default="the run's own",
    ),
]
Split = Annotated[str, typer.Option(help="test, validation or train.")]
EvaluateEvery = Annotated[
    int | None,
    typer.Option(min=1, help="Measure samples every so many epochs.", show_default="never"),
]
KeepBest = Annotated[
    str | None,
    typer.Option(metavar="METRIC", help="Keep the best epoch by this metric, such as fd."),
]
C2paCert = Annotated[
    pathlib.Path | None,
    typer.Option(
        metavar="CHAIN",
        help="Sign what is drawn as Content Credentials (C2PA): certificates in PEM, that of the "
        "signer first, then those who vouch for it.",
    ),
]
C2paKey = Annotated[
    pathlib.Path | None,
    typer.Option(metavar="KEY", help="Private key (PEM) of the first certificate."),
]
ReplaceRun = Annotated[
    bool,
    typer.Option("--force", help="Replace the run in the folder: its own files, no others."),
]


def say(text):
    """A line for the user on standard error."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def work(as_json=False, model=None):
    """Imports Keras without its backend's greetings, and keeps standard output for JSON.

    `model` must mean one: it is looked at before the import, which takes seconds.
    """
    if model is not None:
        places.check(model)
    quiet = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3"
    # TensorFlow's C++ writes there on import.
    with silenced() if quiet else contextlib.nullcontext():
        import keras  # noqa: F401
    if quiet:  # such as of functions that are traced again
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def print_result(value, as_json, *lines):
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
            line.show(console)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of strings that loses none of its figures, however narrow the terminal.

    On a terminal cells are folded, and columns that do not fit side by side with whole words follow
    below, beside the first column again. Elsewhere, as in a pipe, each row is a line.
    """

    columns: tuple
    rows: list
    title: str | None = None

    def show(self, console):
        import rich.table
        from rich.console import Console
        from rich.text import Text

        longest = [_longest(cells, str.splitlines) for cells in self._cells()]
        if console.is_terminal:
            blocks = self._blocks(longest, console.width)
        else:
            blocks = [dict(enumerate(longest))]
            console = Console(highlight=False, width=max(80, _outer(longest)))
        if self.title is not None:
            title = Text(self.title, style="italic")
            console.print(title, soft_wrap=not console.is_terminal)
        for block in blocks:
            table = rich.table.Table(header_style="bold")
            for i, width in block.items():
                table.add_column(Text(self.columns[i]), overflow="fold", width=width)
            for row in self.rows:
                table.add_row(*(Text(row[i]) for i in block))
            console.print(table)

    def _cells(self):
        return list(zip(self.columns, *self.rows, strict=True))

    def _blocks(self, longest, width):
        """The columns that go side by side, dicts of their numbers to their widths."""
        shortest = [min(24, _longest(cells, str.split)) for cells in self._cells()]
        blocks = [[0]]
        for i in range(1, len(longest)):
            wanted = [shortest[j] for j in (*blocks[-1], i)]
            if _outer(wanted) > width and len(blocks[-1]) > 1:
                blocks.append([0])
            blocks[-1].append(i)
        return [self._widths(block, shortest, longest, width) for block in blocks]

    def _widths(self, block, shortest, longest, width):
        """Every column gets its shortest width, and of what is left up to its longest."""
        widths = {i: shortest[i] for i in block}
        while _outer(widths.values()) > width and max(widths.values()) > 1:
            widths[max(widths, key=widths.get)] -= 1
        left = width - _outer(widths.values())
        by_need = sorted(block, key=lambda i: longest[i] - widths[i])
        for number, i in enumerate(by_need):
            more = min(longest[i] - widths[i], left // (len(by_need) - number))
            widths[i] += max(0, more)
            left -= max(0, more)
        return widths


def _longest(cells, pieces_of):
    """How wide the widest piece of some cells is."""
    from rich.cells import cell_len

    return max((cell_len(piece) for cell in cells for piece in pieces_of(cell)), default=0) or 1


def _outer(widths):
    """The width of a table of columns: each has a border on its left, and a space on both sides."""
    return sum(widths) + 3 * len(widths) + 1


def make_table(*columns, rows, title=None):
    return Table(columns, [tuple(map(str, row)) for row in rows], title)


# What is written on a command line -------------------------------------------------------


def parse_settings(texts, option="--set"):
    """`["beta=4", "likelihood=gaussian"]` to a dict; values are JSON, or else strings."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} takes name=value. Received: {option} {text}")
        try:
            settings[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            named = {"None": None, "True": True, "False": False}
            settings[name.replace("-", "_")] = named.get(value, value)
    return settings


def parse_shape(text, option="--image-shape"):
    """`"32x32x3"` to `(32, 32, 3)`."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+x\d+x\d+", text):
        raise ValueError(
            f"{option} takes HEIGHTxWIDTHxCHANNELS, such as 32x32x3. Received: {option} {text}"
        )
    return tuple(int(side) for side in text.split("x"))


def parse_integers(option, text):
    """`"1,2,3"` to `[1, 2, 3]`."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"{option} takes integers such as 1,2,3. Received: {option} {text}")
    return [int(number) for number in text.split(",")]


def parse_devices(text):
    if text in (None, "all"):
        return text
    if not text.isdecimal():
        raise ValueError(f"--devices takes a number or 'all'. Received: --devices {text}")
    return int(text)


def labels_of(model, text, n):
    """The labels that `--label` means, for `n` images; `None` for a model without classes."""
    if text is None and model.num_classes is None:
        return None
    if text in (None, "each") and model.num_classes is not None:
        return [i % model.num_classes for i in range(n)]
    labels = parse_integers("--label", text if text != "each" else "0")
    return labels[0] if len(labels) == 1 else labels


def signer_of(cert, key):
    """What `--c2pa-cert` and `--c2pa-key` sign with; `None` without them."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ValueError(
            "To sign takes both --c2pa-cert CHAIN and --c2pa-key KEY. Received: "
            f"{'--c2pa-key ' + str(key) if cert is None else '--c2pa-cert ' + str(cert)}"
        )
    from kgen.credentials import Signer

    return Signer(cert, key)


def check_output(path, *suffixes):
    """Refuses, before the work, a path for `-o` that is no file of such a kind."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"-o takes the path of a {suffixes[0]} file. Received: -o {path}")
    files.target(path)


# What a command is about -----------------------------------------------------------------


def load(path):
    from kgen.training.run_folder import load_model

    return load_model(path, report=say)


def beside(model, name):
    """The path `name` beside the file or folder of a model; where that is none, in this folder."""
    path = pathlib.Path(model)
    return path.with_name(name) if path.name and path.exists() else pathlib.Path(name)


def stem_of(model):
    """What a model is called by: the name of its file, without its ending, or of its folder."""
    if hub.is_place(model):
        return hub.parse(model).name
    path = pathlib.Path(model)
    return path.stem if path.is_file() else path.resolve().name


def told(model, run):
    """What is known of a model to others: by its run, or in its preset's `metadata.json`."""
    from kgen.training.facts import facts, of_preset

    if run is not None:
        return facts(run, pathlib.Path(model).is_dir(), say)
    return of_preset(places.locate(model))


def name_of(model, run):
    """What a model is called, in its artifact and in the marks of what it draws."""
    return stem_of(model) if run is None else run.path.resolve().name


def origin_of(model, loaded, run, signer=None):
    """The `kgen.origin.Origin` of a model that `load` has given."""
    from kgen.origin import of_model

    return of_model(loaded, name_of(model, run), signer)


def drawn_with(loaded, options):
    """Those of the options of `--set` that pixels follow from: of the sampler, not of the work."""
    import inspect

    known = inspect.signature(loaded.sample).parameters
    return {name: value for name, value in options.items() if name in known}


def data_of(loaded, run, path, source, inputs=None):
    """The images of a source, with the inputs of another where that is given, or those of the
    model's run.
    """
    import kgen

    if run is not None:
        return run.load_data(report=say, source=source, inputs=inputs)
    if source is None:
        raise ValueError(f"{path} belongs to no run, so it needs --data SOURCE.")
    options = {"image_shape": loaded.image_shape, "progress": sys.stderr.isatty()}
    if inputs is None:
        return kgen.data.load(source, **options)
    return kgen.data.load_pairs(inputs, source, input_shape=loaded.input_shape, **options)
