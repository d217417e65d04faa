"""What docstrings say of arguments: stated once, and shown wherever the argument is taken."""

import inspect
import re
import textwrap


def arguments(docstring):
    """The entries under `Args:` of a docstring: a dict of a name to its text, in one line."""
    found, names = {}, ()
    lines = inspect.cleandoc(docstring or "").splitlines()
    if "Args:" not in lines:
        return {}
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = re.fullmatch(r"    ([\w*]+(?:, [\w*]+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        else:
            for name in names if line.strip() else ():
                found[name] += " " + line.strip()
    return found


def of_class(model_class):
    """What the docstrings of a class and its bases say of its constructor's arguments.

    A dict of every argument of its signature to its text, which is empty where none says it.
    """
    from kgen.layers.transformer import TransformerSpec

    spec = arguments(TransformerSpec.__doc__)
    said = {}
    for base in reversed(model_class.__mro__):
        said |= arguments(base.__doc__)
    texts = {}
    for name in _parameters(model_class):
        # "see `GatedPixelCNN`, as are `num_layers` and `kernel_size`"
        beside = (t for t in said.values() if f"`{name}`" in t.partition(", as are ")[2])
        text = said.get(name) or next(beside, "")
        texts[name] = spec[name] if "`TransformerSpec`" in text else text
    return texts


def followed(model_class):
    """As `of_class`; where an entry is another model's ("see `ImageGPT`"), that one's."""
    return {
        name: _follow(name, text, model_class, lambda other: of_class(other))
        for name, text in of_class(model_class).items()
    }


def of_sampler(model_class):
    """The same of the options of a model's `sample`."""

    def said(other):
        texts = {}
        for base in reversed(other.__mro__):
            if "sample" in base.__dict__:
                texts |= arguments(base.__dict__["sample"].__doc__)
        return texts

    texts = said(model_class)
    whole = " ".join((model_class.sample.__doc__ or "").split())
    return {
        name: _follow(name, texts.get(name) or whole, model_class, said)
        for name in _parameters(model_class.sample)
        if name not in ("self", "seeds", "labels", "images", "styles")
    }


def complete(model_class):
    """Adds to a class's docstring what its bases say of its arguments, so that `help` shows all."""
    if not model_class.__doc__:
        return
    own = arguments(model_class.__doc__)
    entries = [
        textwrap.fill(f"{name}: {text}", 96, initial_indent=8 * " ", subsequent_indent=12 * " ")
        for name, text in of_class(model_class).items()
        if text and (name not in own or "`TransformerSpec`" in own[name])
    ]
    if entries:
        said = "\n".join(["    Arguments from elsewhere:", "", *entries])
        model_class.__doc__ = f"{model_class.__doc__.rstrip()}\n\n{said}\n    "


def _follow(name, text, model_class, said):
    """The text, or where it names another model of kgen to see, what that one says."""
    from kgen import models

    for other in re.findall(r"(?:see|as for|as in) `(\w+)", text):
        if hasattr(models, other) and getattr(models, other) is not model_class:
            there = said(getattr(models, other)).get(name)
            if there:
                return there
    return text


def defaults(function):
    """A dict of the parameters of a function or class to their defaults, as Python writes them."""
    return {
        name: "" if parameter.default is parameter.empty else repr(parameter.default)
        for name, parameter in _parameters(function).items()
    }


def _parameters(function):
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
