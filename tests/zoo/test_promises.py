"""The promises that every model of the zoo keeps; a new model is held to them by its preset."""

import dataclasses
import inspect
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import export
import kgen
from export import serving
from kgen import safe_config, weights

# Two ways through every model would cost more than they find: most stand with classes alone.
# Translators know no classes.
TRANSLATORS = tuple(kgen.models.families()["translation"].models)
CASES = [(name, None if name in TRANSLATORS else 3) for name in kgen.models.registered()]
CASES += [("vae", None)]
CASES += [
    pytest.param((name, None), marks=pytest.mark.slow) for name in ("dcgan", "gated_pixelcnn")
]
# Samplers that are another's, on another network or after another training: exporting proves their
# files too, but what takes longest of the second tier is not done with each of them.
SIBLINGS = (
    *("resnet_gan", "r3gan", "vit_vae", "pixelcnn", "vq_pixelcnn", "flow_matching", "edm"),
    *("soflow_dit", "pix2pix", "srgan"),
)
SAMPLERS = [
    pytest.param((name, classes), marks=() if name == "dcgan" else pytest.mark.slow)
    for name, classes in CASES[: len(kgen.models.registered())]
    if name not in SIBLINGS
]
SEEDS = np.arange(8) * 31
MANY = np.arange(64) * 31  # the first 8 of which are SEEDS


def name_of(case):
    return f"{case[0]}-{case[1]}"


@pytest.fixture(params=CASES, ids=name_of, scope="module")
def case(request, tiny):
    """A trained tiny model, `tests.conftest.Tiny`."""
    return tiny(*request.param)


#: Marks a test that runs for `SAMPLERS` alone.
of_each_sampler = pytest.mark.parametrize(
    "case", SAMPLERS, indirect=True, ids=name_of, scope="module"
)


@pytest.fixture(scope="module")
def served(case, tensorflow_only):
    """A server of the model's artifact, in this process."""
    service = serving.Service([case.artifact.path], hashes_only=True)
    service.load()
    with serving.Server(service, port=0, poll=0) as server:
        yield server


def close(images, expected):
    """Whether images are equal but for rounding: a grey level in a pixel of a hundred."""
    difference = np.abs(images.astype(int) - expected.astype(int))
    assert images.shape == expected.shape and images.dtype == expected.dtype
    return difference.max() <= 1 and (difference == 0).mean() > 0.99


def test_presets_are_named_after_the_model(case):
    model = case.model
    assert kgen.models.registered()[case.name] is type(model)
    assert all(preset.startswith(f"{case.name}_") for preset in model.presets)
    assert model.tiny_preset in model.presets


def test_fit_logs_every_metric(case):
    names = set(case.model.metric_names)
    validated = {f"val_{name}" for name in names}
    assert set(case.history) == names | validated | set(case.model.training_metric_names)
    assert np.isfinite(list(case.history.values())).all()


def test_every_variable_is_trained(case):
    """Training moves every trainable weight that gradients can reach."""
    trained = {id(variable) for variable in case.model.trainable_variables}
    for variable, before, after in zip(
        case.variables(case.model), case.states[0], case.states[-1], strict=True
    ):
        if id(variable) in trained:
            assert (before != after).any(), f"{variable.path} got no gradient"


def test_images_are_uint8(case):
    images = case.draw(SEEDS)
    assert images.dtype == np.uint8
    assert images.shape == (8, *case.model.image_shape)
    assert len(np.unique(images.reshape(8, -1), axis=0)) == 8, "seeds must give other images"
    assert np.ptp(images) > 8, "a promise about grey images would be an empty one"


def test_one_seed_per_image(case):
    """The same seed gives the same image alone and in a batch, whatever is beside it."""
    batch = case.draw(SEEDS)
    for i in (0, 5, 7):
        seeds = SEEDS[i : i + 1]
        alone = case.run(seeds)
        assert close(alone, batch[i : i + 1])
    np.testing.assert_array_equal(case.draw(SEEDS), batch)
    beside_others = case.draw(np.roll(SEEDS, 3))
    assert close(np.roll(beside_others, -3, axis=0), batch)


@pytest.mark.slow
def test_one_seed_per_image_at_batch_64(case):
    batch = case.run(MANY)
    assert close(batch[:8], case.draw(SEEDS))
    assert close(batch[-1:], case.draw(MANY[-1:]))
    assert len(np.unique(batch.reshape(64, -1), axis=0)) == 64


