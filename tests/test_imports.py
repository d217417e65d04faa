"""Who may import whom: the floors of the house, from the ground up.

A module imports from its own floor and from those below, never from above, also inside its
functions. `export` stands on top of all of `kgen` but the command line, which alone calls it.
"""

import ast
import pathlib

import export
import kgen

ROOT = pathlib.Path(kgen.__file__).parent

#: What a name stands for is the module and all below it, but for what is listed by itself.
FLOORS = (
    (
        "kgen.lazy",
        "kgen.checks",
        "kgen.files",
        "kgen.streams",
        "kgen.endpoint",
        "kgen.configurable",
    ),
    ("kgen.images", "kgen.origin", "kgen.memory", "kgen.random", "kgen.models"),
    ("kgen.credentials", "kgen.training.errors", "kgen.training.metrics_csv"),
    ("kgen.registration", "kgen.hub", "kgen.places"),
    ("kgen.data",),
    ("kgen.training._parts",),
    ("kgen.training._tensorflow", "kgen.training._jax"),
    (
        "kgen.training.step",
        "kgen.training.average",
        "kgen.training.schedules",
        "kgen.training.fitting",
    ),
    ("kgen.losses", "kgen.layers"),
    ("kgen.docstrings", "kgen.generation", "kgen.safe_config", "kgen.weights"),
    ("kgen.card", "kgen.presets"),
    ("kgen.image_generator",),
    (
        *("kgen.training.distribution", "kgen.training.checkpoints", "kgen.training.callbacks"),
        *("kgen.training.length", "kgen.training.named_callbacks", "kgen.training.tracking"),
    ),
    ("kgen.training.run_folder", "kgen.training.facts"),
    ("kgen.models.first_stage",),
    ("kgen.models.gan", "kgen.models.vae"),
    ("kgen.models.autoregressive",),
    ("kgen.models.tokens",),
    ("kgen.models.diffusion",),
    ("kgen.models.translation",),
    ("kgen.evaluation",),
    ("kgen.training.choice", "kgen.training.size", "kgen.training.header"),
    ("kgen.training.run_config",),
    ("kgen.training.building",),
    ("kgen.training.run",),
    ("export",),
    ("kgen.cli", "kgen.__main__"),
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}


def floor(module):
    """The number of the floor on which a module stands, `None` for the entrance `kgen`."""
    if module in ("kgen", "kgen.training"):  # names that are loaded when they are used
        return None
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        # The registry is `kgen.models` itself; a family is not found by it.
        if name in FLOOR_OF and (name != "kgen.models" or length == len(parts)):
            return FLOOR_OF[name]
    raise AssertionError(f"{module} stands on no floor: give it one in FLOORS")


def modules():
    """Every module of both packages: its name and its file."""
    for root in (ROOT, pathlib.Path(export.__file__).parent):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path


def imports(path, known):
    """What a file imports from the two packages, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


MODULES = dict(modules())


def test_no_import_goes_upwards():
    for module, path in MODULES.items():
        own = floor(module)
        others = {name: floor(name) for name in imports(path, MODULES)}
        above = [name for name, other in others.items() if None not in (own, other) and other > own]
        assert not above, f"{module} imports what stands above it: {', '.join(above)}"


def test_no_two_modules_import_each_other():
    below = {module: set(imports(path, MODULES)) - {module} for module, path in MODULES.items()}

    def reach(module, way):
        for name in below[module]:
            assert name not in way, f"A circle: {' -> '.join([*way, name])}"
            if name not in done:
                reach(name, [*way, name])
        done.add(module)

    done = set()
    for module in MODULES:
        if module not in done:
            reach(module, [module])


def test_every_floor_is_used():
    stood_on = {floor(module) for module in MODULES} - {None}
    assert stood_on == set(range(len(FLOORS)))
