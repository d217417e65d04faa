"""SavedModel: every endpoint as a signature, ready for TF Serving."""

import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export import manifest as schema
from export import png_marks, tracing, warmup
from kgen.images import encode_png

# TF Serving serves the numbered folders under a model's folder.
VERSION = "saved_model/1"


def _warm(endpoints):
    """What is warmed up at every batch size; the other signatures, whose graphs are made ready by
    the first request whatever its size, are at the smallest.
    """
    main = schema.main(endpoints)
    return ("serving_default", main, schema.png_signature(main), f"{main}_xla")


def write(folder, calls, endpoints, origin, batch_sizes, golden):
    """Writes `saved_model/1` into an artifact's folder.

    Signatures: one per endpoint; `serving_default`, which is `generate`, or what a model without it
    is for, such as `translate`; `generate_xla` (`translate_xla`), the same compiled by XLA once per
    batch size; and for every endpoint with an image one that takes and gives PNG, `image_bytes` for
    `generate` and `<endpoint>_image_bytes` for the others. There an image `NAME` is a string
    `NAME_bytes`, as is a mask, white where it is 1. Each PNG that comes out has its mark, see
    `export.png_marks`.

    Beside them stand callables, for `tf.saved_model.load` and `keras.layers.TFSMLayer`, which give
    a function one argument: `serve`, which is `serving_default`, and one by the name of each
    endpoint.

    `calls` are concrete functions by endpoint, one graph each, which its signatures call, so that
    its constants are stored once. `origin` is the `kgen.origin.Origin` of the model. The warmup
    requests take its name, and the golden inputs at each of `batch_sizes`. Returns a dict for the
    manifest: path, tags, and for each signature its endpoint and the names of its tensors.
    """
    description = _signatures(endpoints)
    traced = {}
    for signature, details in description.items():
        key = details["endpoint"]
        if details.get("xla"):
            # Traced anew: a loop traced for the plain runtime is lowered to operators that XLA
            # does not have.
            call, options = tracing.function(key, endpoints[key]), {"jit_compile": True}
        else:
            call, options = calls[key], {}
        if details.get("png"):
            traced[signature] = _trace_png(call, key, endpoints[key], origin)
        else:
            traced[signature] = tracing.trace(call, key, endpoints[key], **options)

    # Only the weights that the signatures use: no optimizer, no discriminator.
    module = tf.train.Checkpoint()
    module.weights = list(
        {id(v): v for concrete in traced.values() for v in concrete.variables}.values()
    )
    for key, endpoint in endpoints.items():
        setattr(module, key, _callable(calls[key], key, endpoint))
    module.serve = getattr(module, schema.main(endpoints))
    path = pathlib.Path(folder) / VERSION
    try:
        tf.saved_model.save(module, str(path), signatures=traced)
    except tf.errors.OpError as error:
        raise OSError(error.message) from error  # what a full disk is everywhere else

    every = [signature for signature in _warm(endpoints) if signature in traced]
    warm = [*every, *(signature for signature in traced if signature not in every)]
    warmup.write(
        path,
        origin.model,
        (
            (signature, _request(description[signature], endpoints, golden, size))
            for size in batch_sizes
            for signature in (warm if size == batch_sizes[0] else every)
        ),
    )
    for signature, tensors in _tensor_names(path).items():
        description[signature].update(tensors)
    return {
        "path": VERSION,
        "tags": [tf.saved_model.SERVING],
        "signatures": description,
        "warmup": {"path": f"{VERSION}/{warmup.PATH}", "signatures": warm},
    }


def num_signatures(endpoints):
    """How many signatures `write` makes of these endpoints."""
    return len(_signatures(endpoints))


def _signatures(endpoints):
    main = schema.main(endpoints)
    signatures = {"serving_default": {"endpoint": main}}
    for name, endpoint in endpoints.items():
        signatures[name] = {"endpoint": name}
        if any(_picture(s) for s in (*endpoint.inputs.values(), *endpoint.outputs.values())):
            signatures[schema.png_signature(name)] = {"endpoint": name, "png": True}
    signatures[f"{main}_xla"] = {"endpoint": main, "xla": True}
    return signatures


