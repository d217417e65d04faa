import base64
import copy
import html.parser
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from kgen.evaluation import curves, page

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def metric(value, better="lower", sd=None, train=None, floor=None, floor_sd=None, meaning="what"):
    return {
        "value": value,
        "sd": sd,
        "train": train,
        "gap": None if train is None else value - train,
        "floor": floor,
        "floor_sd": floor_sd,
        "better": better,
        "meaning": meaning,
    }


@pytest.fixture
def report():
    return {
        "model": {
            "name": "VAE",
            "path": "runs/vae one",
            "image_shape": [28, 28, 1],
            "num_classes": None,
            "parameters": 1234567,
        },
        "data": {"name": "mnist", "split": "test", "fingerprint": "ed24" * 16},
        "images": 9876,
        "losses": {"loss": 89.4, "kl_loss": 25.123},
        "reconstruction": {"mae": 5.1, "rmse": 17.04, "psnr": None, "ssim": 0.91},
        "likelihood": {
            "nats": 85.05,
            "bits_per_dimension": 0.1565,
            "kind": "importance-weighted bound",
            "importance_samples": 500,
            "protocol": "binarised by grey level, seed 0",
        },
        "sampling": {
            "images_per_second": 2345.6,
            "batch_size": 64,
            "seconds_for_the_first_batch": 0.412,
            "backend": "tensorflow",
        },
        "samples": {"n": 5000, "seed": 3, "labels": None},
        "features": {"name": "lenet128", "sha256": "3f2a9c01b2d4" + "0" * 52, "dim": 128},
        "reference": {"split": "test", "n": 9876},
        "train_reference": {"split": "train", "n": 9876},
        "floor_sample": {"split": "train", "n": 4321},
        "metrics": {
            "FD-lenet128": metric(8.1, train=8.35, floor=0.7012, meaning="Fréchet distance"),
            "KD-lenet128": metric(0.01234, sd=0.0011, floor=-0.00002, floor_sd=0.0005),
            "recall-lenet128": metric(0.6412, "higher", train=0.655, floor=0.9051),
            "CAS": metric(0.8765, "higher"),
        },
        "classes": [
            {"class": i, "name": f"digit {i}", "real": 0.1, "generated": 0.05 + i / 90}
            for i in range(10)
        ],
        "warnings": ["lost classes: hardly any 8 & <9>"],
        "versions": {"kgen": "0.1.0", "keras": "3.15"},
        "seconds": {"samples": 4.0, "features": 3.1},
    }


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return {
        slug: {
            "title": f"Title of {slug}",
            "caption": f"Caption of {slug}",
            "image": rng.integers(0, 256, (60, width, channels), "uint8"),
        }
        for slug, width, channels in [
            ("interpolation", 70, 1),
            ("samples", 90, 3),
            ("neighbours", 80, 1),
            ("classes", 100, 4),
            ("reconstructions", 110, 1),
        ]
    }


@pytest.fixture
def history():
    return [
        {
            "epoch": i,
            "steps": 10 * i,
            "loss": 100 / i,
            "val_loss": 110 / i,
            "kl_loss": i / 2,
            **({"FD-lenet128": 50.0 / i} if i % 5 == 0 else {"FD-lenet128": None}),
        }
        for i in range(1, 31)
    ]


