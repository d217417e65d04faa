"""The application: its routes in one place. ASGI, for uvicorn here and for engines elsewhere."""

import importlib.util
import pathlib
import re
from collections.abc import Callable, Collection
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

import kgen
from export.serving import open_inference, pictures, tensorflow_serving
from export.serving.guard import Guard
from export.serving.http import Routes, json_response
from export.serving.service import Service

_HERE = pathlib.Path(__file__).parent
#: `index.html` of the page, and under `/static/` its other files.
PAGE = _HERE / "page"

routes = Routes("Server")


def create_app(
    service: Service,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    log: Callable[[dict], object] = lambda entry: None,
) -> Callable[..., Any]:
    """An ASGI application that serves a loaded `Service`.

    Args:
        service: `export.serving.Service`.
        token: String, what clients must send as `Authorization: Bearer ...`; `None` for no token.
        hosts: Set of the names that it is called by, as `Host` says; `None` for any.
        log: Callable of a dict, one for each request.
    """
    parts = [tensorflow_serving.routes, open_inference.routes, pictures.routes, routes]
    description = _openapi(parts, service, token is not None)

    async def openapi(request):
        return json_response(description)

    routed = [route for part in parts for route in part.routes]
    app = Router(
        [
            # The paths of one method never meet another's: what is asked most is found first.
            *sorted(routed, key=lambda route: "POST" not in route.methods),
            Route("/openapi.json", openapi),
            Route("/", _page),
            Route("/docs/swagger-ui/{file}", _swagger_ui),
            Mount("/docs", StaticFiles(directory=_HERE / "docs", html=True)),
            Mount("/static", StaticFiles(directory=PAGE)),
        ]
    )
    public = {"/", *(f"/static/{path.name}" for path in PAGE.iterdir())}
    return Guard(app, service, token, public, hosts, log)


@routes.add("GET", "/healthz", summary="Whether the server takes requests")
async def healthz(request):
    return json_response({"status": "ok"})


@routes.add("GET", "/models.json", summary="All models, as the page needs them")
async def models(request):
    served = request.scope["service"].models
    return json_response(
        {
            "runtime": "server",
            "models": [
                {
                    "name": name,
                    "versions": sorted(versions),
                    "image_shape": newest.artifact.manifest["model"]["image_shape"],
                    "num_classes": newest.artifact.manifest["model"]["num_classes"],
                    "endpoints": newest.endpoints,
                    "marks": {str(n): v.origin.packet_parts() for n, v in versions.items()},
                }
                for name, versions in served.items()
                for newest in [versions[max(versions)]]
            ],
        }
    )


@routes.add(
    "GET",
    "/metrics",
    summary="For Prometheus",
    responses={"200": {"description": "Its text format", "content": {"text/plain": {}}}},
)
async def metrics(request):
    text = request.scope["service"].metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4")


async def _page(request):
    return FileResponse(PAGE / "index.html")


async def _swagger_ui(request):
    file = request.path_params["file"]
    if file not in ("swagger-ui-bundle.js", "swagger-ui.css"):
        raise HTTPException(404)
    # The package holds Swagger UI's files; what else it does is for FastAPI, and is not imported.
    package = importlib.util.find_spec("fastapi_swagger").submodule_search_locations[0]
    return FileResponse(pathlib.Path(package) / "resources" / file)


_ERRORS = {
    "400": "What was asked for is not as it should be",
    "404": "There is no such model, version, label or endpoint",
    "408": "The request did not arrive in time",
    "413": "The body is too large",
    "415": "The body is of another type, or compressed",
    "421": "The server is called by another name than its own",
    "429": "Too much waits already; Retry-After says when to come again",
    "503": "The answer took too long, or too many connections are open",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}


def _openapi(parts, service, has_token):
    """The description of all operations, as OpenAPI 3.1."""
    name = next(iter(service.models), "vae")
    examples = {
        "name": name,
        "model": name,
        "version": "1",
        "label": "stable",
        "endpoint": "reconstruct",
    }
    errors = _ERRORS | ({"401": "The token is missing or wrong"} if has_token else {})
    refused = {
        status: {
            "description": description,
            "content": {"application/json": {"schema": _ERROR}},
        }
        for status, description in errors.items()
    }
    ok = {"200": {"description": "The answer", "content": {"application/json": {}}}}
    paths = {}
    for path, method, operation in (each for part in parts for each in part.operations):
        in_path = [
            {
                "name": parameter,
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
                "example": examples[parameter],
            }
            for parameter in re.findall(r"{(\w+)}", path)
        ]
        paths.setdefault(path, {})[method] = {
            **operation,
            "parameters": [*in_path, *operation.get("parameters", ())],
            "responses": {**operation.get("responses", ok), **refused},
        }
    bearer = {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kgen",
            "version": kgen.__version__,
            "description": "Image generators, by TensorFlow Serving's REST API and by the Open "
            "Inference Protocol.",
        },
        "paths": paths,
        **({"components": bearer, "security": [{"bearer": []}]} if has_token else {}),
    }
