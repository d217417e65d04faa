"""The manifest: what stands in an artifact's `manifest.json`, stated once.

`check` holds a manifest to it when it is written and whenever it is read, so that what reads on
finds what it looks for. Nothing in it is trusted: a path is one of those that kgen writes, what is
said twice is said alike, and the proof that it tells of is whole.
"""

import re
import typing

import pydantic

FORMAT = "kgen.artifact"
FORMAT_VERSION = 1
#: TF Serving serves the numbered folders under a model's folder.
SAVED_MODEL = "saved_model/1"
#: A folder that TensorFlow writes, and that is empty.
ASSETS = f"{SAVED_MODEL}/assets"
WARMUP = f"{SAVED_MODEL}/assets.extra/tf_serving_warmup_requests"
GOLDEN = "golden.npz"
WEIGHTS = "onnx/weights.bin"
#: The static folder of the page that draws in a browser.
WEB = "web"
WEB_WEIGHTS = f"{WEB}/onnx/weights.bin"
#: What follows on an endpoint's name where its options may be given.
WITH_OPTIONS = "_with_options"
#: What `web` holds whatever the model.
WEB_FILES = (
    "index.html",
    "models.json",
    "onnxruntime/ort.wasm.bundle.min.mjs",
    "onnxruntime/ort-wasm-simd-threaded.wasm",
)


def _text(pattern):
    return typing.Annotated[str, pydantic.StringConstraints(pattern=f"^(?:{pattern})$")]


