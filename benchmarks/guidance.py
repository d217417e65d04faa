"""What guidance is worth, all the way or in an interval of times: FD, precision, recall, labels.

python benchmarks/guidance.py denoising/model.keras --data cifar10

Of one class-conditional denoising model, from the same seeds and labels each time. Kynkäänniemi et
al., "Applying guidance in a limited interval improves sample and distribution quality in diffusion
models" (NeurIPS 2024; arXiv 2404.07724).
"""

import argparse

import keras

import kgen

#: Scale, and the times between which it holds: 0 is the data, 1 noise.
SETTINGS = ((1.0, 0.0, 1.0), (1.5, 0.0, 1.0), (2.0, 0.0, 1.0), (1.5, 0.2, 0.8), (2.0, 0.2, 0.8))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("--data", required=True, help="what it was trained on")
    parser.add_argument("--num-samples", type=int, default=2_000)
    parser.add_argument("--num-steps", type=int, default=16)
    args = parser.parse_args()
    kgen.models.registered()  # so that Keras knows the classes
    model = keras.saving.load_model(args.model)
    data = kgen.data.load(args.data, image_shape=model.image_shape, validation_fraction=0.0)
    reference = kgen.evaluation.Reference(data.test, data.train)
    labels = reference.labels_like(args.num_samples, 1)
    metrics = ("fd", "precision", "recall", "label_accuracy")
    for scale, low, high in SETTINGS:
        options = {"guidance_scale": scale, "guidance_low": low, "guidance_high": high}
        drawn = model.generate(
            args.num_samples, labels, 1, num_steps=args.num_steps, progress=False, **options
        )
        found = reference.measure(drawn, labels, metrics, force=True)["metrics"]
        figures = ", ".join(f"{title} {entry['value']:.4g}" for title, entry in found.items())
        print(f"scale {scale}, times {low} to {high}: {figures}", flush=True)


if __name__ == "__main__":
    main()
