"""What is done when it is needed: names and submodules that are loaded when used, hooks."""

import importlib
import importlib.util
import pkgutil
import sys


def attach(package, names=()):
    """`__getattr__` and `__dir__` of a package, as in PEP 562.

    Its public submodules are attributes of it before anybody has imported them, and so is what
    `names`, a dict of name to module, says.
    """
    names = dict(names)

    def get(name):
        if name in names:
            return getattr(importlib.import_module(names[name]), name)
        module = f"{package}.{name}"
        if not name.startswith("_") and importlib.util.find_spec(module):
            return importlib.import_module(module)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    def list_names():
        module = importlib.import_module(package)
        submodules = {found.name for found in pkgutil.iter_modules(module.__path__)}
        public = submodules | set(names) | set(vars(module))
        return sorted(name for name in public if not name.startswith("_"))

    return get, list_names


def when_imported(name, hook):
    """Calls `register(module)` of the module `hook` when the module `name` has been imported.

    At once where it is imported already. (As wrapt does, whose import takes longer than kgen's.)
    """

    def call(module):
        importlib.import_module(hook).register(module)

    if name in sys.modules:
        call(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, call))


class _Finder:
    """Finds one module as Python does, and calls a function when it has been executed."""

    def __init__(self, name, call):
        self.name, self.call = name, call
        self.asked = False

    def find_spec(self, name, path=None, target=None):
        if name != self.name or self.asked:
            return None
        self.asked = True  # from here on the other finders are asked
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.asked = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                self.asked = True
                self.call(module)

            spec.loader.exec_module = exec_module
        return spec
