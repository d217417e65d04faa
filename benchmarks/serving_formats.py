"""64 images of 32x32x3 from `kgen serve` in each format: bytes and milliseconds.

    python benchmarks/serving_formats.py

All formats in turn, from the bytes of the request to arrays in the client; the bare call of ONNX
Runtime with the same images is beside them. Weights are random, and PNG has another size with
trained ones: `--artifact` takes a trained model's artifact.
"""

import argparse
import base64
import gc
import io
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
import PIL.Image
import serving_client
import serving_setup


def main():
    serving_setup.end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--artifact", help="of ONNX; the preset dcgan_32x32 if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(args.artifact or serving_setup.make_artifact(folder)).resolve()
        gc.freeze()  # or lists of numbers have the collector look at all of TensorFlow
        run(artifact, args)


def run(artifact, args):
    described, seeds = serving_setup.manifest(artifact), list(range(args.images))
    name = described["name"]
    expected = serving_setup.images(artifact, seeds)
    port = serving_setup.free_port()
    shape = (-1, *described["model"]["image_shape"])

    def post(path, body):
        return [serving_client.request(path, json.dumps(body).encode())]

    def pixels(png):
        return np.asarray(PIL.Image.open(io.BytesIO(png))).reshape(shape[1:])

    predict, infer = f"/v1/models/{name}:predict", f"/v2/models/{name}/infer"
    rows = [{"seed": seed} for seed in seeds]
    tensor = {"name": "seed", "datatype": "INT32", "shape": [len(seeds)], "data": seeds}
    columns = {"inputs": {"seed": seeds}}
    formats = {
        "TF Serving, JSON in rows": (
            post(predict, {"instances": rows}),
            lambda bodies: np.array(json.loads(bodies[0])["predictions"], "uint8"),
        ),
        "TF Serving, JSON in columns": (
            post(predict, columns),
            lambda bodies: np.array(json.loads(bodies[0])["outputs"], "uint8"),
        ),
        "TF Serving, PNG (`image_bytes`)": (
            post(predict, {"signature_name": "image_bytes", **columns}),
            lambda bodies: np.stack(
                [pixels(base64.b64decode(row["b64"])) for row in json.loads(bodies[0])["outputs"]]
            ),
        ),
        "v2, JSON": (
            post(infer, {"inputs": [tensor]}),
            lambda bodies: np.array(json.loads(bodies[0])["outputs"][0]["data"], "uint8"),
        ),
        "v2, binary tensors": (
            [serving_setup.infer(artifact, seeds)],
            lambda bodies: np.frombuffer(
                bodies[0], "uint8", offset=len(bodies[0]) - len(seeds) * int(np.prod(shape[1:]))
            ),
        ),
        "a PNG for each seed": (
            [
                serving_client.request(f"/v1/models/{name}/image?seed={seed}", method="GET")
                for seed in seeds
            ],
            lambda bodies: np.stack([pixels(body) for body in bodies]),
        ),
    }
    command, ready = serving_setup.kgen_serve(artifact, port), serving_setup.predict(artifact, [0])
    with serving_setup.Running(command, port, ready):
        connection, parser = serving_client.connect(port), serving_client.Parser()
        sizes, times = {}, {name: [] for name in (*formats, "ONNX Runtime alone")}
        bare = serving_setup.session(artifact)
        for number in range(args.repeats + 2):
            for format, (requests, read) in formats.items():
                start, bodies = time.perf_counter(), []
                for request in requests:
                    connection.sendall(request)
                    while (answer := parser.feed(connection.recv(1 << 18))) is None:
                        pass
                    bodies.append(answer[2])
                images = read(bodies).reshape(shape)
                took = time.perf_counter() - start
                if number >= 2:  # before, something is warmed up
                    times[format].append(took)
                elif [image.tobytes() for image in images] != list(expected.values()):
                    raise SystemExit(f"{format}: other images than ONNX Runtime's")
                sizes[format] = sum(map(len, bodies))
            if number >= 2:
                start = time.perf_counter()
                bare(seeds)
                times["ONNX Runtime alone"].append(time.perf_counter() - start)
    print(f"{len(seeds)} images of {shape[1]}x{shape[2]}x{shape[3]}\n")
    print("| format | bytes of an image | ms of all, median (least) |\n|---|---|---|")
    for format, values in times.items():
        size = f"{sizes[format] / len(seeds):,.0f}" if format in sizes else ""
        print(
            f"| {format} | {size} | {1e3 * statistics.median(values):.1f} "
            f"({1e3 * min(values):.1f}) |"
        )


if __name__ == "__main__":
    main()
