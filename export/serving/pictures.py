"""Pictures for people and for `<img>`: a PNG for a seed, and a PNG for a PNG."""

from starlette.formparsers import MultiPartException
from starlette.responses import Response

from export import manifest as schema
from export.serving import tensors
from export.serving.errors import RequestError, bad, not_found
from export.serving.http import Routes

routes = Routes("Pictures")

_PNG = {"200": {"content": {"image/png": {}}, "description": "The picture"}}
_SCALARS = [
    {"name": "seed", "in": "query", "schema": {"type": "integer", "minimum": 0}},
    {"name": "label", "in": "query", "schema": {"type": "integer", "minimum": 0}},
]
_FILE = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "image/png": {"schema": _FILE},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": _FILE, "mask": _FILE, "style": _FILE},
                "additionalProperties": False,
            }
        },
    },
}
_ENDPOINT = {"name": "endpoint", "in": "query", "schema": {"type": "string"}}


def _at(suffix):
    """The paths of a model, and of its versions."""
    model = "/v1/models/{name:name}"
    return f"{model}{suffix}", f"{model}/versions/{{version:name}}{suffix}"


@routes.add(
    "GET",
    *_at("/image"),
    summary="The picture of a seed",
    parameters=[*_SCALARS, _ENDPOINT],
    responses=_PNG,
)
async def image(request):
    """Every input of the endpoint, such as seed, label or temperature, is a parameter."""
    query = _query(request)
    return await _answer(request, query.pop("endpoint", None), query, {})


@routes.add(
    "POST",
    *_at("/{endpoint:name}"),
    summary="A picture of a picture",
    parameters=_SCALARS,
    requestBody=_BODY,
    responses=_PNG,
)
async def of_image(request):
    """The body is a PNG, or a form of `image` and `mask`; all else are parameters."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        given = await _form(request)
    elif kind == "image/png":
        given = {"image": await request.body()}
    else:
        raise RequestError(
            415, "The body should be image/png, or multipart/form-data with image and mask."
        )
    return await _answer(request, request.path_params["endpoint"], _query(request), given)


def _query(request):
    pairs = request.query_params.multi_items()
    query = dict(pairs)
    if len(query) < len(pairs):
        raise bad("A parameter is there twice.")
    return query


async def _form(request):
    try:
        form = await request.form(max_files=4, max_fields=8)
    except MultiPartException as error:
        raise bad(f"The form is not read: {error.message}") from None
    given = {}
    for name, part in form.multi_items():
        if isinstance(part, str):
            raise bad(f"{name[:100]} should be a file in the form; numbers are parameters.")
        given[name] = await part.read()
    await form.close()
    return given


async def _answer(request, endpoint, query, pictures):
    service, asked = request.scope["service"], request.path_params
    version = service.find(asked["name"], asked.get("version"))
    endpoint = endpoint or schema.main(version.endpoints)
    if endpoint not in version.endpoints:
        there = ", ".join(version.endpoints)
        raise not_found(f"{version.name} has no endpoint {endpoint[:100]}; it has {there}.")
    # One that has options takes them here as it takes all else.
    with_options = endpoint + schema.WITH_OPTIONS
    endpoint = with_options if with_options in version.endpoints else endpoint
    request.scope["kgen"].update(
        model=version.name, version=version.number, endpoint=endpoint, protocol="pictures"
    )
    described = version.endpoints[endpoint]
    specs = described["inputs"]
    inputs = {}
    for name, text in query.items():
        if name in specs and len(specs[name]["shape"]) > 1:
            raise bad(f"{endpoint} takes {name} as a picture in the body, not as a parameter.")
        inputs[name] = [_number(name, text)]
    for name, png in pictures.items():
        if name not in specs or not schema.picture(specs[name]["dtype"], specs[name]["shape"]):
            raise bad(f"{endpoint} takes no picture {name[:100]!r}; its inputs: {', '.join(specs)}")
        most = service.limits.pixels
        inputs[name] = tensors.decoded(name, specs[name], png, most)[None]
    outputs = {
        name: spec
        for name, spec in described["outputs"].items()
        if schema.picture(spec["dtype"], spec["shape"]) == "image"
    }
    if not outputs:
        raise bad(f"{endpoint} gives no picture; it gives {', '.join(described['outputs'])}.")
    result = await service.run(version, endpoint, inputs)
    name, [claim] = next(iter(outputs)), version.claims(endpoint, inputs, 1)
    return Response(tensors.encoded(result[name][0], claim), media_type="image/png")


def _number(name, text):
    for kind in (int, float):
        try:
            if len(text) <= 40:
                return kind(text)
        except ValueError:
            pass
    raise bad(f"{name[:100]} should be a number. Received: {text[:40]!r}")
