"""Callbacks of the user's own, by the names of their module and class."""

import ast
import importlib
import inspect
import os
import sys

import keras

from kgen.checks import unknown_name

#: What `load_callback` takes.
FORM = "module:Class, or with arguments 'module:Class(patience=3, monitor=\"val_loss\")'"


def load_callback(text):
    """The `keras.callbacks.Callback` that a text names; its module is imported, and so runs.

    Args:
        text: `"module:Class"`, or `"module:Class(patience=3)"`, whose arguments are literals. The
            module is looked for in the current folder first.

    Raises:
        ValueError: The text is not of that form, or there is no such module or class, or it is no
            callback, or raises an error; the message says which.
    """
    module, colon, rest = text.partition(":")
    if not colon or not module.strip() or not rest.strip():
        raise ValueError(f"A callback is given as {FORM}. Received: {text}")
    path, arguments, named = _parse(rest, text)
    found = _import(module.strip(), text)
    for name in path.split("."):
        if not hasattr(found, name):
            known = [n for n, value in inspect.getmembers(found) if _is_callback(value)]
            raise ValueError(unknown_name(f"callback of {module}", name, known))
        found = getattr(found, name)
    if not _is_callback(found):
        raise ValueError(
            f"{module}:{path} is no class of callbacks: let it inherit from "
            f"keras.callbacks.Callback. Received: {found!r}"
        )
    try:
        return found(*arguments, **named)
    except Exception as error:
        if isinstance(error, TypeError):
            takes = f" It takes {path}{inspect.signature(found)}."
        else:
            takes = ""
        raise ValueError(f"{text} cannot be made: {_said(error)}.{takes}") from error


def _parse(rest, text):
    """The path of a class in its module, and positional and named arguments."""
    try:
        node = ast.parse(rest.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"A callback is given as {FORM}. Received: {text}") from error
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    path = ast.unparse(call.func)
    if not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"A callback is given as {FORM}. Received: {text}")
    values = []
    for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
        try:
            values.append(ast.literal_eval(value))
        except ValueError as error:
            raise ValueError(
                "Arguments of a callback are literals, such as 3, 0.5, True, None, [1, 2] or "
                f"'text' in quotes. Received: {ast.unparse(value)} in {text}"
            ) from error
    first = len(call.args)
    names = [keyword.arg for keyword in call.keywords]
    if None in names:
        raise ValueError(f"A callback is given as {FORM}. Received: {text}")
    return path, values[:first], dict(zip(names, values[first:], strict=True))


def _import(module, text):
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except Exception as error:
        name = f"{getattr(error, 'name', None)}."
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(name)
        if not missing:  # what the module itself does
            raise ValueError(f"{text}: {module} cannot be imported: {_said(error)}") from error
        hint = " Leave out the .py." if module.endswith(".py") else ""
        raise ValueError(
            f"{text}: there is no module {module} in {here}, nor is one installed.{hint}"
        ) from error


def _is_callback(value):
    return isinstance(value, type) and issubclass(value, keras.callbacks.Callback)


def _said(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