def options_of(case):
    """Options of which every image may have its own: some for each, the default in every fourth."""
    specs = case.model.endpoints()[case.main].inputs
    rng = np.random.default_rng(0)
    options = {}
    for name, spec in specs.items():
        if spec.default is not None:
            values = spec.default + 0.5 * rng.normal(size=8) * (np.arange(8) % 4 > 0)
            options[name] = np.clip(values, spec.minimum, spec.maximum).astype("float32")
    return options


def test_every_image_may_have_its_own_options(case):
    options = options_of(case)
    assert bool(options) == (case.name not in ("vqvae", *TRANSLATORS[:-1]))
    images = case.run(SEEDS, **options)
    plain = case.draw(SEEDS)
    assert close(images[::4], plain[::4])
    # One set of options for all rows, beside other neighbours; what is compiled takes both.
    one = {name: float(values[1]) for name, values in options.items()}
    alike = case.draw(np.roll(SEEDS, 3), **one)
    assert close(alike[4:5], images[1:2])
    if keras.backend.backend() == "tensorflow":
        session = case.artifact.onnx_session(case.main)
        inputs = in_graph(case, case.feeds(SEEDS))
        assert close(session.run(["image"], inputs)[0], plain), "all options left out"
        assert close(session.run(["image"], inputs | options)[0], images)
        one = {name: values[1:2] for name, values in options.items()}
        assert close(session.run(["image"], inputs | one)[0][1:2], images[1:2]), "one for all"


def in_graph(case, feeds):
    """Inputs of the main endpoint by the names that they have in its ONNX file."""
    signature = case.artifact.manifest["formats"]["onnx"]["signatures"][case.main]
    names = {**{key: key for key in feeds}, **signature["inputs"]}
    return {names[key]: array for key, array in feeds.items()}


def run_endpoints(case, name=None):
    """What the endpoints gave: dict of name to a dict of arrays, and of inputs of one of them.

    On TensorFlow these are the golden outputs that the artifact was proven by.
    """
    endpoints, name = case.model.endpoints(), name or case.main
    if keras.backend.backend() == "tensorflow":
        from export import parity

        golden = parity.load_golden(case.artifact.path / parity.GOLDEN)
        assert {key.removesuffix("_with_options") for key in golden} == endpoints.keys()
        outputs = {key: arrays["outputs"] for key, arrays in golden.items()}
        return outputs, golden[name]["inputs"]
    rng = np.random.default_rng(0)
    outputs = {}
    for each, endpoint in endpoints.items():
        inputs = {
            key: rng.normal(size=(8, *spec.shape)).astype("float32")
            if spec.dtype == "float32"
            else rng.integers(spec.minimum, spec.maximum + 1, (8, *spec.example_shape), spec.dtype)
            for key, spec in endpoint.inputs.items()
            if spec.default is None
        }
        outputs[each] = case.model.run_batched(("endpoint", each), endpoint.function, inputs)
        if each == name:
            drawn = inputs
    return outputs, drawn


def with_options(case):
    """The endpoint of the sampler that takes all there is."""
    return f"{case.main}_with_options" if options_of(case) else case.main


def onnx_files(artifact):
    signatures = artifact.manifest["formats"]["onnx"]["signatures"].values()
    return [artifact.path / name for name in sorted({each["file"] for each in signatures})]


def test_endpoints_are_what_they_say(case):
    endpoints = case.model.endpoints()
    results, inputs = run_endpoints(case)
    for name, endpoint in endpoints.items():
        assert endpoint.description
        assert results[name].keys() == endpoint.outputs.keys()
        for key, spec in endpoint.outputs.items():
            value = results[name][key]
            pairs = zip(spec.shape, value.shape[1:], strict=True)
            wanted = [own if side is None else side for side, own in pairs]
            assert value.shape == (8, *wanted) and value.dtype == spec.dtype
            assert np.isfinite(value).all()
    given = {key: array for key, array in inputs.items() if key not in ("seed", "label")}
    run = {"seeds": inputs.get("seed"), "labels": inputs.get("label")}
    drawn = case.model.run_endpoint(case.main, given, **run)
    assert close(results[case.main]["image"], drawn), "the endpoint is sample"


def test_every_argument_is_in_the_config(case):
    model = case.model
    arguments = set(inspect.signature(type(model)).parameters) - {"self", "kwargs"}
    assert arguments <= set(model.get_config())


