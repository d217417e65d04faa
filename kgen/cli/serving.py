"""The command `serve`."""

import os
import pathlib
import sys
from typing import Annotated

import typer

from kgen import files
from kgen.cli.common import C2paCert, C2paKey, app, say, signer_of


@app.command()
def serve(
    artifacts: Annotated[
        list[pathlib.Path],
        typer.Argument(
            metavar="ARTIFACT...",
            help="Folders that `kgen export` wrote, or that hold numbered ones: 1/, 2/, ...",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8501,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port for TF Serving's gRPC API, too.", show_default="none"
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help="onnx or saved_model.")] = "onnx",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a batch.", show_default="all cores")
    ] = None,
    token_file: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="File with the token that clients must send as Authorization: Bearer TOKEN; or "
            "give it in the environment as KGEN_SERVE_TOKEN.",
            metavar="FILE",
        ),
    ] = None,
    key: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Ed25519 public key (PEM) that must have signed all artifacts.", metavar="PUBLIC"
        ),
    ] = None,
    hashes_only: Annotated[
        bool,
        typer.Option(
            "--hashes-only",
            help="Check hashes and operators alone: the proof is not repeated, to start at once.",
        ),
    ] = False,
    poll: Annotated[
        float, typer.Option(min=0, help="Seconds between two looks for new versions; 0: never.")
    ] = 2.0,
    max_rows: Annotated[int, typer.Option(min=1, help="Images of a request, of one pass.")] = 256,
    max_loop_rows: Annotated[
        int, typer.Option(min=1, help="Images of a request from a sampler that loops.")
    ] = 64,
    batch_rows: Annotated[int, typer.Option(min=1, help="Images that are drawn together.")] = 64,
    queue_rows: Annotated[
        int, typer.Option(min=1, help="Images that may wait; beyond, 429.")
    ] = 512,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 2**24,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to an answer.")] = 120.0,
    connections: Annotated[int, typer.Option(min=1, help="Open connections.")] = 512,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to finish what was accepted, when stopped.")
    ] = 30.0,
    c2pa_cert: C2paCert = None,
    c2pa_key: C2paKey = None,
    access_log: Annotated[
        str, typer.Option(help="A file for a line of JSON per request; - for standard output.")
    ] = "-",
):
    """Serve artifacts over HTTP: TF Serving's REST API, the Open Inference Protocol, a page.

    Example: kgen serve artifacts/vae-digits

    Example: KGEN_SERVE_TOKEN=secret kgen serve artifacts/vae artifacts/dit --host 0.0.0.0 --port 80
    """
    token = _token(token_file)
    for path in artifacts:
        files.recover(path)
    try:
        from export import serving
        from export.serving import server
    except ModuleNotFoundError as error:
        raise ImportError(f"Serving needs {error.name}: pip install 'kgen[serve]'") from error
    if host not in server.LOOPBACK and token is None:
        say(f"Warning: everyone who reaches {host} may use this server: give it a token.")
    service = serving.Service(
        artifacts,
        runtime=runtime,
        limits=serving.Limits(
            rows=max_rows,
            loop_rows=max_loop_rows,
            batch_rows=batch_rows,
            queue_rows=queue_rows,
            body_bytes=max_body,
            seconds=timeout,
            connections=connections,
        ),
        threads=threads,
        hashes_only=hashes_only,
        key=key,
        signer=signer_of(c2pa_cert, c2pa_key),
        report=server.report(),
    )
    service.load()
    log = sys.stdout if access_log == "-" else open(access_log, "a", encoding="utf-8")  # noqa: SIM115
    running = serving.Server(
        service,
        host=host,
        port=port,
        grpc_port=grpc_port,
        token=token,
        log=log,
        poll=poll,
        grace=grace,
    )
    grpc = f", gRPC at {running.grpc_address}" if running.grpc_address else ""
    say(f"Serving {', '.join(service.models)} at {running.address}{grpc}")
    running.run()


def _token(path):
    """The token of a file or of the environment; `None` where there is neither."""
    if path is None:
        token = os.environ.get("KGEN_SERVE_TOKEN")
        where = "KGEN_SERVE_TOKEN"
    else:
        token, where = path.read_text(encoding="utf-8").strip(), str(path)
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable()):
        raise ValueError(f"{where} should hold a token of at least 8 printable characters.")
    return token
