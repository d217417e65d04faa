"""Executes notebooks, and saves them with what they print and draw.

python examples/notebooks/execute.py
python examples/notebooks/execute.py train_and_ship.ipynb

Without names all of this folder, which takes some minutes. One that fails stays as it was. The cell
tagged `parameters` has what a run is given in place of it, as papermill has it.
"""

import argparse
import hashlib
import pathlib
import tempfile

import nbclient
import nbformat

from kgen import files

HERE = pathlib.Path(__file__).resolve().parent


def execute(path, **parameters):
    """A notebook with its outputs, executed in a folder of its own that is gone afterwards.

    `parameters` are set after the cell tagged `parameters`. Raises `nbclient`'s
    `CellExecutionError`, which has the cell and the traceback, where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    [place] = [
        i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())
    ]
    if parameters:
        given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(given))
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
            # What TensorFlow says of the machine goes past the notebook.
            extra_arguments=["--IPKernelApp.capture_fd_output=False"],
        ).execute()
    # What says on which machine, and the code of which these are the outputs.
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "python"},
        "kgen": {"executed": code_of(notebook)},
    }
    return notebook


def code_of(notebook):
    """sha256 of a notebook's code, in hexadecimal."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of notebooks of this folder; by default all")
    names = parser.parse_args().names or sorted(path.name for path in HERE.glob("*.ipynb"))
    for name in names:
        print(f"{name} ...", flush=True)
        text = nbformat.writes(execute(HERE / name)) + "\n"
        files.write_text(HERE / name, text)
        print(f"{name}: {len(text) / 1000:.0f} kB", flush=True)
