"""Who draws again what a picture claims: an artifact in its runtime, or a model in Keras."""

import os

import numpy as np

from export import manifest as schema
from export import verification
from kgen import origin
from kgen.endpoint import TensorSpec

_ROWS = 64  # images of one call
#: What stands for an option that nobody has chosen.
_DEFAULT = "the model's own"


class UnprovenError(Exception):
    """Why a claim is not looked into further."""

    def __init__(self, said, verdict="unproven"):
        super().__init__(said)
        self.verdict = verdict


def prover_of(source, name=None):
    """An `ArtifactProver` or a `ModelProver`, which draw what pictures claim.

    Both have `origin`, a `kgen.origin.Origin`; `specs(claim)`, which gives the inputs of the
    endpoint that is claimed, `TensorSpec` by name, and the shape of an image that it gives, or
    `None` (where images are of any size, that of training); and `draw(claim, seeds, labels,
    options, inputs)`, which gives images, uint8 `[N, H, W, C]`, for seeds and labels, int32 `[N]`
    or `None`, options, a dict of values or of arrays `[N]`, and pictures, a dict of uint8 arrays
    `[N, ...]`. An `UnprovenError` where they cannot.

    Args:
        source: An `Artifact` or the path of one; or a built `kgen.ImageGenerator`.
        name: String, what a model is called; by default its own name.

    Raises:
        VerificationError: The artifact was changed, or has an operator that kgen does not export.
        ValueError: It has neither ONNX files nor a SavedModel.
    """
    if hasattr(source, "run_endpoint"):
        return ModelProver(source, name)
    found = verification.verify(getattr(source, "path", source), hashes_only=True).artifact
    verification.check_graphs(found)
    return ArtifactProver(found)


class ArtifactProver:
    """An artifact's endpoints, in ONNX Runtime, or in TensorFlow where it has no ONNX files."""

    def __init__(self, found):
        self.origin, self._found, self._runtimes = found.origin, found, {}
        if not {"onnx", "saved_model"} & set(found.formats):
            raise ValueError(
                f"{found.path} has neither ONNX files nor a SavedModel to draw with. It has: "
                f"{', '.join(found.formats)}"
            )

    def specs(self, claim):
        described = self._found.endpoints[self._endpoint(claim)]
        inputs = {name: _spec(spec) for name, spec in described["inputs"].items()}
        outputs = {name: _spec(spec) for name, spec in described["outputs"].items()}
        image = _image_of(outputs)
        return inputs, image and outputs[image].example_shape

    def draw(self, claim, seeds, labels, options, inputs):
        endpoint, count = self._endpoint(claim), count_of(seeds, inputs)
        described, runtime = self._found.endpoints[endpoint], self._runtime(endpoint)
        given = {**options, **inputs, "seed": seeds, "label": labels}
        arrays = {}
        for name, spec in described["inputs"].items():
            value = given.get(name, spec.get("default"))
            try:
                array = np.asarray(value, spec["dtype"])
            except (ValueError, TypeError) as error:
                raise UnprovenError(f"Its {name} cannot be {value!r:.60}.") from error
            arrays[name] = array if array.ndim else np.full(count, array)
        image = _image_of({name: _spec(spec) for name, spec in described["outputs"].items()})
        batches = [
            {name: array[begin : begin + _ROWS] for name, array in arrays.items()}
            for begin in range(0, count, _ROWS)
        ]
        return np.concatenate([runtime.call(endpoint, batch)[image] for batch in batches])

    def _runtime(self, endpoint):
        from export.serving.runtimes import RUNTIMES

        if endpoint not in self._runtimes:
            kind = "onnx" if "onnx" in self._found.formats else "saved_model"
            self._runtimes[endpoint] = RUNTIMES[kind](self._found, [endpoint], os.cpu_count())
        return self._runtimes[endpoint]

    def _endpoint(self, claim):
        """The name of an endpoint, with all of its inputs, that draws as is claimed.

        What a model was told for each call is chosen in an artifact when it is exported, for
        `generate` or for a variant of it.
        """
        endpoints = self._found.endpoints
        names = [claim.endpoint]
        if claim.endpoint not in endpoints or claim.endpoint == schema.main(endpoints):
            wanted = endpoints[schema.main(endpoints)]["inputs"].keys()
            names += [name for name, each in endpoints.items() if each["inputs"].keys() == wanted]
        reasons = [self._unlike(claim, name) for name in names]
        if None not in reasons:
            raise UnprovenError(f"This artifact cannot draw it: {reasons[0]}.")
        return self._whole(names[reasons.index(None)])

    def _whole(self, name):
        return (
            name + schema.WITH_OPTIONS
            if name + schema.WITH_OPTIONS in self._found.endpoints
            else name
        )

    def _unlike(self, claim, name):
        """What an endpoint draws otherwise than is claimed, in words; `None` where it does not."""
        if name not in self._found.endpoints:
            return f"it has no endpoint {name}"
        described = self._found.endpoints[self._whole(name)]
        chosen, inputs = described.get("options", {}), described["inputs"]
        for key in sorted(claim.options.keys() | chosen.keys()):
            own, claimed = chosen.get(key, _DEFAULT), claim.options.get(key, _DEFAULT)
            if own != claimed and (key not in inputs or claimed is _DEFAULT):
                return f"the {key} of its {name} is {own}, and {claimed} is claimed"
        return None


def _spec(described):
    """`TensorSpec` of an input or output as a manifest has it."""
    sides = [None if isinstance(side, str) else side for side in described["shape"][1:]]
    return TensorSpec(
        tuple(sides),
        described["dtype"],
        maximum=described["maximum"],
        default=described.get("default"),
        example=tuple(described.get("example", ())),
    )


class ModelProver:
    """A model's endpoints, in Keras."""

    def __init__(self, model, name):
        self.origin, self._model = origin.of_model(model, name), model

    def specs(self, claim):
        endpoint = self._model.endpoints()[self._endpoint(claim)]
        image = _image_of(endpoint.outputs)
        return endpoint.inputs, image and endpoint.outputs[image].example_shape

    def draw(self, claim, seeds, labels, options, inputs):
        name, arrays, rest = self._endpoint(claim), dict(inputs), {}
        endpoint, count = self._model.endpoints()[name], count_of(seeds, inputs)
        run = {"seeds": seeds, "batch_size": _ROWS, "progress": False}
        try:
            for key, value in options.items():
                if key in endpoint.inputs and key not in self._model.sampling_numbers:
                    arrays[key] = np.broadcast_to(np.float32(value), (count,))
                else:
                    rest[key] = value
            rest = self._model.check_options(rest, count)
            if name == "translate":  # large pictures in tiles
                return self._model.translate(arrays["image"], **run, **rest)
            drawn = self._model.run_endpoint(name, arrays, labels, **run, **rest)
        except (ValueError, TypeError) as error:
            raise UnprovenError(f"This model cannot draw it: {error}") from error
        return drawn[_image_of(endpoint.outputs)] if isinstance(drawn, dict) else drawn

    def _endpoint(self, claim):
        """An artifact's variant of `generate` is that with options here."""
        endpoints = self._model.endpoints()
        return claim.endpoint if claim.endpoint in endpoints else schema.main(endpoints)


def _image_of(outputs):
    """The name of the first output that is an image, or `None`."""
    return next((name for name, spec in outputs.items() if picture_of(spec) == "image"), None)


def picture_of(spec):
    return schema.picture(spec.dtype, (None, *spec.shape))


def count_of(seeds, inputs):
    return len(seeds) if seeds is not None else len(next(iter(inputs.values())))
