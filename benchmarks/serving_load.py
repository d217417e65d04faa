"""`kgen serve` at 80 % of its capacity for a while: errors, memory, latency.

    python benchmarks/serving_load.py                  # 30 minutes
    python benchmarks/serving_load.py --minutes 2

The capacity is the images per second of 64 clients that wait for nothing. Then requests come at
0.8 of it, evenly, however long the answers take; a request's time counts from when it was due.
Every answer is compared with ONNX Runtime's image. Goals: no error, no growth of memory over 5 %
between the second tenth of the time and the last, p99 at most 5 times the median.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile

import serving_client
import serving_setup

SEEDS = 256


def main():
    serving_setup.end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity")
    parser.add_argument("--capacity", type=float, help="images per second, measured if not given")
    parser.add_argument("--artifact", help="of ONNX; the preset dcgan_32x32 if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(args.artifact or serving_setup.make_artifact(folder)).resolve()
        sys.exit(0 if run(artifact, args, pathlib.Path(folder)) else 1)


def run(artifact, args, folder):
    requests = [serving_setup.infer(artifact, [seed]) for seed in range(SEEDS)]
    expected = serving_setup.images(artifact, range(SEEDS))
    port, memory, marks = serving_setup.free_port(), [], []
    command = serving_setup.kgen_serve(artifact, port, "--access-log", folder / "access.log")
    with serving_setup.Running(command, port, requests[0]) as running:

        def right(index, status, body):
            return status == 200 and body.endswith(expected[index])

        def tick(result):
            memory.append(running.memory())
            marks.append(len(result.times))
            if len(memory) % 60 == 0:
                last = result.times[marks[-60] :]
                print(
                    f"minute {len(memory) // 60}: {len(last)} answers, "
                    f"median {1e3 * statistics.median(last):.1f} ms, "
                    f"RSS {memory[-1] / 2**20:.0f} MiB",
                    file=sys.stderr,
                    flush=True,
                )

        serving_client.load(port, requests, 64, 3, right)  # warm
        full = serving_client.load(port, requests, 64, 10, right)
        capacity = args.capacity or len(full.times) / full.seconds
        rate = args.share * capacity
        result = serving_client.load(port, requests, 128, 60 * args.minutes, right, rate, tick)
    tenth = max(1, len(memory) // 10)
    before = statistics.median(memory[tenth : 2 * tenth] or memory)
    growth = statistics.median(memory[-tenth:]) / before - 1
    median, p99 = result.percentile(0.5), result.percentile(0.99)
    bad = result.errors + result.wrong
    rows = [
        ("capacity, images per second", f"{capacity:.0f}", ""),
        ("sent per second", f"{rate:.0f}", ""),
        ("answered right", f"{len(result.times)} in {result.seconds:.0f} s", ""),
        ("errors and wrong answers", f"{bad}, statuses {result.statuses}", said(bad == 0)),
        ("growth of memory", f"{growth:+.2%} of {before / 2**20:.0f} MiB", said(growth <= 0.05)),
        ("median, p99 ms", f"{1e3 * median:.1f}, {1e3 * p99:.1f}", said(p99 <= 5 * median)),
    ]
    print("| what | figure | goal |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return bad == 0 and growth <= 0.05 and p99 <= 5 * median


def said(met):
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
