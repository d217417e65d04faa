"""Curves of runs as panels, which templates/macros.html draws as SVG.

A panel is a dict of plain numbers and strings in the units of its `viewBox`. The colours are
the page's own: they follow its light or dark mode.
"""

import math

import numpy as np

#: More panels than this are no longer looked at.
MAX_PANELS = 12

#: Colours of curves; templates/base.html has one for each.
COLOURS = 6

_NEUTRAL = None  # of a curve that has no other beside it: the colour of text

# A panel in units of its `viewBox`.
_WIDTH, _HEIGHT = 260, 144
_TOP, _RIGHT, _BOTTOM = 6, 256, 112
_DIGIT = 5  # width of a digit
_MARKERS = 12  # a curve of at most so many points shows them


def of_run(history):
    """One panel for each quantity of a run, training and validation together.

    `history` is the rows of `metrics.csv` as dicts; a value may be `None`. Returns a dict of
    `"panels"`, a list; `"left_out"`, the names of those that are too many; and `"pairs"`, a bool,
    whether a panel has a curve of training and one of validation.
    """
    columns = dict.fromkeys(key for row in history for key in row)
    names = dict.fromkeys(key.removeprefix("val_") for key in columns)
    panels = {}
    for name in names:
        lines = [(_points(history, key), i, False) for i, key in enumerate((name, f"val_{name}"))]
        lines = [line for line in lines if len(line[0]) > 1]
        # What has no counterpart is neither: a score of samples, a loss of a GAN.
        panels[name] = lines if len(lines) == 2 else [(p, _NEUTRAL, False) for p, *_ in lines]
    return _drawn(panels)


def of_several(histories):
    """One panel for each quantity that two runs share, on validation images if they can be.

    A run's colour is its number modulo `COLOURS`; the first `COLOURS` are solid, the others
    dashed. Takes a history for each run, and returns a dict, as `of_run`.
    """
    columns = [dict.fromkeys(key for row in history for key in row) for history in histories]
    names = dict.fromkeys(key.removeprefix("val_") for keys in columns for key in keys)
    panels = {}
    for name in names:
        for key in (f"val_{name}", name):
            lines = [
                (_points(history, key), i % COLOURS, i >= COLOURS)
                for i, history in enumerate(histories)
            ]
            lines = [line for line in lines if len(line[0]) > 1]
            if len(lines) > 1:
                panels[key.replace("val_", "validation ", 1)] = lines
                break
    return _drawn(panels)


def of_cost(cost):
    """One panel of what `kgen.evaluation.cost_curve` gives: the score, whose logarithm is drawn, by
    passes of the network, which double from left to right.
    """

    def place(point):  # a score may be 0 or, where its expectation is, below
        return math.log2(point["passes"]), math.log10(max(point["value"], 1e-3))

    lines = [
        ([place(point) for point in curve["points"]], i, False)
        for i, curve in enumerate(cost["curves"])
    ]
    low, high = limits(lines)
    scores = [m * 10.0**power for power in range(-3, 7) for m in (1, 2, 5)]
    rows = [(math.log10(score), f"{score:g}") for score in scores]
    rows = [row for row in rows if low <= row[0] <= high]
    if len(rows) > 7:
        rows = [row for row in rows if row[0] % 1 == 0]
    elif len(rows) < 2:  # scores that lie close together have none of these between them
        rows = [(math.log10(score), label) for score, label in ticks(10**low, 10**high, 4)]
    most = max(exponent for points, *_ in lines for exponent, _ in points)
    passes = [(exponent, str(2**exponent)) for exponent in range(math.floor(most) + 1)]
    return {"name": cost["metric"], **panel(lines, passes, rows)}


def _points(history, key):
    """Pairs of epoch and value, where there is one."""
    return [
        (row.get("epoch", i + 1), row[key])
        for i, row in enumerate(history)
        if row.get(key) is not None and math.isfinite(row[key])
    ]


