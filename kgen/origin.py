"""Marks of origin: what a picture says of how it was drawn, written into its file and read again.

A mark is an XMP packet, in a PNG the chunk `iTXt` behind the header. It has IPTC's digital source
type, which other programs look for, and in a namespace of kgen's own all that the pixels follow
from: the model by the sha256 of its configuration and weights, the artifact by that of its
manifest, endpoint, seeds, labels, options. `export.inspect` draws them again and compares.

Who can write a file can write a mark into it, or take one out: it is a claim. What it says of
pixels can be proven by the model; who made them only a signature says, see `kgen.credentials`.
"""

import base64
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

import kgen
from kgen.images import columns_of

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
#: IPTC's words for what a trained model draws, and for what it makes of another picture.
DRAWN = f"{_SOURCE_TYPES}trainedAlgorithmicMedia"
MADE_OF_PICTURES = f"{_SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"

_XMP = "http://ns.adobe.com/xap/1.0/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_KGEN = "kgen:ns:origin/1.0/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_HEAD = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    f'<rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about="" xmlns:xmp="{_XMP}" '
    f'xmlns:Iptc4xmpExt="{_IPTC}" xmlns:kgen="{_KGEN}"'
)
_TAIL = '/></rdf:RDF></x:xmpmeta>\n<?xpacket end="r"?>'

#: Bytes of a PNG before the place of a mark: signature and header.
HEADER = 33
#: What stands in the chunk before the packet.
CHUNK_HEAD = b"XML:com.adobe.xmp\0\0\0\0\0"

_LARGEST_PACKET = 2**22  # bytes
_LARGEST_MASK = 2**24  # pixels
_FORMATS = ("PNG", "JPEG", "WEBP")
_SHA256 = r"[0-9a-f]{64}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """How images stand in a picture, as `kgen.images.grid` puts them.

    Attributes:
        columns: Int, images in a row.
        gap: Int, white pixels around each image.
        scale: Int, how often each pixel is repeated in both directions.
        cells: Tuple of ints, the places of those that were drawn, in the order of their seeds, row
            after row from 0; `None` where all of them were.
    """

    columns: int
    gap: int = 2
    scale: int = 1
    cells: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a picture says of how it was drawn; made by an `Origin`, or by `read`.

    Attributes:
        model: String, the model's name.
        model_sha256: String, of its configuration and weights, as `model.sha256` in a manifest.
        artifact_sha256: String, that of the manifest of the artifact that drew; empty where the
            model itself did.
        endpoint: String, the endpoint that drew.
        seeds: Tuple of ints, one for each image that was drawn; empty where there are none.
        labels: Tuple of ints, one for each image or one for all; empty where there are none.
        options: Dict of name to value, those of sampling that were chosen; a list where each image
            has its own.
        inputs: Dict of name to what went in, or to a list with one for each image: the
            `fingerprint` of a picture, `"#3"` for the image in that place of the grid, a mask as
            `mask_text` has it, or `""` for a picture that is not named.
        grid: `Grid`, or `None` for a picture of one image.
        source_type: String, the URI of IPTC's digital source type.
        creator: String, the program and its version.
        signer: What signs a picture that has its mark, `kgen.credentials.Signer`, or `None`.
    """

    model: str
    model_sha256: str
    artifact_sha256: str = ""
    endpoint: str = "generate"
    seeds: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    grid: Grid | None = None
    source_type: str = DRAWN
    creator: str = f"kgen {kgen.__version__}"
    signer: Any = dataclasses.field(default=None, compare=False, repr=False)

    def row(self, i: int) -> Self:
        """The claim of the `i`-th of several images alone."""

        def own(values):
            return {k: v[i] if isinstance(v, list) else v for k, v in values.items()}

        labels = self.labels if len(self.labels) < 2 else self.labels[i : i + 1]
        return dataclasses.replace(
            self,
            seeds=self.seeds[i : i + 1],
            labels=labels,
            options=own(self.options),
            inputs=own(self.inputs),
            grid=None,
        )

    def in_grid(
        self,
        columns: int | None = None,
        *,
        gap: int = 2,
        scale: int = 1,
        cells: Iterable[int] | None = None,
    ) -> Self:
        """The claim of a picture with all images in it, as `kgen.images.grid` makes it.

        Arguments are those of `Grid`; `columns=None` is that of `kgen.images.grid`.
        """
        columns = columns or columns_of(len(self.seeds))
        cells = None if cells is None else tuple(map(int, cells))
        return dataclasses.replace(self, grid=Grid(columns, gap, scale, cells))

    def mark(self, png: bytes) -> bytes:
        """A PNG's bytes with the mark in them, and with the signature of the claim's signer."""
        marked = insert(png, chunk(CHUNK_HEAD + self.packet().encode()))
        return marked if self.signer is None else self.signer.sign(marked, self)

    def as_dict(self) -> dict[str, Any]:
        """The claim as plain data."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "signer"}

    def packet(self):
        """The XMP packet: a string, the same for the same claim."""
        return packet(self.source_type, self.creator, self.fields())

    def fields(self):
        """Dict of strings, the claim's own part of the packet; what is empty is left out."""
        grid = None
        if self.grid is not None:
            grid = {k: v for k, v in dataclasses.asdict(self.grid).items() if v is not None}
        fields = {
            "model": self.model,
            "modelSha256": self.model_sha256,
            "artifactSha256": self.artifact_sha256,
            "endpoint": self.endpoint,
            "seed": " ".join(map(str, self.seeds)),
            "label": " ".join(map(str, self.labels)),
            "options": _json(self.options),
            "inputs": _json(self.inputs),
            "grid": _json(grid),
        }
        return {name: text for name, text in fields.items() if text}


