"""The notebooks run, with little budgets, and are saved as their code has left them."""

import importlib.util
import pathlib
import re

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "notebooks"

#: What makes each a matter of seconds.
SMALLER = {
    "evaluate_honestly": {"EPOCHS": 1, "NUM_SAMPLES": 150, "TRAININGS": 2},
    "restore_and_translate": {"NUM_IMAGES": 32, "EPOCHS": 1},
    "train_and_ship": {"EPOCHS": 1},
}

#: The second tier's: a minute each, most of it tracing networks that other tests train too.
OTHERS = ("evaluate_honestly", "restore_and_translate")


@pytest.fixture(scope="module")
def runner():
    """The module that executes notebooks."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["train_and_ship", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_a_notebook_runs(name, runner, tensorflow_only):
    executed = runner.execute(FOLDER / f"{name}.ipynb", **SMALLER[name])
    printed = [output for cell in executed.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in printed)


def test_saved_notebooks_have_the_outputs_of_their_code(runner):
    """`python examples/notebooks/execute.py` makes them."""
    paths = sorted(FOLDER.glob("*.ipynb"))
    assert [path.stem for path in paths] == sorted(SMALLER)
    for path in paths:
        text = path.read_text()
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        outputs = [output for cell in code for output in cell.outputs]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), path
        assert notebook.metadata["kgen"]["executed"] == runner.code_of(notebook), path
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3, path
        # Nothing failed or warned, and nothing says where it ran.
        kinds = {(output.output_type, output.get("name")) for output in outputs}
        assert kinds <= {("stream", "stdout"), ("execute_result", None), ("display_data", None)}
        assert not re.search(r"/(tmp|home|root|usr|opt|var|work|Users)/", text), path
        assert len(text) < 400_000, path
