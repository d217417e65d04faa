"""Draws images from a server: `kgen serve`, TensorFlow Serving, Triton or KServe.

    pip install 'kgen[client]'  # and 'kgen[grpc]' for --protocol grpc
    python examples/clients/client.py http://127.0.0.1:8501 --label 3 --option temperature=0.7

Those of a model that completes masked images are completed too, from their upper halves.
"""

import argparse
import os

import numpy as np

import kgen
from export import serving

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("address", help="http://127.0.0.1:8501, or 127.0.0.1:8500 for gRPC")
parser.add_argument("--protocol", choices=("rest", "grpc", "v2"), default="rest")
parser.add_argument("--model", help="its name; the only one by default")
parser.add_argument("--num-images", type=int, default=64)
parser.add_argument("--label", type=int, help="of a model that has classes")
parser.add_argument("--option", action="append", default=[], help="such as temperature=0.7")
parser.add_argument("--output", default="images.png")
args = parser.parse_args()

options = {name: float(value) for name, _, value in (o.partition("=") for o in args.option)}
token = os.environ.get("KGEN_SERVE_TOKEN")  # not an argument, which everyone on the machine sees
with serving.Client(args.address, args.protocol, model=args.model, token=token) as client:
    seeds = np.arange(args.num_images)
    images = client.generate(seeds, args.label, **options)  # in as many requests as it takes
    kgen.images.save_png(kgen.images.grid(images), args.output)
    print(f"{args.output}: {len(images)} images of {client.model}, {images.shape[1:]}")
    try:
        inputs = client.metadata("complete")["inputs"]
    except serving.ServingError:  # it has no such endpoint
        raise SystemExit from None
    mask = np.zeros(images.shape[:3], "uint8")
    mask[:, : mask.shape[1] // 2] = 1  # 1 where a pixel is known
    known = {"image": images, "mask": mask, "seed": seeds + args.num_images}
    if "label" in inputs:
        known["label"] = args.label
    completed = client.call("complete", **known, **options)["image"]
    assert (completed[mask == 1] == images[mask == 1]).all()
    kgen.images.save_png(kgen.images.grid(completed), f"completed_{args.output}")
