"""A progress bar for work whose steps are counted beforehand."""

import contextlib

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def progress_bar(title, total, enabled=True):
    """Shows a bar on standard error, which leaves standard output to a command's result.

    Gives a function `step(description)`, to be called when the next of `total` steps begins.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not enabled
    ) as progress:
        task = progress.add_task("", total=total)
        begun = 0

        def step(description):
            nonlocal begun
            progress.update(task, completed=begun, description=description)
            begun += 1

        yield step