def parsed(path):
    """The page as a tree. That it is XML too means that every element is closed."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    return ElementTree.fromstring(text)


def words(element):
    return re.sub(r"\s+", " ", " ".join(element.itertext())).strip()


def headings(tree):
    return [words(heading) for heading in tree.iter("h2")]


def table_rows(tree, selector):
    return [[words(cell) for cell in row] for row in tree.iterfind(f".//{selector}//tbody/tr")]


def write(tmp_path, *arguments):
    path = tmp_path / "report.html"
    return path, page.write(path, *arguments)


# Numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((8.1,), "8.100"),
        ((9.99996,), "10.00"),
        ((0.098,), "0.09800"),
        ((123.456,), "123.5"),
        ((1234.56,), "1,235"),
        ((1234567.0,), "1,235,000"),
        ((1234567,), "1,234,567"),
        ((0,), "0"),
        ((0.0,), "0"),
        ((0.00012345,), "0.0001234"),
        ((0.00001,), "1.000e-05"),
        ((-0.25,), f"{MINUS}0.2500"),
        ((None,), DASH),
        ((None, None), DASH),
        ((float("nan"),), DASH),
        ((float("-inf"),), f"{MINUS}\N{INFINITY}"),
        ((8.912, 0.1234), "8.912 ± 0.12"),
        ((0.5, None, 2), "0.50"),
        ((np.float32(0.5),), "0.5000"),
        ((np.int64(10_000),), "10,000"),
    ],
)
def test_number(arguments, text):
    assert page.number(*arguments) == text


# One model ----------------------------------------------------------------------------


def test_every_score_stands_with_its_floor_and_what_it_was_taken_from(
    tmp_path, report, pictures, history
):
    path, _ = write(tmp_path, report, pictures, history)
    tree = parsed(path)
    assert table_rows(tree, "table[@class='metrics']") == [
        [
            "FD-lenet128 ↓ lower is better",
            "8.100",
            "0.7012",
            "8.350",
            f"{MINUS}0.25",
            "Fréchet distance",
        ],
        [
            "KD-lenet128 ↓ lower is better",
            "0.01234 ± 0.0011",
            f"{MINUS}2.000e-05 ± 0.00050",
            DASH,
            DASH,
            "what",
        ],
        [
            "recall-lenet128 ↑ higher is better",
            "0.6412",
            "0.9051",
            "0.6550",
            f"{MINUS}0.014",
            "what",
        ],
        ["CAS ↑ higher is better", "0.8765", DASH, DASH, DASH, "what"],
    ]
    caption = words(tree.find(".//table[@class='metrics']/caption"))
    for part in (
        "5,000 generated",
        "9,876 real",
        "mnist",
        "test split",
        "lenet128",
        "3f2a9c01b2d4",
    ):
        assert part in caption
    text = words(tree)
    assert "4,321 real images of the train split in place of the generated ones" in text
    assert "fewer of them than generated images" in text
    assert "not FID" in text and "3f2a9c01b2d4" + "0" * 52 in text
    assert "which the model was not trained on" in text and "seed 3" in text


def test_order_of_the_page(tmp_path, report, pictures, history):
    pictures["extra"] = {**pictures["samples"], "title": "More"}
    path, _ = write(tmp_path, report, pictures, history)
    tree = parsed(path)
    assert words(tree.find(".//h1")) == "VAE, mnist"
    assert headings(tree) == [
        "Warning",
        "Title of samples",
        "Scores of the samples",
        "Title of classes",
        "Title of neighbours",
        "Title of reconstructions",
        "Title of interpolation",
        "More",
        "Losses",
        "Likelihood",
        "Sampling speed",
        "To repeat this",
    ]
    text = words(tree)
    for part in (
        "1,234,567 parameters",
        "hardly any 8 & <9>",
        "85.05",
        "0.1565",
        "importance-weighted bound",
        "500 importance samples per image",
        "Protocol: binarised by grey level, seed 0.",
        "2,346",
        "kgen 0.1.0, keras 3.15.",
    ):
        assert part in text
    assert words(tree.find(".//pre")) == (
        "kgen evaluate 'runs/vae one' --split=test --num-samples=5000 --seed=3 "
        "--features=lenet128 --importance-samples=500"
    )
    assert table_rows(tree, "table[@aria-labelledby='errors']") == [
        ["mean absolute error in grey levels ↓ lower is better", "5.100"],
        ["root mean square error in grey levels ↓ lower is better", "17.04"],
        ["PSNR in dB ↑ higher is better", DASH],
        ["SSIM ↑ higher is better", "0.9100"],
    ]
    assert table_rows(tree, "table[@aria-labelledby='losses']") == [
        ["loss", "89.40"],
        ["kl_loss", "25.12"],
    ]


def test_what_is_missing_is_left_out(tmp_path, report):
    kept = {name: report[name] for name in ("model", "data", "images")}
    path, written = write(tmp_path, kept, {})
    tree = parsed(path)
    assert written == {} and not (tmp_path / "report").exists()
    assert headings(tree) == ["To repeat this"]
    assert not list(tree.iter("table")) and not list(tree.iter("img"))
    assert not list(tree.iter("svg"))


def test_without_training_images_there_is_no_floor(tmp_path, report):
    report |= {"train_reference": None, "floor_sample": None}
    report["metrics"] = {"FD-lenet128": metric(8.1)}
    path, _ = write(tmp_path, report, {})
    tree = parsed(path)
    assert table_rows(tree, "table[@class='metrics']") == [
        ["FD-lenet128 ↓ lower is better", "8.100", "what"]
    ]
    terms = [words(term) for term in tree.iter("dt")]
    assert terms == ["Value", "Features", "Samples"]


def test_a_training_split_is_not_called_held_out(tmp_path, report):
    report["data"]["split"] = report["reference"]["split"] = "train"
    path, _ = write(tmp_path, report, {})
    text = words(parsed(path))
    assert "may have been trained on" in text and "was not trained on" not in text


def test_inception_is_not_said_to_be_no_fid(tmp_path, report):
    report["features"]["name"] = "inception"
    path, _ = write(tmp_path, report, {})
    tree = parsed(path)
    assert "not FID" not in words(tree)
    assert "--features=inception:WEIGHTS" in words(tree.find(".//pre"))


def test_without_a_path_it_is_repeated_from_python(tmp_path, report):
    report["model"]["path"] = None
    path, _ = write(tmp_path, report, {})
    assert words(parsed(path).find(".//pre")) == (
        "kgen.evaluation.evaluate(model, data, split='test', num_samples=5000, seed=3, "
        "features='lenet128', importance_samples=500)"
    )


def test_pictures_are_in_the_page_and_beside_it(tmp_path, report, pictures):
    path, written = write(tmp_path, report, pictures)
    images = {image.get("alt"): image.get("src") for image in parsed(path).iter("img")}
    assert len(images) == len(pictures)
    for slug, picture in pictures.items():
        assert written[slug] == {
            "title": picture["title"],
            "caption": picture["caption"],
            "file": f"report/{slug}.png",
        }
        head, data = images[picture["title"]].split(",")
        assert head == "data:image/png;base64"
        for file in (io.BytesIO(base64.b64decode(data)), tmp_path / written[slug]["file"]):
            decoded = np.asarray(Image.open(file)).reshape(picture["image"].shape)
            np.testing.assert_array_equal(decoded, picture["image"])


def test_a_slug_is_a_file_name(tmp_path, report, pictures):
    with pytest.raises(ValueError, match=r"Received: '\.\./samples'"):
        write(tmp_path, report, {"../samples": pictures["samples"]})
    assert not list(tmp_path.iterdir())


def test_shares_of_classes(tmp_path, report):
    path, _ = write(tmp_path, report, {})
    tree = parsed(path)
    rows = [row for row in table_rows(tree, "table") if row[0].startswith("digit")]
    assert rows[0][:3] == ["digit 0", "5.0%", "10.0%"] and len(rows) == 10
    bars = [bar.get("style") for bar in tree.iter("span") if bar.get("class") == "bar"]
    assert bars[:2] == ["width: 33.3%", "width: 66.7%"] and bars[-2] == "width: 100.0%"


def test_of_many_classes_those_that_differ_most(tmp_path, report):
    report["classes"] = [
        {"class": i, "name": f"digit {i}", "real": 0.005, "generated": 0.005 + 0.0001 * (i % 50)}
        for i in range(200)
    ]
    path, _ = write(tmp_path, report, {})
    tree = parsed(path)
    names = [row[0] for row in table_rows(tree, "table") if row[0].startswith("digit")]
    assert len(names) == 20 and names[:6] == [f"digit {i}" for i in (45, 46, 47, 48, 49, 95)]
    assert "The 20 of 200 classes whose shares differ most" in words(tree)


class References(html.parser.HTMLParser):
    """Whatever a browser would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.found, self.tags, self.ids = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.found.append(value)
            if name == "id":
                self.ids.append(value)


