"""The HTTP edge: parse, authorise, call one function, render. `install` gives every failure the contract's shape."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tunery.api.wire import NO_SUCH_PATH, error_response
from tunery.errors import InvalidRequest, MethodNotAllowed, NotFound, TooLarge, TuneryError

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; only logs ever see it."""


def install(app: FastAPI) -> None:
    """Every error of `app`, raised by us or by the framework, becomes the JSON of the family it was asked in."""
    app.add_exception_handler(TuneryError, _refused)
    app.add_exception_handler(HTTPException, _framework_refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _broke)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, TuneryError)
    return error_response(request.url.path, error)


def _framework_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = error_response(request.url.path, _translated(request, error))
    response.headers.update(error.headers or {})
    return response


def _translated(request: Request, error: HTTPException) -> TuneryError:
    if error.status_code == 404:
        return NotFound(NO_SUCH_PATH, code="404")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return MethodNotAllowed(f"{request.method} isn't possible here; this path takes {allowed}.")
    if error.status_code == 413:
        return TooLarge(error.detail)
    return InvalidRequest(error.detail) if error.status_code < 500 else TuneryError(error.detail)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return error_response(request.url.path, InvalidRequest(f"{param}: {first['msg']}.", param=param))


def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _broke(request: Request, error: Exception) -> Response:
    # The framework raises the error again once this answer is sent: the server logs it and drops the connection, so
    # the client must not take it for its next request.
    logger.error("%s %s broke: %s", request.method, request.url.path, type(error).__name__)
    response = error_response(request.url.path, TuneryError())
    response.headers["connection"] = "close"
    return response
