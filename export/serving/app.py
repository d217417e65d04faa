"""The application: its routes in one place. ASGI, for uvicorn here and for engines elsewhere."""

import functools
import pathlib
import re

import fastapi
import fastapi.staticfiles
from starlette.exceptions import HTTPException

import kgen
from export.serving import open_inference, pictures, tensorflow_serving
from export.serving.errors import RequestError
from export.serving.guard import Guard
from export.serving.http import json_response

_HERE = pathlib.Path(__file__).parent
#: `index.html` of the page, and under `/static/` its other files.
PAGE = _HERE / "page"


def create_app(service, *, token=None, hosts=None, log=lambda entry: None):
    """An ASGI application that serves a loaded `Service`.

    Args:
        service: `export.serving.Service`.
        token: String, what clients must send as `Authorization: Bearer ...`; `None` for no token.
        hosts: Set of the names that it is called by, as `Host` says; `None` for any.
        log: Callable of a dict, one for each request.
    """
    app = fastapi.FastAPI(
        title="kgen",
        version=kgen.__version__,
        description="Image generators, by TensorFlow Serving's REST API and by the Open Inference "
        "Protocol.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for router in (tensorflow_serving.router, open_inference.router, pictures.router, _router):
        app.include_router(router)
    app.mount("/docs", fastapi.staticfiles.StaticFiles(directory=_HERE / "docs", html=True))
    app.mount("/static", fastapi.staticfiles.StaticFiles(directory=PAGE))
    app.openapi = functools.cache(functools.partial(_described, app.openapi, token is not None))
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    public = {"/", *(f"/static/{path.name}" for path in PAGE.iterdir())}
    return Guard(app, service, token, public, hosts, log)


_ERRORS = {
    "400": "What was asked for is not as it should be",
    "404": "There is no such model, version, label or endpoint",
    "408": "The request did not arrive in time",
    "413": "The body is too large",
    "415": "The body is of another type, or compressed",
    "429": "Too much waits already; Retry-After says when to come again",
    "503": "The answer took too long, or too many connections are open",
}


def _described(openapi, has_token):
    """FastAPI's description with what it does not see: names in paths, errors, the token."""
    described = openapi()
    schema = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    }
    errors = _ERRORS | ({"401": "The token is missing or wrong"} if has_token else {})
    for path, operations in described["paths"].items():
        names = re.findall(r"{(\w+)}", path)
        for operation in operations.values():
            given = operation.setdefault("parameters", [])
            there = {parameter["name"] for parameter in given if parameter["in"] == "path"}
            given += [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in names
                if name not in there
            ]
            for status, description in errors.items():
                operation["responses"][status] = {
                    "description": description,
                    "content": {"application/json": {"schema": schema}},
                }
    if has_token:
        schemes = described.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        described["security"] = [{"bearer": []}]
    return described


async def _refused(request, error):
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return json_response({"error": str(error)}, error.status, headers)


async def _http_error(request, error):
    return json_response({"error": error.detail}, error.status_code, error.headers)


_router = fastapi.APIRouter(tags=["Server"])


@_router.get("/", include_in_schema=False)
async def page():
    return fastapi.responses.FileResponse(PAGE / "index.html")


@_router.get("/healthz", summary="Whether the server takes requests")
async def healthz(request: fastapi.Request):
    return json_response({"status": "ok"})


@_router.get("/models.json", summary="All models, as the page needs them")
async def models(request: fastapi.Request):
    served = request.app.state.service.models
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
                }
                for name, versions in served.items()
                for newest in [versions[max(versions)]]
            ],
        }
    )


@_router.get("/metrics", summary="For Prometheus", response_class=fastapi.Response)
async def metrics(request: fastapi.Request):
    text = request.app.state.service.metrics.text()
    return fastapi.Response(text, media_type="text/plain; version=0.0.4")


@_router.get("/docs/swagger-ui/{file}", include_in_schema=False)
async def swagger_ui(file: str):
    import fastapi_swagger

    if file not in ("swagger-ui-bundle.js", "swagger-ui.css"):
        raise HTTPException(404)
    folder = pathlib.Path(fastapi_swagger.__file__).parent / "resources"
    return fastapi.responses.FileResponse(folder / file)
