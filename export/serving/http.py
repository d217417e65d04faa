"""What all routes share."""

import fastapi
import orjson

from export.serving.errors import bad

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def json_response(value, status=200, headers=None):
    """A response of JSON; arrays of NumPy are lists in it."""
    return fastapi.Response(
        orjson.dumps(value, _as_plain, _OPTIONS), status, headers, "application/json"
    )


def _as_plain(value):
    return value.tolist()  # an array that is not contiguous, or a number of NumPy


def parsed(body):
    """A body as plain data; `RequestError` where it is no JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad(f"The body is no JSON: {str(error)[:100]}") from None
