"""What passes of the network cost where a model is shipped: its exported sampler, many against one.

python benchmarks/passes.py flow_matching/model.keras=16 soflow/model.keras

Each model is exported, with proof, as SavedModel and ONNX; `=16` are its sampler's steps. ONNX
Runtime then draws on one thread, in rounds in which each has its turn: medians, and the ratio of
images per second to the first model's is the median of those within a round.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
import onnx
import onnxruntime

import export
import kgen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="FILE.keras[=STEPS]")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    kgen.models.registered()  # so that Keras knows the classes
    with tempfile.TemporaryDirectory() as folder:
        made = [prepare(name, pathlib.Path(folder, str(i))) for i, name in enumerate(args.models)]
        seeds = {"seed": np.arange(args.batch_size, dtype="int32")}
        first = {"seed": seeds["seed"][:1]}
        for session, _ in made:
            session.run(None, seeds)
        rounds = [[clock(session, seeds) for session, _ in made] for _ in range(args.rounds)]
        single = [[clock(session, first) for session, _ in made] for _ in range(args.rounds)]
    print(f"| model | nodes | ONNX | SavedModel | 1 image | {args.batch_size} images | images/s |")
    print("|---|---|---|---|---|---|---|")
    for i, (name, (_, figures)) in enumerate(zip(args.models, made, strict=True)):
        alone, together = (statistics.median(row[i] for row in rows) for rows in (single, rounds))
        faster = statistics.median(row[0] / row[i] for row in rounds)
        cells = [name, f"{figures['nodes']:,}", f"{figures['onnx'] / 1e6:.2f} MB"]
        cells += [f"{figures['saved_model'] / 1e6:.2f} MB", f"{alone * 1e3:.1f} ms"]
        cells += [f"{together * 1e3:.0f} ms", f"{faster:.1f} times"]
        print(f"| {' | '.join(cells)} |")


def prepare(name, folder):
    """A session of the exported sampler on one thread, and what its files hold."""
    path, _, steps = name.partition("=")
    model = keras.saving.load_model(path)
    options = {"num_steps": int(steps)} if steps else {}
    artifact = export.export(model, folder, options=options)
    description = artifact.manifest["formats"]["onnx"]["signatures"]["generate"]
    file = folder / description["file"]
    figures = {"nodes": count(onnx.load(file, load_external_data=False).graph)}
    for kind in ("onnx", "saved_model"):
        files = [each for each in (folder / kind).rglob("*") if each.is_file()]
        figures[kind] = sum(each.stat().st_size for each in files)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    return session, figures


def count(graph):
    """Nodes of a graph and of those in it."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return len(graph.node) + sum(map(count, inner))


def clock(session, inputs):
    start = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