def both_pages(tmp_path, report, pictures, history):
    path, _ = write(tmp_path, report, pictures, history)
    entry = {"report": report, "pictures": pictures, "history": history}
    comparison = tmp_path / "comparison.html"
    page.write_comparison(comparison, [{"name": "one", **entry}, {"name": "two", **entry}])
    return path, comparison


def test_pages_stand_alone(tmp_path, report, pictures, history):
    for path in both_pages(tmp_path, report, pictures, history):
        text = path.read_text(encoding="utf-8")
        references = References(text)
        assert len(references.found) > 5
        assert all(value.startswith(("data:", "#")) for value in references.found)
        assert not references.tags & {"script", "iframe", "object", "embed", "base"}
        assert "http" not in text.replace("http-equiv", "")
        assert not re.search(r"@import|url\((?!#)", text)
        targets = {value[1:] for value in references.found if value[0] == "#"}
        assert targets <= set(references.ids)
        assert len(references.ids) == len(set(references.ids))


def test_names_are_escaped(tmp_path, report, pictures, history):
    evil = "<script>alert('\"1\"')</script>"
    report["model"]["name"] = report["data"]["name"] = evil
    report["warnings"] = [evil]
    report["metrics"][evil] = metric(1.0, meaning=evil)
    report["classes"][0]["name"] = report["samples"]["labels"] = evil
    report["likelihood"]["protocol"] = report["likelihood"]["kind"] = evil
    report["losses"][evil] = 1.0
    report["versions"] = {evil: evil}
    pictures["samples"] |= {"title": evil, "caption": evil}
    for i, row in enumerate(history):
        row[evil] = row[f"val_{evil}"] = float(i)
    paths = both_pages(tmp_path, report, pictures, history)
    entry = {"report": report, "pictures": pictures, "history": history}
    page.write_comparison(tmp_path / "named.html", [{"name": evil, **entry}] * 2)
    for path in (*paths, tmp_path / "named.html"):
        text = path.read_text(encoding="utf-8")
        assert "script" not in References(text).tags and "&lt;script&gt;" in text
        assert evil in words(parsed(path))


