"""benchmarks/serving_faults.py in small: one round of each fault against a real process."""

import pathlib

import pytest

# Slow bodies wait for ten seconds: test_serving.py has them with a limit of its own.
FAULTS = ("killed", "broken_artifact", "queue_full", "client_gone", "disk_full")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_or_answered_wrongly(fault, artifact, monkeypatch):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2] / "benchmarks")
    import serving_faults

    found = serving_faults.run(fault, artifact.path, rounds=1)
    assert not found.complaints
    assert found.wrong == found.lost == 0
    assert found.right > 0
    # Up again: in 2 s on a machine of its own, which tests do not have.
    assert max(found.seconds) < 30