def networks_of(model):
    """The networks of a model: pairs of the attribute's name and a network."""
    for name, value in vars(model).items():
        parts = value if isinstance(value, (tuple, list)) else [value]
        if not name.startswith("_"):
            yield from ((name, part) for part in parts if isinstance(part, keras.Model))


def call(network):
    """What a network that is a graph of layers makes of some numbers: a list of arrays."""
    rng = np.random.default_rng(0)
    shapes = [[8 if side is None else side for side in x.shape[1:]] for x in network.inputs]
    inputs = [rng.normal(size=(2, *shape)).astype("float32") for shape in shapes]
    inputs = inputs if isinstance(network.input, list) else inputs[0]
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    ours, theirs = (
        [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(network(given))]
        for given in (inputs, tensors)
    )
    np.testing.assert_equal(ours, theirs)
    return ours


@pytest.mark.filterwarnings("error::UserWarning")
def test_networks_are_keras_models(case, tmp_path):
    """Each of them is saved, loaded, cloned and called as any Keras model, without a warning."""
    networks = list(networks_of(case.model))
    assert networks
    for name, network in networks:
        network.save(tmp_path / "network.keras")
        loaded = keras.saving.load_model(tmp_path / "network.keras")
        clone = keras.models.clone_model(network)
        assert type(loaded) is type(clone) is type(network)
        for ours, theirs in zip(loaded.weights, network.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}: {theirs.path}")
        assert [w.shape for w in clone.weights] == [w.shape for w in network.weights]
        config, other = (json.dumps(x.get_config()) for x in (network, loaded))
        assert config == other, name
        if hasattr(network, "inputs") and not isinstance(network, kgen.ImageGenerator):
            np.testing.assert_equal(call(loaded), call(network))


def test_networks_cannot_be_replaced(case):
    """Another would train, and be gone when the model is saved and loaded."""
    for name in dict(networks_of(case.model)):
        argument = name.removeprefix("ema_")
        given = argument in inspect.signature(type(case.model)).parameters
        remedy = rf"\.\.\., {argument}=" if given else "subclass"
        before = getattr(case.model, name)
        for other in (keras.Sequential(), None):
            with pytest.raises(ValueError, match=rf"{name} cannot be replaced.*{remedy}"):
                setattr(case.model, name, other)
        setattr(case.model, name, before)


def assert_equal(case, state, expected):
    variables = case.variables(case.model)
    for variable, ours, theirs in zip(variables, state, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=variable.path)


def test_initial_weights_follow_the_seed(case):
    """With the next one: two runs with one seed are equal, from the config alone."""
    keras.utils.set_random_seed(0)
    twin = type(case.model).from_config(case.model.get_config())
    assert twin.get_config() == case.model.get_config()
    case.compile(twin)
    assert_equal(case, case.state(twin), case.states[0])


def test_training_follows_from_the_variables(case):
    """Put back to where it was after an epoch, a model trains the next one as it did before.

    With the next one: training goes on after loading as if it had not stopped.
    """
    model = case.model
    for variable, value in zip(case.variables(model), case.states[1], strict=True):
        variable.assign(value)
    validation = {"validation_data": (case.images, case.labels)}
    history = case.fit(model, initial_epoch=1, **validation)
    assert history == {name: values[1:] for name, values in case.history.items()}
    assert_equal(case, case.state(model), case.states[2])


def test_saving_keeps_images_and_optimizers(case):
    model = keras.saving.load_model(case.file)
    assert model.get_config() == case.model.get_config()
    assert model.get_compile_config() == case.model.get_compile_config()
    assert_equal(case, case.state(model), case.states[2])
    np.testing.assert_array_equal(case.draw(SEEDS, model), case.draw(SEEDS))


def test_it_can_be_published(case):
    """Every weight has a name, once, and nothing in the configuration is refused to strangers."""
    names = weights.named(case.model)
    assert len(names) == len(case.model.weights)
    assert {id(weight) for weight in names.values()} == {
        id(weight) for weight in case.model.weights
    }
    safe_config.check(json.loads(json.dumps(keras.saving.serialize_keras_object(case.model))))


