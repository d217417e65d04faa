"""What a picture claims of its origin, and the proof of it: it is drawn again and compared."""

import dataclasses
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image

from export.redrawing import (
    ArtifactProver,
    ModelProver,
    UnprovenError,
    picture_of,
    prover_of,
)
from kgen import images
from kgen import origin as origins
from kgen.data import decoding

#: What `inspect` may find; all but the first two need the model.
VERDICTS = (
    "unmarked",  # nothing of kgen's is said in the picture
    "claimed",  # something is, and was not looked into
    "proven",  # the model draws this picture from these seeds
    "edited",  # it draws the rest of it: some pixels are others
    "altered",  # it draws one like it, as of a copy that was resized or compressed
    "false",  # it draws another one
    "another model",  # another model is claimed
    "another input",  # another picture was put in than the one that is claimed
    "unproven",  # what is claimed is not enough to draw it
)

# Others are drawn to judge by how much alike is alike: of so many seeds, and so many classes.
_SEEDS, _CLASSES = 5, 3
_SHIFT = 7919  # from a seed to the next of them
_MOST_PIXELS = 2**24  # of a picture that is drawn where one of another size is
#: Of a claim's whole numbers, such as steps of a sampler; nobody publishes more.
_MOST_STEPS = 4000
_MOST = 16  # images of a grid that they are drawn for


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        source_type: String, the URI of IPTC's digital source type in the picture, or `None`.
        creator: String, the program that it names, or `None`.
        claim: `kgen.origin.Claim`, or `None`.
        verdict: String, one of `VERDICTS`.
        said: String, the verdict in a sentence.
        figures: Dict of numbers that it rests on: `images` that were drawn again, `others` in the
            picture that were not, `max_difference` in grey levels, and `equal`, the share of the
            values. Empty where nothing was drawn.
    """

    source_type: str | None
    creator: str | None
    claim: origins.Claim | None
    verdict: str
    said: str
    figures: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether the model draws this picture from what it claims."""
        return self.verdict == "proven"


def inspect(
    picture: bytes | str | os.PathLike[str],
    source: Any = None,
    inputs: Mapping[str, Any] | None = None,
) -> Inspection:
    """Reads what a picture claims of its origin, and proves it where its model is at hand.

    The model draws what is claimed, through ONNX Runtime where it is an artifact, and the pixels
    are compared, within a grey level in one value of a hundred. Where they differ, images of other
    seeds tell whether it is that picture still: edited in a part of it, or altered as a whole, as
    a copy is that was resized or compressed; such a likeness is no proof.

    Args:
        picture: Path of a PNG, JPEG or WebP file, or its bytes.
        source: What is to have drawn it: an `Artifact` or the path of one, a built
            `kgen.ImageGenerator`, or what `export.redrawing.prover_of` makes of these, which is
            quicker for many pictures; `None` to read only.
        inputs: Dict of what went in, by the names of the endpoint's inputs (`image`, `mask`,
            `style`): paths of pictures, or uint8 arrays `[h, w, c]`.

    Returns:
        `Inspection`.

    Raises:
        ValueError: It is no picture, or claims what kgen does not write.
        VerificationError: The artifact was changed.

    Example:

    >>> export.inspect("seven.png", "artifacts/vae").verdict
    'proven'
    """
    known = isinstance(source, ArtifactProver | ModelProver | None)
    prover = source if known else prover_of(source)
    found = origins.read(str(picture) if isinstance(picture, os.PathLike) else picture)
    verdict, said = "claimed", "What it claims was not looked into."
    figures: dict[str, float] = {}
    if found["claim"] is None:
        verdict, said = "unmarked", "Nothing in it says that kgen drew it."
    elif prover is not None:
        try:
            verdict, said, figures = _proven(picture, found["claim"], prover, inputs or {})
        except UnprovenError as error:
            verdict, said = error.verdict, str(error)
    return Inspection(**found, verdict=verdict, said=said, figures=figures)


# The proof ----------------------------------------------------------------------------


