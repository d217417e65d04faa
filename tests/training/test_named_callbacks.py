"""Callbacks by their names: what is imported and made, and what is said where that fails."""

import sys

import keras
import pytest

from kgen.training.named_callbacks import load_callback
from kgen.training.run import train

MINE = """
import keras
class Log(keras.callbacks.Callback):
    def __init__(self, every=1, words=()):
        super().__init__()
        self.every, self.words = every, words
    class Inner(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["mine"] = 7.0
class Breaks(keras.callbacks.Callback):
    def __init__(self):
        raise RuntimeError("no room")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_callbacks", raising=False)
    (tmp_path / "own_callbacks.py").write_text(MINE)
    (tmp_path / "own_broken.py").write_text("import nowhere_at_all")
    return tmp_path


def test_classes_and_their_arguments(here):
    made = load_callback("own_callbacks:Log(3, words=['a', \"b\"])")
    assert type(made).__name__ == "Log" and (made.every, made.words) == (3, ["a", "b"])
    assert load_callback("own_callbacks:Log").every == 1
    assert type(load_callback("own_callbacks:Log.Inner()")).__name__ == "Inner"
    stopping = load_callback("keras.callbacks:EarlyStopping(monitor='val_loss', patience=3)")
    assert type(stopping) is keras.callbacks.EarlyStopping and stopping.patience == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_callbacks", r"given as module:Class, .* Received: own_callbacks$"),
        ("own_callbacks:", r"given as module:Class, .* Received: own_callbacks:$"),
        ("own_callbacks:Log(", r"given as module:Class"),
        ("own_callbacks:Log(**{})", r"given as module:Class"),
        ("own_callbacks:Log()()", r"given as module:Class"),
        ("own_callbacks:Log(every=x)", r"are literals, .* in quotes. Received: x in own_callb"),
        ("own_callbacks:Lug", r"Unknown callback of own_callbacks 'Lug'. Did you mean 'Log'\?"),
        ("own_callbacks:keras", r"own_callbacks:keras is no class of callbacks: let it inherit"),
        ("own_callbacks:Log(evry=3)", r"cannot be made: TypeError: .*'evry'. It takes Log\(every="),
        ("own_callbacks:Breaks", r"own_callbacks:Breaks cannot be made: RuntimeError: no room\.$"),
        ("own_callbacks.py:Log", r"no module own_callbacks.py in .*, nor .* Leave out the .py"),
        ("own:Log", r"own:Log: there is no module own in .*, nor is one installed"),
        ("own_broken:Log", r"own_broken cannot be imported: ModuleNotFoundError: .*nowhere_at_all"),
    ],
)
def test_what_is_no_callback_is_said(here, text, message):
    with pytest.raises(ValueError, match=message):
        load_callback(text)


def test_a_run_has_them_and_asks_for_them_again(here, monkeypatch):
    monkeypatch.setenv("KGEN_CACHE_DIR", str(here / "cache"))
    text = "own_callbacks:Log.Inner"
    options = {"num_samples": 1, "verbose": 0, "callbacks": [text]}
    run = train("vae_tiny", "digits", here / "run", epochs=1, batch_size=512, **options)
    assert run.metrics[0]["mine"] == 7 and run.info["callbacks"] == [text]
    said = []
    options = {"num_samples": 1, "verbose": 0, "report": said.append}
    train(run=run.path, resume=True, epochs=2, **options)
    assert said[1] == f"Without {text}, which is code of your own: give it again, --callback."
    assert "mine" not in run.metrics[1] and run.info["callbacks"] == []