def _drawn(panels):
    """The panels, the losses first, and the names of those that are left out."""
    panels = {n: lines for n, lines in panels.items() if lines and n not in ("epoch", "steps")}
    names = sorted(panels, key=_importance)
    shown = names[:MAX_PANELS]
    return {
        "panels": [{"name": name, **panel(panels[name])} for name in shown],
        "left_out": names[MAX_PANELS:],
        "pairs": any(colour is not _NEUTRAL for name in shown for _, colour, _ in panels[name]),
    }


def _importance(name):
    """First the whole loss, then its parts, then scores of samples, then the rest."""
    name = name.removeprefix("validation ")
    kinds = (name == "loss", name.endswith("loss"), name.startswith(("FD", "KD")), True)
    return kinds.index(True)


# One panel ----------------------------------------------------------------------------


def panel(lines, columns=None, rows=None):
    """Where everything of a panel lies.

    A line is `(points, colour, dashed)`: two or more pairs of epoch and value, the number of a
    colour or `None`, and a bool. `columns` are the ticks below, pairs of epoch and label, and
    `rows` those on the left, pairs of value and label: round numbers where they are `None`.
    Returns a dict of `"width"`, `"height"`, `"box"` (left, top, right, bottom), `"x"` and `"y"`
    (ticks as pairs of position and label) and `"curves"`.
    """
    low, high = limits(lines)
    rows = ticks(low, high, 4) if rows is None else rows
    left = 6 + _DIGIT * max(len(label) for _, label in rows)
    epochs = [epoch for points, *_ in lines for epoch, _ in points]
    margin = 0.05 * (max(epochs) - min(epochs)) or 1
    first, last = min(epochs) - margin, max(epochs) + margin
    columns = columns or ticks(first, last, 5, integers=True)

    def x(epoch):
        return round(left + (epoch - first) / (last - first) * (_RIGHT - left), 2)

    def y(value):
        return round(_BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP), 2)

    def curve(points, colour, dashed):
        places = [(x(epoch), y(value)) for epoch, value in points]
        return {
            "path": "M" + "L".join(f"{a},{b}" for a, b in places),
            "markers": places if len(places) <= _MARKERS else [],
            "colour": "currentColor" if colour is _NEUTRAL else f"var(--series-{colour})",
            "dashed": dashed,
        }

    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "box": (left, _TOP, _RIGHT, _BOTTOM),
        "x": [(x(value), label) for value, label in columns],
        "y": [(y(value), label) for value, label in rows],
        "curves": [curve(*line) for line in lines],
    }


def limits(lines):
    """Lowest and highest value to draw: the steep start must not flatten all that follows."""
    drawn = [v for points, *_ in lines for _, v in points]
    late = [v for points, *_ in lines for _, v in points[len(points) // 20 :]]
    if 0 < 3 * np.ptp(late) < np.ptp(drawn):
        drawn = late
    margin = 0.06 * np.ptp(drawn) or 0.06 * abs(drawn[0]) or 1
    return min(drawn) - margin, max(drawn) + margin


def ticks(low, high, intervals, integers=False):
    """Round numbers from `low` to `high` with their labels, no more than `intervals` steps.

    >>> ticks(0.02, 1.1, 4)
    [(0.4, '0.4'), (0.8, '0.8')]
    """
    rough = (high - low) / intervals
    rough = max(rough, 1) if integers else rough
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [power * m for m in (1, 2, 2.5, 4, 5, 10)]
    # The tolerance is for a step that rounding puts just below the number that it is.
    step = next(s for s in steps if s > rough * (1 - 1e-9) and not (integers and s % 1))
    values = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    mantissa, exponent = f"{step:.1e}".split("e")
    digits = max(0, (mantissa[-1] != "0") - int(exponent))
    plain = digits <= 5 and max(map(abs, values)) < 1e6
    labels = [f"{value:.{digits}f}" if plain else f"{value:g}" for value in values]
    return [
        (value, label.replace("-", "\N{MINUS SIGN}"))
        for value, label in zip(values, labels, strict=True)
    ]
