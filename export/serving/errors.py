"""What a server answers with when it does not do what it was asked for."""


class RequestError(Exception):
    """A request that is not answered as it would like to be.

    Args:
        status: Int, the status of HTTP.
        message: String for the client: what was received, and what would be right.
        retry_after: Int, seconds after which another try makes sense, or `None`.
    """

    def __init__(self, status, message, retry_after=None):
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def bad(message):
    """A `RequestError` for what the client has to mend."""
    return RequestError(400, message)


def not_found(message):
    return RequestError(404, message)


class ServingError(RuntimeError):
    """What a `Client` raises where a server does not answer, or not as asked.

    The message is the server's own. `status` is that of HTTP, or the name of gRPC's code; `None`
    where there was no answer.
    """

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status