def _proven(picture, claim, prover, given):
    """The verdict on a claim, a sentence, and figures."""
    own = prover.origin
    if own.model_sha256 and claim.model_sha256 != own.model_sha256:
        raise UnprovenError(
            f"It claims to be drawn by {claim.model} ({claim.model_sha256[:12]}...), and this is "
            f"another model, {own.model} ({own.model_sha256[:12]}...).",
            "another model",
        )
    for name, value in claim.options.items():
        if isinstance(value, int) and value > _MOST_STEPS:
            raise UnprovenError(
                f"It claims {name}={value:,}: no more than {_MOST_STEPS:,} are tried."
            )
    specs, shape = prover.specs(claim)
    _check_known(claim, specs, shape)
    pixels = _pixels(picture, shape[-1])
    drawing = _Drawing(claim, prover, specs, shape, pixels, given)
    if drawing.cells is None or drawing.cells.shape[1:] != drawing.expected.shape[1:]:
        return _of_another_size(drawing, pixels)
    whole = drawing.whole(drawing.expected)
    difference = np.abs(whole.astype("int16") - pixels.astype("int16"))
    cells = np.abs(drawing.drawn.astype("int16") - drawing.expected.astype("int16"))
    figures = {
        "images": len(cells),
        "others": drawing.others,
        "max_difference": int(difference.max()),
        "equal": float((cells == 0).mean()),
    }
    if difference.max() <= 1 and _nearly_all(cells == 0):
        return "proven", _said_of_proof(claim, own, figures, drawing.seeds_decide()), figures
    return (*_of_difference(drawing, difference, cells), figures)


def _check_known(claim, specs, shape):
    """Raises where a claim does not say all that an image follows from."""
    if shape is None:
        raise UnprovenError(f"The endpoint {claim.endpoint} gives no picture.")
    for name, spec in specs.items():
        plain = name not in ("seed", "label") and spec.default is None and not picture_of(spec)
        if plain:
            raise UnprovenError(
                f"What it was drawn of, {name}, is not in the claim: {claim.endpoint} cannot be "
                "asked for it again."
            )
    for name in claim.options:
        if name in specs and specs[name].default is None:
            raise UnprovenError(f"It claims {name} as an option, which is none.")
    if "seed" in specs and not claim.seeds:
        raise UnprovenError("It names no seed to draw it from again.")
    if "label" in specs and not claim.labels:
        raise UnprovenError("It names no label, and the model has classes.")


class _Drawing:
    """A picture's images, and what the model makes of what they claim.

    `cells` are all images in it, uint8 `[M, H, W, C]`, or `None` where its size is not that of the
    grid; `drawn` those that were drawn, and `expected` what they should be, `[N, H, W, C]`.
    """

    def __init__(self, claim, prover, specs, shape, pixels, given):
        self.claim, self._prover = claim, prover
        self.compared = "what others draw"
        grid = claim.grid
        self.cells = pixels[None] if grid is None else _cells(pixels, shape, grid)
        total = len(claim.seeds) or len((grid and grid.cells) or (0,))
        places = range(total) if grid is None or grid.cells is None else grid.cells
        self._places = np.array(places)
        if self.cells is not None and self._places.max() >= len(self.cells):
            raise UnprovenError(f"It claims {self._places.max() + 1} images, and has fewer.")
        most = total * shape[0] * shape[1]
        if self.cells is None:
            most = max(most, _size(grid, total, shape))
        if most > _MOST_PIXELS:
            raise UnprovenError("It claims more pixels than are drawn to prove a picture.")
        self.others = 0
        if self.cells is not None and grid is not None and grid.cells is not None:
            self.others = len(self.cells) - total
        self._inputs = _Inputs(specs, given, self.cells).rows(claim, total)
        self._seeds = np.array(claim.seeds, "int32") if "seed" in specs else None
        labels = np.array(claim.labels, "int32") if "label" in specs else None
        self._num_classes = 1 if labels is None else specs["label"].maximum + 1
        if labels is not None and labels.max() >= self._num_classes:
            raise UnprovenError(f"It claims the label {labels.max()} of {self._num_classes}.")
        self._labels = None if labels is None else np.broadcast_to(labels, (total,))
        try:
            self._options = {
                name: np.array(value, "float32") if isinstance(value, list) else value
                for name, value in claim.options.items()
            }
        except (ValueError, TypeError) as error:
            raise UnprovenError(f"Its options are none: {error}.") from error
        if self._seeds is None and not self._inputs:
            raise UnprovenError(f"{claim.endpoint} takes neither a seed nor a picture.")
        self.expected = self._draw(slice(None))
        same = self.cells is not None and self.cells.shape[1:] == self.expected.shape[1:]
        if not same and pixels.shape[0] * pixels.shape[1] > _MOST_PIXELS:
            raise UnprovenError(
                "It has another size than it claims, and more pixels than compared."
            )

    @property
    def drawn(self):
        return self.cells[self._places]

    def whole(self, expected):
        """The picture as it would be with these in the place of those that were drawn."""
        grid = self.claim.grid
        if grid is None:
            return expected[0]
        # Where all are claimed, what is left of the last row is white.
        cells = np.full_like(self.cells, 255) if grid.cells is None else self.cells.copy()
        cells[self._places] = expected
        return images.grid(cells, grid.columns, grid.gap, grid.scale)

    def seeds_decide(self):
        """Whether another seed draws another picture than the first; `True` without seeds."""
        if self._seeds is None:
            return True
        return self._differ(self._draw([0], _SHIFT), self.expected[:1])

    def controls(self, rows, seeds=_SEEDS):
        """What others draw for some rows: images of other seeds, `[N, K, H, W, C]`, and of other
        classes. Where seeds decide nothing the first are the same images, mirrored and turned.
        """
        expected = self.expected[rows]
        seeds = seeds if self._seeds is not None else 0
        others = [self._draw(rows, _SHIFT * (i + 1)) for i in range(seeds)]
        if not any(self._differ(each, expected) for each in others):
            self.compared = "itself, mirrored and turned"
            others = [expected[:, :, ::-1], expected[:, ::-1], expected[:, ::-1, ::-1]]
        classes = min(_CLASSES, self._num_classes - 1)
        of_classes = [self._draw(rows, 0, i + 1) for i in range(classes)] or [others[0]]
        return np.stack(others, axis=1), np.stack(of_classes, axis=1)

    @staticmethod
    def _differ(images, others):
        return np.abs(images.astype("int16") - others.astype("int16")).max() > 1

    def _draw(self, rows, shift=0, other=0):
        """Images of rows: of seeds that are shifted, and of an other class."""
        seeds, labels = self._seeds, self._labels
        if seeds is not None:
            seeds = ((seeds[rows].astype("int64") + shift) % 2**31).astype("int32")
        if labels is not None:
            labels = (labels[rows] + np.int32(other)) % np.int32(self._num_classes)
        return self._prover.draw(
            self.claim,
            seeds,
            labels,
            {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in self._options.items()},
            {name: array[rows] for name, array in self._inputs.items()},
        )