@pytest.mark.slow
def test_training_goes_on_after_loading_as_if_it_had_not_stopped(case):
    """What is loaded after the first epoch is, after the second, what was never interrupted."""
    model = keras.saving.load_model(case.files[0])
    assert_equal(case, case.state(model), case.states[1])
    history = case.fit(model, initial_epoch=1)
    names = (*model.metric_names, *model.training_metric_names)
    assert history == {name: case.history[name][1:] for name in names}
    model.test_steps.assign(case.model.test_steps)  # the one that validated has looked at more
    assert_equal(case, case.state(model), case.states[2])


def test_evaluation_is_repeatable(case):
    first, second = (
        case.model.evaluate(case.images, case.labels, batch_size=8, return_dict=True, verbose=0)
        for _ in range(2)
    )
    assert first == second == {name: case.history[f"val_{name}"][-1] for name in first}
    assert set(first) == set(case.model.metric_names)
    listed = case.model.evaluate(case.images, case.labels, batch_size=8, verbose=0)
    assert listed == [first[name] for name in case.model.metric_names]


JAX = """
import sys
import keras, numpy as np
file, data, out = sys.argv[1:4]
data = dict(np.load(data))
"""
DRAW = """
model = keras.saving.load_model(file, compile=False)
given = {name.removeprefix("given_"): a for name, a in data.items() if name.startswith("given_")}
main = next(iter(model.endpoints()))
drawn = model.run_endpoint(main, given, data.get("labels"), seeds=data["seeds"])
np.save(out, drawn)
"""
TRAIN = """
model = keras.saving.load_model(file)
history = model.fit(
    data["images"], data.get("labels"), batch_size=8, epochs=2, initial_epoch=1, verbose=0
).history
weights = {f"weight {i}": np.asarray(w) for i, w in enumerate(model.get_weights())}
measured = model.evaluate(data["images"], data.get("labels"), batch_size=13, verbose=0)
np.savez(out, measured=measured, **history, **weights)
"""


def run_on_jax(case, on_jax, code, file, out, optimised=False, **data):
    """Runs code on JAX with a file of `case` and arrays; returns what it wrote."""
    data = {name: array for name, array in data.items() if array is not None}
    np.savez(case.folder / "data.npz", **data)
    arguments = file, case.folder / "data.npz", case.folder / out
    on_jax(JAX + code, *arguments, optimised=optimised)
    return np.load(case.folder / out)


def drawn_by(case, seeds):
    """What `DRAW` is given to draw the images of seeds."""
    given = {f"given_{name}": array for name, array in case.given(seeds).items()}
    return {"seeds": seeds, "labels": case.labels_of(seeds), **given}


TRAINED_ON_JAX = CASES[: len(kgen.models.registered())]


@pytest.mark.parametrize("case", TRAINED_ON_JAX, indirect=True, ids=name_of, scope="module")
def test_training_on_jax_is_training_on_tensorflow(case, on_jax, tensorflow_only):
    """An epoch from the same file gives the same losses and weights."""
    data = {"images": case.images, "labels": case.labels}
    # XLA compiles for the longest here: one model shows that all it does for speed is no matter.
    optimised = case.name == "vae"
    theirs = run_on_jax(case, on_jax, TRAIN, case.files[0], "trained.npz", optimised, **data)
    tolerance = {"rtol": 1e-4, "atol": 2e-5}
    for name in case.model.metric_names:
        expected = case.history[name][1:]
        np.testing.assert_allclose(theirs[name], expected, err_msg=name, **tolerance)
    for i, weight in enumerate(case.model.weights):
        np.testing.assert_allclose(theirs[f"weight {i}"], weight, err_msg=weight.path, **tolerance)
    measured = case.model.evaluate(case.images, case.labels, batch_size=13, verbose=0)
    np.testing.assert_allclose(theirs["measured"], measured, **tolerance)


def test_the_same_seed_on_every_runtime(case, on_jax, tensorflow_only):
    """Keras on TensorFlow and on JAX, ONNX Runtime and TensorFlow's C API, with and without XLA."""
    data = drawn_by(case, SEEDS)
    assert close(run_on_jax(case, on_jax, DRAW, case.file, "8.npy", **data), case.draw(SEEDS))
    session = case.artifact.onnx_session(case.main)
    [image] = session.run(["image"], in_graph(case, case.feeds(MANY)))
    assert close(image[:8], case.draw(SEEDS)), "at batch 64"
    proven = {
        (row["runtime"], row["signature"], row["batch_size"])
        for row in case.artifact.manifest["parity"]
        if row["endpoint"] == case.main and row["max_difference"] <= 1 and row["equal"] > 0.99
    }
    png = "image_bytes" if case.main == "generate" else f"{case.main}_image_bytes"
    signatures = ["serving_default", case.main, png, f"{case.main}_xla"]
    assert proven == {
        (runtime, signature, batch_size)
        for runtime, names in (
            ("Keras", [case.main]),
            ("onnxruntime", [case.main]),
            ("TensorFlow C API", signatures),
        )
        for signature in names
        for batch_size in (1, 8)
    }


