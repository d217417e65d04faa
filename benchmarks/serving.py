"""Servers side by side: one ONNX file of a DCGAN of 32x32x3, the same requests, in turn.

    python benchmarks/serving.py --servers fastapi mosec litserve bentoml ray mlserver
    python benchmarks/serving.py --python /path/to/python --seconds 5 --rounds 5 --json out.json

For each server, in rounds: the median latency of one client over that of a bare call of ONNX
Runtime (`bench` of the same minute, same threads); images per second with 16 and with 64 clients;
and with 64 clients when it may not batch. Weights are random: they do not matter to the time.
Each server is started afresh for each round, on a free port of 127.0.0.1, in the interpreter that
`--python` names for it, and stopped by its process id. Answers are compared with ONNX Runtime's.
"""

import argparse
import base64
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import serving_client

PEERS = pathlib.Path(__file__).parent / "serving_peers"
SEEDS = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", nargs="+", default=["raw"], choices=["raw", "json"])
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of a call of ONNX Runtime")
    parser.add_argument("--workers", type=int, default=2, help="calls at the same time")
    parser.add_argument(
        "--python", nargs="+", default=[], metavar="[SERVER=]PATH", help="interpreters of servers"
    )
    parser.add_argument(
        "--model", help="an ONNX file, made from the preset dcgan_32x32 if not given"
    )
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    interpreters = dict(each.rpartition("=")[::2] for each in args.python)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(args.model or make_model(folder)).resolve()
        sys.path.insert(0, str(PEERS))
        import common

        bare = common.Model(str(file), args.threads)
        expected = [bare([seed])[0].tobytes() for seed in range(SEEDS)]
        figures = {}
        for answer in args.answers:
            for number in range(args.rounds):
                for name in args.servers:
                    python = interpreters.get(name, interpreters.get("", sys.executable))
                    for limit in (args.max_batch, 1):
                        try:
                            measured = measure(
                                name, python, file, limit, answer, args, bare, expected
                            )
                        except Exception as error:
                            measured = {"failed": f"{type(error).__name__}: {error}"}
                        for key, value in measured.items():
                            figures.setdefault(answer, {}).setdefault(name, {}).setdefault(
                                key, []
                            ).append(value)
                        print(answer, number, name, limit, measured, file=sys.stderr, flush=True)
                if args.json:
                    pathlib.Path(args.json).write_text(json.dumps(figures, indent=1))
            print_table(answer, figures[answer])


def make_model(folder):
    import keras

    import kgen
    from export import onnx, tracing

    keras.utils.set_random_seed(0)
    model = kgen.ImageGenerator.from_preset("dcgan_32x32")
    endpoints = tracing.publish({"generate": model.endpoints()["generate"]})
    onnx.write(folder, tracing.trace_all(endpoints), endpoints, 18, lambda step: None, {})
    return pathlib.Path(folder) / onnx.FOLDER / "generate.onnx"


# Servers ---------------------------------------------------------------------------------


class Peer:
    """A script in benchmarks/serving_peers."""

    workers = None

    def __init__(self, script):
        self.script = script

    def command(self, python, file, port, limit, answer, args):
        given = [file, port, limit, args.threads, args.workers, answer]
        return [python, PEERS / self.script, *given]

    def request(self, seed):
        return serving_client.request("/image", json.dumps({"seed": seed}).encode())

    def image(self, answer, body):
        if answer == "raw":
            return body
        return np.array(json.loads(body)["image"], "uint8").tobytes()


class BentoML(Peer):
    """Its batchable calls take and give rows, in JSON alone: `raw` is base64."""

    def request(self, seed):
        return serving_client.request("/image", json.dumps({"seed": [seed]}).encode())

    def image(self, answer, body):
        [image] = json.loads(body)
        return base64.b64decode(image) if answer == "raw" else np.array(image, "uint8").tobytes()


class MLServer(Peer):
    """Open Inference Protocol in JSON: `raw` is base64."""

    def request(self, seed):
        tensor = {"name": "seed", "shape": [1, 1], "datatype": "INT32", "data": [seed]}
        body = json.dumps({"inputs": [tensor]}).encode()
        return serving_client.request("/v2/models/generate/infer", body)

    def image(self, answer, body):
        [image] = json.loads(body)["outputs"]
        if answer == "raw":
            return base64.b64decode(image["data"][0])
        return np.array(image["data"], "uint8").tobytes()