class _Inputs:
    """The pictures that went in: of the picture itself, of its claim, or of who asks."""

    #: The option of `kgen inspect` for each.
    OPTIONS = {"image": "--input PICTURE", "mask": "--mask PICTURE", "style": "--style PICTURE"}

    def __init__(self, specs, given, cells):
        self._specs = {
            name: spec for name, spec in specs.items() if spec.default is None and picture_of(spec)
        }
        if unknown := given.keys() - self._specs.keys():
            raise ValueError(
                f"{min(unknown)} is none of the pictures that go in. There are: "
                f"{', '.join(self._specs) or 'none'}"
            )
        self._given, self._cells = given, cells

    def rows(self, claim, total):
        """uint8 arrays `[total, ...]` by name."""
        arrays = {}
        for name in self._specs:
            said = claim.inputs.get(name, "")
            said = said if isinstance(said, list) else [said] * total
            known = {text: self._resolved(name, text) for text in dict.fromkeys(said)}
            arrays[name] = np.stack([known[text] for text in said])
        return arrays

    def _resolved(self, name, text):
        spec = self._specs[name]
        if text.startswith("#"):
            array = self._of_cell(text)
            grey = array[..., :1]
            if spec.shape[-1] == 1 and (array == grey).all():  # in a grid of colours
                array = grey
        elif ":" in text:
            try:
                array = origins.mask_of(text)
            except ValueError as error:
                raise UnprovenError(f"Its {name} {error}.") from error
        elif name not in self._given:
            raise UnprovenError(
                f"{'A' if name == 'image' else 'The'} {_WORDS[name]} went in, which the claim "
                f"does not hold: give it ({self.OPTIONS.get(name, name)})."
            )
        else:
            array = self._chosen(name, text, spec)
        sides = [
            own if side is None else side
            for side, own in zip(spec.shape, array.shape, strict=False)
        ]
        if sides != list(array.shape):
            raise UnprovenError(f"Its {name} has the shape {array.shape}, not {spec.shape}.")
        return array

    def _of_cell(self, text):
        place = int(text[1:]) if text[1:].isdecimal() and len(text) < 9 else -1
        if self._cells is None or not 0 <= place < len(self._cells):
            raise UnprovenError("The picture that went in cannot be found in it.")
        return self._cells[place]

    def _chosen(self, name, text, spec):
        """What was given, as it was taken: cropped or resized to the model's size in some way."""
        given = self._given[name]
        if isinstance(given, np.ndarray):
            found = [given]
        else:
            found = [_decoded(given, spec, resize) for resize in decoding.RESIZES]
        for array in found:
            if text in ("", origins.fingerprint(array)):
                return array
        raise UnprovenError(
            f"Another {_WORDS[name]} went in than the one that is given: its pixels have another "
            "sha256.",
            "another input",
        )