@pytest.mark.slow
@of_each_sampler
def test_the_same_seed_on_every_runtime_at_batch_64(case, on_jax, tensorflow_only, capsys):
    """A batch size that no export has proven; the SavedModel as TensorFlow's Python loads it.

    On JAX of one model of each kind with all that XLA does for speed, as users have it: the others
    would take most of the time of this file to compile.
    """
    import tensorflow as tf

    expected = case.run(MANY)
    inputs, data = case.feeds(MANY), drawn_by(case, MANY)
    optimised = case.name in ("vae", "dcgan", "image_gpt", "vqvae", "ddpm", "restorer")
    saved = tf.saved_model.load(case.artifact.path / "saved_model" / "1")
    signature = saved.signatures["serving_default"]
    results = {
        "Keras on JAX": run_on_jax(case, on_jax, DRAW, case.file, "64.npy", optimised, **data),
        "SavedModel": signature(**{k: tf.constant(v) for k, v in inputs.items()})["image"].numpy(),
        "ONNX Runtime": case.artifact.onnx_session(case.main).run(
            ["image"], in_graph(case, inputs)
        )[0],
    }
    with capsys.disabled():
        print(f"\n{case.name} (classes: {case.model.num_classes}) against Keras on TensorFlow")
        for runtime, images in results.items():
            difference = np.abs(images.astype(int) - expected.astype(int))
            print(
                f"  {runtime:13} largest difference {difference.max()} grey levels, "
                f"equal pixels {100 * (difference == 0).mean():.3f} %"
            )
    for runtime, images in results.items():
        assert close(images, expected), runtime


def test_a_true_claim_is_told_from_a_false_one(case):
    """A picture says who drew it from what. Its artifact proves that, or on JAX its model; it tells
    the seed (of a translator the picture) of another one, and the mark of another model.
    """
    from export import redrawing

    source = case.artifact if keras.backend.backend() == "tensorflow" else case.model
    prover, own = redrawing.prover_of(source), kgen.origin.of_model(case.model)
    drawn, feeds = case.draw(SEEDS), case.feeds(SEEDS)

    def verdict(i, origin=own):
        """Of the first image that was drawn, with the mark of another."""
        row = {name: array[i] for name, array in feeds.items()}
        seeds = [row.pop("seed")] if "seed" in row else ()
        label, inputs = row.pop("label", None), dict(row)
        named = {name: kgen.origin.fingerprint(array) for name, array in inputs.items()}
        claim = origin.claim(case.main, seeds, label, inputs=named)
        return export.inspect(kgen.images.encode_png(drawn[0], claim), prover, inputs).verdict

    assert verdict(0) == "proven"
    # Of a model that has hardly learnt anything, two seeds may draw much the same picture.
    others = [verdict(i) for i in (3, 5, 6)]
    assert "false" in others and "proven" not in others, others
    other = dataclasses.replace(own, model_sha256="0" * 64)
    assert verdict(0, other) == "another model"


def linked(folder, target):
    """A copy of a folder of files as hub caches and mounted volumes have it: of symbolic links."""
    (target / "blobs").mkdir(parents=True)
    (target / "files").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, target / "blobs" / str(number))
        (target / "files" / path.name).symlink_to(f"../blobs/{number}")
    return target / "files"


def test_onnx_loads_from_memory_and_through_links(case, tmp_path, tensorflow_only):
    """No weights lie inside of loops, where not every runtime looks for their file."""
    import onnx
    import onnxruntime

    def inner(graph):
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield attribute.g
                    yield from inner(attribute.g)

    folder = case.artifact.path / "onnx"
    for path in onnx_files(case.artifact):
        model = onnx.load(path, load_external_data=False)
        assert b"__inference" not in model.SerializeToString()
        for graph in inner(model.graph):
            for tensor in graph.initializer:
                assert tensor.data_location != onnx.TensorProto.EXTERNAL, (path, tensor.name)

    results, inputs = run_endpoints(case)
    options = onnxruntime.SessionOptions()
    if (folder / "weights.bin").exists():  # a model of one endpoint has them in its file
        weights = (folder / "weights.bin").read_bytes()
        options.add_external_initializers_from_files_in_memory(
            ["weights.bin"], [weights], [len(weights)]
        )
    model, inputs = (folder / f"{case.main}.onnx").read_bytes(), in_graph(case, inputs)
    links = linked(folder, tmp_path)
    for session in (
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]),
        onnxruntime.InferenceSession(links / f"{case.main}.onnx"),
    ):
        assert close(session.run(["image"], inputs)[0], results[case.main]["image"])