SERVERS = {
    "fastapi": Peer("fastapi_app.py"),
    "litserve": Peer("litserve_app.py"),
    "mosec": Peer("mosec_app.py"),
    "bentoml": BentoML("bentoml_app.py"),
    "ray": Peer("ray_app.py"),
    "mlserver": MLServer("mlserver_app.py"),
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Running:
    """A server from its first right answer until it is stopped by its process id."""

    def __init__(self, command, port, ready, timeout=120):
        self.port, self.ready, self.timeout = port, ready, timeout
        self.log = tempfile.TemporaryFile()
        environment = {
            **os.environ,
            "PYTHONWARNINGS": "ignore",
            "BENTOML_DO_NOT_TRACK": "True",
            "PATH": f"{pathlib.Path(command[0]).parent}:{os.environ['PATH']}",
        }
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdout=self.log,
            stderr=self.log,
            env=environment,
            start_new_session=True,
        )

    def __enter__(self):
        end = time.monotonic() + self.timeout
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if serving_client.once(self.port, self.ready, timeout=20)[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        self.__exit__()
        self.log.seek(0)
        raise RuntimeError(f"did not start: {self.log.read()[-2000:].decode(errors='replace')}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # what it started and left
        except ProcessLookupError:
            pass
        self.process.wait()


def cpu_seconds(pid):
    """Of a process and all that it has started."""
    parents, times = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
        times[int(path.parent.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    own = {pid}
    while more := {child for child, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(times[each] for each in own)


# Measuring -------------------------------------------------------------------------------


def measure(name, python, file, limit, answer, args, bare, expected):
    server, port = SERVERS[name], free_port()
    requests = [server.request(seed) for seed in range(SEEDS)]

    def right(index, body):
        return server.image(answer, body) == expected[index] if answer == "raw" else True

    command = server.command(python, file, port, limit, answer, args)
    with Running(command, port, requests[0]) as running:
        status, _, body = serving_client.once(port, requests[7])
        if status != 200 or server.image(answer, body) != expected[7]:
            raise RuntimeError(f"answers a wrong image: {status}, {body[:200]}")
        serving_client.load(port, requests, 16, min(2, args.seconds))  # all is warm
        before = cpu_seconds(running.process.pid)
        many = serving_client.load(port, requests, 64, args.seconds, right)
        cpu = 1e3 * (cpu_seconds(running.process.pid) - before) / max(1, len(many.times))
        if limit == 1:
            check(many)
            return {
                "64 clients, unbatched": len(many.times) / many.seconds,
                "CPU ms, unbatched": cpu,
            }
        latency = overhead(port, requests, bare, args.seconds)
        some = serving_client.load(port, requests, 16, args.seconds, right)
        check(many, some)
    return {
        **latency,
        "16 clients": len(some.times) / some.seconds,
        "16 clients p99 ms": 1e3 * some.percentile(0.99),
        "64 clients": len(many.times) / many.seconds,
        "CPU ms": cpu,
        "unequal": (many.wrong + some.wrong) / (len(many.times) + len(some.times)),
    }


def check(*results):
    for result in results:
        if result.errors or set(result.statuses) != {200}:
            raise RuntimeError(f"{result.errors} errors, statuses {result.statuses}")


def overhead(port, requests, bare, seconds):
    """One client and bare calls in turn, a hundredth of a second apart, so that they meet the same load."""
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
    columns = ["overhead ms", "latency ms", "bare ms", "16 clients", "64 clients"]
    columns += ["64 clients, unbatched", "CPU ms", "CPU ms, unbatched"]
    print(
        f"\nAnswers: {answer}; median (least to most) of the rounds; images per second of clients"
    )
    print("| server | " + " | ".join(columns) + " | batched over unbatched | unequal |")
    print("|---" * (len(columns) + 3) + "|")
    for name, values in figures.items():
        cells = [spread(values.get(column, [])) for column in columns]
        pairs = zip(
            values.get("64 clients", []), values.get("64 clients, unbatched", []), strict=False
        )
        cells += [spread([a / b for a, b in pairs]), spread(values.get("unequal", []), "{:.4f}")]
        print(f"| {name} | " + " | ".join(cells) + " |")
        for error in values.get("failed", [])[:1]:
            print(f"{name} failed: {error}")


def spread(values, form=None):
    if not values:
        return "-"
    middle = statistics.median(values)
    form = form or ("{:.2f}" if middle < 100 else "{:.0f}")
    return f"{form} ({form} to {form})".format(middle, min(values), max(values))


if __name__ == "__main__":
    main()
