"""FastAPI on uvicorn with a micro-batcher of its own: a free worker takes all that waits."""

import asyncio
import collections
import concurrent.futures

import common
import fastapi
import uvicorn

given = common.settings()
model = common.Model(given.file, given.threads)
pool = concurrent.futures.ThreadPoolExecutor(given.workers)
waiting, free = collections.deque(), given.workers
app = fastapi.FastAPI()


def start():
    global free
    while free and waiting:
        taken = [waiting.popleft() for _ in range(min(given.max_batch, len(waiting)))]
        free -= 1
        asyncio.get_running_loop().create_task(run(taken))


async def run(taken):
    global free
    images = await asyncio.get_running_loop().run_in_executor(
        pool, model, [seed for seed, _ in taken]
    )
    free += 1
    start()
    for (_, future), image in zip(taken, images, strict=True):
        future.set_result(image)


@app.post("/image")
async def generate(request: fastapi.Request):
    seed = (await request.json())["seed"]
    future = asyncio.get_running_loop().create_future()
    waiting.append((seed, future))
    start()
    return fastapi.Response(
        common.encode(await future, given.answer), media_type=common.MEDIA[given.answer]
    )


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=given.port, access_log=False, log_level="warning")
