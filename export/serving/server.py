"""uvicorn around the application: sockets, slow clients, and the way out."""

import asyncio
import contextlib
import logging
import socket
import sys
import threading

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from export.serving.app import create_app

_HEAD_BYTES = 2**16


def run(
    service,
    *,
    host="127.0.0.1",
    port=8501,
    token=None,
    log=None,
    poll=2.0,
    grace=30.0,
    ready=lambda address: None,
):
    """Serves a loaded `Service` until SIGINT or SIGTERM; what was accepted is finished first.

    Args:
        service: `export.serving.Service`, loaded.
        host: String, the address to listen at; the loopback one by default.
        port: Int; 0 for a free one.
        token: String, what clients must send as a bearer token, or `None`.
        log: Text stream that gets a line of JSON for each request, or `None`.
        poll: Float, seconds between two looks for new versions; 0 for none.
        grace: Float, seconds that requests have to finish when the server is stopped.
        ready: Callable, called with the server's address once it listens.
    """
    app = create_app(service, token=token, log=_lines(log))
    limits = service.limits
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_protocol(limits),
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=limits.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=grace,
    )
    config.load()
    with contextlib.closing(config.bind_socket()) as sock:
        uvloop_run(_serve(_Server(config), sock, service, poll, ready))


def uvloop_run(coroutine):
    import uvloop

    return uvloop.run(coroutine)


async def _serve(server, sock, service, poll, ready):
    watching = asyncio.create_task(service.watch(poll)) if poll else None
    host, port = sock.getsockname()[:2]
    address = (
        f"http://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"http://{host}:{port}"
    )
    server.ready = lambda: ready(address)
    server.service = service
    await server.serve(sockets=[sock])
    if watching:
        watching.cancel()
    await service.close()


class _Server(uvicorn.Server):
    """uvicorn's, which ends with 0 where it was told to end: nothing went wrong."""

    async def startup(self, sockets=None):
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def shutdown(self, sockets=None):
        # What is on its way is answered; a load balancer that asks hears that nothing more is.
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self):
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        import signal

        loop = asyncio.get_running_loop()
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for signum in before:
            loop.add_signal_handler(signum, self.handle_exit, signum, None)
        try:
            yield
        finally:
            for signum, handler in before.items():
                loop.remove_signal_handler(signum)
                signal.signal(signum, handler)


def _protocol(limits):
    """uvicorn's protocol with limits on what it leaves open: heads and connections."""

    class Protocol(HttpToolsProtocol):
        _timer = None

        def connection_made(self, transport):
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._refuse(503, "Too many connections are open.")
            else:
                self._expect_head()

        def _expect_head(self):
            self._head = 0
            self._timer = self.loop.call_later(
                limits.receive_seconds, self._refuse, 408, "The head of a request did not arrive."
            )

        def _refuse(self, status, message):
            if self.transport.is_closing():
                return
            body = orjson.dumps({"error": message})
            self.transport.write(
                b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"retry-after: 1\r\nconnection: close\r\n\r\n%s" % (status, len(body), body)
            )
            self.transport.close()

        def data_received(self, data):
            if self._timer is not None:
                self._head += len(data)
                # A body may begin in the same piece, so a head is too long only without its end.
                if self._head > _HEAD_BYTES and b"\r\n\r\n" not in data:
                    self._refuse(431, f"The head of a request has at most {_HEAD_BYTES} bytes.")
                    return
            super().data_received(data)

        def on_headers_complete(self):
            self._got_head()
            super().on_headers_complete()

        def on_response_complete(self):
            super().on_response_complete()
            if not self.transport.is_closing() and self._timer is None:
                self._head = 0

        def connection_lost(self, exc):
            self._got_head()
            super().connection_lost(exc)

        def _got_head(self):
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Protocol


def _lines(stream):
    """A callable that writes a dict as a line of JSON."""
    if stream is None:
        return lambda entry: None

    def write(entry):
        try:
            stream.write(orjson.dumps(entry, str).decode() + "\n")
            stream.flush()
        except OSError:  # a disk that is full does not stop the answers
            logging.getLogger(__name__).warning("The access log could not be written.")
        except ValueError:  # closed
            pass

    return write


def report_to(stream=sys.stderr):
    """A `report` for `Service` that writes what happens as lines of JSON."""
    write = _lines(stream)
    return lambda event, **details: write({"event": event, **details})