_WORDS = {"image": "picture", "mask": "mask", "style": "picture of a style"}


def _pixels(picture, channels):
    """A picture's file or bytes as uint8 `[h, w, channels]`; raises where it has others."""
    picture = str(picture) if isinstance(picture, os.PathLike) else picture
    with PIL.Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as file:
        if getattr(file, "n_frames", 1) > 1:  # of which viewers need not show the first
            raise UnprovenError("It is an animation, and models draw pictures.")
    size = decoding.probe(picture)[:2]
    every = decoding.decode(picture, (*size, 4))
    if channels in (1, 3) and every[..., 3].min() < 255:
        raise UnprovenError("It is transparent, and this model draws no transparency.")
    if channels < 3 and (every[..., :1] != every[..., :3]).any():
        raise UnprovenError("It has colours, and this model draws in grey.")
    return decoding.decode(picture, (*size, channels))


def _decoded(path, spec, resize):
    """A picture as an endpoint takes it, uint8 of the shape of its `TensorSpec`."""
    path, mask = str(path), picture_of(spec) == "mask"
    height, width, channels = (*spec.shape, 1) if mask else spec.shape
    if height is None:
        height, width, _ = decoding.probe(path)
    array = decoding.decode(path, (height, width, channels), "white", resize)
    return (array[..., 0] > 127).astype("uint8") if mask else array


def _cells(pixels, shape, grid):
    """The images of a grid, or `None` where it is none of such images."""
    height, width = (side * grid.scale + grid.gap for side in shape[:2])
    rows, rest = divmod(pixels.shape[0] - grid.gap, height)
    if rest or rows < 1 or pixels.shape[1] != grid.columns * width + grid.gap:
        return None
    inner = pixels[grid.gap :, grid.gap :]
    inner = inner.reshape(rows, height, grid.columns, width, shape[-1])
    inner = inner[:, : height - grid.gap : grid.scale, :, : width - grid.gap : grid.scale]
    return np.ascontiguousarray(inner.swapaxes(1, 2).reshape(-1, *shape))


