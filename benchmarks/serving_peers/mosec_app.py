"""mosec: HTTP and batching in Rust, workers are processes."""

import sys

import common
import mosec

given = common.settings()


class Generate(mosec.Worker):
    def __init__(self):
        self.model = common.Model(given.file, given.threads)
        self.resp_mime_type = common.MEDIA[given.answer]

    def forward(self, data):
        if isinstance(data, list):
            return list(self.model([each["seed"] for each in data]))
        return self.model([data["seed"]])[0]

    def serialize(self, data):
        return common.encode(data, given.answer)


if __name__ == "__main__":
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(given.port), "--log-level", "error"]
    server = mosec.Server()
    server.append_worker(
        Generate,
        num=given.workers,
        max_batch_size=given.max_batch,
        max_wait_time=2,
        start_method="fork",
        route="/image",
    )
    server.run()