def test_the_same_report_gives_the_same_bytes(tmp_path, report, pictures, history):
    first = [p.read_bytes() for p in both_pages(tmp_path / "1", report, pictures, history)]
    again = [p.read_bytes() for p in both_pages(tmp_path / "2", report, pictures, history)]
    assert first == again


# Curves -------------------------------------------------------------------------------


def panels(tree):
    """Name of each panel to the colours of its curves."""
    found = {}
    for figure in tree.iter("figure"):
        if (svg := figure.find("svg")) is not None:
            styles = [path.get("style", "") for path in svg.iter("path")]
            colours = re.findall(r"stroke: var\(--series-(\d)\)", " ".join(styles))
            found[words(figure.find("figcaption"))] = sorted(set(map(int, colours)))
    return found


def test_curves_of_a_run(tmp_path, report, history):
    path, _ = write(tmp_path, report, {}, history)
    tree = parsed(path)
    assert panels(tree) == {"loss": [0, 1], "kl_loss": [], "FD-lenet128": []}
    assert list(panels(tree)) == ["loss", "kl_loss", "FD-lenet128"]
    legend = [words(li) for ul in tree.iter("ul") for li in ul if ul.get("class") == "legend"]
    assert legend[-2:] == ["training", "validation"]
    svg = next(tree.iter("svg"))
    assert svg.get("aria-label") == "loss by epoch" and "epoch" in words(svg)


