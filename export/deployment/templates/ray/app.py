"""The application of `kgen serve` for Ray Serve; `serve_config.yaml` says how many replicas.

Every replica has all models, and puts requests that come to it together into batches, as
`kgen serve` does.
"""

import os
import pathlib

from ray import serve

MODELS = pathlib.Path(__file__).resolve().parent / "models"


def build():
    """The application, made in each replica."""
    from export import serving
    from export.serving.server import LOOPBACK

    # Without a token it answers to this machine's own names alone, as `kgen serve` does.
    token = os.environ.get("KGEN_SERVE_TOKEN")
    service = serving.Service(
        sorted(MODELS.iterdir()),
        threads=int(os.environ.get("OMP_NUM_THREADS", "1")),  # Ray sets it to the replica's CPUs
        hashes_only=True,  # `kgen verify` repeats the proof
    )
    service.load()
    return serving.create_app(service, token=token, hosts=None if token else set(LOOPBACK))


app = serve.deployment(serve.ingress(build)(), name="kgen").bind()
