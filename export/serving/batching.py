"""Requests that come together run together.

Each row of a request has its own seed, so that rows of several requests in one batch give what
each gives alone. Nothing waits for company: while a batch runs, what arrives collects, and is the
next batch.
"""

import asyncio
import collections
import dataclasses
import math
import time

import numpy as np

from export.serving.errors import RequestError


@dataclasses.dataclass(eq=False)
class _Waiting:
    inputs: dict
    rows: int
    result: asyncio.Future


class Batcher:
    """Runs a function of batches for requests of some rows each, in the order of their arrival.

    Args:
        function: Callable of a dict of arrays `[B, ...]` that returns such a dict, with row *i*
            of every output a function of row *i* of the inputs alone. It runs in `executor`.
        executor: A `concurrent.futures.Executor`.
        max_rows: Int, rows of a batch at most; a request has no more.
        queue_rows: Int, rows that may wait; a request beyond is refused with status 429.
        observe: Callable `(rows, seconds)`, called for every batch that has run.
    """

    def __init__(self, function, executor, max_rows, queue_rows, observe=lambda rows, seconds: 0):
        self._function = function
        self._executor = executor
        self._max_rows = max_rows
        self._queue_rows = queue_rows
        self._observe = observe
        self._waiting = collections.deque()
        self._running = None
        self._row_seconds = 0.0  # of late, to tell when to come again

    @property
    def rows(self):
        """How many rows wait."""
        return sum(request.rows for request in self._waiting if not request.result.done())

    async def run(self, inputs):
        """The outputs for one request's rows; `RequestError` 429 where too much waits already."""
        rows = len(next(iter(inputs.values())))
        waiting = self.rows
        if waiting and waiting + rows > self._queue_rows:
            seconds = max(1, math.ceil(self._row_seconds * waiting))
            raise RequestError(
                429, f"{waiting} rows wait already. Try again in {seconds} s.", retry_after=seconds
            )
        request = _Waiting(inputs, rows, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._running is None:
            self._running = asyncio.create_task(self._run_all())
        return await request.result

    async def _run_all(self):
        try:
            while batch := self._next():
                await self._run(batch)
        finally:
            self._running = None

    async def _run(self, batch):
        loop, start = asyncio.get_running_loop(), time.perf_counter()
        try:
            outputs = await loop.run_in_executor(self._executor, self._call, batch)
        except Exception as error:
            if len(batch) > 1:  # the others are not to suffer by one of them
                for request in batch:
                    await self._run([request])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        rows, seconds = sum(request.rows for request in batch), time.perf_counter() - start
        self._row_seconds += 0.2 * (seconds / rows - self._row_seconds)
        self._observe(rows, seconds)
        begin = 0
        for request in batch:
            end = begin + request.rows
            if not request.result.done():  # whose client may be gone
                request.result.set_result({k: a[begin:end] for k, a in outputs.items()})
            begin = end

    def _next(self):
        """The requests of the next batch; those whose clients are gone are left out."""
        batch, rows = [], 0
        while self._waiting:
            request = self._waiting[0]
            if not request.result.done():
                full = rows + request.rows > self._max_rows
                if batch and (full or _shapes(request) != _shapes(batch[0])):
                    break
                batch.append(request)
                rows += request.rows
            self._waiting.popleft()
        return batch

    def _call(self, batch):
        if len(batch) == 1:
            return self._function(batch[0].inputs)
        names = batch[0].inputs
        return self._function({k: np.concatenate([r.inputs[k] for r in batch]) for k in names})


def _shapes(request):
    """The shapes of a request's rows, which differ where pictures may be of any size."""
    return [array.shape[1:] for array in request.inputs.values()]