def test_a_loss_without_validation_has_no_legend(tmp_path, report):
    del report["classes"]
    rows = [{"epoch": i, "generator_loss": float(i), "discriminator_loss": 1.0} for i in (1, 2)]
    path, _ = write(tmp_path, report, {}, rows)
    tree = parsed(path)
    assert list(panels(tree)) == ["generator_loss", "discriminator_loss"]
    assert not [ul for ul in tree.iter("ul") if ul.get("class") == "legend"]


def test_too_many_curves_are_named_and_not_drawn(tmp_path, report):
    rows = [
        {"epoch": i, **{f"part{j}": float(i * j) for j in range(15)}, "loss": 1.0 / i}
        for i in (1, 2, 3)
    ]
    path, _ = write(tmp_path, report, {}, rows)
    tree = parsed(path)
    assert list(panels(tree)) == ["loss", *(f"part{j}" for j in range(11))]
    assert "Not drawn: part11, part12, part13, part14." in words(tree)


@pytest.mark.parametrize(
    "rows", [[], [{"epoch": 1, "loss": 3.0}], [{"epoch": 1, "loss": None}] * 3]
)
def test_one_point_is_no_curve(tmp_path, report, rows):
    path, _ = write(tmp_path, report, {}, rows)
    assert panels(parsed(path)) == {}


def test_a_steep_start_does_not_flatten_the_rest():
    falling = [(i, 1000.0 if i < 3 else 10 - i / 10) for i in range(100)]
    low, high = curves.limits([(falling, 0, False)])
    assert -1 < low < 0.1 and 9 < high < 11
    rising = [(i, float(i)) for i in range(100)]
    low, high = curves.limits([(rising, 0, False)])
    assert low < 0 and high > 99
    constant = [(i, 1.0 if i < 2 else 8.0) for i in range(100)]
    low, high = curves.limits([(constant, 0, False)])
    assert low < 1 and high > 8


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ((0.0, 1.0, 4), "0.00 0.25 0.50 0.75 1.00"),
        ((0.02, 1.1, 4), "0.4 0.8"),
        ((-0.93, 0.05, 4), f"{MINUS}0.75 {MINUS}0.50 {MINUS}0.25 0.00"),
        ((79.0, 1480.0, 4), "400 800 1200"),
        ((0.0, 0.00015, 4), "0.00000 0.00004 0.00008 0.00012"),
        ((1e-7, 3e-7, 4), f"1e{MINUS}07 1.5e{MINUS}07 2e{MINUS}07 2.5e{MINUS}07 3e{MINUS}07"),
        ((3e6, 6.1e6, 4), "3e+06 4e+06 5e+06 6e+06"),
        ((0.95, 2.05, 5, True), "1 2"),
        ((-0.5, 31.5, 5, True), "0 10 20 30"),
        ((0.0, 12.0, 5, True), "0 4 8 12"),
    ],
)
def test_ticks(arguments, labels):
    found = curves.ticks(*arguments)
    assert " ".join(label for _, label in found) == labels
    for value, label in found:
        assert float(label.replace(MINUS, "-")) == pytest.approx(value, abs=1e-12)


def coordinates(path):
    return [tuple(map(float, pair.split(","))) for pair in path.get("d")[1:].split("L")]


