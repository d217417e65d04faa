"""The application: its routes in one place. ASGI, for uvicorn here and for engines elsewhere."""

import pathlib

import fastapi
import fastapi.staticfiles
from starlette.exceptions import HTTPException

import kgen
from export.serving import open_inference, pictures, tensorflow_serving
from export.serving.errors import RequestError
from export.serving.guard import Guard
from export.serving.http import json_response

_HERE = pathlib.Path(__file__).parent
#: The page is served from here, and by any static server from an artifact's folder `web`.
PAGE = _HERE / "page"


def create_app(service, *, token=None, log=lambda entry: None):
    """An ASGI application that serves a loaded `Service`.

    Args:
        service: `export.serving.Service`.
        token: String, what clients must send as `Authorization: Bearer ...`; `None` for no token.
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
    app.mount("/", fastapi.staticfiles.StaticFiles(directory=PAGE, html=True))
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    public = {"/", *(f"/{p.relative_to(PAGE).as_posix()}" for p in PAGE.rglob("*") if p.is_file())}
    return Guard(app, service, token, public, log)


async def _refused(request, error):
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return json_response({"error": str(error)}, error.status, headers)


async def _http_error(request, error):
    return json_response({"error": error.detail}, error.status_code, error.headers)


_router = fastapi.APIRouter(tags=["Server"])


@_router.get("/healthz", summary="Whether the server takes requests")
async def healthz(request: fastapi.Request):
    draining = request.app.state.service.draining
    return json_response({"status": "draining" if draining else "ok"}, 503 if draining else 200)


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
