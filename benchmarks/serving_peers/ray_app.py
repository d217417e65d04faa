"""Ray Serve: `@serve.batch` in each replica, behind its HTTP proxy."""

import os
import signal

import common

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray
from ray import serve
from starlette.responses import Response

given = common.settings()


@serve.deployment(
    num_replicas=given.workers,
    max_ongoing_requests=128,
    ray_actor_options={"num_cpus": 1},
)
class Generate:
    def __init__(self, given):
        self.given = given
        self.model = common.Model(given.file, given.threads)
        self.image.set_max_batch_size(given.max_batch)

    @serve.batch(batch_wait_timeout_s=0.002)
    async def image(self, seeds):
        return list(self.model(seeds))

    async def __call__(self, request):
        image = await self.image((await request.json())["seed"])
        return Response(
            common.encode(image, self.given.answer), media_type=common.MEDIA[self.given.answer]
        )


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        runtime_env={"env_vars": {k: os.environ[k] for k in ("PYTHONPATH", "SERVING_PEER")}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": given.port, "access_log": False})
    serve.run(Generate.bind(given), route_prefix="/image", name="generate")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
