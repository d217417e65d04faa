"""The documentation site: `sphinx-build -W --keep-going docs site`, without a network."""

import functools
import importlib
import os
import pathlib
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import imagesize
import typer
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.docutils import SphinxDirective

import kgen
from kgen.cli import app as command_line

HERE = pathlib.Path(__file__).resolve().parent

project = "kgen"
author = "The kgen authors"
release = version = kgen.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"  # notebooks are shown as they are saved
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nitpicky = True
nitpick_ignore_regex = [("py:class", r"(?!kgen|export)")]  # nothing of others is linked to
highlight_language = "none"
smartquotes = False  # options of the command line begin with two hyphens

html_theme = "furo"
html_title = "kgen"
html_static_path = ["_static"]
html_css_files = ["kgen.css"]
html_favicon = "_static/kgen.svg"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_math_renderer = "mathml"

autodoc_inherit_docstrings = False  # a method is described where it is stated
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

#: The modules of which the reference has all public names, as `automodule` or as `zoo` has them.
REFERENCE = (
    "kgen",
    "kgen.data",
    "kgen.models",
    "kgen.layers",
    "kgen.evaluation",
    "export",
    "export.serving",
)

#: Errors that docstrings name, to where the reference has them.
ERRORS = {
    name: f"kgen.training.errors.{name}" for name in ("RunError", "NonFiniteError", "Interrupted")
} | {name: f"export.{name}" for name in ("ExportError", "VerificationError")}

#: Files from elsewhere in the repository that pages include: links to them lead to the pages.
INCLUDED = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "benchmarks/RESULTS.md": "results",
}


def relinked(text, path, document):
    """Markdown of the file at `path` with links that hold in a document of the site.

    They are written for who reads the file where it lies.
    """
    pages = {HERE.parent / name: f"/{page}.md" for name, page in INCLUDED.items()}
    for each in (HERE / "notebooks").glob("*.ipynb"):  # a link to where they lie
        pages[each.resolve()] = f"/notebooks/{each.stem}"

    def link(match):
        target = pathlib.Path(os.path.normpath(path.parent / match[1]))
        target = target.resolve() if target.suffix == ".ipynb" else target
        if target in pages:
            return f"]({pages[target]}"
        if target.is_relative_to(HERE):  # also of notebooks, which are elsewhere in truth
            return f"](/{target.relative_to(HERE)}"
        return f"]({os.path.relpath(target, (HERE / document).parent)}"

    return re.sub(r"\]\((?!\w+:|[#/])([^)#\s]+)", link, text)


def on_source(app, document, source):
    source[0] = relinked(source[0], HERE / f"{document}.md", document)


def on_include(app, path, document, source):
    source[0] = relinked(source[0], HERE / path, document)


def on_docstring(app, what, name, obj, options, lines):
    """Docstrings have Markdown's backticks: what is public becomes a link, all else code."""
    text = "\n".join(lines)
    # What bases say of arguments stands with the bases.
    text = text.partition("Arguments from elsewhere:")[0]
    if what == "property":  # napoleon would take what stands before a colon for a type
        text = text.replace(": ", "; ")

    def code(match):
        said = " ".join(match[1].split())
        target = known_names().get(said)
        return f":py:obj:`{said} <{target}>`" if target else f"``{said}``"

    text = re.sub(r"`([^`]+)`", code, text)
    for name, target in ERRORS.items():  # of `Raises:`, which napoleon makes links of
        text = re.sub(rf"^( +){name}:", rf"\1~{target}:", text, flags=re.MULTILINE)
    lines[:] = text.split("\n")


@functools.cache
def known_names():
    """What docstrings call public classes and functions, to where the reference has them."""
    known = {}
    for module in map(importlib.import_module, REFERENCE):
        for name in module.__all__:
            whole = f"{module.__name__}.{name}"
            if isinstance(getattr(module, name), type):
                known[name] = whole
            if callable(getattr(module, name)):
                known[whole] = whole
    return known


def on_document(app, doctree):
    """Strips of pictures take the whole width, see kgen.css."""
    for image in doctree.findall(nodes.image):
        width, height = imagesize.get(HERE / image["uri"])
        if width > 2 * height:
            image["classes"].append("wide")


def write_math(translator, node):
    """Equations are MathML, which browsers draw by themselves."""
    translator.body.append(tex2mathml(node.astext(), isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


class Zoo(SphinxDirective):
    """The classes of a family of models."""

    required_arguments = 1

    def run(self):
        [name] = self.arguments
        classes = [kgen.models.get(model).__name__ for model in kgen.models.families()[name].models]
        lines = [f".. autoclass:: kgen.models.{name}\n   :members:\n" for name in classes]
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


class Commands(SphinxDirective):
    """The commands of the command line, as their `--help` has them."""

    def run(self):
        lines = []
        for name, command in typer.main.get_command(command_line).commands.items():
            said, *examples = re.split(r"\n\s*Example:", command.help)
            lines += [f"## kgen {name}", said, "```sh"]
            lines += [" ".join(example.split()) for example in examples] + ["```", ""]
            for given in command.params:
                takes = "" if getattr(given, "is_flag", True) else given.metavar or ""
                names = ", ".join(given.opts + given.secondary_opts)
                if given.param_type_name == "argument":
                    names = given.metavar
                shown = given.show_default if isinstance(given.show_default, str) else given.default
                default = f" (default: {shown})" if shown not in (None, False) else ""
                lines.append(f"- `{f'{names} {takes}'.strip()}`: {given.help}{default}")
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app):
    app.add_directive("zoo", Zoo)
    app.add_directive("commands", Commands)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("source-read", on_source)
    app.connect("include-read", on_include)
    app.connect("doctree-read", on_document)
    app.connect("autodoc-process-docstring", on_docstring, priority=400)  # before napoleon