Name = _text("[A-Za-z_][A-Za-z0-9_]{0,99}")
Sha256 = _text("[0-9a-f]{64}")
#: Of an operation of TensorFlow, and which of its outputs.
TensorName = _text(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*:[0-9]{1,4}")


_FILES = re.compile(
    r"README\.md|samples\.png|golden\.npz|onnx(_fp16|_int8)?/weights\.bin|"
    r"onnx(_fp16|_int8)?/[A-Za-z_][A-Za-z0-9_]{0,99}\.onnx|"
    r"litert/[A-Za-z_][A-Za-z0-9_]{0,99}\.tflite|"
    r"web/(index\.html|models\.json|static/[a-z_-]{1,99}\.(js|css|svg)|onnx/weights\.bin|"
    r"onnx/[A-Za-z_][A-Za-z0-9_]{0,99}\.onnx|"
    r"onnxruntime/(ort\.wasm\.bundle\.min\.mjs|ort-wasm-simd-threaded\.wasm))|"
    r"saved_model/1/(saved_model\.pb|fingerprint\.pb|assets\.extra/tf_serving_warmup_requests|"
    r"variables/variables\.(index|data-[0-9]{5}-of-[0-9]{5}))"
)


def _file_name(name):
    if not _FILES.fullmatch(name):
        raise ValueError("should be the name of a file that kgen writes")
    return name


#: The files that kgen writes, and no others: there is no path out of the folder.
FileName = typing.Annotated[str, pydantic.AfterValidator(_file_name)]
Size = typing.Annotated[int, pydantic.Field(ge=1)]
Count = typing.Annotated[int, pydantic.Field(ge=0)]
Figure = typing.Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Share = typing.Annotated[float, pydantic.Field(ge=0, le=1)]
Plain = dict[str, typing.Any]  # any JSON: a model's config, and what the exporter was told


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class File(_Part):
    sha256: Sha256
    size: Count


class Model(_Part):
    class_: str = pydantic.Field(alias="class")
    module: str
    config: Plain
    image_shape: typing.Annotated[list[Size], pydantic.Field(min_length=3, max_length=3)]
    num_classes: Size | None
    sha256: Sha256 = ""  # the first artifacts had none


class Tensor(_Part):
    """An input or an output of an endpoint; its first side is the batch."""

    shape: list[typing.Literal["batch", "height", "width"] | Size]
    dtype: typing.Literal["uint8", "int32", "int64", "uint32", "float32"]
    minimum: int | float | None
    maximum: int | float | None
    description: str
    #: Of an input that may be left out where a format can; only there.
    default: int | float = None
    #: A shape of a row, that of the golden arrays, where height and width are free; only there.
    example: list[Size] = None

    @pydantic.field_validator("shape")
    @classmethod
    def _begins_with_the_batch(cls, shape):
        free = len(shape) == 4 and shape[1:3] == ["height", "width"]
        rest = shape[3:] if free else shape[1:]
        if shape[:1] != ["batch"] or any(isinstance(side, str) for side in rest):
            raise ValueError('should begin with "batch", and go on with ints')
        return shape

    @pydantic.model_validator(mode="after")
    def _has_an_example(self):
        given = "example" in self.model_fields_set
        if given != ("height" in self.shape) or (
            given and (len(self.example) != 3 or self.example[2:] != self.shape[3:])
        ):
            raise ValueError("example: should be a shape of a row where height and width are free")
        return self


def picture(dtype, shape):
    """What uint8 of the shape `(batch, ...)` is that PNG can hold: "image", "mask", or `None`."""
    if dtype != "uint8" or len(shape) not in (3, 4):
        return None
    return "mask" if len(shape) == 3 else "image" if shape[-1] in (1, 2, 3, 4) else None


def row_shape(spec):
    """The shape of a row of an endpoint's input or output, a list of ints; where height and width
    are free, that of the golden arrays.
    """
    return list(spec.get("example") or spec["shape"][1:])


def is_free(spec):
    """Whether an endpoint's input or output, a dict, is of any height and width."""
    return "height" in spec["shape"]


def main(endpoints):
    """The name of what a model is for: `generate`, or the first endpoint of one without."""
    return "generate" if "generate" in endpoints else next(iter(endpoints))


def png_name(name):
    """What an input or output is called where it is a PNG; TF Serving gives `*_bytes` in base64."""
    return f"{name}_bytes"


def png_signature(endpoint):
    """The name of the signature of an endpoint that takes and gives its pictures as PNG."""
    base = endpoint.removesuffix(WITH_OPTIONS)
    png = "image_bytes" if base == "generate" else f"{base}_image_bytes"
    return png + endpoint.removeprefix(base)


def whole(endpoints):
    """Of the published endpoints those that have a graph of their own: the others call these."""
    return {k: e for k, e in endpoints.items() if k + WITH_OPTIONS not in endpoints}


def web_file(endpoint):
    """The ONNX file of an endpoint that has a graph of its own, for browsers."""
    return f"{WEB}/onnx/{endpoint}.onnx"


class Endpoint(_Part):
    description: str
    #: Those of sampling that were chosen when it was exported; only where some were.
    options: Plain = {}
    inputs: typing.Annotated[dict[Name, Tensor], pydantic.Field(min_length=1)]
    outputs: typing.Annotated[dict[Name, Tensor], pydantic.Field(min_length=1)]


class SavedModelSignature(_Part):
    endpoint: Name
    png: typing.Literal[True] = True
    xla: typing.Literal[True] = True
    inputs: dict[Name, TensorName]
    outputs: dict[Name, TensorName]


class Warmup(_Part):
    path: typing.Literal[WARMUP]
    signatures: list[Name]


class SavedModel(_Part):
    path: typing.Literal[SAVED_MODEL]
    tags: typing.Annotated[
        list[typing.Literal["serve"]], pydantic.Field(min_length=1, max_length=1)
    ]
    signatures: dict[Name, SavedModelSignature]
    warmup: Warmup


class FileSignature(_Part):
    endpoint: Name
    file: FileName
    inputs: dict[Name, Name]
    outputs: dict[Name, Name]


class Onnx(_Part):
    path: typing.Literal["onnx"]
    opset: Size
    signatures: dict[Name, FileSignature]
    external_data: typing.Literal[WEIGHTS] = WEIGHTS


class OnnxFp16(Onnx):
    path: typing.Literal["onnx_fp16"]
    external_data: typing.Literal["onnx_fp16/weights.bin"] = "onnx_fp16/weights.bin"


class OnnxInt8(Onnx):
    path: typing.Literal["onnx_int8"]
    external_data: typing.Literal["onnx_int8/weights.bin"] = "onnx_int8/weights.bin"


class LiteRT(_Part):
    path: typing.Literal["litert"]
    signatures: dict[Name, FileSignature]


class Web(_Part):
    """A signature for each endpoint that has a graph of its own: options have to be given."""

    path: typing.Literal[WEB]
    #: The version of the npm package that is in it.
    onnxruntime_web: str
    signatures: dict[Name, FileSignature]
    external_data: typing.Literal[WEB_WEIGHTS] = WEB_WEIGHTS


class Formats(_Part):
    # Each may be missing, and then it is no part of `model_fields_set`; none may be null.
    saved_model: SavedModel = None
    onnx: Onnx = None
    litert: LiteRT = None
    onnx_fp16: OnnxFp16 = None
    onnx_int8: OnnxInt8 = None
    web: Web = None


class Tolerance(_Part):
    max_difference: Figure
    min_equal: Share = 0.0
    scaled_by_magnitude: bool = False
    #: On the mean of the differences; only where weights are rounded.
    mean_difference: Figure = None


class Figures(_Part):
    """What the proof found for one output of one signature at one batch size."""

    format: typing.Literal[
        "keras", "saved_model", "onnx", "litert", "onnx_fp16", "onnx_int8", "web"
    ]
    runtime: str
    signature: Name
    endpoint: Name
    batch_size: Size
    output: Name
    max_difference: Figure
    equal: Share
    limit: Figure
    min_equal: Share
    #: The mean of the differences, and the limit on it; only where weights are rounded.
    mean_difference: Figure = None
    mean_limit: Figure = None
    passed: typing.Literal[True]


class Manifest(_Part):
    format: typing.Literal[FORMAT]
    format_version: typing.Literal[FORMAT_VERSION]
    name: typing.Annotated[str, pydantic.Field(min_length=1)]
    created: str
    model: Model
    versions: dict[str, str]
    endpoints: dict[Name, Endpoint]
    batch_sizes: typing.Annotated[list[Size], pydantic.Field(min_length=2)]
    formats: Formats
    metadata: Plain
    tolerances: dict[str, Tolerance]
    parity: list[Figures]
    files: dict[FileName, File]
    #: sha256 of the public key whose owner signed it; only where somebody did.
    signed_by: Sha256 = ""
    #: Of all else in it.
    sha256: Sha256

    @pydantic.model_validator(mode="after")
    def _agrees_with_itself(self):
        for field, said in self._contradictions():
            raise ValueError(f"{field}: {said}")
        return self

    def _contradictions(self):
        formats = {name: getattr(self.formats, name) for name in self.formats.model_fields_set}
        if not formats:
            yield "formats", f"should hold one of {', '.join(Formats.model_fields)}"
        if not self.endpoints:
            yield "endpoints", "should hold an endpoint"
            return
        if self.batch_sizes != sorted(set(self.batch_sizes)):
            yield "batch_sizes", "should be different ints in their order"
        expected = {GOLDEN}
        rows = [("keras", key, key) for key in self.endpoints]
        for name, section in formats.items():
            place = f"formats.{name}"
            for key, signature in section.signatures.items():
                yield from self._of_signature(f"{place}.signatures.{key}", key, signature, section)
                rows.append((name, key, signature.endpoint))
            endpoints = whole(self.endpoints) if name == WEB else self.endpoints
            if missing := set(endpoints) - section.signatures.keys():
                yield f"{place}.signatures", f"should hold {', '.join(sorted(missing))}"
        for name in formats.keys() - {"saved_model"}:
            section = formats[name]
            own = whole(self.endpoints) if name == WEB else self.endpoints
            if extra := section.signatures.keys() - set(own):
                yield f"formats.{name}.signatures", f"should not hold {', '.join(sorted(extra))}"
            expected |= {signature.file for signature in section.signatures.values()}
            if "external_data" in section.model_fields_set:
                expected.add(section.external_data)
        if WEB in formats:
            expected |= {f"{WEB}/{file}" for file in WEB_FILES}
        if section := formats.get("saved_model"):
            if "serving_default" not in section.signatures:
                yield "formats.saved_model.signatures", "should hold serving_default"
            if not set(section.warmup.signatures) <= section.signatures.keys():
                yield "formats.saved_model.warmup.signatures", "should be names of signatures"
            expected |= {f"{SAVED_MODEL}/saved_model.pb", WARMUP}
        if missing := expected - self.files.keys():
            yield "files", f"should hold {', '.join(sorted(missing))}"
        for file in self.files:
            format_ = file.partition("/")[0]
            kept = file in expected or format_ in ("README.md", "samples.png")
            kept = kept or (format_ == "saved_model" and format_ in formats)
            kept = kept or (file.startswith(f"{WEB}/static/") and format_ in formats)
            if not kept:
                yield f"files.{file}", "is of no format and of no signature in formats"
        yield from self._of_parity(rows)

    def _of_signature(self, place, key, signature, section):
        endpoint = self.endpoints.get(signature.endpoint)
        if endpoint is None or (key in self.endpoints and key != signature.endpoint):
            yield f"{place}.endpoint", f"should be one of endpoints. Received: {signature.endpoint}"
            return
        sides = {"inputs": set(endpoint.inputs), "outputs": set(endpoint.outputs)}
        if isinstance(signature, FileSignature):
            # Both of an endpoint with options are in one file, but for browsers.
            ending = "tflite" if isinstance(section, LiteRT) else "onnx"
            file = f"{section.path}/{key.removesuffix(WITH_OPTIONS)}.{ending}"
            file = web_file(key) if isinstance(section, Web) else file
            if signature.file != file:
                yield f"{place}.file", f"should be {file}. Received: {signature.file}"
        elif "png" in signature.model_fields_set:
            plain = sides["inputs"]
            sides = {side: _as_png(getattr(endpoint, side)) for side in sides}
            if sides == {"inputs": set(endpoint.inputs), "outputs": set(endpoint.outputs)}:
                yield f"{place}.png", "should stand where the endpoint has an image"
            if signature.inputs.keys() == plain:  # the first artifacts gave PNG and took none
                sides["inputs"] = plain
        for side, names in sides.items():
            given = getattr(signature, side)
            if given.keys() != names or len(set(given.values())) < len(given):
                yield f"{place}.{side}", f"should name each of {', '.join(sorted(names))}"

    def _of_parity(self, rows):
        expected = set()
        for name, key, endpoint in rows:
            expected |= {
                (name, key, endpoint, size, output)
                for size in self.batch_sizes
                for output in self.endpoints[endpoint].outputs
            }
        keys = ("format", "signature", "endpoint", "batch_size", "output")
        found = [tuple(getattr(row, key) for key in keys) for row in self.parity]
        if wrong := expected.symmetric_difference(found):
            where = ", ".join(map(str, min(wrong)))
            said = "lacks" if min(wrong) in expected else "should not hold"
            yield "parity", f"{said} figures of {where}"
        if len(found) > len(expected):
            yield "parity", "should hold figures once"


def _as_png(tensors):
    """The names of an endpoint's inputs or outputs where pictures are PNG."""
    return {
        png_name(name) if picture(tensor.dtype, tensor.shape) else name
        for name, tensor in tensors.items()
    }


def check(manifest):
    """Returns the manifest, a dict; `ValueError`, a line that names the field, if it is none."""
    try:
        Manifest.model_validate(manifest)
    except pydantic.ValidationError as error:
        raise ValueError(_line(error)) from error
    return manifest


def _line(error):
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part)[:100] for part in first["loc"] if part != "[key]")
    if not place:  # what contradicts something else begins with its field
        return first["msg"].removeprefix("Value error, ")
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("missing", "extra_forbidden"):
        return f"{place}: {said}"
    return f"{place}: {said}. Received: {_short(first['input'])}"


def _short(value):
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    said = repr(value)
    return said if len(said) <= 100 else f"{said[:100]}..."
