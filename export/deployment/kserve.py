"""A folder for KServe: a model repository, and the InferenceService that has Triton serve it."""

from export.deployment import common, triton

IMAGE = triton.IMAGE

_ENGINE = {"name": "kserve", "ports": {"rest": 8080}}


def models_of(artifacts):
    """As of Triton, which is what runs them."""
    return triton.models_of(artifacts)


def write(folder, models, image=None):
    """Fills a folder with models as from `models_of`; returns what was made of them, as a dict."""
    served = triton.served_models(models)
    triton.write_repository(folder / "models", served)
    record = {
        "image": image or IMAGE,
        "models": common.describe(models),
        "served": {each.name: list(each.versions) for each in served},
    }
    values = {
        **record,
        "engine": {**_ENGINE, "image": record["image"]},
        "bytes": common.size(folder),
        "first": served[0],
        **triton.described(served, "http://localhost:8080"),
    }
    others = ("docker-compose.yml", *(f"kubernetes/{name}.yaml" for name in (
        "autoscaler", "deployment", "service"
    )))  # fmt: skip
    common.render(folder, "kserve", values, without=others)
    return record
