"""Larger pictures: memory and seconds of a training step, at sides of 64 to 512.

python benchmarks/sizes.py [--side N ...] [--model NAME ...] [--batch-size 4] [--json FILE]

Each configuration takes its first step, which is traced, and then three more, in a process of its
own, single-threaded with `--threads 1`. Memory is the most that the process ever held, less what it
held once kgen was imported. What would not fit is refused before it is built, and stands in the
table as kgen says it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

SIDES = (64, 128, 256, 512)

#: A model's arguments at a side; the latent maps have an eighth of the sides.
LATENT = {"latent_channels": 4, "num_downsamplings": 3}
MODELS = {
    "vae": lambda side: ("vae", LATENT),
    "vqvae": lambda side: ("vqvae", {"num_downsamplings": 3}),
    "vit_vae": lambda side: ("vit_vae", {"patch_size": side // 16}),
    "flow_matching": lambda side: (
        "flow_matching",
        {"patch_size": 4, "multipliers": (1, 2, 4), "filters": 64},
    ),
    "flow_matching, checkpointing": lambda side: (
        "flow_matching",
        {
            "patch_size": 4,
            "multipliers": (1, 2, 4),
            "filters": 64,
            "gradient_checkpointing": True,
        },
    ),
    "flow_matching on latents": lambda side: (
        "flow_matching",
        {"autoencoder": LATENT, "patch_size": 1, "filters": 64},
    ),
    "dit": lambda side: ("dit", {"patch_size": 8, "dim": 256, "num_layers": 8}),
    "dit, checkpointing": lambda side: (
        "dit",
        {"patch_size": 8, "dim": 256, "num_layers": 8, "gradient_checkpointing": True},
    ),
    "dit on latents": lambda side: (
        "dit",
        {"autoencoder": LATENT, "patch_size": 2, "dim": 256, "num_layers": 8},
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, nargs="+", default=SIDES)
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return print(json.dumps(measure(args.model[0], args.side[0], args.batch_size)))
    found = []
    print(f"batches of {args.batch_size}, {args.threads} threads")
    print("| model | side | parameters | GB | s per step |\n|---|---|---|---|---|", flush=True)
    for name in args.model:
        for side in args.side:
            command = [sys.executable, __file__, "--worker", "--model", name, "--side", str(side)]
            command += ["--batch-size", str(args.batch_size)]
            threads = str(args.threads)
            env = {**os.environ, "TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads}
            result = subprocess.run(command, capture_output=True, text=True, env=env)
            if result.returncode:
                figures = {"refused": (result.stderr.strip() or "killed").splitlines()[-1]}
                cells = [figures["refused"]]
            else:
                figures = json.loads(result.stdout.splitlines()[-1])
                cells = [f"{figures['parameters']:,}", f"{figures['gigabytes']:.2f}"]
                cells.append(f"{figures['seconds']:.3g}")
            found.append({"model": name, "side": side, **figures})
            print(f"| {' | '.join([name, str(side), *cells])} |", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file, indent=1)


def measure(name, side, batch_size):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import warnings

    import numpy as np

    import kgen
    from kgen.training.size import check_size

    warnings.simplefilter("ignore")  # of an autoencoder that nobody has trained
    kind, arguments = MODELS[name](side)
    shape = (side, side, 3)
    if "autoencoder" in arguments:
        vae = kgen.models.VAE(shape, **arguments["autoencoder"])
        arguments = {**arguments, "autoencoder": vae}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = kgen.models.get(kind)(shape, **arguments)
    model.compile()
    check_size(model, batch_size)
    images = np.random.default_rng(0).integers(0, 256, (batch_size, *shape), "uint8")
    if model.needs_adapting():
        model.adapt(images)
    model.train_on_batch(images)
    start = time.perf_counter()
    for _ in range(3):
        model.train_on_batch(images)
    seconds = (time.perf_counter() - start) / 3
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "parameters": int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        "gigabytes": (most - before) / 1e6,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
