"""`kgen serve` and what is no request: no answer of 500 and above, no hang, and alive after.

    python benchmarks/serving_fuzz.py
    python benchmarks/serving_fuzz.py --bodies 5000 --junk 200 --seed 1
    python benchmarks/serving_fuzz.py --schemathesis PATH --examples 200     # of its command

Three parts. Bodies: right requests of every route, spoiled by a generator from `--seed` (values of
other types, keys gone, doubled and renamed, bytes flipped, cut and added, other headers, other
paths). Junk: bytes that are hardly HTTP, each on a connection of its own, which the server has to
answer or close. And schemathesis on the server's own OpenAPI description, where its command is.
"""

import argparse
import base64
import contextlib
import copy
import io
import json
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL.Image
import serving_client
import serving_setup

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
ODD = (
    None, True, False, 0, -1, 1, 7, 0.5, -0.0, 1e308, 1e400, -1e400, 2**31, -(2**31) - 1, 2**63,
    2**64, 10**30, float("nan"), "", "7", "x" * 1000, "é\u0000\ud7ff", "NaN", [], [[]], [None],
    [[[[[7]]]]], [7, [7]], ["7"], {}, {"b64": ""}, {"b64": "!"}, {"b64": 7}, {"b64": "aGk="},
    {"seed": 7}, {"": {}}, [{"b64": "aGk="}, 7], list(range(300)), [7] * 5000,
)  # fmt: skip
PATHS = (
    "..", "%2e%2e", "%00", "%ff", "x" * 3000, "1", "-1", "1e3", "%EF%BC%99", "stable", "nothing",
    "9" * 5000, "generate", "generate_with_options", "decode", "a%2fb", "{name}", "%0d%0a", "",
)  # fmt: skip
HEADERS = (
    "Content-Type: text/plain", "Content-Type: application/json; charset=utf-16",
    "Content-Type: multipart/form-data", "Content-Type: multipart/form-data; boundary=x",
    "Content-Type: image/png", "Content-Type: ", "Content-Encoding: gzip", "Accept: text/html",
    "Inference-Header-Content-Length: 0", "Inference-Header-Content-Length: 10",
    "Inference-Header-Content-Length: -1", "Inference-Header-Content-Length: 99999999999999",
    "Inference-Header-Content-Length: x", "Authorization: Bearer \xe9", "X-Request-Id: ../..",
    "Expect: 100-continue", "Cookie: " + "x" * 5000, "Range: bytes=0-1", "If-None-Match: *",
    "Upgrade: websocket", "Forwarded: for=x", "Content-Length: 0",
)  # fmt: skip


