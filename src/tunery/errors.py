"""What Tunery refuses, and how it says so.

TuneryError                   500 internalFailure
├── InvalidRequest            400 invalidPayload
│   ├── OperationNotSupported 400 OperationNotSupported
│   ├── ContextOverflow       400 context_length_exceeded
│   ├── QuotaExceeded         400 quotaExceeded
│   └── FileImportFailed      400 fileImportFailed
├── Unauthorized              401 unauthorized
│   └── PermissionDenied      401 PermissionDenied
├── SignInRefused             400 invalid_grant
│   └── WrongClient           401 invalid_client
├── SignInThrottled           429 temporarily_unavailable
├── Forbidden                 403 forbidden
│   └── LocalAuthDisabled     403 AuthenticationTypeDisabled
├── NotFound                  404 notFound
│   └── DeploymentNotFound    404 DeploymentNotFound
├── MethodNotAllowed          405 405
├── Conflict                  409 conflict
│   ├── WrongState            409 unexpectedEntityState
│   ├── ModelDeployed         409 conflict
│   └── DeploymentPaused      409 DeploymentPaused
├── TooLarge                  413 invalidPayload
├── TooManyRequests           429 tooManyRequests
│   └── RateLimited           429 429
├── EngineUnavailable         503 DeploymentNotReady
│   └── EngineStopped         503 DeploymentNotReady
├── IssuerUnavailable         503 serviceUnavailable
├── EstimateFailed            503 internalFailure
├── InspectionFailed          503 internalFailure
└── StorageFull               507 internalFailure

A class's docstring is its message when none is given. Codes are those of contract.md 1.1, 3.6 and 4.7; which JSON
shape they take (classic, v1 or ARM) is decided in api/wire.py alone.
"""

import math
from typing import ClassVar, NamedTuple


class TuneryError(Exception):
    """Something went wrong inside the service. The log holds the details; please try again."""

    status: ClassVar[int] = 500
    code: str = "internalFailure"
    retryable: ClassVar[bool | None] = None
    """Sent as x-should-retry where not None: SDKs retry 409 and 5xx on their own otherwise."""

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float = 1,
    ) -> None:
        """`retry_after`: seconds, for what may be sent again."""
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.param = param
        self.code = code or self.code
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidRequest(TuneryError):
    """The request isn't valid."""

    status = 400
    code = "invalidPayload"


class OperationNotSupported(InvalidRequest):
    """The operation doesn't work with this model. Choose another one."""

    code = "OperationNotSupported"


class ContextOverflow(InvalidRequest):
    """The prompt and the requested answer are longer than the model's context."""

    code = "context_length_exceeded"


class QuotaExceeded(InvalidRequest):
    """A limit of this account is reached."""

    code = "quotaExceeded"


class FileImportFailed(InvalidRequest):
    """The link couldn't be fetched. Never an answer: a worker writes it into the file's status_details."""

    code = "fileImportFailed"


class Unauthorized(TuneryError):
    """Access denied due to invalid subscription key. Send the account's key as api-key, or a bearer token."""

    status = 401
    code = "unauthorized"


class PermissionDenied(Unauthorized):
    """The principal lacks the data action that this operation needs."""

    code = "PermissionDenied"


class SignInRefused(TuneryError):
    """The sign-in failed. Codes are OAuth's (RFC 6749, 5.2)."""

    status = 400
    code = "invalid_grant"


class WrongClient(SignInRefused):
    """The client is unknown or its secret is wrong."""

    status = 401
    code = "invalid_client"


class SignInThrottled(TuneryError):
    """Too many sign-ins. Please wait before the next attempt."""

    status = 429
    code = "temporarily_unavailable"


class Forbidden(TuneryError):
    """The caller isn't allowed to do this."""

    status = 403
    code = "forbidden"


class LocalAuthDisabled(Forbidden):
    """Key based authentication is disabled for this resource (disableLocalAuth). Send a bearer token instead."""

    code = "AuthenticationTypeDisabled"


class NotFound(TuneryError):
    """Resource not found."""

    status = 404
    code = "notFound"


class DeploymentNotFound(NotFound):
    """The API deployment for this resource does not exist. If you created it in the last 5 minutes, wait and retry."""

    code = "DeploymentNotFound"


class MethodNotAllowed(TuneryError):
    """This path doesn't take that method."""

    status = 405
    code = "405"


class Conflict(TuneryError):
    """The request conflicts with the state of the resource."""

    status = 409
    code = "conflict"
    retryable = False


class WrongState(Conflict):
    """The resource isn't in a state that allows this."""

    code = "unexpectedEntityState"


class ModelDeployed(Conflict):
    """The model has a deployment. Delete the deployment first."""


class DeploymentPaused(Conflict):
    """The deployment is paused. Resume it first."""

    code = "DeploymentPaused"


class TooLarge(TuneryError):
    """The upload is larger than allowed."""

    status = 413
    code = "invalidPayload"


class TooManyRequests(TuneryError):
    """Too many requests. Please retry after a moment."""

    status = 429
    code = "tooManyRequests"


class Allowance(NamedTuple):
    """A deployment's limits a minute, and what is left of them."""

    requests: int
    requests_left: int
    tokens: int
    tokens_left: int


class RateLimited(TooManyRequests):
    """The deployment has had its requests or tokens of this minute."""

    code = "429"

    def __init__(self, message: str, allowance: Allowance, *, retry_after: float) -> None:
        """`retry_after`: seconds until the same request would pass, if no other one came."""
        super().__init__(f"{message} Please retry after {math.ceil(retry_after)} seconds.", retry_after=retry_after)
        self.allowance = allowance


class EngineUnavailable(TuneryError):
    """The model isn't loaded yet or its engine is restarting. Please retry after a moment."""

    status = 503
    code = "DeploymentNotReady"


class EngineStopped(EngineUnavailable):
    """The model's engine has stopped. Please retry after a moment."""


class IssuerUnavailable(TuneryError):
    """An outside authority doesn't give its keys, so its tokens can't be checked. Please retry after a moment."""

    status = 503
    code = "serviceUnavailable"


class EstimateFailed(TuneryError):
    """The estimate couldn't be made."""

    status = 503
    retryable = False


class InspectionFailed(TuneryError):
    """The file couldn't be looked into."""

    status = 503
    retryable = False


class StorageFull(TuneryError):
    """The disk is full: nothing of this request was kept. Free some space and send it again."""

    status = 507
    retryable = False
