"""What `import kgen` costs and offers."""

import ast
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys

import keras
import pytest

import kgen


def test_import_is_lazy(run_python):
    code = (
        "import sys, kgen; print(sorted({'keras', 'tensorflow', 'jax', 'onnx'} & set(sys.modules)))"
    )
    assert run_python(code).stdout.strip() == "[]"


def test_public_names_are_there():
    for name in kgen.__all__:
        assert getattr(kgen, name) is not None
    for name in kgen.models.__all__:
        assert getattr(kgen.models, name) is not None


def test_every_model_has_a_family_and_half_a_line():
    families = kgen.models.families()
    assert list(families) == ["gan", "vae", "autoregressive", "tokens", "diffusion", "translation"]
    said = [pair for family in families.values() for pair in family.models.items()]
    assert [name for name, _ in said] == list(kgen.models.registered())
    for name, what in [*said, *((name, family.what) for name, family in families.items())]:
        assert 20 <= len(what) <= 88 and "\n" not in what, name
    assert all(re.search(r"\d minutes", what) for _, what in said)


def test_presets_that_are_listed_are_those_of_the_classes():
    assert kgen.models.presets() == {
        preset: {"model": name, **arguments}
        for name, model_class in kgen.models.registered().items()
        for preset, arguments in model_class.presets.items()
    }


def test_version_is_the_packages():
    import importlib.metadata

    assert kgen.__version__ == importlib.metadata.version("kgen")


# Loads files as if no class had been imported: what Keras was told of them is all that counts.
LOAD = """
import json, sys
import kgen, keras
from kgen import registration
objects = keras.saving.get_custom_objects()
registered = {name: objects[name] for name in registration.classes()}
loaded = {}
for path in sys.argv[1:]:
    for name in registered:
        del objects[name]
    registration.register(keras)
    loaded[path] = type(keras.models.load_model(path, compile=False)).__name__
objects.update(registered)
"""

# What else is asked of a process that has imported kgen and Keras, and nothing more.
LOOK = """
import functools
missing = []
for name in names:
    try:
        functools.reduce(getattr, name.split(".")[1:], kgen)
    except AttributeError as error:
        missing.append(str(error))
for name in kgen.__all__:
    getattr(kgen, name)
kgen.models.registered()
export = [name for name in sys.modules if name.split(".")[0] == "export"]
"""
MODULES = [
    module.name
    for module in pkgutil.walk_packages(kgen.__path__, "kgen.")
    if not re.search(r"\._|\.cli", module.name)
]
SAVED = sorted((pathlib.Path(__file__).parent / "models" / "saved").glob("*.keras"))


@pytest.fixture(scope="module")
def fresh(run_python):
    """What one new process says, for a process takes seconds."""
    code = f"{LOAD}names = {MODULES!r}{LOOK}print(json.dumps([loaded, missing, export]))"
    printed = run_python(code, *SAVED).stdout.splitlines()[-1]
    return dict(zip(("loaded", "missing", "export"), json.loads(printed), strict=True))


def check_loaded(loaded):
    expected = {str(path): kgen.models.get(path.stem).__name__ for path in SAVED}
    assert loaded == expected


def test_import_kgen_is_enough_for_keras_to_load(fresh):
    check_loaded(fresh["loaded"])


@pytest.mark.slow
def test_import_kgen_is_enough_for_keras_to_load_on_jax(on_jax):
    check_loaded(json.loads(on_jax(f"{LOAD}print(json.dumps(loaded))", *SAVED)))


def test_keras_knows_all_that_registers_itself():
    for name in MODULES:
        importlib.import_module(name)
    objects = keras.saving.get_custom_objects()
    expected = {name for name in objects if name.startswith("kgen>")}
    assert set(kgen.registration.classes()) == expected
    for registered_name, (module, name) in kgen.registration.classes().items():
        found = getattr(importlib.import_module(module), name)
        assert keras.saving.get_registered_name(found) == registered_name


@pytest.mark.parametrize("first", ["kgen, keras", "keras, kgen"])
def test_keras_is_told_whoever_is_imported_first(run_python, tmp_path, first):
    """With a Keras that is empty but for what is asked of it, since the real one takes seconds."""
    (tmp_path / "keras.py").write_text(
        "class saving:\n    objects = {}\n    get_custom_objects = lambda: saving.objects\n"
    )
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {first}; "
    printed = run_python(code + "print(sorted(keras.saving.objects))", tmp_path).stdout
    assert "kgen>VAE" in printed and "kgen>FSQ" in printed


def test_submodules_are_there_before_they_are_imported(fresh):
    assert not fresh["missing"]
    assert "distribution" in dir(kgen.training) and "VAE" in dir(kgen.models)
    with pytest.raises(AttributeError, match="no attribute 'distributions'"):
        kgen.training.distributions  # noqa: B018


def test_kgen_never_imports_export_outside_its_command_line(fresh):
    assert not fresh["export"]


def test_stubs_name_what_there_is():
    """A type checker does not see names that are loaded when they are used, but for the stubs."""
    for package in ("kgen", "kgen.data", "kgen.evaluation", "kgen.models", "kgen.training"):
        module = importlib.import_module(package)
        stub = pathlib.Path(module.__file__).with_suffix(".pyi")
        stated = {"__version__"}
        for node in ast.parse(stub.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                stated |= {alias.asname for alias in node.names} - {None}
            stated |= {getattr(node, "name", "__version__")}
        names = getattr(module, "__all__", None) or dir(module)
        missing = {name for name in names if name != "lazy"} - stated
        assert not missing, f"{stub} lacks {', '.join(sorted(missing))}"


def test_public_functions_say_their_types():
    import export
    from kgen.training.run import train

    public = [kgen.load, train, kgen.hub.fetch, kgen.hub.publish, kgen.origin.of_model]
    for package in (kgen.data, kgen.evaluation, kgen.models, export):
        public += filter(inspect.isfunction, (getattr(package, n) for n in package.__all__))
    assert len(public) > 15
    for function in public:
        signature = inspect.signature(function)
        untyped = [n for n, p in signature.parameters.items() if p.annotation is p.empty]
        assert not untyped and signature.return_annotation is not signature.empty, function


def test_the_command_is_installed():
    result = subprocess.run(
        [sys.executable, "-m", "kgen", "--version"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert re.search(rf"\b{re.escape(kgen.__version__)}\b", result.stdout)