def main():
    serving_setup.end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bodies", type=int, default=100_000)
    parser.add_argument("--junk", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=100, help="of schemathesis, per route")
    parser.add_argument("--schemathesis", default=shutil.which("schemathesis"), metavar="PATH")
    parser.add_argument("--artifact", help="of ONNX; the preset dcgan_32x32 if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(args.artifact or serving_setup.make_artifact(folder)).resolve()
        failures = run(artifact, args, pathlib.Path(folder))
    for failure in failures[:20]:
        print(failure, file=sys.stderr)
    sys.exit(bool(failures))


def run(artifact, args, folder):
    """Runs all parts against one server and prints a table; a list of what went wrong."""
    port, ready = serving_setup.free_port(), serving_setup.infer(artifact, [1])
    expected = serving_setup.images(artifact, [1])[1]
    log = folder / "access.log"
    command = serving_setup.kgen_serve(artifact, port, "--access-log", log)
    print("| what | sent | answers | 5xx | unanswered | slowest s |")
    print("|---|---|---|---|---|---|", flush=True)
    with serving_setup.Running(command, port, ready) as running:
        failures = bodies(port, routes(artifact), args.bodies, args.seed)
        failures += junk(port, ready, args.junk, args.seed)
        if args.schemathesis:
            failures += schemathesis(port, args, serving_setup.manifest(artifact)["name"], folder)
        status, _, body = serving_client.once(port, ready)
        if status != 200 or not body.endswith(expected):
            failures.append(f"Afterwards the server answers {status} {body[:100]}")
        if running.process.poll() is not None:
            failures.append(f"The server ended with {running.process.poll()}")
    errors = [line for line in log.read_text(errors="replace").splitlines() if '"error":"' in line]
    return failures + errors[:10]


# Bodies ----------------------------------------------------------------------------------


def routes(artifact):
    """Right requests: `(method, path, content type, body)`, bodies of JSON as values."""
    described = serving_setup.manifest(artifact)
    name, kind = described["name"], "application/json"
    v1, v2 = f"/v1/models/{name}", f"/v2/models/{name}"
    known = []
    for endpoint, sides in described["endpoints"].items():
        specs = sides["inputs"]
        arrays = {
            key: np.zeros((2, *spec["shape"][1:]), spec["dtype"]) for key, spec in specs.items()
        }
        rows = [{key: array[i].tolist() for key, array in arrays.items()} for i in range(2)]
        columns = {key: array.tolist() for key, array in arrays.items()}
        pictures = {key: _png(array[0]) for key, array in arrays.items() if array.dtype == "uint8"}
        named = [
            {**row, f"{key}_bytes": {"b64": base64.b64encode(png).decode()}}
            for row in rows
            for key, png in list(pictures.items())[:1]
        ]
        tensors = [
            {
                "name": key,
                "datatype": {"float32": "FP32"}.get(array.dtype.name, array.dtype.name.upper()),
                "shape": list(array.shape),
                "data": array.ravel().tolist(),
            }
            for key, array in arrays.items()
        ]
        raw = [
            {**tensor, "parameters": {"binary_data_size": arrays[tensor["name"]].nbytes}}
            for tensor in tensors
        ]
        for tensor in raw:
            del tensor["data"]
        binary = b"".join(array.tobytes() for array in arrays.values())
        for place in ("", "/versions/1", "/labels/stable"):
            for body in (
                {"signature_name": endpoint, "instances": rows},
                {"signature_name": endpoint, "inputs": columns},
                {"signature_name": f"{endpoint}_image_bytes", "instances": named or rows},
            ):
                known.append(("POST", f"{v1}{place}:predict", kind, body))
        for place in (f".{endpoint}", f".{endpoint}/versions/1"):
            for body in (
                {"inputs": tensors, "id": "a"},
                {"inputs": tensors, "parameters": {"binary_data_output": True}},
                {"inputs": tensors, "outputs": [{"name": "image", "parameters": {}}]},
                json.dumps({"inputs": raw}).encode() + binary,
            ):
                known.append(("POST", f"{v2}{place}/infer", kind, body))
        query = "&".join(f"{key}=1" for key, spec in specs.items() if len(spec["shape"]) == 1)
        form = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a.png"\r\n'
            b"Content-Type: image/png\r\n\r\n%s\r\n" % (key.encode(), png)
            for key, png in pictures.items()
        )
        known += [
            ("GET", f"{v1}/image?endpoint={endpoint}&{query}", "", b""),
            ("POST", f"{v1}/{endpoint}?{query}", "image/png", next(iter(pictures.values()), b"")),
            (
                "POST",
                f"{v1}/{endpoint}?{query}",
                "multipart/form-data; boundary=x",
                form + b"--x--",
            ),
        ]
    gets = [
        "/", "/healthz", "/models.json", "/metrics", "/openapi.json", "/docs/", "/static/page.js",
        "/docs/swagger-ui/swagger-ui.css", "/v2", "/v2/health/live", "/v2/health/ready", v1,
        f"{v1}/metadata", f"{v1}/versions/1", f"{v1}/labels/stable/metadata", v2, f"{v2}/ready",
        f"{v2}.generate", f"{v2}/versions/1",
    ]  # fmt: skip
    return known + [("GET", path, "", b"") for path in gets]


def _png(array):
    file = io.BytesIO()
    picture = PIL.Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    picture.save(file, "PNG")
    return file.getvalue()