def test_onnx_loops_do_only_what_changes(case, tensorflow_only):
    """They carry nothing that no step changes, and compute nothing that no step changes."""
    import onnx

    from export import loops

    for path in onnx_files(case.artifact):
        graph = onnx.load(path, load_external_data=False).graph
        for node in [node for part in loops.subgraphs(graph) for node in part.node]:
            if node.op_type != "Loop":
                continue
            body = next(a.g for a in node.attribute if a.HasField("g"))
            carried = [value.name for value in body.input]
            for before, after in zip(carried[2:], list(body.output)[1:], strict=False):
                assert before != after.name, (path, before)
            changing = {*carried, *(result for inner in body.node for result in inner.output)}
            for inner in body.node:
                if inner.op_type not in ("Loop", "Identity"):
                    assert changing.intersection(inner.input), (path, inner.name)


def test_what_is_no_batch_in_range(case, tensorflow_only):
    """An empty batch, unequal ones, and values out of range: in every model as in tests/export."""
    for name, endpoint in case.artifact.endpoints.items():
        session = case.artifact.onnx_session(name)
        names = case.artifact.manifest["formats"]["onnx"]["signatures"][name]["inputs"]

        def run(size, session=session, names=names, inputs=endpoint["inputs"], **sizes):
            arrays = {
                names[key]: np.zeros(
                    (sizes.get(key, size), *spec.get("example", spec["shape"][1:])), spec["dtype"]
                )
                for key, spec in inputs.items()
            }
            return session.run(None, arrays)

        for result, (key, spec) in zip(run(0), endpoint["outputs"].items(), strict=True):
            assert result.shape == (0, *spec.get("example", spec["shape"][1:])), (name, key)
        if len(endpoint["inputs"]) > 1:
            for key, spec in endpoint["inputs"].items():
                with pytest.raises(Exception, match="dimensions must match"):
                    run(3, **{key: 2 if "default" in spec else 1})  # one option stands for all
    session = case.artifact.onnx_session(case.main)
    last = case.model.num_classes and case.model.num_classes - 1
    rows = {"seed": [[5, -7, 9, 9], [5, 0, 9, 9]], "label": [[-1, 1, 99, last], [0, 1, last, last]]}
    given = in_graph(case, case.given(np.zeros(4, "int32")))
    names = [value.name for value in session.get_inputs() if value.name in rows]
    images, expected = (
        session.run(
            ["image"], given | {name: np.array(rows[name][side], "int32") for name in names}
        )[0]
        for side in (0, 1)
    )
    np.testing.assert_array_equal(images, expected)


# Of DCGAN in the first tier: LiteRT's compiler takes seconds for each.
@of_each_sampler
def test_the_sampler_converts_to_litert(case, tensorflow_only):
    """The whole of it, noise and loops included, with LiteRT's own operators alone."""
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    from export import litert

    name = with_options(case)
    content = litert.convert(name, case.artifact.path / "saved_model" / "1", [name])
    results, inputs = run_endpoints(case, name)
    draw = Interpreter(model_content=content).get_signature_runner(name)
    assert close(draw(**inputs)["image"], results[name]["image"])
    none = {key: array[:0] for key, array in inputs.items()}
    assert draw(**none)["image"].shape == (0, *results[name]["image"].shape[1:])
    first = "seed" if "seed" in inputs else next(iter(inputs))
    with pytest.raises(RuntimeError):
        draw(**{**inputs, first: inputs[first][:1]})


