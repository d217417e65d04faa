"""LitServe: its batching in the worker's process; requests and answers go through a queue."""

import common
import fastapi
import litserve

given = common.settings()


class Generate(litserve.LitAPI):
    def setup(self, device):
        self.model = common.Model(given.file, given.threads)

    def decode_request(self, request):
        return request["seed"]

    def batch(self, inputs):
        return list(inputs)

    def predict(self, seeds):
        return self.model(seeds) if isinstance(seeds, list) else self.model([seeds])[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        body = common.encode(output, given.answer)
        return fastapi.Response(body, media_type=common.MEDIA[given.answer])


if __name__ == "__main__":
    api = Generate(max_batch_size=given.max_batch, batch_timeout=0.002, api_path="/image")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=given.workers, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=given.port,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