@dataclasses.dataclass(frozen=True)
class Origin:
    """What draws: a model, and the artifact that it is in where there is one.

    `artifact.origin` is that of an artifact, `of_model` gives that of a model. The attributes are
    those of `Claim`, and `main`, the name of the endpoint that the model is for.

    Example:

    >>> origin = kgen.origin.of_model(model, "vae-digits")
    >>> images = model.generate(seeds=[1, 2, 3, 4])
    >>> claim = origin.claim(seeds=[1, 2, 3, 4]).in_grid(columns=2)
    >>> kgen.images.save_png(kgen.images.grid(images, columns=2), "grid.png", claim)
    """

    model: str
    model_sha256: str
    artifact_sha256: str = ""
    main: str = "generate"
    signer: Any = dataclasses.field(default=None, compare=False, repr=False)

    def claim(
        self,
        endpoint: str | None = None,
        seeds: Iterable[int] = (),
        labels: int | Sequence[int] | np.ndarray | None = None,
        options: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> Claim:
        """The `Claim` of what an endpoint draws: the seeds, labels and options that it was given.

        Arguments are as in `Claim`; `endpoint` is `main` by default. Labels may be an int, a
        sequence, or `None`; values of options may be arrays.
        """
        labels = () if labels is None else tuple(int(label) for label in np.atleast_1d(labels))
        inputs = dict(inputs or {})
        return Claim(
            model=self.model,
            model_sha256=self.model_sha256,
            artifact_sha256=self.artifact_sha256,
            endpoint=self.main if endpoint is None else endpoint,
            seeds=tuple(int(seed) for seed in seeds),
            labels=labels[:1] if len(set(labels)) == 1 else labels,
            options={name: plain(value) for name, value in sorted((options or {}).items())},
            inputs=inputs,
            source_type=MADE_OF_PICTURES if inputs else DRAWN,
            signer=self.signer,
        )

    def packet_parts(self):
        """For programs that mark what they draw themselves, such as the page of `kgen serve`.

        A dict of `"drawn"` and `"made_of_pictures"` to two strings, between which more fields, as
        `Claim.fields` has them, make a `packet`.
        """
        fields = self.claim("").fields()
        types = {"drawn": DRAWN, "made_of_pictures": MADE_OF_PICTURES}
        return {
            name: [packet(source_type, Claim.creator, fields).removesuffix(_TAIL), _TAIL]
            for name, source_type in types.items()
        }


def of_model(model: Any, name: str | None = None, signer: Any = None) -> Origin:
    """The `Origin` of a built `kgen.ImageGenerator`, under a name or by default its own."""
    sha256, main = describe_model(model)["sha256"], _main(model.endpoints())
    return Origin(name or model.name, sha256, main=main, signer=signer)


def describe_model(model):
    """What a manifest says of a model: a dict of its class, its configuration, the shape of its
    images, its classes, and the sha256 of all that with its weights, but for `test_steps`.

    `model` is any Keras model with `endpoints()`.
    """
    endpoints = model.endpoints()
    description = {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "config": model.get_config(),
        "image_shape": list(endpoints[_main(endpoints)].outputs["image"].example_shape),
        "num_classes": getattr(model, "num_classes", None),
    }
    text = json.dumps(
        description,
        indent=2,
        ensure_ascii=False,
        allow_nan=False,
        default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value),
    )
    digest = hashlib.sha256(f"{text}\n".encode())
    counter = getattr(model, "test_steps", None)  # evaluating a model makes it no other one
    for weight, value in zip(model.weights, model.get_weights(), strict=True):
        if weight is not counter:
            digest.update(np.ascontiguousarray(value).reshape(-1).view("uint8").data)
    return {**description, "sha256": digest.hexdigest()}


