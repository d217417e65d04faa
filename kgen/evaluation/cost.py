"""What steps of a sampler buy: a score against passes of the network, for each sampler."""

import inspect
from collections.abc import Sequence
from typing import Any

from kgen.checks import check_ints

#: Steps of the points of a curve.
STEPS = (1, 2, 4, 8, 16, 32)


def cost_curve(
    model: Any,
    reference: Any,
    num_samples: int = 2_000,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool | str = "auto",
    steps: Sequence[int] = STEPS,
) -> dict[str, Any]:
    """Measures a model's samples at different numbers of passes of its network.

    From the same seeds each time, so that curves differ by what solves alone.

    Args:
        model: `ImageGenerator` whose `sample` takes `num_steps`, and, where it takes a `sampler`,
            names them as `samplers`.
        reference: `kgen.evaluation.Reference` to compare with.
        num_samples: Int, images for each point.
        options: Dict of further options of `sample`.
        seed: Int.
        batch_size: Int.
        progress: As for `generate`.
        steps: Sequence of ints, the numbers of steps; of a sampler that looks twice in a step half
            as many.

    Returns:
        Dict for JSON: `"metric"`, the score's title, `"better"`, `"floor"`, `"num_samples"`,
        `"seed"`, and `"curves"`, a list of dicts of `"sampler"` (or `None`) and `"points"`: dicts
        of `"num_steps"`, `"passes"`, of the network for an image without guidance, and `"value"`.

    Raises:
        ValueError: See `check_cost`.
    """
    check_ints(2, num_samples=num_samples)
    check_cost(model)
    options = {k: v for k, v in (options or {}).items() if k not in ("num_steps", "sampler")}
    labels = None if model.num_classes is None else reference.labels_like(num_samples, seed)
    curves: list[dict[str, Any]] = []
    entry: Any = None
    for sampler in getattr(model, "samplers", ()) or (None,):
        chosen = options if sampler is None else {**options, "sampler": sampler}
        points = []
        for passes in steps:
            # Heun's method looks twice in each of its steps but the last.
            num_steps = passes // 2 if sampler == "heun" else passes
            if not num_steps:
                continue
            images = model.generate(
                num_samples,
                labels,
                seed,
                num_steps=num_steps,
                batch_size=batch_size,
                progress=progress,
                **chosen,
            )
            found = reference.measure(images, labels, ("fd",), force=True)
            (title, entry), *_ = found["metrics"].items()
            spent = 2 * num_steps - 1 if sampler == "heun" else num_steps
            points.append({"num_steps": num_steps, "passes": spent, "value": entry["value"]})
        curves.append({"sampler": sampler, "points": points})
    return {
        "metric": title,
        "better": entry["better"],
        "floor": entry["floor"],
        "num_samples": num_samples,
        "seed": seed,
        "curves": curves,
    }


def check_cost(model, metrics=None):
    """A `ValueError` where a model takes no `num_steps`, or one number of them alone, or no
    `metrics` are wanted.
    """
    takes = "num_steps" in inspect.signature(model.sample).parameters
    if not takes or getattr(model, "passes", None):
        has = "has learnt one number of them" if takes else "takes none"
        raise ValueError(
            "A cost curve is of models that take any num_steps. Received: a "
            f"{type(model).__name__}, which {has}"
        )
    if metrics is not None and not len(metrics):
        raise ValueError("A cost curve is of a metric. Received: no metrics")
