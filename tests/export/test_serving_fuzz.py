"""benchmarks/serving_fuzz.py in small: what is no request, against a real process."""

import argparse
import pathlib
import shutil

import pytest


@pytest.mark.slow
def test_what_is_no_request_is_answered_without_failing(artifact, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2] / "benchmarks")
    import serving_fuzz

    args = argparse.Namespace(
        bodies=2000,
        junk=100,
        seed=0,
        schemathesis=shutil.which("schemathesis"),  # its part is left out where it is not
        examples=1,
    )
    assert serving_fuzz.run(artifact.path, args, tmp_path) == []
    [table] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| bodies")]
    assert "200: " in table  # some are right
    assert "400: " in table