def _main(endpoints):
    return "generate" if "generate" in endpoints else next(iter(endpoints))


def fingerprint(array: np.ndarray) -> str:
    """What names a picture by its pixels: the sha256 of a uint8 array's shape and values."""
    array = np.ascontiguousarray(array, "uint8")
    return hashlib.sha256(f"{array.shape}".encode() + array.tobytes()).hexdigest()


def mask_text(mask: np.ndarray) -> str:
    """A mask, bool or 0/1 `[H, W]`, as `Claim.inputs` may hold it: `"28x28:"` and its bits."""
    mask = np.asarray(mask, bool)
    bits = zlib.compress(np.packbits(mask).tobytes(), 9)
    return f"{mask.shape[0]}x{mask.shape[1]}:{base64.b64encode(bits).decode()}"


def mask_of(text):
    """The mask that `mask_text` has written, uint8 `[H, W]`; `ValueError` where it is none."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4}):([\w+/=]+)", text, re.ASCII)
    if not found:
        raise ValueError("is no mask")
    height, width = int(found[1]), int(found[2])
    if height * width > _LARGEST_MASK:
        raise ValueError("is too large a mask")
    try:
        bits = zlib.decompressobj().decompress(
            base64.b64decode(found[3]), math.ceil(height * width / 8)
        )
    except zlib.error as error:
        raise ValueError("is no mask") from error
    return np.unpackbits(np.frombuffer(bits, "uint8"))[: height * width].reshape(height, width)


def plain(value):
    """A value of an option as JSON has it; of float32, as short as says which it is."""
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value] if value.ndim else plain(value[()])
    if isinstance(value, np.floating):
        return float(str(value))
    if isinstance(value, np.generic):
        return value.item()
    return [plain(each) for each in value] if isinstance(value, tuple | list) else value


# Writing ------------------------------------------------------------------------------


def packet(source_type, creator, fields):
    """An XMP packet with fields of kgen's namespace, a dict of strings, in their order."""
    properties = {
        "xmp:CreatorTool": creator,
        "Iptc4xmpExt:DigitalSourceType": source_type,
        **{f"kgen:{name}": text for name, text in fields.items()},
    }
    return _HEAD + "".join(f" {k}={_quoted(v)}" for k, v in properties.items()) + _TAIL


_quoted = functools.lru_cache(1024)(quoteattr)  # most of it is alike in all pictures of a server


def chunk(data):
    """The chunk `iTXt` of a PNG: its length, its data and its checksum."""
    content = b"iTXt" + data
    return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))


def insert(png, chunk):
    """A PNG's bytes with a chunk behind its header."""
    return png[:HEADER] + chunk + png[HEADER:]


def _json(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True) if value else ""


# Reading ------------------------------------------------------------------------------


def read(picture: bytes | str | os.PathLike[str]) -> dict[str, Any]:
    """What a picture says of its origin.

    Args:
        picture: Path of a PNG, JPEG or WebP file, or its bytes.

    Returns:
        A dict of `"source_type"` and `"creator"`, strings or `None`, as any program may have
        written them; and `"claim"`, a `Claim`, or `None` where there is none of kgen's.

    Raises:
        ValueError: It is no such picture, is damaged, or claims what kgen does not write.
    """
    name = "The picture" if isinstance(picture, bytes) else picture
    found = _properties(_packet(picture, name))
    own = {name: text for (space, name), text in found.items() if space == _KGEN}
    said = {
        "source_type": found.get((_IPTC, "DigitalSourceType")),
        "creator": found.get((_XMP, "CreatorTool")),
    }
    claim = None
    if own:
        try:
            claim = _claim(own, **said)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{name} claims what kgen does not write: {error}") from error
    return {**said, "claim": claim}


