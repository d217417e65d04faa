"""Metrics of features: pure functions of arrays `[N, D]`, one row per image.

They know nothing of images or networks. Each agrees with its published implementation to
1e-4 relative or better, and none holds a matrix of all pairs: what is quadratic in the
number of images goes through blocks of `_BLOCK` numbers, in float64, because a difference
of squares in float32 loses the small distances that matter most.

All raise a `ValueError` where there are fewer rows than they need, a row is not finite, two
sets differ in D, or a count is too small. A standard deviation is divided by the count.
"""

import numpy as np

from kgen.checks import check_int

_BLOCK = 2**23  # numbers held at once: 64 MiB in float64

# A distance within rounding of a radius counts as equal to it, so not as smaller: which way
# a copied image's distance happens to be rounded must not decide.
_TIE = 1e-9


class Statistics:
    """Number `n`, `mean` and `covariance` of features that come in batches, in float64.

    Batches are merged by their means and their sums of squared deviations (Chan, Golub and
    LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
    COMPSTAT 1982, eq. 2.1, with outer products for squares), which does not cancel however
    far the mean is from 0. What was merged is not kept.

    Example:

    >>> statistics = Statistics()      # or of a first array [N, D]
    >>> for batch in np.array_split(features, 10):
    ...     statistics.update(batch)
    >>> frechet_distance(statistics, others)
    """

    def __init__(self, features=None):
        self.n, self.mean, self._scatter = 0, None, None
        if features is not None:
            self.update(features)

    @property
    def covariance(self):
        """float64 `[D, D]`, unbiased (divided by n - 1); `ValueError` under 2 rows."""
        if self.n < 2:
            raise ValueError(f"A covariance needs at least 2 rows. Received: {self.n}")
        return self._scatter / (self.n - 1)

    def update(self, features):
        """Takes in features `[N, D]`, N at least 1, of the same D as those before."""
        features = _checked(features, "features", 1)
        if self.n and features.shape[1] != len(self.mean):
            raise ValueError(
                f"features must have D = {len(self.mean)} columns like those before. "
                f"Received: {features.shape[1]}"
            )
        for rows in _blocks(*features.shape):
            block = features[rows].astype("float64")
            mean = block.mean(axis=0)
            block -= mean
            self._merge(len(block), mean, block.T @ block)

    def _merge(self, n, mean, scatter):
        if not self.n:
            self.n, self.mean, self._scatter = n, mean, scatter
            return
        total, delta = self.n + n, mean - self.mean
        self._scatter += scatter + np.outer(delta, delta * (self.n * n / total))
        self.mean = self.mean + delta * (n / total)
        self.n = total


def frechet_distance(a, b):
    """Fréchet distance of two Gaussians fitted to features: FID when they are Inception's.

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))` (Dowson and Landau, "The Fréchet
    distance between multivariate normal distributions", 1982, eq. 4; Heusel et al. 2017,
    eq. 6), with unbiased covariances. The root is never formed: with `C = F F^T` for each
    covariance, the eigenvalues of `C_a C_b` are the squared singular values of `F_a^T F_b`,
    so the trace is their sum. `F` is a Cholesky factor with pivoting, which has as many
    columns as the covariance has rank; singular covariances (constant features, fewer
    images than features) are therefore no special case, and nothing becomes complex.

    `a` and `b` are arrays of 2 rows or more, or `Statistics`; their order does not matter.
    """
    a = _as_statistics(a, "a")
    b = _as_statistics(b, "b", len(a.mean), "a")
    means = np.sum((a.mean - b.mean) ** 2)
    covariance_a, covariance_b = a.covariance, b.covariance
    roots = np.linalg.svd(_factor(covariance_a).T @ _factor(covariance_b), compute_uv=False)
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    return max(0.0, float(means + traces - 2 * roots.sum()))


