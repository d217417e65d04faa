"""MLServer: adaptive batching; speaks the Open Inference Protocol in JSON.

`raw` is a tensor of type BYTES, in base64: it has no binary extension over REST.
"""

import asyncio

import common
import mlserver
import numpy as np
from mlserver import codecs, types

given = common.settings()


class Generate(mlserver.MLModel):
    async def load(self):
        self.model = common.Model(given.file, given.threads)
        return True

    async def predict(self, payload):
        seeds = codecs.NumpyCodec.decode_input(payload.inputs[0]).reshape(-1)
        images = self.model(seeds)
        if given.answer == "raw":
            rows = [image.tobytes() for image in images]
            output = codecs.Base64Codec.encode_output("image", rows)
        else:
            output = codecs.NumpyCodec.encode_output("image", np.asarray(images))
        return types.InferenceResponse(model_name=self.name, outputs=[output])


async def serve():
    settings = mlserver.Settings(
        host="127.0.0.1",
        http_port=given.port,
        grpc_port=given.port + 1,
        metrics_port=given.port + 2,
        parallel_workers=given.workers if given.workers > 1 else 0,
        access_log_enabled=False,
        debug=False,
    )
    server = mlserver.MLServer(settings)
    await server.start(
        [
            mlserver.ModelSettings(
                name="generate",
                implementation=Generate,
                max_batch_size=given.max_batch if given.max_batch > 1 else 0,
                max_batch_time=0.002 if given.max_batch > 1 else 0,
            )
        ]
    )


if __name__ == "__main__":
    asyncio.run(serve())
