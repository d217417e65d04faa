"""Servers side by side: one ONNX file of a DCGAN of 32x32x3, the same requests, in turn.

    python benchmarks/serving.py --python PATH mlserver=PATH    # interpreters of the libraries
    python benchmarks/serving.py --servers kgen --seconds 10 --rounds 5 --json out.json

For each server, in rounds: the median latency of one client over that of a bare call of ONNX
Runtime with as many threads, both in turn; images per second of 16 and of 64 clients; the same when
it may not batch; and milliseconds of CPU for an image, of all of its processes, which other work on
the machine hardly changes. Each is started afresh for each round on a free port of 127.0.0.1, in
the interpreter that `--python` names, and stopped by its process id. Answers are compared with
ONNX Runtime's. The libraries: pip install litserve mosec bentoml "ray[serve]" fastapi uvicorn
uvloop httptools orjson onnxruntime; and into another environment mlserver "uvloop<0.22".
"""

import argparse
import base64
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import serving_client
import serving_setup

PEERS = pathlib.Path(__file__).parent / "serving_peers"
SEEDS = 256


def main():
    serving_setup.end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", nargs="+", default=["raw"], choices=["raw", "json"])
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of a call, in the libraries")
    parser.add_argument("--workers", type=int, default=2, help="calls at a time, in the libraries")
    parser.add_argument(
        "--kgen-threads", type=int, default=os.cpu_count(), help="of a call, in kgen serve"
    )
    parser.add_argument(
        "--python", nargs="+", default=[], metavar="[SERVER=]PATH", help="interpreters of servers"
    )
    parser.add_argument("--artifact", help="of ONNX; the preset dcgan_32x32 if not given")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    args.python = dict(each.rpartition("=")[::2] for each in args.python)
    sys.path.insert(0, str(PEERS))
    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(args.artifact or serving_setup.make_artifact(folder)).resolve()
        measure = Measure(artifact, args)
        for answer in args.answers:
            for number in range(args.rounds):
                for name in args.servers:
                    for limit in (args.max_batch, 1):
                        measure.add(name, answer, limit, f"{answer}, round {number + 1}")
                if args.json:
                    pathlib.Path(args.json).write_text(json.dumps(measure.figures, indent=1))
            print_table(answer, measure.figures[answer])


# Servers ---------------------------------------------------------------------------------


class Peer:
    """A script in benchmarks/serving_peers."""

    def __init__(self, script):
        self.script = script

    def command(self, python, artifact, port, limit, answer, args):
        file = artifact / "onnx" / "generate.onnx"
        return [python, PEERS / self.script, file, port, limit, args.threads, args.workers, answer]

    def threads(self, args):
        return args.threads

    def request(self, artifact, answer, seed):
        return serving_client.request("/image", json.dumps({"seed": seed}).encode())

    def image(self, answer, body):
        if answer == "raw":
            return body
        return np.array(json.loads(body)["image"], "uint8").tobytes()


class BentoML(Peer):
    """Its batchable calls take and give rows, in JSON alone: `raw` is base64."""

    def request(self, artifact, answer, seed):
        return serving_client.request("/image", json.dumps({"seed": [seed]}).encode())

    def image(self, answer, body):
        [image] = json.loads(body)
        return base64.b64decode(image) if answer == "raw" else np.array(image, "uint8").tobytes()


class MLServer(Peer):
    """The Open Inference Protocol in JSON: `raw` is base64."""

    def request(self, artifact, answer, seed):
        tensor = {"name": "seed", "shape": [1, 1], "datatype": "INT32", "data": [seed]}
        body = json.dumps({"inputs": [tensor]}).encode()
        return serving_client.request("/v2/models/generate/infer", body)

    def image(self, answer, body):
        [image] = json.loads(body)["outputs"]
        if answer == "raw":
            return base64.b64decode(image["data"][0])
        return np.array(image["data"], "uint8").tobytes()


class Kgen(Peer):
    """`kgen serve` as it is by default: `raw` is v2 with binary tensors, `json` TF Serving's."""

    def __init__(self):
        pass

    def command(self, python, artifact, port, limit, answer, args):
        options = ["--batch-rows", limit, "--threads", args.kgen_threads]
        return serving_setup.kgen_serve(artifact, port, *options, python=python)

    def threads(self, args):
        return args.kgen_threads

    def request(self, artifact, answer, seed):
        make = serving_setup.infer if answer == "raw" else serving_setup.predict
        return make(artifact, [seed])

    def image(self, answer, body):
        if answer == "raw":
            return body[-32 * 32 * 3 :]
        return np.array(json.loads(body)["outputs"], "uint8").tobytes()


SERVERS = {
    "kgen": Kgen(),
    "fastapi": Peer("fastapi_app.py"),
    "litserve": Peer("litserve_app.py"),
    "mosec": Peer("mosec_app.py"),
    "bentoml": BentoML("bentoml_app.py"),
    "ray": Peer("ray_app.py"),
    "mlserver": MLServer("mlserver_app.py"),
}


# Measuring -------------------------------------------------------------------------------


