"""`kgen generate` through Ray on this machine, against a bare loop over ONNX Runtime.

    python benchmarks/generate.py                        # an artifact of dcgan_32x32, PNG and npz
    python benchmarks/generate.py --artifact artifacts/dcgan --formats png --images 20000 --rounds 5
    python benchmarks/generate.py --cpu                  # on a machine that others use

The bare loop is a process that runs the session, with a thread on each core, and writes what it
draws; "processes" is that loop in one process with one thread for each core, which is what Ray is
asked to be. Rounds are in turn. Ray's images per second are those of a million: of the part that
was measured, its start and its end are counted once, and what is between them as often as need be.
With --cpu all are those of cores that nobody else uses, from CPU time; what Ray does beside drawing
counts by the clock, for it goes on as long as the drawing does.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import onnxruntime
import psutil
from PIL import Image

GOAL = 0.9
MILLION = 1_000_000
BATCH = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", type=pathlib.Path, help="dcgan_32x32 by default")
    parser.add_argument("--formats", nargs="+", default=["png", "npz"])
    parser.add_argument("--images", type=int, default=20_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard", type=int, default=1000, help="images in each")
    parser.add_argument("--cpu", action="store_true", help="CPU time in place of the clock's")
    parser.add_argument("--bare", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        artifact, file_format, first, threads = args.bare
        print(bare(artifact, file_format, int(first), int(threads), args))
        return
    with tempfile.TemporaryDirectory() as folder:
        artifact = args.artifact or exported(pathlib.Path(folder) / "artifact")
        for file_format in args.formats:
            rows = [one_round(artifact, file_format, args) for _ in range(args.rounds)]
            print(json.dumps({"format": file_format, **summary(rows)}), flush=True)


def exported(path):
    code = "import sys, export, kgen; export.export(kgen.ImageGenerator.from_preset("
    code += "'dcgan_32x32'), sys.argv[1], formats=('onnx',), progress=False)"
    subprocess.run([sys.executable, "-c", code, path], check=True, stderr=subprocess.DEVNULL)
    return path


def one_round(artifact, file_format, args):
    cores = len(os.sched_getaffinity(0))
    through_ray = cpu_of_ray if args.cpu else clock_of_ray
    return {
        "bare": together(bares(artifact, file_format, 1, 0, args), args),
        "kgen": through_ray(artifact, file_format, args),
        "processes": together(bares(artifact, file_format, cores, 1, args), args),
    }


def together(rates, args):
    """Images per second of several processes, from those of each, or of each of all cores."""
    return statistics.mean(rates) * len(os.sched_getaffinity(0)) if args.cpu else sum(rates)


def summary(rows):
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    said = {f"{key}_images_per_second": round(value) for key, value in median.items()}
    for other in ("bare", "processes"):
        ratios = [row["kgen"] / row[other] for row in rows]
        said[f"kgen_over_{other}"] = round(statistics.median(ratios), 3)
        said[f"kgen_over_{other}_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return {**said, "goal": GOAL}


def bares(artifact, file_format, processes, threads, args):
    """Images per second of each of some processes at once."""
    share = args.images // processes
    line = [sys.executable, __file__, "--images", share, "--shard", args.shard]
    line += ["--cpu"] * args.cpu + ["--bare", artifact, file_format]
    running = [
        subprocess.Popen([*map(str, line), str(i * share), str(threads)], stdout=subprocess.PIPE)
        for i in range(processes)
    ]
    return [float(process.communicate()[0]) for process in running]


def bare(artifact, file_format, first, threads, args):
    """Images per second of the loop, without its start."""
    images, clock = args.images, time.process_time if args.cpu else time.perf_counter
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    file = pathlib.Path(artifact) / "onnx" / "generate.onnx"
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    seeds = np.arange(first, first + images, dtype=np.int32)
    labels = {"label": seeds % 10} if len(session.get_inputs()) > 1 else {}

    def draw(begin, end):
        rows = {"seed": seeds[begin:end], **{key: row[begin:end] for key, row in labels.items()}}
        return session.run(["image"], rows)[0]

    draw(0, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        start = clock()
        for shard in range(0, images, args.shard):
            end = min(shard + args.shard, images)
            batches = (draw(i, min(i + BATCH, end)) for i in range(shard, end, BATCH))
            if file_format == "npz":
                arrays = np.concatenate(list(batches))
                np.savez(f"{folder}/{shard}.npz", x_train=arrays, seed=seeds[shard:end])
                continue
            os.mkdir(f"{folder}/{shard}")
            number = shard
            for batch in batches:
                for image in batch:
                    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
                    picture.save(f"{folder}/{shard}/{number:010d}.png")
                    number += 1
        return images / (clock() - start)


def generate(artifact, folder, file_format, args):
    import export

    return export.generate_dataset(
        artifact,
        folder,
        args.images,
        file_format=file_format,
        images_per_shard=args.shard,
        batch_size=BATCH,
        progress=False,
    )


def clock_of_ray(artifact, file_format, args):
    """Images per second of a million, from the times at which shards were there."""
    with tempfile.TemporaryDirectory() as folder:
        folder, wall = pathlib.Path(folder), time.time()
        start = time.perf_counter()
        record = generate(artifact, folder / "drawn", file_format, args)
        seconds = time.perf_counter() - start
        there = sorted(
            max(path.stat().st_mtime for path in (folder / "drawn").glob(row["path"])) - wall
            for row in record["shards"]
        )
    first = len(os.sched_getaffinity(0)) - 1  # each worker has done one
    steady, between = there[-1] - there[first], args.shard * (len(there) - 1 - first)
    return MILLION / (seconds - steady + (MILLION - between) * steady / between)


def cpu_of_ray(artifact, file_format, args):
    """Images per second of all cores, less what Ray takes of them for itself."""
    cores, shards = len(os.sched_getaffinity(0)), args.images // args.shard
    seen = []

    def look(folder):
        for wanted in (cores, shards - cores):
            while lines(folder) < wanted:
                time.sleep(0.2)
            drawing, beside = 0, 0
            for one in (psutil.Process(), *psutil.Process().children(recursive=True)):
                times = one.cpu_times()
                if "MapWorker" in " ".join(one.cmdline()):
                    drawing += times.user + times.system
                else:
                    beside += times.user + times.system
            seen.append(np.array([lines(folder) * args.shard, drawing, beside, time.time()]))

    def lines(folder):
        try:
            return (folder / ".dataset.kgen-shards.jsonl").read_text().count("\n")
        except OSError:
            return 0

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder) / "drawn"
        thread = threading.Thread(target=look, args=(folder,), daemon=True)
        thread.start()
        generate(artifact, folder, file_format, args)
        thread.join(1)
    images, drawing, beside, seconds = seen[1] - seen[0]
    return (cores - beside / seconds) * images / drawing


if __name__ == "__main__":
    main()
