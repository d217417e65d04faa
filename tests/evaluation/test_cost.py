import numpy as np
import pytest
from keras import ops

from kgen.evaluation import Reference, cost_curve, curves
from kgen.models import FlowMatching

IMAGES = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), "uint8")


@pytest.fixture(scope="module")
def reference():
    return Reference(IMAGES, cache_dir=None)


def test_each_point_is_measured_as_it_says(reference):
    model = FlowMatching.from_preset("flow_matching_tiny")
    for weight in model.ema_network.weights:
        rng = np.random.default_rng(len(weight.path))
        weight.assign(ops.convert_to_numpy(weight) + 0.05 * rng.normal(size=weight.shape))
    model.samplers = ("euler", "heun")
    cost = cost_curve(model, reference, 64, seed=3, steps=(1, 2, 4))
    points = {
        curve["sampler"]: [(p["num_steps"], p["passes"]) for p in curve["points"]]
        for curve in cost["curves"]
    }
    assert points == {"euler": [(1, 1), (2, 2), (4, 4)], "heun": [(1, 1), (2, 3)]}
    drawn = model.generate(64, seed=3, num_steps=2, sampler="heun")
    found = reference.measure(drawn, metrics=("fd",), force=True)["metrics"][cost["metric"]]
    assert cost["curves"][1]["points"][1]["value"] == pytest.approx(found["value"], rel=1e-5)
    # One step of each is the same step.
    first = [curve["points"][0]["value"] for curve in cost["curves"]]
    assert first[0] == pytest.approx(first[1], rel=1e-4)


def test_passes_double_from_left_to_right():
    points = [{"passes": passes, "value": 1 / passes} for passes in (1, 2, 4, 8, 16, 32)]
    panel = curves.of_cost({"metric": "FD", "curves": [{"points": points}]})
    labels = [label for _, label in panel["x"]]
    assert labels == ["1", "2", "4", "8", "16", "32"]
    places = np.array([place for place, _ in panel["x"]])
    assert np.ptp(np.diff(places)) < 0.02
    markers = np.array(panel["curves"][0]["markers"])
    assert markers[:, 0] == pytest.approx(places)
    # A score that halves falls by as much each time.
    assert np.ptp(np.diff(markers[:, 1])) < 0.02 and markers[1, 1] > markers[0, 1]
    assert [label for _, label in panel["y"]] == ["0.05", "0.1", "0.2", "0.5", "1"]


def test_scores_that_lie_close_together_have_their_own_ticks():
    points = [{"passes": 2**i, "value": 6.0 + 0.1 * i} for i in range(6)]
    panel = curves.of_cost({"metric": "KD", "curves": [{"points": points}]})
    assert [label for _, label in panel["y"]] == ["6.0", "6.2", "6.4"]
    heights = [height for height, _ in panel["y"]]
    assert heights == sorted(heights, reverse=True)