def _as_statistics(features, name, columns=None, other=None):
    if not isinstance(features, Statistics):
        return Statistics(_checked(features, name, 2, columns, other))
    if features.n < 2:
        raise ValueError(f"{name} must have at least 2 rows. Received: {features.n}")
    _check_columns(len(features.mean), name, columns, other)
    return features


def _factor(covariance):
    """F `[D, rank]` with F F^T = covariance (LAPACK's Cholesky with complete pivoting)."""
    from scipy.linalg.lapack import dpstrf

    factor, pivots, rank, _ = dpstrf(covariance, lower=1)
    result = np.empty((len(covariance), rank))
    result[pivots - 1] = np.tril(factor)[:, :rank]
    return result


def kernel_distance(a, b, subsets=100, subset_size=1000, seed=0):
    """Unbiased squared maximum mean discrepancy: KID when the features are Inception's.

    The kernel is `(x . y / D + 1)^3` (Bińkowski et al., "Demystifying MMD GANs", ICLR 2018,
    section 4.3). Unlike the Fréchet distance its expectation does not depend on the number
    of images, and it may be a little below 0 for equal distributions.

    Returns the mean and standard deviation over `subsets` pairs of subsets, each of
    `subset_size` rows (at most `min(N, M)`) drawn without replacement. The order of `a` and
    `b` matters only to that draw. The deviation is `None` where there is one pair, of all rows.
    """
    a = _checked(a, "a", 2)
    b = _checked(b, "b", 2, a.shape[1], "a")
    subsets, subset_size = check_int(1, subsets=subsets), check_int(2, subset_size=subset_size)
    size = min(subset_size, len(a), len(b))
    if size == len(a) == len(b):
        subsets = 1  # each would be everything
    rng = np.random.default_rng(seed)
    values = [
        _squared_mmd(
            a[rng.choice(len(a), size, replace=False)].astype("float64"),
            b[rng.choice(len(b), size, replace=False)].astype("float64"),
        )
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values)) if subsets > 1 else None


def _squared_mmd(x, y):
    """Unbiased estimate for float64 `[n, D]` and `[n, D]`; pairs of equal rows left out."""
    n, columns = x.shape
    # With a column of ones the kernel is the cube of one product, summed in one pass.
    x, y = (np.column_stack([z / np.sqrt(columns), np.ones(n)]) for z in (x, y))

    def sum_of_cubes(products):
        return np.einsum("i,i,i->", *[products.ravel()] * 3)

    def sum_of_others(z):
        return sum_of_cubes(z @ z.T) - sum_of_cubes(np.einsum("ij,ij->i", z, z))

    within = (sum_of_others(x) + sum_of_others(y)) / (n * (n - 1))
    return within - 2 * sum_of_cubes(x @ y.T) / n**2


def precision_recall_density_coverage(real, generated, k=5):
    """How well two sets of features cover each other, by balls around each sample.

    The ball of a sample reaches to its k-th nearest neighbour in its own set, and a sample
    on its surface is outside. Precision is the share of generated samples in a real ball,
    recall the share of real samples in a generated ball (Kynkäänniemi et al. 2019, eq. 1
    and 2). Density is the number of real balls around a generated sample over k, coverage
    the share of real balls with a generated sample (Naeem et al. 2020, eq. 2 and 3): a
    single outlier does not spoil them.

    Each set needs `k + 1` rows. Returns a dict of floats: `"precision"`, `"recall"` and
    `"coverage"` in 0 to 1, and `"density"`, 0 or more and about 1 for equal distributions.
    """
    k = check_int(1, k=k)
    real = _checked(real, "real", k + 1)
    generated = _checked(generated, "generated", k + 1, real.shape[1], "real")
    # Distances do not depend on the origin, but their rounding errors do.
    origin = real.mean(axis=0, dtype="float64")
    real, generated = real - origin, generated - origin
    # A sample is the nearest neighbour of itself.
    real_radii, generated_radii = (
        (1 - _TIE) * _nearest(x, x, k + 1)[0][:, k] ** 2 for x in (real, generated)
    )
    norms = np.einsum("ij,ij->i", generated, generated)

    in_real_ball = np.zeros(len(generated), bool)
    pairs = covered = recalled = 0
    for rows in _blocks(len(real), len(generated)):
        squared = real[rows] @ generated.T
        squared *= -2
        squared += norms
        squared += np.einsum("ij,ij->i", real[rows], real[rows])[:, None]
        np.maximum(squared, 0, out=squared)
        inside = squared < real_radii[rows, None]
        in_real_ball |= inside.any(axis=0)
        pairs += np.count_nonzero(inside)
        covered += np.count_nonzero(inside.any(axis=1))
        recalled += np.count_nonzero((squared < generated_radii).any(axis=1))
    return {
        "precision": float(in_real_ball.mean()),
        "recall": float(recalled / len(real)),
        "density": float(pairs / (k * len(generated))),
        "coverage": float(covered / len(real)),
    }


