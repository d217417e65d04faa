import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from kgen.evaluation import metrics

CASES = ("mnist", "digits", "normal", "few", "far")


@pytest.fixture(scope="module")
def pair(request):
    """Real features [N, D] and others [M, D]: N differs from M except in "few"."""
    name, rng = request.param, np.random.default_rng(3)
    if name == "mnist":  # 64 principal components of pixels; the others are noisy
        file = request.getfixturevalue("data_dir") / "mnist.npz"
        with np.load(file) as data:
            real = data["x_train"][:2500].reshape(-1, 784) / 255
            others = data["x_test"][:2000].reshape(-1, 784) / 255
        others = others + 0.2 * rng.random(others.shape)
        components = np.linalg.eigh(np.cov(real, rowvar=False))[1][:, -64:]
        return (real @ components).astype("float32"), (others @ components).astype("float32")
    if name == "digits":  # pixels 0 to 16: many equal distances, and constant columns
        images, labels = load_digits(return_X_y=True)
        return images[labels < 6], images[labels > 3].astype("int32")
    if name == "normal":
        return rng.normal(size=(700, 128)), 0.2 + 1.1 * rng.normal(size=(500, 128))
    if name == "few":  # covariances of rank 39 of 64
        return rng.normal(size=(40, 64)), rng.normal(size=(40, 64)) ** 2
    # Far from 0, so that squares in float32 would leave no digit of a distance.
    real = 1000 + rng.normal(size=(600, 16))
    return real.astype("float32"), (real[:450] + 0.5 * rng.normal(size=(450, 16))).astype("float32")


every_case = pytest.mark.parametrize("pair", CASES, indirect=True)


def float64(pair):
    return tuple(x.astype("float64") for x in pair)


# The Fréchet distance


@pytest.mark.slow
@every_case
def test_frechet_distance_against_torch_fidelity(pair):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch_fidelity.metric_fid")
    statistics = [module.fid_features_to_statistics(torch.tensor(x)) for x in float64(pair)]
    expected = module.fid_statistics_to_metric(*statistics, False)[module.KEY_METRIC_FID]
    assert metrics.frechet_distance(*pair) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@every_case
def test_frechet_distance_against_torchmetrics(pair):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torchmetrics.image.fid")

    class Features(torch.nn.Identity):
        num_features = pair[0].shape[1]

    metric = module.FrechetInceptionDistance(feature=Features()).set_dtype(torch.float64)
    real, others = (torch.tensor(x) for x in float64(pair))
    metric.update(real, real=True)
    metric.update(others, real=False)
    assert metrics.frechet_distance(*pair) == pytest.approx(float(metric.compute()), rel=1e-5)


@every_case
def test_frechet_distance_in_closed_form(pair):
    # C_b = 4 C_a, so the trace term is tr(C_a), whatever the rank.
    features, _ = float64(pair)
    shift = np.arange(features.shape[1])
    covariance = np.cov(features, rowvar=False)
    expected = np.sum((features.mean(axis=0) + shift) ** 2) + np.trace(covariance)
    found = metrics.frechet_distance(features, 2 * features + shift)
    assert found == pytest.approx(expected, rel=1e-9)


@every_case
def test_frechet_distance_of_equal_features_is_zero(pair):
    for features in float64(pair):
        scale = np.trace(np.cov(features, rowvar=False))
        distance = metrics.frechet_distance(features, features[::-1])
        assert 0 <= distance < 1e-9 * scale


def test_frechet_distance_of_constant_features():
    constant = np.ones((5, 3))
    assert metrics.frechet_distance(constant, constant + np.array([0, 3, 4])) == 25
    features = np.random.default_rng(0).normal(size=(50, 3))
    expected = np.sum((features.mean(axis=0) - 1) ** 2) + np.trace(np.cov(features.T))
    assert metrics.frechet_distance(features, constant) == pytest.approx(expected)