def spoiled(rng, known):
    """Bytes of one request, which is hardly a right one."""
    method, path, kind, body = rng.choice(known)
    headers, drawn = [], rng.random()
    if not isinstance(body, bytes):
        if drawn < 0.7:
            body = json.loads(json.dumps(body))
            for _ in range(rng.choice((1, 1, 2, 5))):
                body = _other(rng, body)
        text = json.dumps(body, ensure_ascii=rng.random() < 0.5)
        body = text.encode("utf-8", "surrogatepass")
    if drawn >= 0.5:
        body = _bytes(rng, body)
    if rng.random() < 0.25:
        path = _path(rng, path)
    if rng.random() < 0.1:
        method = rng.choice(METHODS)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        headers.append(rng.choice(HEADERS[:-1]))
    if b"binary_data_size" in body[:1000] and rng.random() < 0.7:
        at = rng.choice((len(body) - 8, body.rfind(b"}") + 1, rng.randrange(len(body) + 1)))
        headers.append(f"Inference-Header-Content-Length: {at}")
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if kind and not any(header.startswith("Content-Type") for header in headers):
        lines.append(f"Content-Type: {kind}")
    lines += [*headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body, method


def _other(rng, value):
    """A value of JSON with one thing in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        drawn = rng.random()
        if drawn < 0.1:
            del value[key]
        elif drawn < 0.2:
            value[rng.choice(("", "seed", "instances", "inputs", "x" * 300, key + " "))] = value[
                key
            ]
        elif drawn < 0.3:
            other = rng.choice(("label", "temperature", "extra", "mask", "image"))
            value[other] = copy.deepcopy(rng.choice(ODD))
        else:
            value[key] = _other(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        drawn = rng.random()
        if drawn < 0.15:
            del value[place]
        elif drawn < 0.3:
            value.insert(place, copy.deepcopy(rng.choice(ODD)))
        elif drawn < 0.35:
            return value * rng.choice((2, 30, 300))
        elif drawn < 0.4:
            return [value]
        else:
            value[place] = _other(rng, value[place])
        return value
    return copy.deepcopy(rng.choice(ODD))


def _bytes(rng, body):
    drawn = rng.random()
    if drawn < 0.15:
        return rng.randbytes(rng.choice((0, 1, 10, 1000)))
    if drawn < 0.25:
        depth = rng.choice((10, 500, 100_000))
        return (b'{"inputs":' if rng.random() < 0.5 else b"[") * depth
    body = bytearray(body)
    if drawn < 0.5:
        return bytes(body[: rng.randrange(len(body) + 1)])
    for _ in range(rng.choice((1, 1, 3, 30))):
        place = rng.randrange(len(body) + 1)
        if rng.random() < 0.5 and body:
            body[place % len(body)] = rng.randrange(256)
        else:
            body[place:place] = rng.choice((b"{", b"]", b'"', b",", b"\\u0000", b"\xff", b"1e999"))
    return bytes(body)


def _path(rng, path):
    place, _, query = path.partition("?")
    parts = place.split("/")
    if rng.random() < 0.5:
        parts[rng.randrange(1, len(parts))] = rng.choice(PATHS)
    else:
        parts.insert(rng.randrange(1, len(parts) + 1), rng.choice(PATHS))
    drawn = rng.random()
    if drawn < 0.3:
        name = rng.choice(("seed", "label", "temperature", "endpoint", "image", "x", "", "%00"))
        query += f"&{name}={rng.choice(PATHS)}"
    elif drawn < 0.5:
        query = rng.choice(("seed=", "seed=1&seed=2", "seed=-1", "seed=1e999", "&&=&"))
    return "/".join(parts) + (f"?{query}" if query else "")


def bodies(port, known, count, seed):
    """Sends that many in blocks over 32 connections; a list of what went wrong."""
    rng, failures, statuses, sent, slowest = random.Random(seed), [], {}, 0, 0.0
    hung = 0
    while sent < count:
        block = []
        while len(block) < min(1000, count - sent):
            data, method = spoiled(rng, known)
            if method != "HEAD":  # whose answers' lengths are of what is not sent
                block.append(data)

        def seen(index, status, body, block=block):
            if status >= 500:
                failures.append(f"{status} {body[:200]} to {block[index][:600]}")
            return status < 500

        start = time.monotonic()
        result = serving_client.load(port, block, 32, 600, seen, count=len(block))
        slowest = max(slowest, time.monotonic() - start)
        for status, number in result.statuses.items():
            statuses[status] = statuses.get(status, 0) + number
        hung += result.errors
        if result.errors:
            block_said = f"{sent} to {sent + len(block)}"
            failures.append(f"{result.errors} of requests {block_said}: no whole answer")
        sent += len(block)
    said = ", ".join(f"{status}: {number}" for status, number in sorted(statuses.items()))
    bad = sum(number for status, number in statuses.items() if status >= 500)
    print(f"| bodies | {sent} | {said} | {bad} | {hung} | {slowest:.1f} a thousand |", flush=True)
    return failures


# Junk ------------------------------------------------------------------------------------


def _junk(rng, good):
    drawn = rng.random()
    if drawn < 0.2:
        return rng.randbytes(rng.choice((1, 30, 3000)))
    data = bytearray(good)
    head = data.index(b"\r\n\r\n")
    if drawn < 0.6:
        for _ in range(rng.choice((1, 2, 10))):
            data[rng.randrange(head)] = rng.randrange(256)
        return bytes(data)
    lines = bytes(data[:head]).split(b"\r\n")
    line = rng.choice(
        (
            b"Content-Length: 5", b"Content-Length: -5", b"Content-Length: x",
            b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: x, chunked", b"X: " + b"y" * 100_000, b"no colon", b": empty",
            b"Expect: 100-continue", b"Host: a\r\nHost: b", b"X\x00: y", b"X: \xff\xfe",
            b"Connection: upgrade\r\nUpgrade: h2c", b"Connection: close",
        )
    )  # fmt: skip
    lines.insert(rng.randrange(1, len(lines) + 1), line)
    body = bytes(data[head + 4 :])
    if b"chunked" in line:
        body = rng.choice((b"0\r\n\r\n", b"5\r\nab", b"x\r\n\r\n", b"ffffffffffffffff\r\n", b""))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def junk(port, good, count, seed, patience=15):
    """Each on a connection of its own, whose client sends no more; a list of what went wrong."""
    rng, failures, answers = random.Random(seed), [], {}
    slowest, hung, bad = 0.0, 0, 0
    for number in range(0, count, 50):
        started = []
        for _ in range(min(50, count - number)):
            connection, data = serving_client.connect(port), _junk(rng, good)
            connection.settimeout(patience)
            with contextlib.suppress(OSError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            started.append((connection, data, time.monotonic()))
        for connection, data, start in started:
            try:
                received = connection.recv(1 << 16)
            except TimeoutError:
                hung += 1
                failures.append(f"no answer and no end within {patience} s to {data[:300]}")
                received = b"HTTP/1.1 hung"
            except OSError:
                received = b""
            slowest = max(slowest, time.monotonic() - start)
            status = received[9:13].strip().decode("latin-1") or "closed"
            answers[status] = answers.get(status, 0) + 1
            if status.startswith("5"):
                bad += 1
                failures.append(f"{received[:200]} to {data[:300]}")
            connection.close()
    said = ", ".join(f"{status}: {number}" for status, number in sorted(answers.items()))
    print(f"| junk | {count} | {said} | {bad} | {hung} | {slowest:.1f} |", flush=True)
    return failures


# schemathesis ----------------------------------------------------------------------------


def schemathesis(port, args, name, folder):
    """Its command with the checks for 5xx and for what the description says of answers."""
    start = time.monotonic()
    names = {"name": name, "model": name, "version": "1", "label": "stable"}
    lines = [f'"path.{key}" = "{value}"' for key, value in names.items()]
    (folder / "schemathesis.toml").write_text("\n".join(["[parameters]", *lines, ""]))
    command = [
        args.schemathesis, "--config-file", folder / "schemathesis.toml", "run", f"http://127.0.0.1:{port}/openapi.json",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance",
        "--max-examples", args.examples, "--seed", args.seed, "--no-color",
        "--request-timeout", "30", "--generation-database", "none",
    ]  # fmt: skip
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder)
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    cases = next((line.strip() for line in lines if " generated, " in line), "")
    seconds = time.monotonic() - start
    print(
        f"| schemathesis | {cases or '?'} | exit {result.returncode} | | | {seconds:.0f} in all |"
    )
    return [] if result.returncode == 0 else ["\n".join(lines[-60:]) + result.stderr[-1000:]]


if __name__ == "__main__":
    main()
