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
