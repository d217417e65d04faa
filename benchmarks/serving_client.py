"""A load generator that costs little beside what it measures: HTTP/1.1 by hand, one thread, epoll.

An HTTP client of Python takes some 0.3 ms of a core for each request, as much as the servers
themselves; this takes about 0.03 ms. Every connection is kept alive and has one request on its
way at a time (a closed loop), or sends at given times (`rate`, an open loop). Loopback only.
"""

import selectors
import socket
import time


def request(path, body=b"", *, method="POST", content_type="application/json", headers=()):
    """Bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if body or method == "POST":
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Parser:
    """One answer at a time out of the bytes of a connection."""

    def __init__(self):
        self.data = b""

    def feed(self, data):
        """`(status, head, body)` when an answer is complete, or `None`."""
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.data[:end].lower()
        status = int(head[9:12])
        if status < 200:  # "100 Continue": the answer follows
            self.data = self.data[end + 4 :]
            return self.feed(b"")
        place = head.find(b"\r\ncontent-length:")
        if place >= 0:
            stop = head.find(b"\r\n", place + 2)
            length = int(head[place + 17 : stop if stop >= 0 else None])
            if len(self.data) < end + 4 + length:
                return None
            body = self.data[end + 4 : end + 4 + length]
            self.data = self.data[end + 4 + length :]
            return status, head, body
        if b"transfer-encoding: chunked" in head:
            return self._chunked(end + 4, status, head)
        self.data = self.data[end + 4 :]  # 204 and the like
        return status, head, b""

    def _chunked(self, place, status, head):
        body = []
        while True:
            stop = self.data.find(b"\r\n", place)
            if stop < 0:
                return None
            length = int(self.data[place:stop].split(b";")[0], 16)
            if len(self.data) < stop + 2 + length + 2:
                return None
            if not length:
                self.data = self.data[stop + 4 :]
                return status, head, b"".join(body)
            body.append(self.data[stop + 2 : stop + 2 + length])
            place = stop + 2 + length + 2


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def once(port, data, timeout=30):
    """Sends one request on a connection of its own; returns `(status, head, body)`."""
    with connect(port) as connection:
        connection.settimeout(timeout)
        connection.sendall(data)
        parser = Parser()
        while True:
            received = connection.recv(1 << 16)
            if not received:
                raise ConnectionError(f"closed in mid-answer after {len(parser.data)} bytes")
            if answer := parser.feed(received):
                return answer


def _send(connection, data):
    """All of it, also where the buffers of the socket hold less."""
    view = memoryview(data)
    while view:
        try:
            view = view[connection.send(view) :]
        except BlockingIOError:
            time.sleep(0.0005)
        except OSError:  # it was closed: the answer, or its end, is read next
            return


class Result:
    """`times` in seconds, in order of arrival; `wrong` answers; `statuses` counted; `errors`."""

    def __init__(self):
        self.times, self.wrong, self.errors, self.statuses, self.seconds = [], 0, 0, {}, 0.0

    def percentile(self, share):
        times = sorted(self.times)
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")


def load(port, requests, clients, seconds, right=None, rate=None, tick=None, count=None):
    """Loads a server for a while and returns a `Result`.

    Args:
        port: Int.
        requests: List of the requests' bytes; they are sent in turn.
        clients: Int, connections.
        seconds: Float.
        right: Optional function `(index, status, body)` of each answer: is it right?
        rate: Optional float, requests per second of all clients together; as many as there are
            free connections for when not given. A request's time then counts from when it was
            due, so that a server that stalls is charged for all that waited.
        tick: Optional function, called once a second with the `Result` so far.
        count: Optional int, requests after which it ends also before the time.
    """
    selector, result = selectors.DefaultSelector(), Result()
    idle, flying, sent = [], {}, 0
    most = float("inf") if count is None else count
    for _ in range(clients):
        connection = connect(port)
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, Parser())
        idle.append(connection)
    start = time.perf_counter()
    end, due, ticked = start + seconds, start, start

    def send(now):
        nonlocal sent, due
        while idle and now < end and sent < most and (rate is None or due <= now):
            connection, index = idle.pop(), sent % len(requests)
            flying[connection] = (due if rate else time.perf_counter(), index)
            _send(connection, requests[index])
            sent += 1
            if rate:
                due += 1 / rate

    def reconnect(connection):
        selector.unregister(connection)
        connection.close()
        fresh = connect(port)
        fresh.setblocking(False)
        selector.register(fresh, selectors.EVENT_READ, Parser())
        return fresh

    send(start)
    while flying or (sent < most and time.perf_counter() < end):
        wait = 30 if rate is None else max(0, min(due - time.perf_counter(), 1)) if idle else 1
        events = selector.select(wait)
        if not events and rate is None:
            result.errors += len(flying)  # no answer for half a minute
            break
        for key, _ in events:
            connection = key.fileobj
            try:
                received = connection.recv(1 << 18)
            except OSError:
                received = b""
            if not received:
                result.errors += flying.pop(connection, None) is not None
                idle.append(reconnect(connection))
                continue
            answer = key.data.feed(received)
            if answer is None:
                continue
            begun, index = flying.pop(connection)
            status, head, body = answer
            result.statuses[status] = result.statuses.get(status, 0) + 1
            if status == 200:
                result.times.append(time.perf_counter() - begun)
            if right is not None and not right(index, status, body):
                result.wrong += 1
            idle.append(reconnect(connection) if b"connection: close" in head else connection)
        now = time.perf_counter()
        if tick and now - ticked >= 1:
            ticked = now
            tick(result)
        if rate and now > end + 30:
            result.errors += len(flying)
            break
        send(now)
    result.seconds = time.perf_counter() - start
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    selector.close()
    return result