def _size(grid, total, shape):
    """How many pixels a grid of so many images has."""
    if grid is None:
        return shape[0] * shape[1]
    rows = -(-total // grid.columns)
    height, width = (side * grid.scale + grid.gap for side in shape[:2])
    return rows * height * grid.columns * width


def _nearly_all(equal):
    """Whether values are equal but for rounding: one of a hundred, or a few of a small image."""
    return np.count_nonzero(~equal) <= max(0.01 * equal.size, 4)


# What a difference means --------------------------------------------------------------


def _of_difference(drawing, difference, cells):
    """A verdict and a sentence, where a picture of the right size is not what is claimed."""
    wrong = (cells > 1).any(axis=(1, 2, 3)) | [not _nearly_all(cell == 0) for cell in cells]
    wrong = np.flatnonzero(wrong)
    if not len(wrong) and difference.max() > 1:
        return (
            "edited",
            f"Its images are those that are drawn, and around them is changed: {_box(difference)}.",
        )
    if not len(wrong):  # few values in each of them, and too many of all
        wrong = np.arange(len(cells))
    rows = wrong[:_MOST]
    judged = [
        _likeness(drawing.drawn[row], drawing.expected[row], *controls)
        for row, *controls in zip(rows, *drawing.controls(rows), strict=True)
    ]
    of = "" if len(cells) == 1 else f" in {len(wrong)} of {len(cells)} images"
    source = _said_of_rows(drawing.claim, rows)
    if difference.max() <= 1:
        return "altered", (
            f"It is what is drawn from {source}, but for a grey level in {(cells > 0).mean():.1%} "
            "of the values: more than these runtimes round. A GPU may; it is no proof."
        )
    mean, other = (np.mean([each[i] for each in judged]) for i in (1, 2))
    verdicts = [each[0] for each in judged]
    if "false" in verdicts:
        return "false", (
            f"Another picture is drawn from {source}{of}: the mean difference is {mean:.3g} grey "
            f"levels, and {other:.3g} from {drawing.compared}. Seed, label or options are not "
            "those that are claimed, or another model drew it."
        )
    if "altered" in verdicts:
        return "altered", (
            f"It is like what is drawn from {source}, and not equal{of}: the mean difference is "
            f"{mean:.3g} grey levels, and {other:.3g} from {drawing.compared}. A copy that was "
            "compressed or retouched would be so; it is no proof."
        )
    return "edited", (
        f"Pixels were changed{of} after it was drawn from {source}: {_box(difference)}. The others "
        "are those that are drawn."
    )


def _likeness(image, expected, of_seeds, of_classes):
    """How an image is like the one that is expected, by how those of other seeds and of other
    classes are: `"edited"`, `"altered"` or `"false"`; its mean difference from it, and the least
    one from what other seeds draw.
    """

    def differences(others):
        return [np.abs(image.astype("int16") - other.astype("int16")) for other in others]

    [own], of_seeds, of_classes = map(differences, ([expected], of_seeds, of_classes))
    mean, least = own.mean(), min(other.mean() for other in of_seeds)
    if min(other.mean() for other in of_classes) < mean:
        return "false", mean, least
    changed, most = (own > 1).mean(), min((other > 1).mean() for other in of_seeds)
    if changed <= 0.5 * most and (own == 0).mean() >= 0.5:
        return "edited", mean, least
    return "altered" if mean <= 0.5 * least else "false", mean, least


def _of_another_size(drawing, pixels):
    """The same for a picture that does not have the size of what is claimed."""
    grid, expected = drawing.claim.grid, drawing.expected
    if grid is not None and grid.cells is not None:
        raise UnprovenError("It was resized, and not all of its images were drawn.")
    size = pixels.shape[1::-1]

    def brought(array):
        if grid is not None:
            array = images.grid(array, grid.columns, grid.gap, grid.scale)[None]
        flat = array[0].squeeze(-1) if array.shape[-1] == 1 else array[0]
        small = PIL.Image.fromarray(flat).resize(size, PIL.Image.Resampling.LANCZOS)
        return np.asarray(small).reshape(pixels.shape)

    controls = drawing.controls(slice(None), _SEEDS if len(expected) == 1 else 2)
    others = [[brought(each[:, i]) for i in range(each.shape[1])] for each in controls]
    kind, mean, least = _likeness(pixels, brought(expected), *others)
    figures = {"images": len(expected), "others": 0, "mean_difference": round(float(mean), 3)}
    resized = f"It has {size[0]}x{size[1]} pixels, which is not the size of what it claims"
    if kind == "false":
        return "false", f"{resized}; brought to that size, this is another picture.", figures
    source = _said_of_rows(drawing.claim, range(len(expected)))
    return (
        "altered",
        f"{resized}. It is like what is drawn from {source}, resized: the mean difference is "
        f"{mean:.3g} grey levels, and {least:.3g} from {drawing.compared}. It is no proof.",
        figures,
    )


def _box(difference):
    """Where pixels differ, in words."""
    rows, columns = np.nonzero((difference > 1).any(axis=-1))
    return (
        f"{len(rows):,} of {difference[..., 0].size:,} pixels, in rows {rows.min()} to "
        f"{rows.max()} and columns {columns.min()} to {columns.max()}"
    )


def _said_of_rows(claim, rows):
    seeds = [claim.seeds[row] for row in rows if claim.seeds]
    if not seeds:
        return "what went in"
    shown = ", ".join(map(str, seeds[:3])) + (", ..." if len(seeds) > 3 else "")
    return f"seed {shown}" if len(seeds) == 1 else f"the seeds {shown}"


def _said_of_proof(claim, own, figures, seeds_decide):
    count = figures["images"]
    what = "this picture" if count == 1 and claim.grid is None else f"these {count} images"
    said = (
        f"{own.model} draws {what} from {_said_of_rows(claim, range(count))} (largest difference: "
        f"{figures['max_difference']} grey levels)."
    )
    if not seeds_decide:
        said += " So it does from other seeds, which decide nothing here."
    if figures["others"]:
        said += (
            f" {figures['others']} others in it are no part of the claim, and were not compared."
        )
    if claim.artifact_sha256 not in ("", own.artifact_sha256) and own.artifact_sha256:
        said += f" It names another artifact of the same model ({claim.artifact_sha256[:12]}...)."
    return said