def test_frechet_distance_takes_statistics_and_is_symmetric():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(90, 8)), rng.random((70, 8))
    distance = metrics.frechet_distance(a, b)
    for first in (a, metrics.Statistics(a)):
        for second in (b, metrics.Statistics(b)):
            assert metrics.frechet_distance(first, second) == distance
            assert metrics.frechet_distance(second, first) == pytest.approx(distance)


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_statistics_of_batches(batch, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK", 100)
    features = 1e6 + np.random.default_rng(0).normal(size=(300, 9)) * np.arange(9)
    statistics = metrics.Statistics()
    for begin in range(0, 300, batch):
        statistics.update(features[begin : begin + batch])
    assert statistics.n == 300
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-14)
    covariance = np.cov(features - 1e6, rowvar=False)
    np.testing.assert_allclose(statistics.covariance, covariance, rtol=1e-7, atol=1e-7)


def test_statistics_leave_float16_and_the_batches_alone():
    features = np.random.default_rng(0).normal(size=(3000, 4)).astype("float16")
    before = features.copy()
    statistics = metrics.Statistics(features)
    np.testing.assert_array_equal(features, before)
    expected = np.cov(features.astype("float64"), rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-10, atol=1e-12)


# The kernel distance


@pytest.mark.slow
@every_case
def test_kernel_distance_of_subsets_against_torch_fidelity(pair):
    module = pytest.importorskip("torch_fidelity.metric_kid")
    rng, size = np.random.default_rng(11), 30
    real, others = float64(pair)
    expected = [
        module.kernel_mmd(
            real[rng.choice(len(real), size, replace=False)],
            others[rng.choice(len(others), size, replace=False)],
        )
        for _ in range(8)
    ]
    found = metrics.kernel_distance(*pair, subsets=8, subset_size=size, seed=11)
    np.testing.assert_allclose(found, (np.mean(expected), np.std(expected)), rtol=1e-6)


@pytest.mark.slow
@every_case
def test_kernel_distance_of_everything_against_torchmetrics(pair):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torchmetrics.image.kid")
    count = min(map(len, pair))
    real, others = (x[:count] for x in float64(pair))
    expected = float(module.poly_mmd(torch.tensor(real), torch.tensor(others)))
    mean, sd = metrics.kernel_distance(real, others, subset_size=count)
    assert mean == pytest.approx(expected, rel=1e-6)
    assert sd is None


def test_subsets_of_a_kernel_distance_are_no_larger_than_the_smaller_set():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 8)), rng.normal(size=(40, 8))
    for pair in ((a, b), (b, a)):
        found = metrics.kernel_distance(*pair, subsets=5)
        assert found == metrics.kernel_distance(*pair, subsets=5, subset_size=40)
        assert found != metrics.kernel_distance(*pair, subsets=5, subset_size=39)


def test_one_part_has_no_deviation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 8)), rng.normal(size=(40, 8))
    assert metrics.kernel_distance(a, b)[1] is None
    assert metrics.kernel_distance(a, b, subsets=1, subset_size=20)[1] is None
    probabilities = rng.dirichlet(np.ones(4), 40)
    assert metrics.inception_score(probabilities, splits=1)[1] is None
    assert metrics.inception_score(probabilities, splits=2)[1] > 0


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4000, 8)), rng.normal(size=(4000, 8))
    mean, sd = metrics.kernel_distance(a, b, subsets=400, subset_size=40)
    assert abs(mean) < 4 * sd / np.sqrt(400)
    biased, _ = metrics.kernel_distance(a, b + 0.3, subsets=400, subset_size=40)
    assert biased > 20 * abs(mean)


# Precision, recall, density and coverage


@pytest.mark.slow
@every_case
@pytest.mark.parametrize("k", [1, 5])
def test_precision_recall_density_coverage_against_prdc(pair, k, monkeypatch):
    prdc = pytest.importorskip("prdc")
    monkeypatch.setattr(metrics, "_BLOCK", 40_000)
    expected = prdc.compute_prdc(*pair, nearest_k=k)
    found = metrics.precision_recall_density_coverage(*pair, k=k)
    assert found == pytest.approx(expected, rel=1e-9)
    assert 0 < found["coverage"] < 1


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_copies_of_the_real_images(order):
    # Each sample lies on the surfaces of balls, where rounding must not decide: around it
    # are its own ball and those in which it is the 1st to the (k-1)-th neighbour, k on average.
    real = np.random.default_rng(0).normal(size=(800, 32)).astype("float32")
    found = metrics.precision_recall_density_coverage(real, real[order], k=4)
    assert found == {"precision": 1, "recall": 1, "density": 1, "coverage": 1}