def test_curves_lie_where_their_axes_say(tmp_path, report, history):
    path, _ = write(tmp_path, report, {}, history)
    figures = {words(f.find("figcaption")): f for f in parsed(path).iter("figure")}
    for name, key, count in (("kl_loss", "kl_loss", 30), ("FD-lenet128", "FD-lenet128", 6)):
        svg = figures[name].find("svg")
        texts = list(svg.iter("text"))
        rows = [t for t in texts if t.get("class") == "y"]
        columns = [t for t in texts if t.get("class") != "y" and t.text != "epoch"]
        (curve,) = [p for p in svg.iter("path") if "curve" in p.get("class")]
        points = coordinates(curve)
        wanted = [(row["epoch"], row[key]) for row in history if row[key] is not None]
        assert len(points) == len(wanted) == count
        for axis, labels in ((0, columns), (1, rows)):
            # By the labels of the axis, a place in the picture is a number.
            places = [float(t.get("xy"[axis])) - (3 if axis else 0) for t in labels]
            values = [float(t.text) for t in labels]
            scale, offset = np.polyfit(places, values, 1)
            read = [scale * point[axis] + offset for point in points]
            span = max(w[axis] for w in wanted)
            np.testing.assert_allclose(read, [w[axis] for w in wanted], atol=2e-3 * span)
        markers = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
        assert markers == (points if count <= 12 else [])


def test_what_lies_above_the_limits_is_cut_off(tmp_path, report):
    rows = [{"epoch": i, "loss": 1e4 if i < 3 else 10 - i / 10} for i in range(1, 101)]
    path, _ = write(tmp_path, report, {}, rows)
    svg = next(parsed(path).iter("svg"))
    clip, group = svg.find("clipPath"), svg.find("g")
    assert group.get("clip-path") == f"url(#{clip.get('id')})"
    top = float(clip.find("rect").get("y"))
    heights = [y for _, y in coordinates(group.find("path"))]
    assert min(heights) < top and all(y > top for y in heights[2:])


# Several models -----------------------------------------------------------------------


@pytest.fixture
def entries(report, pictures, history):
    other = copy.deepcopy(report)
    other["model"] |= {"name": "DCGAN", "parameters": 99}
    other["metrics"]["FD-lenet128"] |= {"value": 5.2, "floor": 0.8}
    other["metrics"]["recall-lenet128"]["value"] = 0.3
    del other["metrics"]["CAS"], other["likelihood"], other["reconstruction"]
    two = {"samples": pictures["samples"]}
    return [
        {"name": "vae", "report": report, "pictures": pictures, "history": history},
        {"name": "dcgan", "report": other, "pictures": two, "history": history[:20]},
    ]


def test_table(entries):
    header, rows = page.table(entries)
    assert header == ["metric", "better", "real images", "vae", "dcgan"]
    found = {row[0]: row[1:] for row in rows}
    assert found["FD-lenet128"] == ["lower", "0.7012 to 0.8000", "8.100", "* 5.200"]
    assert found["recall-lenet128"] == ["higher", "0.9051", "* 0.6412", "0.3000"]
    assert found["CAS"] == ["higher", DASH, "0.8765", DASH]  # one alone is not the best
    equal = "0.01234 ± 0.0011"
    assert found["KD-lenet128"] == ["lower", f"{MINUS}2.000e-05", equal, equal]
    assert found["nats per image, importance-weighted bound"] == ["lower", DASH, "85.05", DASH]
    assert found["images drawn per second"] == ["", DASH, "2,346", "2,346"]
    assert found["parameters"] == ["", DASH, "1,234,567", "99"]
    assert "reconstruction, PSNR in dB" not in found
    assert all(isinstance(cell, str) for row in [header, *rows] for cell in row)


def test_comparison_marks_the_best(tmp_path, entries):
    path = tmp_path / "comparison.html"
    page.write_comparison(path, entries)
    tree = parsed(path)
    rows = {row[0]: row[1:] for row in table_rows(tree, "table[@class='comparison']")}
    assert rows["FD-lenet128 ↓ lower is better"] == ["0.7012 to 0.8000", "8.100", "5.200 (best)"]
    assert rows["recall-lenet128 ↑ higher is better"] == ["0.9051", "0.6412 (best)", "0.3000"]
    assert len([s for s in tree.iter("strong") if s.get("class") == "best"]) == 2
    assert len(rows) == len(page.table(entries)[1])
    assert "not comparable" not in words(tree)
    assert headings(tree)[:2] == ["Scores", "Title of interpolation"]
    assert len(list(tree.iter("img"))) == 6
    assert [words(term) for term in tree.iter("dt")] == ["Likelihood of vae"]
    assert "500 importance samples per image: binarised by grey level, seed 0." in words(tree)
    # Both have a validation loss; the other two have none.
    assert panels(tree) == {"validation loss": [0, 1], "kl_loss": [0, 1], "FD-lenet128": [0, 1]}
    caption = words(tree.find(".//p[@id='common']"))
    for part in ("images drawn: 5,000", "reference images: 9,876", "features: lenet128"):
        assert part in caption