@of_each_sampler
def test_rounded_weights_draw_nearly_the_same(case, tensorflow_only):
    """Every endpoint, within the tolerances that are stated for float16 and for int8."""
    import onnx

    from export import onnx_precision, parity

    golden = parity.load_golden(case.artifact.path / parity.GOLDEN)
    signatures = case.artifact.manifest["formats"]["onnx"]["signatures"]
    for path in onnx_files(case.artifact):
        name = path.stem + "_with_options"
        name = name if name in golden else path.stem
        names, outputs = signatures[name]["inputs"], list(golden[name]["outputs"])
        inputs = {names[key]: array for key, array in golden[name]["inputs"].items()}
        models = {name: onnx.load(path)}
        for format_ in ("onnx_fp16", "onnx_int8"):
            model = onnx_precision.reduced(models, format_)[name]
            arrays = parity.onnx_session(model.SerializeToString()).run(outputs, inputs)
            for output, array in zip(outputs, arrays, strict=True):
                figures = parity.compare(golden[name]["outputs"][output], array, format_)
                assert figures["passed"], (format_, name, output, figures)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["rest", "v2"])
def test_every_endpoint_is_served(case, served, protocol):
    """Pictures go as PNG in TF Serving's REST API, as binary tensors in the other protocol."""
    from export import parity

    golden = parity.load_golden(case.artifact.path / parity.GOLDEN)
    with serving.Client(served.address, protocol) as client:
        for name, arrays in golden.items():
            outputs = client.call(name.removesuffix("_with_options"), **arrays["inputs"])
            size = len(arrays["inputs"].popitem()[1])
            where = {"format": "onnx", "runtime": protocol, "signature": name, "endpoint": name}
            assert parity.judge(arrays["outputs"], outputs, **where, batch_size=size)


@pytest.mark.slow
def test_requests_that_are_served_together(case, served):
    """64 clients at a time get what each would get alone, in a few batches."""
    inputs = case.feeds(MANY)
    session = case.artifact.onnx_session(case.main)
    [expected] = session.run(["image"], in_graph(case, inputs))
    assert close(expected[: len(SEEDS)], case.draw(SEEDS))

    def draw(i):
        with serving.Client(served.address, "v2") as client:
            rows = {key: array[i : i + 1] for key, array in inputs.items()}
            return client.call(case.main, **rows)["image"]

    with ThreadPoolExecutor(64) as pool:
        images = np.concatenate(list(pool.map(draw, range(64))))
    assert close(images, expected)


def test_every_operator_is_on_the_list_of_verify(case, tensorflow_only):
    from export import graphs

    graphs.check(case.artifact.path, case.artifact.manifest["formats"])


def test_runs_in_the_reference_implementation_of_onnx(case, tensorflow_only):
    import onnx
    import onnx.reference

    name = with_options(case)
    results, inputs = run_endpoints(case, name)
    model = onnx.load(case.artifact.path / "onnx" / f"{case.main}.onnx")
    inputs = in_graph(case, inputs)
    [images] = onnx.reference.ReferenceEvaluator(model).run(["image"], inputs)
    assert close(images, results[name]["image"])


@pytest.mark.slow
@of_each_sampler
def test_the_same_pixels_in_a_browser(case, in_chromium, file_server, tmp_path, tensorflow_only):
    """The static folder of the format web, from a plain server of files, in headless Chromium.

    The page's own code draws the golden inputs, options included.
    """
    from export import onnxruntime_web, web

    try:
        onnxruntime_web.check()
        web.write(tmp_path, case.artifact.path, case.artifact.manifest)
    except export.ExportError as error:
        pytest.skip(str(error))
    name = with_options(case)
    results, inputs = run_endpoints(case, name)
    rows = [{key: for_page(array[i]) for key, array in inputs.items()} for i in range(8)]

    def draw(page):
        return page.evaluate(DRAW_IN_BROWSER, [name, rows])

    drawn = in_chromium(draw, file_server.url(tmp_path / "web"))
    expected = results[name]["image"]
    assert close(np.array(drawn, "uint8").reshape(expected.shape), expected)


def for_page(value):
    """A number, or a picture, as the page has it."""
    if not value.shape:
        return value.item()
    height, width, channels = value.shape
    picture = {"width": width, "height": height, "channels": channels}
    return {**picture, "data": value.ravel().tolist()}


DRAW_IN_BROWSER = """
async ([endpoint, rows]) => {
  const { models: [model] } = await (await fetch("models.json")).json();
  const { Backend } = await import(new URL("static/onnx.js", document.baseURI));
  const { outputs } = await new Backend().run(model, "", endpoint, rows);
  return outputs.map(({ image }) => Array.from(image.data));
}
"""
