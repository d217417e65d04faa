"""Tables lose no figure, however narrow the terminal is, and in a pipe neither."""

import io
import re

import pytest
from rich.console import Console

from kgen.cli.common import make_table

FIGURES = [[f"{row}.{column}23 ± 0.{column}{row}" for column in range(9)] for row in range(4)]
NAMES = [f"FD-of_a_certain_network_{row}" for row in range(4)]
TABLE = make_table(
    *("metric", "what it means", *(f"run-{i}" for i in range(9))),
    rows=[
        (name, "one of many words that can be broken [and a bracket]", *figures)
        for name, figures in zip(NAMES, FIGURES, strict=True)
    ],
    title="260 samples against 180 test images; [of] a network",
)


def words_of(out):
    return set(re.sub("[│┃]", " ", out).split())


@pytest.mark.parametrize("width", [30, 40, 61, 80, 100, 200, 400])
def test_on_a_terminal_words_are_whole_and_lines_short(width):
    file = io.StringIO()
    TABLE.show(Console(file=file, width=width, force_terminal=True, color_system=None))
    out = re.sub("\x1b\\[[0-9;]*m", "", file.getvalue())
    assert max(map(len, out.splitlines())) <= width
    words = {word for figures in FIGURES for figure in figures for word in figure.split()}
    assert words | {"run-8", "[and", "bracket]", "[of]"} <= words_of(out)


def test_in_a_pipe_a_row_is_a_line(capsys):
    TABLE.show(Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == TABLE.title
    for row in TABLE.rows:
        assert any(all(cell in line for cell in row) for line in lines)
