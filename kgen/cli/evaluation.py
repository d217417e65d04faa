"""The commands `evaluate` and `compare`."""

import dataclasses
import pathlib
import sys
from typing import Annotated

import typer

from kgen.cli.common import (
    BatchSize,
    Json,
    Model,
    Seed,
    Settings,
    Source,
    Split,
    app,
    beside,
    check_output,
    data_of,
    load,
    make_table,
    parse_settings,
    print_result,
    say,
    stem_of,
    work,
)
from kgen.training.errors import RunError


@app.command()
def evaluate(
    model: Model,
    data: Source = None,
    split: Split = "test",
    num_samples: Annotated[int, typer.Option(min=1, help="Images to draw.")] = 10_000,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Names such as fd,kd,precision,recall, or none. What cannot be had is left out.",
            show_default="all",
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="What images are compared by: auto, lenet128, cifar_cnn, general_cnn, "
            "random_conv, inception:WEIGHTS or a .keras file."
        ),
    ] = "auto",
    inputs: Annotated[
        str | None, typer.Option(help="Of a translator: the inputs of other pairs of --data.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Of a translator: another one to stand beside it, a restorer's."
        ),
    ] = None,
    importance_samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="For a VAE: samples per image for the likelihood.", show_default="1"
        ),
    ] = None,
    settings: Settings = None,
    cost_curve: Annotated[
        bool,
        typer.Option("--cost-curve", help="Measure too what passes of the network buy."),
    ] = False,
    output: Annotated[
        pathlib.Path | None,
        typer.Option("-o", "--output", help="Folder to write to.", show_default="the run's own"),
    ] = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Compute a Fréchet distance of fewer images than features."),
    ] = False,
    as_json: Json = False,
):
    """Measure a trained model, and write a page about it.

    Draws images and compares them with held-out ones by every metric, beside
    the same metric of real images (the floor). A translator makes images of the
    held-out inputs, which are compared with the truth too, beside the inputs as
    they are. Writes evaluation.json, report.html and its pictures into the run's
    folder.

    Example: kgen evaluate runs/vae-mnist

    Example: kgen evaluate runs/vae-mnist --importance-samples 500 --metrics fd,kd

    Example: kgen evaluate runs/vae-mnist --set draw=true

    Example: kgen evaluate runs/dit-mnist --cost-curve

    Example: kgen evaluate runs/dcgan-mnist/best.keras -o best/

    Example: kgen evaluate runs/dcgan-photos --data new-photos/

    Example: kgen evaluate runs/pix2pix-photos --baseline runs/restorer-photos

    Example: kgen evaluate runs/dcgan-faces --features inception:weights.pth --num-samples 50000
    """
    options = parse_settings(settings or [])
    with work(as_json, model):
        import kgen
        from kgen.training.tracking import tell_evaluation

        loaded, run = load(model)
        loaded_data, train = data_of(loaded, run, model, data, inputs), None
        if run is not None and not run.owns(loaded_data):
            train = _trained_on(run)
            if split != "train":  # its own training images are none of the model's
                loaded_data = dataclasses.replace(loaded_data, train=train)
        whole = run is not None and pathlib.Path(model).is_dir()
        own = pathlib.Path(model) if whole else beside(model, f"{stem_of(model)}-evaluation")
        folder = output or own
        report = kgen.evaluation.evaluate(
            loaded,
            loaded_data,
            train,
            split=split,
            num_samples=num_samples,
            metrics=_names(metrics),
            features=features,
            importance_samples=importance_samples,
            options=options,
            batch_size=batch_size,
            seed=seed,
            force=force,
            cost=cost_curve,
            baseline=None if baseline is None else load(baseline)[0],
            folder=folder,
            history=run.metrics if whole else (),
            path=str(model),
            source=data,
            progress=sys.stderr.isatty(),
            verbose=1 if sys.stdout.isatty() else 0,
        )
        if whole:
            tell_evaluation(run, report, folder)
    for warning in report.get("warnings", ()):
        say(f"Warning: {warning}")
    print_result(
        report,
        as_json,
        *_report_tables(report),
        f"Look at {folder / 'report.html'}; all figures: {folder / 'evaluation.json'}",
    )


def _trained_on(run):
    """The images that a run was trained on; `None`, and a word, where they are gone."""
    try:
        return run.load_data(report=say).train
    except (RunError, ValueError, OSError) as error:
        say(f"Warning: copying is not measured, for the run's own data cannot be loaded: {error}")
        return None