def test_more_runs_than_colours_are_dashed(tmp_path, entries):
    path = tmp_path / "comparison.html"
    page.write_comparison(path, 4 * entries)
    tree = parsed(path)
    (legend,) = [ul for ul in tree.iter("ul") if ul.get("class") == "legend"]
    for svg in tree.iter("svg"):
        lines = [p for p in svg.iter("path") if "curve" in p.get("class")]
        assert [("dashed" in p.get("class"), p.get("style")[-2]) for p in lines] == [
            (item.get("class") == "dashed", item.get("style")[-2]) for item in legend
        ]


@pytest.mark.parametrize(
    ("change", "name", "values"),
    [
        (lambda r: r["samples"].update(n=2000), "images drawn", ["5,000", "2,000"]),
        (
            lambda r: r["features"].update(sha256="ab" * 32),
            "features sha256",
            ["3f2a9c01b2d4", "ab" * 6],
        ),
        (
            lambda r: r["reference"].update(split="validation"),
            "reference split",
            ["test", "validation"],
        ),
        (lambda r: r["reference"].update(n=100), "reference images", ["9,876", "100"]),
        (
            lambda r: r["data"].update(fingerprint="cd" * 32),
            "reference fingerprint",
            ["ed24" * 3, "cd" * 6],
        ),
        (
            lambda r: r["reference"].update(fingerprint="cd" * 32),
            "reference fingerprint",
            ["ed24" * 3, "cd" * 6],
        ),
    ],
)
def test_comparison_says_what_is_not_comparable(tmp_path, entries, change, name, values):
    change(entries[1]["report"])
    path = tmp_path / "comparison.html"
    page.write_comparison(path, entries)
    tree = parsed(path)
    assert headings(tree)[0] == "These runs are not comparable"
    assert table_rows(tree, "section[@class='warnings']//table") == [[name, *values]]
    assert not [s for s in tree.iter("strong") if s.get("class") == "best"]
    assert not any(cell.startswith("*") for row in page.table(entries)[1] for cell in row)


def test_a_row_is_marked_where_its_runs_agree(entries):
    third = copy.deepcopy(entries[1])
    third["report"]["samples"]["n"] = 20
    del third["report"]["metrics"]["FD-lenet128"]
    rows = {row[0]: row for row in page.table([*entries, third])[1]}
    assert rows["FD-lenet128"][3:] == ["8.100", "* 5.200", DASH]
    assert rows["recall-lenet128"][3:] == ["0.6412", "0.3000", "0.3000"]


def test_likelihoods_of_other_protocols_are_not_ranked(entries):
    report = entries[1]["report"] = copy.deepcopy(entries[0]["report"])
    report["likelihood"]["nats"] = 80.0
    name = "nats per image, importance-weighted bound"
    assert {r[0]: r for r in page.table(entries)[1]}[name][3:] == ["85.05", "* 80.00"]
    report["likelihood"]["protocol"] = "binarised at 127.5"
    assert {r[0]: r for r in page.table(entries)[1]}[name][3:] == ["85.05", "80.00"]
    report["likelihood"] |= {"protocol": "binarised by grey level, seed 0", "importance_samples": 9}
    assert {r[0]: r for r in page.table(entries)[1]}[name][3:] == ["85.05", "80.00"]
    report["likelihood"]["kind"] = "exact"
    found = {r[0]: r[3:] for r in page.table(entries)[1]}
    assert found[name] == ["85.05", DASH] and found["nats per image, exact"] == [DASH, "80.00"]


