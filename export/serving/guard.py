"""What stands between the network and the application: who may, how much, and a line of log."""

import asyncio
import hashlib
import hmac
import re
import time
import uuid

import orjson
from starlette.exceptions import HTTPException

from export.serving.errors import RequestError

#: Of every answer. The page has no inline script or style, and nothing from elsewhere.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        "img-src 'self' blob: data:; connect-src 'self'; worker-src 'self' blob:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

_PORT = re.compile(r":\d*$")
_HEALTH = {"/healthz", "/v2/health/live", "/v2/health/ready"}


class Guard:
    """An ASGI application around another.

    It asks for the token, holds bodies to their limit of bytes and seconds, ends what a client
    that has gone away asked for, sets the headers of a careful server, and logs and counts.

    Args:
        app: The ASGI application; what it knows of a request it puts into `scope["kgen"]`.
        service: `export.serving.Service`.
        token: String that `Authorization: Bearer ...` must carry, or `None` for no such thing.
        public: Set of the paths that need none: the page, which asks for the token.
        hosts: Set of the names that `Host` may have, without a port; `None` for any. A page from
            elsewhere whose name leads to this machine does not get at a server of this machine's.
        log: Callable of a dict, one for each request.
    """

    def __init__(self, app, service, token=None, public=(), hosts=None, log=lambda entry: None):
        self._app = app
        self._service = service
        self._token = None if token is None else _digest(token.encode())
        self._hosts = hosts
        self._public = _HEALTH | set(public)
        self._log = log

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = dict(scope["headers"])
        identity = headers.get(b"x-request-id", b"")[:100]
        if not identity.isalnum():
            identity = uuid.uuid4().hex.encode()
        details = scope["kgen"] = {}
        scope["service"] = self._service
        scope["app"] = self  # with it, Starlette raises what it else answers as plain text
        answer = {"status": 499, "bytes": 0, "begun": False}  # as if the client had gone

        async def sent(message):
            if message["type"] == "http.response.start":
                answer.update(status=message["status"], begun=True)
                own = [(b"x-request-id", identity), *_HEADERS]
                message = {**message, "headers": [*message["headers"], *own]}
            else:
                answer["bytes"] += len(message.get("body", b""))
            await send(message)

        received = None
        try:
            self._check(scope, headers)
            body = await self._body(receive, headers)
            if body is None:
                return
            received = len(body)
            await self._run(scope, receive, sent, body)
        except RequestError as error:
            # What comes of a body that was not read would be taken for the next request.
            await _refuse(sent, error, {"connection": "close"} if received is None else {})
        except HTTPException as error:  # of the routes: there is no such path, or method
            await _refuse(sent, RequestError(error.status_code, error.detail), error.headers)
        except Exception as error:
            details["error"] = f"{type(error).__name__}: {error}"
            if not answer["begun"]:
                await _refuse(sent, RequestError(500, "The server failed; its log has the reason."))
        finally:
            seconds = time.perf_counter() - start
            self._finish(scope, details, answer, identity, received, seconds)

    def _finish(self, scope, details, answer, identity, received, seconds):
        if details.get("model"):
            self._service.metrics.answered(
                details["model"],
                details.get("endpoint", ""),
                details["protocol"],
                answer["status"],
                seconds,
            )
        client = scope.get("client") or ("",)
        self._log(
            {
                "time": time.time(),
                "request": identity.decode(),
                "client": client[0],
                "method": scope["method"],
                "path": scope["path"][:500],
                "status": answer["status"],
                "ms": round(1000 * seconds, 3),
                "bytes_in": received or 0,
                "bytes_out": answer["bytes"],
                **details,
            }
        )

    def _check(self, scope, headers):
        if self._hosts is not None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            if _PORT.sub("", host) not in self._hosts:
                raise RequestError(
                    421,
                    f"This server is for {', '.join(sorted(self._hosts))}, not for {host[:100]}.",
                )
        if self._token is not None and scope["path"] not in self._public:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            same = hmac.compare_digest(_digest(given.strip()), self._token)
            if scheme.lower() != b"bearer" or not same:
                raise RequestError(401, "This server asks for Authorization: Bearer TOKEN.")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestError(415, "Bodies are taken as they are, without Content-Encoding.")

    async def _body(self, receive, headers):
        limits = self._service.limits
        size = headers.get(b"content-length", b"0")
        if not size.isdigit() or int(size) > limits.body_bytes:
            raise RequestError(413, f"A body has at most {limits.body_bytes} bytes.")
        parts, total = [], 0
        try:
            async with asyncio.timeout(limits.receive_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    total += len(parts[-1])
                    if total > limits.body_bytes:
                        raise RequestError(413, f"A body has at most {limits.body_bytes} bytes.")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestError(
                408, f"The body did not arrive within {limits.receive_seconds:g} s."
            ) from None

    async def _run(self, scope, receive, send, body):
        """Runs the application; it is cancelled when the client goes away."""
        parts = [{"type": "http.request", "body": body, "more_body": False}]
        never = asyncio.get_running_loop().create_future()

        async def replay():
            return parts.pop() if parts else await never

        running = asyncio.ensure_future(self._app(scope, replay, send))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            running.cancel()
            await asyncio.wait({running})
            return None if running.cancelled() else running.result()
        finally:
            running.cancel()
            gone.cancel()


def _digest(text):
    # Digests have one length, so that comparing them tells nothing of the token's.
    return hashlib.sha256(text).digest()


async def _refuse(send, error, more=None):
    headers = [(k.lower().encode(), v.encode()) for k, v in (more or {}).items()]
    headers.append((b"content-type", b"application/json"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    body = orjson.dumps({"error": str(error)})
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
