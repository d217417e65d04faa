"""The command `kgen`.

Nothing heavy is imported here at the top, so that `kgen --help` answers at once; a command
imports what it needs. What a command is about goes to standard output, progress and
messages to standard error where they can; with `--json` standard output holds JSON alone.
"""

import contextlib
import itertools
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from typing import Annotated

import typer

from kgen.cli.common import app, say

# In the order in which `kgen --help` shows them.
from kgen.cli import training, distilling, sampling, translating  # noqa: F401  # isort: skip
from kgen.cli import evaluation, exporting, publishing, serving  # noqa: F401  # isort: skip
from kgen.cli import generating, inspecting, caching  # noqa: F401  # isort: skip


def main(arguments=None):
    """Runs a command line.

    Args:
        arguments: List of strings; `None` for those of the process.

    Returns:
        Int, the exit status: 0, 1 for a failure, 2 for a wrong command line, 130 and 143
        for a command that Ctrl-C or SIGTERM stopped.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if debug else "3")
    # With several, TensorFlow adds the gradients of a tensor in the order in which they happen to
    # be there, and two trainings from one seed part in the last bit. None was slower with one.
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    if empty := _empty(arguments):
        say(f"Error: {empty} is empty: give it a value, or leave it out.")
        return 2
    interrupted, signals = 128 + signal.SIGINT, []
    try:
        with _stoppable(signals), _plain_warnings():
            status = app(arguments, prog_name="kgen", standalone_mode=False) or 0
    except KeyboardInterrupt:
        status = interrupted
    except BrokenPipeError:  # `kgen list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if not isinstance(error.__cause__, KeyboardInterrupt):
            return _failed(error, arguments)
        status = interrupted  # which an older typer has made its own error of
    if status == interrupted:
        say("Interrupted.")
        status = 128 + signals[0] if signals else interrupted
    return status


def _failed(error, arguments):
    """Says what went wrong; returns the exit status."""
    if hasattr(error, "format_message"):  # a wrong command line
        say(f"Error: {_usage(error, arguments)}")
        return error.exit_code
    from kgen.training.errors import Interrupted

    if isinstance(error, Interrupted):
        say(str(error))
        return 128 + error.signum
    say(f"Error: {_message(error)}")
    return 1


def _empty(arguments):
    """The name of an argument that is empty, which as a path would be the current folder."""
    for before, argument in itertools.pairwise(["", *arguments]):
        if argument == "":
            return before if before.startswith("-") else "An argument"
        if re.fullmatch(r"--[a-z-]+=", argument):
            return argument.removesuffix("=")
    return None


@contextlib.contextmanager
def _stoppable(received):
    """SIGTERM, as `docker stop` sends it, ends a command as Ctrl-C does: it tidies up first.

    The signal is appended to `received`. It comes once more where its KeyboardInterrupt would be
    lost, or was: modules import others with `except:` around it, and what is raised in `__del__`
    or in a callback of the garbage collector goes nowhere.
    """
    timers = []

    def stop(signum, frame):
        received.append(signum)
        if _imports(frame):
            come_again(signum)
        else:
            raise KeyboardInterrupt

    def come_again(signum):
        timers.append(threading.Timer(0.05, os.kill, (os.getpid(), signum)))
        timers[-1].start()

    def not_lost(unraisable):
        if unraisable.exc_type is KeyboardInterrupt and received:
            come_again(received[-1])
        else:
            hook(unraisable)

    handlers, hook = {}, sys.unraisablehook
    defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    if threading.current_thread() is threading.main_thread():
        handlers = {s: default for s, default in defaults.items() if signal.getsignal(s) == default}
    for signum in handlers:
        signal.signal(signum, stop)
    sys.unraisablehook = not_lost
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()
        sys.unraisablehook = hook
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _imports(frame):
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _usage(error, arguments):
    """What is wrong with a command line, in one line."""
    message = error.format_message().rstrip(".?") + ("?" if "Did you" in str(error) else ".")
    options = getattr(getattr(error, "param", None), "opts", ())
    for option, value in itertools.pairwise(arguments):
        if option in options:
            message += f" Received: {option} {value}."
    if getattr(error, "ctx", None):
        message += f" See: {error.ctx.command_path} --help"
    return message


def _message(error):
    """An error in one or two lines."""
    from kgen.training.errors import RunError

    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(lines[:2])
    if not isinstance(error, RunError | ValueError | OSError | ImportError):
        message = f"{type(error).__name__}: {message[:300]} (--debug shows where)"
    return message


@contextlib.contextmanager
def _plain_warnings():
    """Shows warnings of kgen as one line, and none of what lies under it."""

    def show(message, category, *args, **kwargs):
        if category is UserWarning:
            say(f"Warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@app.callback(invoke_without_command=True)
def _kgen(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; goes with every command.")
    ] = False,
):
    if version:
        import kgen

        print(f"kgen {kgen.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
