"""`kgen serve` when things go wrong: 20 rounds of each fault, with clients that go on meanwhile.

    python benchmarks/serving_faults.py
    python benchmarks/serving_faults.py --faults killed disk_full --rounds 5

In each fault eight clients ask for images all the time and compare them with ONNX Runtime's. Wrong
is an answer of status 200 with another image; lost is a request that was refused or failed where
the fault gives no reason, or that stays without an answer when it is sent again for ten seconds
after its connection broke. Goals: nothing wrong, nothing lost, and right answers within 2 s after.

- `killed`: the process dies by SIGKILL; this script, as a supervisor, starts it again. Seconds are
  those from the kill to the first right answer, so that they include the start.
- `broken_artifact`: the artifact's folder is replaced by a broken one, then by a good one.
- `queue_full`: far more rows than may wait; every answer is an image or 429 with Retry-After.
- `client_gone`: clients that close their connection with their request half sent, or unanswered.
- `slow_body`: bodies that come a byte a second; they end with 408 and hold up nobody.
- `disk_full`: no byte can be written any more (RLIMIT_FSIZE), the access log's neither.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time

import serving_client
import serving_setup

SEEDS = 64
GOAL_SECONDS = 2.0


def main():
    serving_setup.end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=FAULTS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--goal", type=float, default=GOAL_SECONDS, help="seconds to be up again")
    parser.add_argument("--artifact", help="of ONNX; the preset dcgan_32x32 if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(args.artifact or serving_setup.make_artifact(folder)).resolve()
        print("| fault | rounds | right | wrong | lost | seconds to be up, median (most) | notes |")
        print("|---|---|---|---|---|---|---|", flush=True)
        failed = False
        for name in args.faults:
            found = run(name, artifact, args.rounds)
            failed |= bool(found.wrong or found.lost or max(found.seconds) > args.goal)
            print(found.row(name, args.rounds), flush=True)
            for line in found.complaints[:5]:
                print(f"  {name}: {line}", file=sys.stderr)
        sys.exit(failed)


class Found:
    """What a fault did: counts of answers, `seconds` to be up again, notes."""

    def __init__(self):
        self.right = self.wrong = self.lost = self.again = 0
        self.seconds, self.notes, self.complaints = [], {}, []

    def note(self, what, count=1):
        self.notes[what] = self.notes.get(what, 0) + count

    def lose(self, why):
        self.lost += 1
        self.complaints.append(why)

    def row(self, name, rounds):
        notes = ", ".join(f"{key}: {value}" for key, value in self.notes.items())
        if self.again:
            notes = f"sent again: {self.again}" + (f", {notes}" if notes else "")
        seconds = f"{statistics.median(self.seconds):.2f} ({max(self.seconds):.2f})"
        cells = name, rounds, self.right, self.wrong, self.lost, seconds, notes
        return "| " + " | ".join(map(str, cells)) + " |"


class Clients:
    """Clients that ask for images, one after the other, until the `with` is left.

    `breaks`: whether connections may break; then the request is sent again, as seeds give the
    same image each time. `statuses` are those that the fault gives a reason for, beside 200.
    """

    def __init__(self, server, found, number=8, breaks=False, statuses=()):
        self.server, self.found, self.breaks, self.statuses = server, found, breaks, statuses
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(number)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number):
        seed, connection = number, None
        while not self._stop.is_set():
            seed = (seed + 1) % SEEDS
            end = time.monotonic() + 10
            while True:
                try:
                    connection = connection or self._connect()
                    connection.sendall(self.server.requests[seed])
                    parser = serving_client.Parser()
                    while (answer := parser.feed(received := connection.recv(1 << 16))) is None:
                        if not received:
                            raise ConnectionError("closed")
                except OSError as error:
                    if connection is not None:
                        connection.close()
                    connection = None
                    with self._lock:
                        if not self.breaks or time.monotonic() > end:
                            self.found.lose(f"{type(error).__name__}: {error}")
                            break
                        self.found.again += 1
                    time.sleep(0.1)
                    continue
                self._count(seed, *answer)
                break
        if connection is not None:
            connection.close()

    def _connect(self):
        connection = serving_client.connect(self.server.port)
        connection.settimeout(30)
        return connection

    def _count(self, seed, status, head, body):
        with self._lock:
            if status == 200 and body.endswith(self.server.expected[seed]):
                self.found.right += 1
            elif status == 200:
                self.found.wrong += 1
            elif status in self.statuses:
                self.found.note(status)
            else:
                self.found.lose(f"{status}: {body[:200]}")


class Server:
    """The server of a fault, and what its answers should be."""

    def __init__(self, artifact, *options):
        self.port = serving_setup.free_port()
        self.command = serving_setup.kgen_serve(artifact, self.port, *options)
        self.requests = [serving_setup.infer(artifact, [seed]) for seed in range(SEEDS)]
        images = serving_setup.images(artifact, range(SEEDS))
        self.expected = [images[seed] for seed in range(SEEDS)]

    def start(self, **options):
        return serving_setup.Running(self.command, self.port, self.requests[0], **options)

    def up(self, since):
        """Seconds since then, once an answer is right; at most 30."""
        while (took := time.monotonic() - since) < 30:
            with contextlib.suppress(OSError):
                status, _, body = serving_client.once(self.port, self.requests[1], timeout=30)
                if status == 200 and body.endswith(self.expected[1]):
                    return time.monotonic() - since
            time.sleep(0.01)
        return took

    def metric(self, name):
        """The sum of a metric, all labels together."""
        request = serving_client.request("/metrics", method="GET")
        text = serving_client.once(self.port, request)[2].decode()
        lines = [line for line in text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def wait_for(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# Faults ----------------------------------------------------------------------------------


def killed(artifact, folder, rounds, found):
    server = Server(artifact)
    running, cpu = server.start().__enter__(), []
    try:
        with Clients(server, found, breaks=True):
            for _ in range(rounds):
                time.sleep(0.5)
                since = time.monotonic()
                os.kill(running.process.pid, signal.SIGKILL)
                running.process.wait()
                running = server.start().__enter__()
                found.seconds.append(server.up(since))
                cpu.append(running.cpu_seconds())
        found.notes["CPU s of a start"] = round(statistics.median(cpu), 2)
    finally:
        running.__exit__()


def _flip(path):
    """Another byte in the weights, or in the graph of an artifact without a file of weights."""
    file = path / "onnx" / "weights.bin"
    file = file if file.exists() else path / "onnx" / "generate.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def _truncate(path):
    file = path / "onnx" / "generate.onnx"
    file.write_bytes(file.read_bytes()[:100])


def _no_file(path):
    (path / "onnx" / "generate.onnx").unlink()


def _no_json(path):
    (path / "manifest.json").write_text("{")


def _other_version(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["schema_version"] = 99
    (path / "manifest.json").write_text(json.dumps(manifest))


BREAKS = (_flip, _truncate, _no_file, _no_json, _other_version)


def broken_artifact(artifact, folder, rounds, found):
    place = folder / "served"
    shutil.copytree(artifact, place)

    def replace(change):
        fresh, old = folder / "fresh", folder / "old"
        shutil.copytree(artifact, fresh)
        change(fresh)
        place.rename(old)
        fresh.rename(place)
        shutil.rmtree(old)

    server = Server(place, "--poll", "0.2")
    with server.start(), Clients(server, found):
        for number in range(rounds):
            refused = server.metric("kgen_versions_refused_total")
            since = time.monotonic()
            replace(BREAKS[number % len(BREAKS)])
            if not wait_for(lambda n=refused: server.metric("kgen_versions_refused_total") > n):
                found.lose(f"{BREAKS[number % len(BREAKS)].__name__} was not refused")
            found.note("refused")
            found.seconds.append(server.up(time.monotonic()))
            replace(lambda path: None)
            time.sleep(max(0, 1 - (time.monotonic() - since)))


def queue_full(artifact, folder, rounds, found):
    options = ["--queue-rows", "64", "--batch-rows", "16", "--max-rows", "16"]
    server = Server(artifact, *options)
    many = [
        serving_setup.infer(artifact, [(first + i) % SEEDS for i in range(16)])
        for first in range(SEEDS)
    ]
    wanted = [
        b"".join(server.expected[(first + i) % SEEDS] for i in range(16)) for first in range(SEEDS)
    ]

    def right(index, status, body):
        return status == 429 if status != 200 else body.endswith(wanted[index])

    with server.start(), Clients(server, found, statuses=(429,)):
        for _ in range(rounds):
            result = serving_client.load(server.port, many, 64, 1.0, right)
            since = time.monotonic()
            found.right += result.statuses.get(200, 0)
            found.note(429, result.statuses.get(429, 0))
            found.wrong += result.wrong
            if result.errors:
                found.lose(f"{result.errors} requests of {sum(result.statuses.values())} failed")
            found.seconds.append(server.up(since))
    if not found.notes.get(429):
        found.lose("nothing was refused: the queue was never full")


def client_gone(artifact, folder, rounds, found):
    server = Server(artifact)
    # All of them together are less than may wait: nobody else is to be refused for them.
    request = serving_setup.infer(artifact, [i % SEEDS for i in range(8)])
    rng = random.Random(0)
    with server.start(), Clients(server, found):
        for _ in range(rounds):
            gone = []
            for _ in range(32):
                connection = serving_client.connect(server.port)
                half = rng.random() < 0.5
                connection.sendall(request[: rng.randrange(1, len(request))] if half else request)
                gone.append(connection)
            time.sleep(0.05 * rng.random())
            for connection in gone:
                if rng.random() < 0.5:  # a reset in place of an end
                    connection.setsockopt(
                        serving_client.socket.SOL_SOCKET,
                        serving_client.socket.SO_LINGER,
                        b"\1\0\0\0\0\0\0\0",
                    )
                connection.close()
            found.note("gone", len(gone))
            found.seconds.append(server.up(time.monotonic()))
        if not wait_for(lambda: server.metric("kgen_waiting_rows") < 16):
            found.lose("rows of clients that have gone still wait")


def slow_body(artifact, folder, rounds, found):
    server = Server(artifact)
    request = server.requests[1]
    head = request[: request.index(b"\r\n\r\n") + 4]
    with server.start(), Clients(server, found):
        for _ in range(rounds):
            slow = [serving_client.connect(server.port) for _ in range(32)]
            for connection in slow:
                connection.sendall(head)
                connection.setblocking(False)
            start, answers = time.monotonic(), {}
            while len(answers) < len(slow) and time.monotonic() < start + 30:
                time.sleep(1)
                for connection in set(slow) - set(answers):
                    with contextlib.suppress(BlockingIOError):
                        try:
                            answers[connection] = connection.recv(1 << 12)[:12]
                        except ConnectionError:
                            answers[connection] = b"reset"
                    with contextlib.suppress(OSError):
                        connection.send(b" ")
            found.seconds.append(server.up(time.monotonic()))
            for connection in slow:
                connection.close()
            refused = sum(answer == b"HTTP/1.1 408" for answer in answers.values())
            found.note("408", refused)
            if refused < len(slow):
                found.lose(
                    f"{len(slow) - refused} slow clients had no 408: {set(answers.values())}"
                )


def disk_full(artifact, folder, rounds, found):
    log = folder / "access.log"
    server = Server(artifact, "--access-log", log)
    with server.start() as running, Clients(server, found):
        pid, sizes = (
            running.process.pid,
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE),
        )
        for _ in range(rounds):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (log.stat().st_size, sizes[1]))
            before, size = found.right, log.stat().st_size
            if not wait_for(lambda n=before: found.right > n + 100):
                found.lose("no answers while the disk is full")
            if log.stat().st_size > size:
                found.lose("the log grew where nothing can be written")
            resource.prlimit(pid, resource.RLIMIT_FSIZE, sizes)
            since = time.monotonic()
            found.seconds.append(server.up(since))
            if not wait_for(lambda n=size: log.stat().st_size > n + 1000, GOAL_SECONDS):
                found.lose("the log is not written again")
        found.note("MiB of RSS", round(running.memory() / 2**20))
    lines = log.read_bytes().splitlines()
    found.note("lines of log", len(lines))
    found.note("broken off", sum(not _is_json(line) for line in lines))


def _is_json(line):
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(line), dict)
    return False


FAULTS = {
    each.__name__: each
    for each in (killed, broken_artifact, queue_full, client_gone, slow_body, disk_full)
}


def run(name, artifact, rounds):
    """One fault, `rounds` times; `Found`."""
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        FAULTS[name](artifact, pathlib.Path(folder), rounds, found)
    return found


if __name__ == "__main__":
    main()
