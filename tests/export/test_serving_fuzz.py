"""benchmarks/serving_fuzz.py in small: what is no request, against a real process."""

import argparse
import pathlib
import socket
import sys

import pytest

from export import serving


@pytest.mark.parametrize(
    "header, status", [("Content-Encoding: gzip", 415), ("Authorization: Bearer x", 401)]
)
def test_what_is_refused_before_its_body_has_come_ends_the_connection(artifact, header, status):
    """The rest of the body was taken for the next request, which then was answered with 431."""
    service = serving.Service([artifact.path], hashes_only=True)
    service.load()
    token = "a long token" if status == 401 else None
    with serving.Server(service, port=0, token=token) as server:
        port = int(server.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            head = f"POST /v1/models/painter:predict HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n"
            connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode() + bytes(100_000))
            answer = connection.recv(1 << 16).lower()
    assert answer.startswith(b"http/1.1 %d" % status)
    assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.slow
def test_what_is_no_request_is_answered_without_failing(artifact, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2] / "benchmarks")
    import serving_fuzz

    args = argparse.Namespace(
        bodies=2000,
        junk=100,
        seed=0,
        schemathesis=pathlib.Path(sys.executable).with_name("schemathesis"),
        examples=5,
    )
    assert serving_fuzz.run(artifact.path, args, tmp_path) == []
    [table] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| bodies")]
    assert "200: " in table  # some are right
    assert "400: " in table
