"""How `metrics.csv` of a run is read, without Keras."""

import pathlib
import warnings


def read_metrics(path):
    """The rows that `MetricsTable` wrote, as dicts; none where there is no file.

    `epoch` and `steps` are ints, metrics floats; those that an epoch does not have are left out.
    So are rows that cannot be read, which a `UserWarning` names, with the epochs that are missing.
    """
    rows, damage = rows_and_damage(path)
    warn_of(damage, path)
    return rows


def rows_and_damage(path, epochs=0):
    """The rows of a `metrics.csv` that can be read, and phrases for what is wrong with it: lines
    that cannot be read, and epochs, up to `epochs` at least, that are missing.
    """
    path = pathlib.Path(path)
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    rows, unreadable = [], []
    header, *lines = text.splitlines() or [""]
    for number, line in enumerate(lines, start=2):
        try:
            row = {
                name: int(value) if name in ("epoch", "steps") else float(value)
                for name, value in zip(header.split(","), line.split(","), strict=True)
                if value
            }
            rows.append({"epoch": row.pop("epoch"), **row})
        except (ValueError, KeyError):
            unreadable.append(number)
    last = max([epochs, *(row["epoch"] for row in rows)])
    missing = sorted(set(range(1, last + 1)) - {row["epoch"] for row in rows})
    damage = []
    if unreadable:
        damage.append(f"line {_listed(unreadable)} cannot be read and is left out")
    if missing:
        damage.append(f"epoch {_listed(missing)} is missing")
    return rows, damage


def _listed(numbers):
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5])) + more


def warn_of(damage, path):
    if damage:
        warnings.warn(f"{path} is damaged: {'; '.join(damage)}.", stacklevel=3)