class Measure:
    """`figures`: by answer, server and column a list, one of each round."""

    def __init__(self, artifact, args):
        self.artifact, self.args, self.figures, self.bare = artifact, args, {}, {}
        self.expected = [self.model(1)([seed])[0].tobytes() for seed in range(SEEDS)]

    def model(self, threads):
        """The bare call, in this process."""
        import common

        if threads not in self.bare:
            file = str(self.artifact / "onnx" / "generate.onnx")
            self.bare[threads] = common.Model(file, threads)
        return self.bare[threads]

    def add(self, name, answer, limit, said):
        try:
            measured = self.measure(name, answer, limit)
        except Exception as error:  # the others are measured all the same
            measured = {"failed": f"limit {limit}: {type(error).__name__}: {error}"}
        columns = self.figures.setdefault(answer, {}).setdefault(name, {})
        for key, value in measured.items():
            columns.setdefault(key, []).append(value)
        print(said, name, limit, measured, file=sys.stderr, flush=True)

    def measure(self, name, answer, limit):
        server, port, seconds = SERVERS[name], serving_setup.free_port(), self.args.seconds
        requests = [server.request(self.artifact, answer, seed) for seed in range(SEEDS)]
        python = self.args.python.get(name)
        if python is None:
            python = sys.executable if name == "kgen" else self.args.python.get("", sys.executable)
        command = server.command(python, self.artifact, port, limit, answer, self.args)

        def right(index, status, body):
            # Arrays in JSON would take longer to read here than to make there.
            return answer == "json" or server.image(answer, body) == self.expected[index]

        with serving_setup.Running(command, port, requests[0]) as running:
            status, _, body = serving_client.once(port, requests[7])
            if status != 200 or server.image(answer, body) != self.expected[7]:
                raise RuntimeError(f"answers a wrong image: {status}, {body[:200]}")
            check(serving_client.load(port, requests, 16, min(2, seconds)))  # all is warm
            before = running.cpu_seconds()
            many = serving_client.load(port, requests, 64, seconds, right)
            cpu = 1e3 * (running.cpu_seconds() - before) / max(1, len(many.times))
            check(many)
            if limit == 1:
                return {
                    "64 clients, unbatched": len(many.times) / many.seconds,
                    "CPU ms, unbatched": cpu,
                }
            latency = overhead(port, requests, self.model(server.threads(self.args)), seconds)
            some = serving_client.load(port, requests, 16, seconds, right)
            check(some)
        return {
            **latency,
            "16 clients": len(some.times) / some.seconds,
            "16 clients p99 ms": 1e3 * some.percentile(0.99),
            "64 clients": len(many.times) / many.seconds,
            "CPU ms": cpu,
            "unequal": (many.wrong + some.wrong) / (len(many.times) + len(some.times)),
        }


def check(result):
    if result.errors or set(result.statuses) != {200}:
        raise RuntimeError(f"{result.errors} errors, statuses {result.statuses}")


def overhead(port, requests, bare, seconds):
    """One client and bare calls in turn, so that they meet the same load."""
    ours, theirs = [], []
    connection, parser = serving_client.connect(port), serving_client.Parser()
    end, index = time.perf_counter() + 2 * seconds, 0
    while time.perf_counter() < end:
        for _ in range(4):
            start = time.perf_counter()
            bare([index % SEEDS])
            theirs.append(time.perf_counter() - start)
            index += 1
        for _ in range(4):
            start = time.perf_counter()
            connection.sendall(requests[index % SEEDS])
            while parser.feed(connection.recv(1 << 16)) is None:
                pass
            ours.append(time.perf_counter() - start)
            index += 1
    connection.close()
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    return {"latency ms": 1e3 * ours, "bare ms": 1e3 * theirs, "overhead ms": 1e3 * (ours - theirs)}


def print_table(answer, figures):
    columns = ["overhead ms", "latency ms", "bare ms", "16 clients", "16 clients p99 ms"]
    columns += ["64 clients", "64 clients, unbatched", "CPU ms", "CPU ms, unbatched"]
    print(
        f"\nAnswers: {answer}. Median (least to most) of the rounds; clients: images per second.\n"
    )
    print("| server | " + " | ".join(columns) + " | batched over unbatched | unequal |")
    print("|---" * (len(columns) + 3) + "|")
    for name, values in figures.items():
        batched, single = (values.get(f"64 clients{s}", []) for s in ("", ", unbatched"))
        ratios = [a / b for a, b in zip(batched, single, strict=False)]
        cells = [spread(values.get(column, [])) for column in columns]
        cells += [spread(ratios), spread(values.get("unequal", []), "{:.4f}")]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for name, values in figures.items():
        for error in values.get("failed", []):
            print(f"{name} failed: {error[-300:]}")


def spread(values, form=None):
    if not values:
        return "-"
    middle = statistics.median(values)
    form = form or ("{:.2f}" if middle < 100 else "{:.0f}")
    return f"{form} ({form} to {form})".format(middle, min(values), max(values))


if __name__ == "__main__":
    main()
