"""What `import kgen` costs and offers."""

import re
import subprocess
import sys

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
    assert list(families) == ["gan", "vae", "autoregressive", "tokens", "diffusion"]
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


def test_kgen_never_imports_export_outside_its_command_line(run_python):
    code = """
import sys
import kgen
for name in kgen.__all__:
    getattr(kgen, name)
kgen.models.registered()
print([name for name in sys.modules if name.split(".")[0] == "export"])
"""
    assert run_python(code).stdout.strip().endswith("[]")


def test_the_command_is_installed():
    result = subprocess.run(
        [sys.executable, "-m", "kgen", "--version"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert re.search(rf"\b{re.escape(kgen.__version__)}\b", result.stdout)
