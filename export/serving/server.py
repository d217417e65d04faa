"""uvicorn around the application: sockets, slow clients, and the way out."""

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from typing import Self, TextIO

import orjson
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from export.serving.app import create_app
from export.serving.service import Service

_HEAD_BYTES = 2**16
#: What this machine calls itself; a server that listens there answers to no other name.
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class Server:
    """A server of a loaded `Service`, which runs in this thread or beside it.

    Args:
        service: `export.serving.Service`, loaded.
        host: String, the address to listen at; the loopback one by default.
        port: Int; 0 for a free one.
        grpc_port: Int, where TensorFlow Serving's gRPC API is spoken, 0 for a free one; `None` for
            nowhere. It needs `pip install 'kgen[grpc]'`, which imports TensorFlow.
        token: String, what clients must send as a bearer token, or `None`.
        log: Text stream that gets a line of JSON for each request, or `None`.
        poll: Float, seconds between two looks for new versions; 0 for none.
        grace: Float, seconds that requests have to finish when the server is stopped.

    Raises:
        OSError: The address cannot be had.

    Example:

    >>> service = export.serving.Service(["artifacts/vae"])
    >>> service.load()
    >>> with export.serving.Server(service, port=0) as server:
    ...     images = export.serving.Client(server.address).generate(seeds=[1, 2, 3])
    """

    def __init__(
        self,
        service: Service,
        *,
        host: str = "127.0.0.1",
        port: int = 8501,
        grpc_port: int | None = None,
        token: str | None = None,
        log: TextIO | None = None,
        poll: float = 2.0,
        grace: float = 30.0,
    ) -> None:
        self._service = service
        self._poll = poll
        self._socket = _listening(host, port)
        local = host in LOOPBACK
        #: Where it listens, such as `http://127.0.0.1:8501`.
        self.address = f"http://{_place(self._socket)}"
        #: Where it listens to gRPC, such as `127.0.0.1:8500`, or `None`.
        self.grpc_address = None
        self._grpc_options = {"token": token, "log": lines(log)}
        self._grpc_tried = threading.Event()
        self._grace = grace
        if grpc_port is not None:
            from export.serving import grpc_service

            self._grpc_service = grpc_service
            with contextlib.closing(_listening(host, grpc_port)) as probe:  # gRPC binds its own
                self.grpc_address = _place(probe)
        config = uvicorn.Config(
            create_app(
                service, token=token, hosts=set(LOOPBACK) if local else None, log=lines(log)
            ),
            http=_protocol(service.limits),
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=service.limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=grace,  # type: ignore[arg-type]  # parts of a second too
        )
        self._server = _Uvicorn(config)
        self._thread = threading.Thread(target=self.run, daemon=True, name="kgen-server")

    def run(self) -> None:
        """Serves until `stop`, SIGINT or SIGTERM; what was accepted is finished first."""
        with contextlib.closing(self._socket):
            uvloop.run(self._serve())

    async def _serve(self):
        watching = asyncio.create_task(self._service.watch(self._poll)) if self._poll else None
        grpc = None
        if self.grpc_address:
            try:
                grpc = await self._grpc_service.start(
                    self._service, self.grpc_address, **self._grpc_options
                )
            finally:
                self._grpc_tried.set()
        await self._server.serve(sockets=[self._socket])
        if grpc:
            await grpc.stop(self._grace)
        if watching:
            watching.cancel()
        self._service.stop()

    def stop(self) -> None:
        """Has `run` end, from another thread."""
        self._server.should_exit = True

    def __enter__(self) -> Self:
        self._thread.start()
        if self.grpc_address:  # HTTP's socket listens since it was made, gRPC's from here on
            self._grpc_tried.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._thread.join()


def _place(listening):
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listening(host, port):
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(found[4][:2], family=found[0], backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"{host}:{port} cannot be listened at: {reason}. Try another port."
        ) from error
    listening.setblocking(False)
    return listening


class _Uvicorn(uvicorn.Server):
    """uvicorn's, which ends as usual where a signal ends it: nothing went wrong."""

    @contextlib.contextmanager
    def capture_signals(self):
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def _protocol(limits):
    """uvicorn's protocol with limits on what it leaves open: heads, answers and connections."""

    class Protocol(HttpToolsProtocol):
        _timer = None
        _unsent = float("inf")

        def connection_made(self, transport):
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._refuse(503, "Too many connections are open.")
            else:
                self._expect_head()

        def data_received(self, data):
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._expect_head()
            if self._timer is not None:
                self._head += len(data)
                # A body may begin in the same piece: without its end, a head is too long.
                if self._head > _HEAD_BYTES and b"\r\n\r\n" not in data:
                    self._refuse(431, f"The head of a request has at most {_HEAD_BYTES} bytes.")
                    return
            super().data_received(data)

        def on_headers_complete(self):
            self._got_head()
            super().on_headers_complete()

        def connection_lost(self, exc):
            self._got_head()
            super().connection_lost(exc)

        def timeout_keep_alive_handler(self):
            # A client that does not take its answer would be waited for without an end.
            unsent = self.transport.get_write_buffer_size()
            if 0 < unsent < self._unsent:
                self._unsent = unsent
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
            else:
                self.transport.abort()

        def _expect_head(self):
            self._head = 0
            self._timer = self.loop.call_later(
                limits.receive_seconds, self._refuse, 408, "The head of a request did not arrive."
            )

        def _got_head(self):
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, status, message):
            self._got_head()
            if self.transport.is_closing():
                return
            body = orjson.dumps({"error": message})
            self.transport.write(
                b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"retry-after: 1\r\nconnection: close\r\n\r\n%s" % (status, len(body), body)
            )
            self.transport.close()

    return Protocol


def lines(stream):
    """A callable that writes a dict as a line of JSON to a text stream, if there is one."""
    if stream is None:
        return lambda entry: None

    def write(entry):
        try:
            stream.write(orjson.dumps(entry, str).decode() + "\n")
            stream.flush()
        except OSError as error:  # a disk that is full does not stop the answers
            logging.getLogger(__name__).warning("The log could not be written: %s", error)

    return write


def report(stream=None):
    """A `report` for `Service` that writes what happens as lines of JSON, to standard error."""
    write = lines(stream or sys.stderr)
    return lambda event, **details: write({"event": event, **details})