def test_a_failed_score_is_no_best(entries):
    entries[1]["report"]["metrics"]["FD-lenet128"]["value"] = float("nan")
    assert {r[0]: r for r in page.table(entries)[1]}["FD-lenet128"][3:] == ["8.100", DASH]


def test_a_run_without_scores_is_a_column_of_dashes(tmp_path, entries):
    report = entries[1]["report"]
    for name in ("metrics", "samples", "features", "reference"):
        del report[name]
    page.write_comparison(tmp_path / "comparison.html", entries)
    assert "not comparable" not in words(parsed(tmp_path / "comparison.html"))
    rows = {row[0]: row for row in page.table(entries)[1]}
    assert rows["FD-lenet128"][3:] == ["8.100", DASH]


def test_runs_of_one_name_are_told_apart(entries):
    entries[1]["name"] = "vae"
    assert page.table(entries)[0][3:] == ["vae", "vae (2)"]


def test_read_gives_what_was_written(tmp_path, report, pictures):
    folder = tmp_path / "vae"
    report["pictures"] = page.write(folder / "report.html", report, pictures)
    (folder / "evaluation.json").write_text(json.dumps(report))
    (folder / "metrics.csv").write_text("epoch,steps,loss\n1,10,3.5\n2,20,2.5\n")
    (folder / "report" / "samples.png").unlink()
    entry = page.read(folder)
    assert entry["name"] == "vae" and entry["report"] == report
    assert entry["history"][1]["loss"] == 2.5
    assert list(entry["pictures"]) == [slug for slug in pictures if slug != "samples"]
    for slug, picture in entry["pictures"].items():
        np.testing.assert_array_equal(picture["image"], pictures[slug]["image"])


def test_a_folder_without_an_evaluation(tmp_path):
    with pytest.raises(ValueError, match=r"holds no evaluation\.json; run `kgen evaluate"):
        page.read(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"model": "runs/vae", "images": 3}')
    with pytest.raises(ValueError, match="was written by an older kgen"):
        page.read(tmp_path)


# A browser ----------------------------------------------------------------------------


def browse(path, picture, width=1100):
    """Opens a page in a browser. Returns what it looks like and the browser's complaints."""
    browser = next(
        (found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no chromium or google-chrome is installed")
    result = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={picture.parent / 'profile'}",
            f"--window-size={width},2500",
            f"--screenshot={picture}",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert picture.is_file(), result.stderr[-2000:]
    complaints = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return np.asarray(Image.open(picture).convert("RGB")), complaints


def test_in_a_browser(tmp_path, report, history):
    red = np.full((50, 400, 3), (250, 0, 10), "uint8")
    pictures = {"samples": {"title": "Samples", "caption": "red", "image": red}}
    path, _ = write(tmp_path, report, pictures, history)
    seen, complaints = browse(path, tmp_path / "seen.png")
    assert complaints == []
    assert seen.shape[1] == 1100
    shown = (seen == (250, 0, 10)).all(-1)
    assert shown.sum() == 2 * 50 * 2 * 400  # the picture, twice its size
    rows = np.flatnonzero(shown.any(1))
    below = seen[rows[-1] + 1 : 1500]
    assert (below != below[0, 0]).any(-1).mean() > 0.01  # text and tables

    # And it would have complained: the page's own policy forbids fetching.
    text = path.read_text(encoding="utf-8")
    (tmp_path / "bad.html").write_text(
        text.replace("</main>", '<img src="http://127.0.0.1:9/x.png" alt=""/></main>')
    )
    _, complaints = browse(tmp_path / "bad.html", tmp_path / "bad.png")
    assert len(complaints) == 1 and "Content Security Policy" in complaints[0]