def test_precision_recall_density_coverage_against_all_distances(monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK", 100_000)
    rng, k = np.random.default_rng(0), 3
    real, generated = rng.normal(size=(3000, 8)), 0.8 * rng.normal(size=(2500, 8))
    distances = cdist(real, generated)
    real_radii = np.sort(cdist(real, real), axis=1)[:, k]
    generated_radii = np.sort(cdist(generated, generated), axis=1)[:, k]
    in_real = distances < real_radii[:, None]
    expected = {
        "precision": in_real.any(axis=0).mean(),
        "recall": (distances < generated_radii).any(axis=1).mean(),
        "density": in_real.sum() / k / 2500,
        "coverage": in_real.any(axis=1).mean(),
    }
    found = metrics.precision_recall_density_coverage(real, generated, k)
    assert found == pytest.approx(expected, rel=1e-12)


def test_more_copies_than_neighbours_have_empty_balls():
    real = np.repeat(np.random.default_rng(0).normal(size=(20, 8)) * 100, 3, axis=0)
    found = metrics.precision_recall_density_coverage(real, real, k=2)
    assert set(found.values()) == {0}


# The Inception Score


@pytest.mark.slow
@pytest.mark.parametrize("splits", [1, 7, 10])
def test_inception_score_against_torch_fidelity(splits):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * np.random.default_rng(0).normal(size=(503, 12))
    expected = module.isc_features_to_metric(torch.tensor(logits), splits, shuffle=False)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = metrics.inception_score(probabilities, splits, seed=None)
    mean, deviation = expected.values()
    # Of one part it is 0 there.
    deviation = pytest.approx(deviation, rel=1e-9) if splits > 1 else None
    assert found == (pytest.approx(mean, rel=1e-9), deviation)


def test_inception_score_of_sure_and_even_classes():
    # Zero probabilities are no NaN, and that the classes are sorted makes no difference.
    mean, sd = metrics.inception_score(np.repeat(np.eye(5), 400, axis=0))
    assert 4.8 < mean <= 5
    assert 0 < sd < 0.1
    assert metrics.inception_score(np.full((100, 4), 0.25)) == pytest.approx((1, 0))
    sorted_classes = metrics.inception_score(np.repeat(np.eye(5), 400, axis=0), 5, seed=None)
    assert sorted_classes == pytest.approx((1, 0))


# MIND


@pytest.mark.slow
@every_case
def test_mind_against_pot(pair, monkeypatch):
    ot = pytest.importorskip("ot")
    monkeypatch.setattr(metrics, "_BLOCK", 40_000)
    real, others = float64(pair)
    columns = real.shape[1]
    directions = metrics._unit_vectors(60, columns, seed=4)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    distance = ot.sliced_wasserstein_distance(real, others, projections=directions.T, p=2)
    found = metrics.mind(*pair, projections=60, seed=4)
    assert found == pytest.approx(3 * columns * distance**2, rel=1e-5)


@pytest.mark.parametrize("counts", [(6, 4), (5, 5), (7, 2), (2, 9)])
def test_mind_in_one_dimension_against_repeated_values(counts):
    # With each value repeated to a common count, the quantile functions have equal steps.
    rng, (n, m) = np.random.default_rng(0), counts
    a, b = rng.normal(size=(n, 1)), rng.normal(size=(m, 1))
    repeated_a, repeated_b = np.sort(np.repeat(a, m)), np.sort(np.repeat(b, n))
    expected = 3 * np.mean((repeated_a - repeated_b) ** 2)
    assert metrics.mind(a, b, projections=3) == pytest.approx(expected)


def test_mind_of_moved_features():
    # Along u they move by u . t, whose mean square is |t|^2 / D.
    features = np.random.default_rng(0).normal(size=(300, 10))
    assert metrics.mind(features, features[::-1]) == pytest.approx(0, abs=1e-25)
    found = metrics.mind(features, features + 2, projections=5000)
    assert found == pytest.approx(3 * 40, rel=0.1)


# Neighbours and authenticity


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "float64")])
def test_nearest_neighbours_against_all_distances(dtypes, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK", 10_000)
    rng = np.random.default_rng(0)
    queries, references = rng.normal(size=(900, 8)), rng.normal(size=(3000, 8))
    queries, references = queries.astype(dtypes[0]), references.astype(dtypes[1])
    all_distances = cdist(queries, references)
    distances, indices = metrics.nearest_neighbours(queries, references, k=4)
    np.testing.assert_array_equal(indices, np.argsort(all_distances, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(all_distances, axis=1)[:, :4], rtol=1e-12)


def test_nearest_neighbours_finds_copies_far_from_the_origin():
    references = (1000 + np.random.default_rng(0).normal(size=(2000, 64))).astype("float32")
    rows = [5, 1999, 0]
    distances, indices = metrics.nearest_neighbours(references[rows], references, k=2)
    np.testing.assert_array_equal(indices[:, 0], rows)
    np.testing.assert_array_equal(distances[:, 0], 0)
    assert (distances[:, 1] > 5).all()


def test_nearest_neighbours_with_equal_distances():
    references = np.tile([[2], [1], [-1]], (20, 1))
    distances, indices = metrics.nearest_neighbours([[0]], references, k=60)
    np.testing.assert_array_equal(distances, [[1] * 40 + [2] * 20])
    np.testing.assert_array_equal(indices[0, :40], np.flatnonzero(references[:, 0] < 2))
    np.testing.assert_array_equal(indices[0, 40:], np.flatnonzero(references[:, 0] == 2))


@every_case
def test_authenticity_against_all_distances(pair):
    train, generated = float64(pair)
    own = cdist(train, train)
    np.fill_diagonal(own, np.inf)
    distances = cdist(train, generated)
    expected = np.mean(distances.min(axis=0) > own.min(axis=1)[distances.argmin(axis=0)])
    assert metrics.authenticity(*pair) == expected
    assert 0 < expected <= 1


@every_case
def test_authenticity_of_copies_is_zero(pair):
    train, others = pair
    assert metrics.authenticity(train, train[::-1]) == 0
    assert metrics.authenticity(others, others[:20]) == 0


def test_authenticity_by_hand():
    train = [[0], [1], [10], [12], [12]]
    # 0.4 away from 0 whose neighbour is 1 away; 1.5 from 1; 2.0 from 10, as 12 is; 0.1
    # from 12, of which there are two.
    generated = [[-0.4], [2.5], [8.0], [12.1]]
    assert metrics.authenticity(train, generated) == 0.5


def test_authenticity_of_held_out_samples_on_a_line():
    rng = np.random.default_rng(0)
    share = metrics.authenticity(rng.random((20_000, 1)), rng.random((20_000, 1)))
    assert share == pytest.approx(1 / 3, abs=0.02)


# Seeds and errors


@pytest.mark.parametrize("metric", ["kernel_distance", "mind", "inception_score"])
def test_seeds(metric):
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(6), 300), rng.dirichlet(np.ones(6), 200)
    arguments, options = {
        "kernel_distance": ((a, b), {"subsets": 3, "subset_size": 50}),
        "mind": ((a, b), {"projections": 5}),
        "inception_score": ((a,), {}),
    }[metric]
    function = getattr(metrics, metric)
    assert function(*arguments, **options) == function(*arguments, **options, seed=0)
    assert function(*arguments, **options) != function(*arguments, **options, seed=1)


TWO = {
    metrics.frechet_distance: ("a", "b", 2, 2),
    metrics.kernel_distance: ("a", "b", 2, 2),
    metrics.mind: ("a", "b", 2, 2),
    metrics.precision_recall_density_coverage: ("real", "generated", 6, 6),
    metrics.nearest_neighbours: ("queries", "references", 1, 1),
    metrics.authenticity: ("train", "generated", 2, 2),
}


@pytest.mark.parametrize("function", TWO, ids=lambda f: f.__name__)
def test_features_that_are_none(function):
    first, second, *least = TWO[function]
    good = np.random.default_rng(0).normal(size=(20, 3))
    broken = good.copy()
    broken[[2, 7, 7], [0, 1, 2]] = [np.nan, np.inf, -np.inf]

    def refuses(message, bad):
        with pytest.raises(ValueError, match=f"^{second} {message}$"):
            function(good, bad)
        with pytest.raises(ValueError, match=f"^{first} {message}$"):
            function(bad, good)

    shape = r"must be a 2-D array \[N, D\] of numbers\. Received: shape "
    refuses(shape + r"\(3,\), dtype float64", good[0])
    refuses(shape + r"\(20, 3, 1\), dtype float64", good[..., None])
    refuses(shape + r"\(20, 0\), dtype float64", good[:, :0])
    refuses(shape + r"\(20, 3\), dtype complex128", good + 1j)
    refuses(shape + r"\(20, 3\), dtype bool", good > 0)
    refuses(r"must be finite\. Received: NaN or infinity in 2 of 20 rows", broken)
    for name, rows, arguments in (
        (first, least[0], (good[: least[0] - 1], good)),
        (second, least[1], (good, good[: least[1] - 1])),
    ):
        message = rf"^{name} must have at least {rows} rows\. Received: {rows - 1}$"
        with pytest.raises(ValueError, match=message):
            function(*arguments)
    message = rf"^{first} and {second} must have the same number of features\. Received: 3 and 2$"
    with pytest.raises(ValueError, match=message):
        function(good, good[:, :2])


def test_statistics_that_do_not_fit():
    statistics = metrics.Statistics(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"features must have D = 3 columns .* Received: 2"):
        statistics.update(np.ones((4, 2)))
    with pytest.raises(ValueError, match="features must be finite"):
        statistics.update(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match=r"covariance needs at least 2 rows\. Received: 1"):
        statistics.covariance  # noqa: B018
    with pytest.raises(ValueError, match=r"^b must have at least 2 rows\. Received: 1"):
        metrics.frechet_distance(np.eye(3), statistics)
    with pytest.raises(ValueError, match=r"^a must have at least 2 rows\. Received: 0"):
        metrics.frechet_distance(metrics.Statistics(), np.eye(3))
    statistics.update(np.eye(3))
    with pytest.raises(ValueError, match=r"a and b .* Received: 2 and 3"):
        metrics.frechet_distance(np.eye(2), statistics)


def test_options_out_of_range():
    x = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    for call, message in (
        (
            lambda: metrics.kernel_distance(x, x, subsets=0),
            "Received: subsets=0",
        ),
        (
            lambda: metrics.kernel_distance(x, x, subset_size=1),
            "Received: subset_size=1",
        ),
        (lambda: metrics.mind(x, x, projections=0), "projections must be a positive int"),
        (
            lambda: metrics.nearest_neighbours(x, x, k=0),
            r"k must be a positive int\. Received: k=0",
        ),
        (
            lambda: metrics.precision_recall_density_coverage(x, x, k=0),
            r"k must be a positive int\. Received: k=0",
        ),
        (
            lambda: metrics.precision_recall_density_coverage(x, x, k=30),
            r"real must have at least 31 rows\. Received: 30",
        ),
        (lambda: metrics.inception_score(x, splits=31), r"splits must be 1 to 30.* Received: 31"),
        (
            lambda: metrics.inception_score(x, splits=0),
            "splits must be a positive int",
        ),
        (lambda: metrics.inception_score(2 * x), "the sum 1. Received: 30 of 30 rows"),
        (lambda: metrics.inception_score([[2, -1], [0, 1]], 1), "the sum 1. Received: 1 of 2"),
        (lambda: metrics.inception_score(x[0]), "probabilities must be a 2-D array"),
        (lambda: metrics.inception_score(x / 0), r"probabilities must be finite"),
    ):
        with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
            call()
