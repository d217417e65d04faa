"""What `generate` compiles, and keeps: numbers are tensors, sizes are few, XLA is a choice."""

import json

import keras
import numpy as np
import pytest

import kgen
from kgen import generation

#: Draws at several values of every number; prints how often `sample` was traced, and the images.
NUMBERS = """
import functools, json
import numpy as np
import kgen

def counted(name, **arguments):
    model, traces = kgen.models.get(name).from_preset(f"{name}_tiny", **arguments), []
    sample = model.sample

    @functools.wraps(sample)
    def counting(*args, **options):
        traces.append(options)
        return sample(*args, **options)

    model.sample = counting
    return model, traces

found = {}
model, traces = counted("vae")
values = np.linspace(0, 2, 20)
drawn = [model.generate(4, temperature=value) for value in values]
assert (model.generate(4) == model.generate(4, temperature=1)).all()
found["vae"] = len(traces), len(model._compiled_functions)
model, traces = counted("dit", num_classes=3)
for scale in (1.0, 2.0, 3.5, -1.0, 1.0):
    model.generate(2, 1, num_steps=2, guidance_scale=scale)
found["dit"] = len(traces), len(model._compiled_functions)
print(json.dumps(found))
"""


def test_numbers_are_tensors_of_what_is_compiled(capsys, on_jax):
    exec(NUMBERS, {})
    for printed in (capsys.readouterr().out, on_jax(NUMBERS)):
        # With guidance and without it there is a graph each.
        assert json.loads(printed) == {"vae": [1, 1], "dit": [2, 2]}


@pytest.fixture(scope="module")
def model():
    return kgen.models.VAE.from_preset("vae_tiny")


@pytest.fixture(scope="module")
def gpt():
    """Weights of any kind: a fresh model would draw from its noise alone."""
    model = kgen.models.ImageGPT.from_preset("image_gpt_tiny", num_classes=3)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def test_a_tensor_gives_what_a_constant_gives(gpt):
    seeds, labels = np.arange(8, dtype="int32"), np.arange(8, dtype="int32") % 3
    options = {"temperature": 0.7, "top_k": 3, "top_p": 0.8, "guidance_scale": 2.5}
    drawn = gpt.generate(seeds=seeds, labels=labels, **options)
    exact = keras.ops.convert_to_numpy(gpt.sample(seeds, labels, **options))
    np.testing.assert_array_equal(drawn, exact)
    options = {name: np.array(value) for name, value in options.items()}
    np.testing.assert_array_equal(gpt.generate(seeds=seeds, labels=labels, **options), drawn)
    with pytest.raises(ValueError, match="top_p must be a number, above 0 and at most 1, or None"):
        gpt.generate(2, labels=0, top_p="0.5")


def test_few_functions_are_kept(model, monkeypatch):
    monkeypatch.setattr(generation, "MOST_FUNCTIONS", 3)
    calls, x = [], np.arange(4)

    def run(name):
        model.run_batched(name, lambda x: calls.append(name) or x, {"x": x})

    for name in "abcadaabe":
        run(name)
    # Each is traced once, and b again, for which d had no place.
    assert calls == list("abcdbe") and len(model._compiled_functions) == 3


def test_few_sizes_are_compiled(model):
    before = set(model._compiled_functions)
    images = model.generate(40)
    for n in range(1, 41):
        np.testing.assert_array_equal(model.generate(n), images[:n])
    sizes = [key[1] for key in model._compiled_functions if key not in before]
    assert sorted(sizes) == [1, 2, 4, 8, 16, 32, 64]
    np.testing.assert_array_equal(model.generate(40, batch_size=12), images)


def test_xla_is_a_choice_and_changes_no_pixel(gpt, model, tensorflow_only):
    def chosen(model):
        return {key[2] for key in model._compiled_functions if key[1] == 2}

    labels, draw = np.arange(18) % 3, {"batch_size": 2, "progress": False}
    plain = gpt.generate(16, labels[:16], **draw)
    assert chosen(gpt) == {False}
    images = gpt.generate(18, labels, **draw)  # nine batches, for which "auto" takes XLA
    assert chosen(gpt) == {False, True}
    np.testing.assert_array_equal(images[:16], plain)
    np.testing.assert_array_equal(gpt.generate(18, labels, jit_compile=False, **draw), images)
    model.generate(18, **draw)
    assert chosen(model) == {False}
    with pytest.raises(ValueError, match="jit_compile must be True, False or 'auto'"):
        model.generate(2, jit_compile="yes")


@pytest.mark.parametrize("name", ["image_gpt", "vq_transformer", "maskgit", "dit"])
def test_no_guidance_by_what_was_never_trained(name):
    model_class = kgen.models.get(name)
    preset = model_class.tiny_preset
    model = model_class.from_preset(preset, num_classes=3, label_dropout=0.0)
    message = "train with label_dropout=0.1. Received: guidance_scale=2.0, label_dropout=0.0"
    for scale in (0.0, 2.0):
        with pytest.raises(ValueError, match=message.replace("2.0", str(scale))):
            model.generate(2, labels=0, guidance_scale=scale)
    seeds = np.arange(2, dtype="int32")
    for endpoint in model.endpoints().values():  # what an export traces
        if "seed" in endpoint.inputs and "image" not in endpoint.inputs:
            with pytest.raises(ValueError, match=message):
                endpoint.function(seed=seeds, label=seeds, guidance_scale=2.0)