def inception_score(probabilities, splits=10, seed=0):
    """exp of the mean divergence of class probabilities from their average.

    Salimans et al., "Improved techniques for training GANs", 2016, section 4: high where
    each image is surely of one class and the classes are even. The score is taken in
    `splits` parts of the images; their order is drawn from `seed` first (`None`: left as it is),
    because parts of images that come sorted by class would not have even classes.

    Takes probabilities `[N, K]`, each row 0 or more and of sum 1 (else a `ValueError`).
    Returns the mean, between 1 and K, and the standard deviation over the parts, `None` of one.
    """
    from scipy.special import rel_entr

    probabilities = _checked(probabilities, "probabilities", 2).astype("float64")
    n = len(probabilities)
    wrong = (probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3)
    if wrong.any():
        raise ValueError(
            "Each row of probabilities must be 0 or more and have the sum 1. Received: "
            f"{np.count_nonzero(wrong)} of {n} rows that are not (logits need a softmax first)"
        )
    splits = check_int(1, splits=splits)
    if splits > n:
        raise ValueError(f"splits must be 1 to {n}, the number of rows. Received: {splits}")
    if seed is not None:
        probabilities = np.random.default_rng(seed).permutation(probabilities)
    scores = []
    for i in range(splits):
        part = probabilities[i * n // splits : (i + 1) * n // splits]
        scores.append(np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores)) if splits > 1 else None


def mind(a, b, projections=1000, seed=0):
    """MIND, the Monge Inception Distance (Berthet et al. 2026, arXiv 2605.06797), 0 or more.

    `3 D` times the mean, over `projections` random unit vectors u, of the squared
    2-Wasserstein distance between the distributions of `u . a` and of `u . b`. In one
    dimension that distance is the squared difference of the two quantile functions, integrated
    over 0 to 1: sorting is enough, and no Gaussian is assumed. For unequal counts the two step
    functions are integrated exactly; no row is left out.
    """
    a = _checked(a, "a", 2)
    b = _checked(b, "b", 2, a.shape[1], "a")
    projections = check_int(1, projections=projections)
    columns = a.shape[1]
    steps_a, steps_b, weights = _common_steps(len(a), len(b))
    a, b = a.T.astype("float64"), b.T.astype("float64")
    directions = _unit_vectors(projections, columns, seed)
    total = 0.0
    for rows in _blocks(projections, len(weights)):
        quantiles_a = np.sort(directions[rows] @ a, axis=1)
        quantiles_b = np.sort(directions[rows] @ b, axis=1)
        difference = quantiles_a[:, steps_a] - quantiles_b[:, steps_b]
        total += np.sum(np.square(difference, out=difference) @ weights)
    return float(3 * columns * total / projections)


