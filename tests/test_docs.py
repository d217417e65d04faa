"""The documentation site: it builds without a warning, names what is public, and can be read."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder, by the command that builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "docs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def test_the_reference_has_all_that_is_public(site):
    from sphinx.util.inventory import InventoryFile

    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    found = {name for kind in inventory for name in inventory[kind] if kind.startswith("py:")}
    for module in map(importlib.import_module, conf.REFERENCE):
        for name in module.__all__:
            public = getattr(module, name)
            if callable(public) and type(public).__module__ != "types":
                assert f"{module.__name__}.{name}" in found


def test_every_page_can_be_read_on_a_phone_and_a_desktop(site, file_server, in_chromium):
    """Nothing is wider than the screen, every picture is there, nothing is asked of elsewhere."""
    pages = sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
    address = file_server.url(site)

    def look(page):
        wrong = []
        for name in pages:
            page.goto(address + name)
            for width in (390, 1280):
                page.set_viewport_size({"width": width, "height": 844})
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                if wide > 0:
                    wrong.append(f"{name}: {wide} pixels wider than {width}")
            lost = page.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
            if lost:
                wrong.append(f"{name}: {lost} pictures missing")
        return wrong

    assert len(pages) > 30
    assert not in_chromium(look, address + pages[0])
