"""What all routes share: how they are declared and described, and JSON."""

import re

import orjson
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response
from starlette.routing import Route

from export.serving.errors import bad


class _Name(Convertor):
    """Names in paths, which end where TensorFlow Serving's verbs begin: `NAME:predict`."""

    regex = "[^/:]+"

    def convert(self, value):
        return value

    def to_string(self, value):
        return value


register_url_convertor("name", _Name())


class Routes:
    """Operations of one interface: what is routed, and described as OpenAPI.

    Handlers take the request and read what they need of it: parsing by declaration would cost a
    request more than its batch does.
    """

    def __init__(self, tag):
        self._tag = tag
        self.routes = []
        self.operations = []

    def add(self, method, *paths, summary, **described):
        """Registers a handler for paths; `described` is more of the operation, in OpenAPI."""

        def register(handler):
            for path in paths:
                self.routes.append(Route(path, handler, methods=[method]))
                operation = {"tags": [self._tag], "summary": summary, **described}
                if handler.__doc__:
                    operation["description"] = handler.__doc__
                plain = re.sub(r":\w+}", "}", path)
                self.operations.append((plain, method.lower(), operation))
            return handler

        return register


_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def json_response(value, status=200, headers=None):
    """A response of JSON; arrays of NumPy are lists in it."""
    return Response(orjson.dumps(value, _as_plain, _OPTIONS), status, headers, "application/json")


def _as_plain(value):
    return value.tolist()  # an array that is not contiguous, or a number of NumPy


def parsed(body):
    """A body as plain data; `RequestError` where it is no JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad(f"The body is no JSON: {str(error)[:100]}") from None