def _unit_vectors(count, columns, seed):
    """float64 `[count, columns]`, uniform on the sphere."""
    vectors = np.random.default_rng(seed).standard_normal((count, columns))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _common_steps(n, m):
    """The steps of two quantile functions of n and m values, cut where either steps: the index of
    the first's and of the second's value in each, and the widths (float64), whose sum is 1.
    """
    # Positions in units of 1 / (n m), so that they are exact.
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    begins = np.concatenate([[0], ends[:-1]])
    return begins // m, begins // n, (ends - begins) / (n * m)


def nearest_neighbours(queries, references, k=1):
    """The k nearest references of each query, by Euclidean distance.

    Found by brute force, block by block on all cores; the distances are then taken from
    the differences, so that the distance of a copy is exactly 0. Returns float64 `[N, k]`, the
    distances, ascending, and int64 `[N, k]`, the rows of `references` (at least k); equally
    distant ones in the order of their rows.
    """
    k = check_int(1, k=k)
    queries = _checked(queries, "queries", 1)
    references = _checked(references, "references", k, queries.shape[1], "queries")
    return _nearest(queries, references, k)


def _nearest(queries, references, k):
    from sklearn.neighbors import NearestNeighbors

    dtype = np.result_type(queries, references)  # two dtypes take a slow way
    search = NearestNeighbors(n_neighbors=k, algorithm="brute")
    search.fit(references.astype(dtype, copy=False))
    indices = search.kneighbors(queries.astype(dtype, copy=False), return_distance=False)
    distances = np.empty(indices.shape)
    for rows in _blocks(len(queries), k * queries.shape[1]):
        difference = references[indices[rows]].astype("float64")
        difference -= queries[rows, None]
        distances[rows] = np.sqrt(np.einsum("nkd,nkd->nk", difference, difference))
    order = np.lexsort((indices, distances), axis=1)
    return np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)


def authenticity(train, generated):
    """Share of generated samples, 0 to 1, that are no near-copies of a training sample.

    A sample is authentic if it is farther from its nearest training sample than that one
    is from its own nearest other training sample (Alaa et al., "How faithful is your
    synthetic data?", ICML 2022, section 3). Copies give 0. Held-out real samples do not
    give 1: on a line they give 1/3, in many dimensions more. Theirs is the share to compare
    with.
    """
    train = _checked(train, "train", 2)
    generated = _checked(generated, "generated", 2, train.shape[1], "train")
    distances, nearest = _nearest(generated, train, 1)
    # Only training samples that are nearest to something need their own neighbour.
    needed, position = np.unique(nearest[:, 0], return_inverse=True)
    others = _nearest(train[needed], train, 2)[0][:, 1]  # the first is the sample itself
    return float(np.mean(distances[:, 0] > others[position]))


def _blocks(count, size):
    """Slices over `count` rows for which `size` numbers each are at most `_BLOCK`."""
    step = max(1, _BLOCK // max(1, size))
    return [slice(begin, begin + step) for begin in range(0, count, step)]


def _checked(features, name, least, columns=None, other=None):
    """`features` as a float32 or float64 array `[N, D]`; `ValueError` unless it is finite, with
    `least` rows and as many `columns` as the argument called `other` has.
    """
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0 or features.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be a 2-D array [N, D] of numbers. Received: "
            f"shape {features.shape}, dtype {features.dtype}"
        )
    _check_columns(features.shape[1], name, columns, other)
    if len(features) < least:
        raise ValueError(f"{name} must have at least {least} rows. Received: {len(features)}")
    broken = np.count_nonzero(~np.isfinite(features).all(axis=1))
    if broken:
        raise ValueError(
            f"{name} must be finite. Received: NaN or infinity in {broken} of {len(features)} rows"
        )
    small = features.dtype.kind == "f" and features.dtype.itemsize <= 4
    return np.ascontiguousarray(features, "float32" if small else "float64")


def _check_columns(found, name, columns, other):
    if columns not in (None, found):
        raise ValueError(
            f"{other} and {name} must have the same number of features. "
            f"Received: {columns} and {found}"
        )
