"""What a type checker knows of the public interface: mypy reads this, nobody runs it.

A line that must be refused says so, and mypy tells where it is not.
"""

from typing import Any, assert_type

import numpy as np

import export
import kgen
from export import serving
from kgen.training.run import Run, train

data = kgen.data.load("photos/", image_shape=(64, 64, 3), horizontal_flip=True)
assert_type(data, kgen.data.Data)
assert_type(data.train, kgen.data.Split)
assert_type(data.test, kgen.data.Split | None)
assert_type(data.train.binarized(0), kgen.data.Split)
assert_type(kgen.data.degrade(data.train.images, "noise:25"), np.ndarray)
kgen.data.load("photos/", seed="0")  # type: ignore[arg-type]
kgen.data.load("photos/", image_size=64)  # type: ignore[call-arg]
kgen.data.loads("photos/")  # type: ignore[attr-defined]

model = kgen.models.VAE.from_preset("vae_64x64")
assert_type(model, kgen.models.VAE)
assert_type(model.generate(16, seed=0), np.ndarray)
assert_type(kgen.load("runs/vae").generate(seeds=[1, 2]), np.ndarray)
assert_type(kgen.models.presets(), dict[str, dict[str, Any]])
kgen.images.save_png(kgen.images.grid(model.generate(9), columns=3), "grid.png")
model.generate(16, batch_size="all")  # type: ignore[arg-type]
assert_type(kgen.models.trained(), dict[str, dict[str, Any]])
model.save_to_preset("vae", weights=["safetensors"], dtype="float16", about={"license": "mit"})
kgen.models.VAE.from_preset(1)  # type: ignore[arg-type]
assert_type(kgen.hub.publish("vae", "hf://me/vae", private=True), dict[str, Any])
claim = kgen.origin.of_model(model).claim(seeds=range(9), labels=3).in_grid(columns=3)
assert_type(claim.seeds, tuple[int, ...])
kgen.images.save_png(kgen.images.grid(model.generate(9, seed=0), columns=3), "grid.png", claim)

run = train("vae", "digits", "runs/vae", minutes=1.0, callbacks=["mine:Log"])
assert_type(run, Run)
assert_type(run.metrics, list[dict[str, Any]])
assert_type(kgen.evaluation.evaluate(model, data, folder="evaluation"), dict[str, Any])
train(run=1)  # type: ignore[arg-type]

artifact = export.export(model, "artifacts/vae", ("onnx",), variants={"drawn": {"draw": True}})
assert_type(artifact, export.Artifact)
assert_type(export.verify(artifact.path).seconds, float)
assert_type(export.load("artifacts/vae").formats, tuple[str, ...])
export.export(model, "artifacts/vae", opset="18")  # type: ignore[arg-type]
assert_type(export.inspect("grid.png", artifact), export.inspection.Inspection)
assert_type(export.inspect("grid.png").claim, kgen.origin.Claim | None)

service = serving.Service(["artifacts/vae"], limits=serving.Limits(rows=8))
with serving.Server(service, port=0) as server, serving.Client("http://127.0.0.1:1") as client:
    assert_type(server, serving.Server)
    assert_type(client.generate(range(4), temperature=0.5), np.ndarray)