def _picture(spec):
    return schema.picture(spec.dtype, (None, *spec.shape))


def _trace_png(call, name, endpoint, origin):
    """The same endpoint with its pictures as PNG; TF Serving's REST has `*_bytes` in base64."""
    pictures = [key for key, spec in endpoint.inputs.items() if _picture(spec)]
    claim = origin.claim(
        name.removesuffix(schema.WITH_OPTIONS),
        options=endpoint.options,
        inputs=dict.fromkeys(pictures, ""),
    )

    def call_png(*tensors):
        given = dict(zip(endpoint.inputs, tensors, strict=True))
        decoded = [
            _decoded(tensor, endpoint.inputs[key]) if key in pictures else tensor
            for key, tensor in given.items()
        ]
        numbers = {key: given[key] for key in png_marks.numbers(endpoint)}

        def encoded(tensor):
            return png_marks.marked(tf.io.encode_png(tensor), claim, numbers, endpoint.inputs)

        return {
            schema.png_name(key) if _picture(endpoint.outputs[key]) else key: (
                encoded(tensor) if _picture(endpoint.outputs[key]) else tensor
            )
            for key, tensor in call(*decoded).items()
        }

    specs = [
        tf.TensorSpec((None,), tf.string, schema.png_name(key))
        if _picture(spec)
        else tf.TensorSpec((None, *spec.shape), spec.dtype, key)
        for key, spec in endpoint.inputs.items()
    ]
    return tf.function(call_png, autograph=False).get_concrete_function(*specs)


def _decoded(strings, spec):
    """PNG `[B]` as images or masks; a picture of another size is an error of the runtime."""
    mask = _picture(spec) == "mask"
    shape = (*spec.shape, 1) if mask else spec.shape

    def decode(string):
        if shape[-1] != 2:
            return tf.ensure_shape(tf.io.decode_png(string, channels=shape[-1]), shape)
        # Grey with alpha, which it does not know: red, green and blue are the grey.
        four = tf.io.decode_png(string, channels=4)
        return tf.ensure_shape(four[..., ::3], shape)

    pictures = tf.map_fn(decode, strings, fn_output_signature=tf.TensorSpec(shape, tf.uint8))
    return tf.cast(pictures[..., 0] > 127, tf.uint8) if mask else pictures


def _callable(call, name, endpoint):
    """The endpoint as a function of a dict of its inputs, or of its only one."""

    def serve(inputs):
        inputs = inputs if isinstance(inputs, dict) else dict.fromkeys(endpoint.inputs, inputs)
        return call(*(inputs[key] for key in endpoint.inputs))

    serve = tf.function(serve, autograph=False)
    specs = dict(zip(endpoint.inputs, tracing.specs(endpoint), strict=True))
    serve.get_concrete_function(specs)
    if len(specs) == 1:
        serve.get_concrete_function(*specs.values())
    return serve


def _request(description, endpoints, golden, size):
    """Inputs of a signature: rows of the golden ones, with pictures as PNG where it takes these."""
    name = description["endpoint"]
    rows = {key: array[:size] for key, array in golden[name]["inputs"].items()}
    if not description.get("png"):
        return rows
    specs = endpoints[name].inputs
    return {
        schema.png_name(key) if _picture(specs[key]) else key: (
            np.array([_png(row) for row in array], object) if _picture(specs[key]) else array
        )
        for key, array in rows.items()
    }


def _png(row):
    """An image, or a mask, which is white where it is 1."""
    return encode_png(row if row.ndim == 3 else 255 * row)


def _tensor_names(path):
    """What a runtime without TensorFlow's Python needs to run each signature."""
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((path / "saved_model.pb").read_bytes())
    return {
        name: {
            "inputs": {key: info.name for key, info in sorted(signature.inputs.items())},
            "outputs": {key: info.name for key, info in sorted(signature.outputs.items())},
        }
        for name, signature in proto.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }
