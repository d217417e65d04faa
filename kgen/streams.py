"""The process's own streams, on which libraries in C++ write past Python."""

import contextlib
import os
import sys


@contextlib.contextmanager
def silenced():
    """Standard error of the process to nowhere, as a context manager."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
