"""What is served, apart from how it is asked for: models, their versions, and their answers."""

import asyncio
import concurrent.futures
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from export import artifact, verification
from export import manifest as schema
from export.errors import VerificationError
from export.serving import tensors
from export.serving.batching import Batcher
from export.serving.errors import RequestError, bad, not_found
from export.serving.runtimes import RUNTIMES
from kgen.origin import fingerprint


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client can have of a server.

    Attributes:
        rows: Int, images of one request from an endpoint of one pass.
        loop_rows: Int, images of one request from an endpoint that loops, as autoregressive
            samplers and diffusion do.
        pixels: Int, height times width times rows of one request.
        batch_rows: Int, rows that run together.
        queue_rows: Int, rows of one endpoint that may wait; beyond, 429 with `Retry-After`.
        body_bytes: Int, bytes of a request's body.
        seconds: Float, from a request to its answer; beyond, 503.
        receive_seconds: Float, until a request's head, and then its body, has arrived.
        connections: Int, connections that are open at a time.
    """

    rows: int = 256
    loop_rows: int = 64
    pixels: int = 2**24
    batch_rows: int = 64
    queue_rows: int = 512
    body_bytes: int = 2**24
    seconds: float = 120.0
    receive_seconds: float = 10.0
    connections: int = 512

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                value = getattr(self, field.name)
                raise ValueError(f"{field.name} must be above 0. Received: {field.name}={value}")


@dataclasses.dataclass(frozen=True)
class Signature:
    """A way to call an endpoint, as a SavedModel has it.

    `inputs` and `outputs` are dicts of the names that the caller uses to the endpoint's own;
    names that differ are pictures as PNG.
    """

    endpoint: str
    inputs: dict
    outputs: dict


class Version:
    """One artifact that is served."""

    def __init__(self, found, number, runtime, limits, threads, metrics, signer=None):
        self.artifact = found
        self.name = found.name
        self.origin = dataclasses.replace(found.origin, signer=signer)
        self.number = number
        self.endpoints = found.endpoints
        self.signatures = _signatures(self.endpoints)
        # An endpoint with options is called with all of them, also where a request has none.
        self._whole = {
            name: name
            if name + schema.WITH_OPTIONS not in self.endpoints
            else name + schema.WITH_OPTIONS
            for name in self.endpoints
        }
        whole = sorted(set(self._whole.values()))
        self.runtime = RUNTIMES[runtime](found, whole, threads)
        self._limits = limits
        self._executors = [
            concurrent.futures.ThreadPoolExecutor(1, f"{self.name}-{endpoint}")
            for endpoint in whole
        ]
        # Without a way back to the version: with the last request of it, its memory is free.
        self._batchers = {
            endpoint: Batcher(
                lambda inputs, runtime=self.runtime, name=endpoint: runtime.call(name, inputs),
                executor,
                limits.batch_rows,
                limits.queue_rows,
                metrics.of_batches(self.name, number, endpoint),
            )
            for endpoint, executor in zip(whole, self._executors, strict=True)
        }

    def max_rows(self, endpoint):
        """How many rows a request may have."""
        limits = self._limits
        rows = limits.loop_rows if self._whole[endpoint] in self.runtime.loops else limits.rows
        height, width, _ = self.artifact.manifest["model"]["image_shape"]
        return max(1, min(rows, limits.pixels // (height * width)))

    async def run(self, endpoint, inputs):
        """Outputs, a dict of arrays, for a dict of rows by the names of the endpoint's inputs.

        Inputs that have a default may be missing. `RequestError` where they are not as the
        manifest has them.
        """
        specs = self.endpoints[endpoint]["inputs"]
        options = self.endpoints.get(endpoint + schema.WITH_OPTIONS, {}).get("inputs", {})
        taken = dict.fromkeys(options, f"{endpoint}{schema.WITH_OPTIONS}")
        tensors.check_names(inputs, specs, taken)
        whole = self._whole[endpoint]
        arrays, rows = tensors.rows(specs, inputs)
        self._check_pixels(specs, arrays)
        if rows > (most := self.max_rows(endpoint)):
            raise bad(f"{endpoint} takes at most {most} rows in a request. Received: {rows}")
        # All requests have the same inputs in the same order, to go together.
        for name, spec in self.endpoints[whole]["inputs"].items():
            arrays[name] = arrays.pop(name, None)
            if arrays[name] is None:
                arrays[name] = np.full(rows, spec["default"], spec["dtype"])
        return await self._batchers[whole].run(arrays)

    def _check_pixels(self, specs, arrays):
        """Pictures of any size have their own limit of pixels, of all rows together."""
        for name, spec in specs.items():
            if schema.is_free(spec) and name in arrays:
                rows, height, width, _ = arrays[name].shape
                if rows * height * width > (most := self._limits.pixels):
                    raise bad(
                        f"{name} should have at most {most:,} pixels in a request. Received: "
                        f"{rows} x {height} x {width}"
                    )

    def claims(self, endpoint, inputs, rows):
        """What the pictures of a request say, whose inputs `run` took: an iterator of
        `kgen.origin.Claim`, one for each of so many rows.
        """
        described = self.endpoints[endpoint]
        name, chosen = endpoint.removesuffix(schema.WITH_OPTIONS), described.get("options", {})
        for i in range(rows):
            row = {key: values[i] for key, values in inputs.items()}
            seeds = [row.pop("seed")] if "seed" in row else []
            label, options, pictures = row.pop("label", None), dict(chosen), {}
            for key, value in row.items():
                spec = described["inputs"][key]
                if "default" in spec:
                    options[key] = value
                elif schema.picture(spec["dtype"], spec["shape"]):
                    pictures[key] = fingerprint(value)
            yield self.origin.claim(name, seeds, label, options, pictures)

    @property
    def waiting(self):
        """Rows that wait, by endpoint."""
        return {endpoint: batcher.rows for endpoint, batcher in self._batchers.items()}

    def stop(self):
        """Frees the threads; a batch that nobody waits for any more is broken off."""
        self.runtime.stop()
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)


@dataclasses.dataclass
class _Source:
    """A folder that holds an artifact, and what of it is served."""

    path: pathlib.Path
    seen: tuple = ()
    version: Version | None = None
    number: int | None = None  # of a folder in a folder of versions


class Service:
    """Serves artifacts, and picks up what takes their place.

    Args:
        paths: Paths of artifacts, or of folders that hold numbered ones (`1/`, `2/`, ...).
            Artifacts of one name are versions of one model.
        runtime: `"onnx"` or `"saved_model"`.
        limits: `Limits`.
        threads: Int, threads of the runtime for one batch; `None` for all cores.
        hashes_only: Bool, hold files to their hashes and graphs to the list of operators, and
            leave out the repetition of the proof.
        key: Path of an Ed25519 public key that must have signed every artifact, or `None`.
        signer: `kgen.credentials.Signer` of all pictures that go out as PNG, or `None`.
        metrics: `export.serving.metrics.Metrics`, or `None` for one of its own.
        report: Callable `(event, **details)` for what an operator should know.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        runtime: str = "onnx",
        limits: Limits | None = None,
        threads: int | None = None,
        hashes_only: bool = False,
        key: Any = None,
        signer: Any = None,
        metrics: Any = None,
        report: Callable[..., object] = lambda event, **details: None,
    ) -> None:
        from export.serving.metrics import Metrics

        if runtime not in RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}. Received: {runtime}")
        self.limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self.metrics.waiting_of(self)
        self.models: dict[str, Any] = {}  # name to versions by number
        self._runtime = runtime
        self._threads = threads or os.cpu_count()
        self._hashes_only = hashes_only
        self._key = key
        self._signer = signer
        self._report = report
        self._paths = [pathlib.Path(path) for path in paths]
        self._sources: dict[str, Any] = {}
        if not self._paths:
            raise ValueError("Give at least one artifact to serve. Received: none")

    # Loading --------------------------------------------------------------------------------

    def load(self) -> None:
        """Loads everything; `VerificationError` for the first that is not in order."""
        for path in self._paths:
            found = self._folders(path)
            if not found:
                raise VerificationError(
                    f"{path} is not an artifact, and holds no numbered ones. Give a folder that "
                    "`kgen export` wrote."
                )
            for source in found:
                source.seen = _state(source.path)
                self._take(source, self._verified(source))
                self._sources[source.path] = source

    def _folders(self, path):
        if (path / artifact.MANIFEST).is_file():
            return [_Source(path)]
        if not path.is_dir():
            return []
        numbered = (
            p for p in path.iterdir() if p.name.isdecimal() and (p / artifact.MANIFEST).is_file()
        )
        return [_Source(p, number=int(p.name)) for p in sorted(numbered, key=lambda p: int(p.name))]

    def _verified(self, source):
        """The artifact of a source as a `Version`, when everything about it is in order."""
        wanted = RUNTIMES[self._runtime].format
        formats = artifact.load(source.path).formats
        if wanted not in formats:
            raise VerificationError(
                f"{source.path} has no {wanted}, which this server runs: export it with "
                f"--formats {wanted}, or choose another --runtime. It has: {', '.join(formats)}"
            )
        found = verification.verify(
            source.path,
            (wanted,),
            progress=False,
            hashes_only=self._hashes_only,
            key=self._key,
        ).artifact
        if self._hashes_only:
            verification.check_graphs(found)
        number = source.number
        if number is None:
            taken = self.models.get(found.name, {})
            number = max(taken, default=0) + 1
        start = time.perf_counter()
        version = Version(
            *(found, number, self._runtime, self.limits, self._threads, self.metrics, self._signer)
        )
        self._report(
            "loaded",
            model=version.name,
            version=number,
            path=str(source.path),
            seconds=round(time.perf_counter() - start, 3),
        )
        return version

    def _take(self, source, version):
        """Puts a version into the place of what its source had."""
        there = self.models.get(version.name, {}).get(version.number)
        if there is not None and there is not source.version:
            raise VerificationError(
                f"{source.path} is version {version.number} of {version.name}, which is served "
                f"already from {there.artifact.path}."
            )
        old, source.version = source.version, version
        self.models.setdefault(version.name, {})[version.number] = version
        if old is not None:
            self._forget(old)

    def _forget(self, version):
        """Serves a version no more. Requests that have it keep it until they are answered."""
        versions = self.models[version.name]
        if versions.get(version.number) is version:
            del versions[version.number]
        if not versions:
            del self.models[version.name]

    async def watch(self, seconds):
        """Looks every so many seconds for artifacts that have changed, until it is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.refresh()

    async def refresh(self):
        """Takes up artifacts that have changed; one that is not in order is refused and told."""
        for path in self._paths:
            found = {source.path: source for source in await asyncio.to_thread(self._folders, path)}
            for source in found.values():
                known = self._sources.setdefault(source.path, source)
                await self._refresh(known)
            for source in list(self._sources.values()):
                gone = source.path.parent == path and source.path not in found
                if (
                    gone
                    and source.version is not None
                    and len(self.models[source.version.name]) > 1
                ):
                    self._report(
                        "unloaded", model=source.version.name, version=source.version.number
                    )
                    self._forget(source.version)
                    del self._sources[source.path]

    async def _refresh(self, source):
        seen = await asyncio.to_thread(_state, source.path)
        if seen == source.seen or not seen:
            return
        source.seen = seen
        try:
            version = await asyncio.to_thread(self._verified, source)
            if await asyncio.to_thread(_state, source.path) != seen:
                source.seen = ()  # it changed meanwhile: look again
                raise VerificationError(f"{source.path} changes while it is loaded.")
            self._take(source, version)
        except Exception as error:  # whatever it is, what was served goes on
            self.metrics.refused()
            self._report("refused", path=str(source.path), error=str(error))

    def stop(self):
        """Frees what all versions hold, when no request is left."""
        for versions in self.models.values():
            for version in versions.values():
                version.stop()

    # Answers --------------------------------------------------------------------------------

    def labels(self, name):
        """Labels of a model's versions: the first is `stable`, the last of several `canary`."""
        numbers = sorted(self.models[name])
        return {"stable": numbers[0]} | ({"canary": numbers[-1]} if len(numbers) > 1 else {})

    def find(self, name, version=None, label=None):
        """The `Version` that is asked for, by default the newest; `RequestError` 404 without it."""
        versions = self.models.get(name)
        if not versions:
            asked = f"Specific({name}, {version})" if version is not None else f"Latest({name})"
            raise not_found(
                f"Servable not found for request: {asked}. There are: {', '.join(self.models)}"
            )
        if label is not None:
            labels = self.labels(name)
            if label not in labels:
                raise not_found(
                    f"{name} has no version label {label}; there are {', '.join(labels)}."
                )
            version = labels[label]
        if version is None:
            return versions[max(versions)]
        try:
            return versions[int(version)]
        except (KeyError, ValueError):
            raise not_found(
                f"Servable not found for request: Specific({name}, {version}). {name} has the "
                f"versions {', '.join(map(str, sorted(versions)))}."
            ) from None

    async def predict(self, version, signature, inputs):
        """Outputs of a signature of a `Version`, by the signature's names.

        `inputs` is a dict by its names: lists or arrays of rows, bytes of PNG for pictures of the
        signatures that take these. Outputs are arrays, or lists of bytes for such pictures.
        """
        if signature not in version.signatures:
            raise bad(
                f'Serving signature key "{str(signature)[:100]}" not found. '
                f"{version.name} has: {', '.join(version.signatures)}"
            )
        found = version.signatures[signature]
        specs = version.endpoints[found.endpoint]["inputs"]
        png = {name: own for name, own in found.inputs.items() if name != own}
        rows = {}
        for name, values in inputs.items():
            if name in png:
                own = png[name]
                rows[own] = await self._decoded(name, specs[own], values, version, found.endpoint)
            elif name in png.values():
                raise bad(f"{signature} takes {schema.png_name(name)}, a PNG, in place of {name}.")
            else:
                rows[name] = values
        outputs = await self.run(version, found.endpoint, rows)
        named = {}
        for name, own in found.outputs.items():
            named[name] = outputs[own]
            if name != own:
                claims = version.claims(found.endpoint, rows, len(outputs[own]))
                named[name] = await _encoded(outputs[own], claims)
        return named

    async def run(self, version, endpoint, inputs):
        """`Version.run` in the time that a request has."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await version.run(endpoint, inputs)
        except TimeoutError:
            raise RequestError(
                503, f"No answer within {self.limits.seconds:g} s.", retry_after=1
            ) from None

    async def _decoded(self, name, spec, values, version, endpoint):
        if not isinstance(values, list) or not all(isinstance(v, bytes) for v in values):
            raise bad(f'{name} takes PNG, one for each row: {{"b64": "..."}} in JSON.')
        if len(values) > version.max_rows(endpoint):
            raise bad(
                f"{endpoint} takes at most {version.max_rows(endpoint)} rows in a request. "
                f"Received: {len(values)}"
            )
        if not values:
            raise bad("At least one row is needed. Received: none")

        def decode():
            pictures = [tensors.decoded(name, spec, value, self.limits.pixels) for value in values]
            if len({picture.shape for picture in pictures}) > 1:
                raise bad(f"{name} should be pictures of one size in a request.")
            return np.stack(pictures)

        return decode() if len(values) < 4 else await asyncio.to_thread(decode)


async def _encoded(array, claims):
    """PNG of each row, with its claim; many are made beside the loop of events."""
    if len(array) < 4:
        return list(map(tensors.encoded, array, claims))
    return await asyncio.to_thread(lambda: list(map(tensors.encoded, array, claims)))


def _signatures(endpoints):
    """All ways to call the endpoints, by name, as a SavedModel of them has."""
    found = {}
    for name, described in endpoints.items():
        sides = {side: {key: key for key in described[side]} for side in ("inputs", "outputs")}
        found[name] = Signature(name, **sides)
        png = {
            side: {
                schema.png_name(key) if schema.picture(spec["dtype"], spec["shape"]) else key: key
                for key, spec in described[side].items()
            }
            for side in sides
        }
        if png != sides:
            found[schema.png_signature(name)] = Signature(name, **png)
    main = schema.main(endpoints)
    found["serving_default"] = found[f"{main}_xla"] = found[main]
    return found


def _state(path):
    """What tells that a folder has changed: its files' names, sizes, places and times."""
    try:
        return tuple(
            (str(p), s.st_size, s.st_ino, s.st_mtime_ns)
            for p in sorted(path.rglob("*"))
            for s in [p.stat()]
            if not p.is_dir()
        )
    except OSError:  # it is being replaced
        return ()