def _packet(picture, name):
    import PIL.Image

    file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    try:
        with PIL.Image.open(file, formats=_FORMATS) as image:
            image.load()  # a packet may stand behind the pixels
            found = image.info.get("xmp", b"")
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{name} is no PNG, JPEG or WebP.") from error
    except (PIL.Image.DecompressionBombError, SyntaxError, ValueError, struct.error) as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    except OSError as error:
        if error.errno is not None:  # it is not there, or may not be read
            raise
        raise ValueError(f"{name} is damaged: {error}") from error
    found = found if isinstance(found, str) else found.decode("utf-8", "replace")
    return found if len(found) <= _LARGEST_PACKET else ""


def one_line(text):
    """What a file says of itself, to be shown: without line ends and what moves a cursor."""
    return "".join(c if c.isprintable() else " " for c in text)


def _properties(text):
    """The simple properties of an XMP packet: a dict of (namespace, name) to text."""
    text = text.strip("\0\ufeff ")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return {}  # which could make it say anything, and at any length
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    found = {}
    for description in root.iter(f"{{{_RDF}}}Description"):
        values = list(description.attrib.items())
        for element in description:  # how other programs write what they have read
            values.append((element.tag, element.get(f"{{{_RDF}}}resource", element.text or "")))
        for tag, value in values:
            space, _, name = tag.removeprefix("{").rpartition("}")
            found.setdefault((space, name), one_line(value).strip())
    return found


def _claim(fields, source_type, creator):
    options, inputs = (_dict(name, fields) for name in ("options", "inputs"))
    claim = Claim(
        model=fields["model"],
        model_sha256=_matching("modelSha256", fields, _SHA256),
        artifact_sha256=_matching("artifactSha256", fields, f"({_SHA256})?"),
        endpoint=_matching("endpoint", fields, "[A-Za-z_][A-Za-z0-9_]{0,99}"),
        seeds=_integers("seed", fields),
        labels=_integers("label", fields),
        options={
            name: [_number(each) for each in value] if isinstance(value, list) else _number(value)
            for name, value in options.items()
        },
        inputs=inputs,
        grid=_grid(_dict("grid", fields)),
        source_type=source_type or "",
        creator=creator or "",
    )
    count = len(claim.seeds) or len(claim.grid.cells or () if claim.grid else ())
    for name, values in {**claim.options, **inputs}.items():
        if isinstance(values, list) and len(values) != count:
            raise ValueError(f"{name} has {len(values)} values for {count} images")
    if len(claim.labels) not in (0, 1, count):
        raise ValueError(f"{len(claim.labels)} labels for {count} images")
    texts = [
        v for value in inputs.values() for v in (value if isinstance(value, list) else [value])
    ]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("inputs are not named by text")
    if claim.grid and claim.grid.cells is not None and count != len(claim.grid.cells):
        raise ValueError(f"{len(claim.grid.cells)} places for {count} images")
    if not claim.grid and count > 1:
        raise ValueError(f"{count} seeds for one image")
    return claim


def _matching(name, fields, pattern):
    text = fields.get(name, "")
    if not re.fullmatch(pattern, text):
        raise ValueError(f"{name}={text[:80]!r}")
    return text


def _integers(name, fields):
    text = _matching(name, fields, r"([0-9]{1,10}( [0-9]{1,10})*)?")
    numbers = tuple(map(int, text.split()))
    if max(numbers, default=0) >= 2**31:
        raise ValueError(f"{name}={max(numbers)}")
    return numbers


def _dict(name, fields):
    value = json.loads(fields.get(name, "{}"))
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    return value


def _number(value):
    """A value of an option; the SavedModel's graph writes a float32 by its bits."""
    if isinstance(value, str) and re.fullmatch("0x[0-9a-f]{8}", value):
        return plain(np.uint32(int(value, 16)).view("float32"))
    if isinstance(value, dict | list) or (isinstance(value, int) and abs(value) >= 2**31):
        raise ValueError("an option is no plain value")
    return value


def _grid(given):
    if not given:
        return None
    cells = given.pop("cells", None)
    if cells is not None and not (
        cells and all(type(cell) is int and 0 <= cell < 2**24 for cell in cells)
    ):
        raise ValueError("places are no ints")
    if len(set(cells or ())) != len(cells or ()):
        raise ValueError("a place is there twice")
    grid = Grid(**given, cells=None if cells is None else tuple(cells))
    sizes = {"columns": grid.columns, "gap": grid.gap, "scale": grid.scale}
    for name, size in sizes.items():
        if type(size) is not int or not (name != "gap") <= size <= 2**16:
            raise ValueError(f"{name}={size!r}")
    return grid