def _names(text):
    """`"fd,kd"` to `["fd", "kd"]`, `"none"` to `[]`; `None` stays."""
    if text is None:
        return None
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]


def _report_tables(report):
    from kgen.evaluation.page import number

    rows = [(name, number(value)) for name, value in report["losses"].items()]
    if "likelihood" in report:
        likelihood = report["likelihood"]
        rows.append((f"nats per image ({likelihood['kind']})", number(likelihood["nats"])))
        rows.append(("bits per dimension", number(likelihood["bits_per_dimension"])))
    if "reconstruction" in report:
        error = report["reconstruction"]
        rows.append(("reconstruction, mean absolute error", f"{error['mae']:.2f} grey levels"))
        rows.append(("reconstruction, root mean square", f"{error['rmse']:.2f} grey levels"))
    if "cycle" in report.get("translation", {}):
        rows.append(("there and back", f"{report['translation']['cycle']:.2f} grey levels"))
    if "spread" in report.get("translation", {}):
        spread = report["translation"]["spread"]
        rows.append(("deviation of several answers", f"{spread:.2f} grey levels"))
    rows.append(("images per second", f"{report['sampling']['images_per_second']:.0f}"))
    title = f"{report['images']} {report['data']['split']} images of {report['data']['name']}"
    tables = [make_table("figure", "value", rows=rows, title=title)]
    if "likelihood" in report:
        tables.append(f"Likelihood: {report['likelihood']['protocol']}.")
    if "translation" in report:
        from kgen.evaluation.page import of_translation

        shown = of_translation(report)
        columns = ("made by", *(title for title, _ in shown["columns"]))
        rows = [(name, *cells) for name, cells in shown["rows"]]
        tables.append(make_table(*columns, rows=rows, title="Against the truth"))
    if "metrics" in report:
        extractor, reference = report["features"], report["reference"]
        tables.append(
            make_table(
                "metric",
                "value",
                "real images (floor)",
                "against training images",
                rows=[
                    (
                        name,
                        number(entry["value"], entry["sd"]),
                        number(entry["floor"], entry["floor_sd"]),
                        number(entry["train"]),
                    )
                    for name, entry in report["metrics"].items()
                ],
                title=f"{report['samples']['n']} samples against {reference['n']} "
                f"{reference['split']} images; {extractor['name']} {extractor['sha256'][:12]}",
            )
        )
    if "cost" in report:
        cost = report["cost"]
        points = [(curve["sampler"], p) for curve in cost["curves"] for p in curve["points"]]
        rows = [
            (sampler or "its own", p["num_steps"], p["passes"], number(p["value"]))
            for sampler, p in points
        ]
        title = f"What passes of the network buy: {cost['num_samples']} images each"
        columns = ("sampler", "steps", "passes", cost["metric"])
        tables.append(make_table(*columns, rows=rows, title=title))
    for name, reason in report.get("left_out", {}).items():
        tables.append(f"Left out: {name}: {reason}.")
    return tables


@app.command()
def compare(
    runs: Annotated[
        list[pathlib.Path],
        typer.Argument(metavar="RUN RUN ...", help="Folders that `kgen evaluate` wrote to."),
    ],
    output: Annotated[
        pathlib.Path, typer.Option("-o", "--output", help="The .html to write.")
    ] = pathlib.Path("comparison.html"),
    as_json: Json = False,
):
    """Put evaluated runs side by side, in one table and on one page.

    Example: kgen compare runs/vae-mnist runs/dcgan-mnist -o comparison.html
    """
    check_output(output, ".html", ".htm")
    from kgen.evaluation.page import compare

    found = compare(runs, output)
    lines = [make_table(*found["header"], rows=found["rows"])]
    if found["not_comparable"]:
        names = found["header"][3:]
        differing = found["not_comparable"].items()
        lines += [
            f"These runs are not comparable: {', '.join(found['not_comparable'])} differ. Evaluate "
            "them again with the same settings. Until then * stands only where all agree.",
            make_table(
                "what differs", *names, rows=[(what, *of.values()) for what, of in differing]
            ),
        ]
    lines += [
        f"{name} has no {title}: {reason}."
        for name, reasons in found["left_out"].items()
        for title, reason in reasons.items()
    ]
    result = {"output": str(output), **found}
    print_result(result, as_json, *lines, f"Look at {output}")
