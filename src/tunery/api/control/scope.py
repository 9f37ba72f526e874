"""The one dependency of all ARM routes: token, api-version, and what the path names."""

from typing import Annotated

import msgspec
from fastapi import Depends, Request

from tunery.access import Access, Caller
from tunery.accounts import Accounts, not_found
from tunery.api.wire import DATED
from tunery.deployments import check_name
from tunery.errors import InvalidRequest, NotFound, Unauthorized
from tunery.groups import Groups
from tunery.records import Account
from tunery.settings import Settings

PROVIDER = "Microsoft.CognitiveServices"
SUBSCRIPTION = "/subscriptions/{subscription}"
GROUP = SUBSCRIPTION + "/resourceGroups/{group}"
ACCOUNT = f"{GROUP}/providers/{PROVIDER}/accounts/{{account}}"
LOCATION = f"{SUBSCRIPTION}/providers/{PROVIDER}/locations/{{location}}"


class ArmCall(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, and about what: an account, a resource group or a subscription."""

    caller: Caller
    scope: str
    """ARM id of the narrowest of the three that the path names, whether it exists or not."""
    subscription: str
    group: str | None = None
    name: str | None = None
    """Of the account, as the path has it."""
    found: Account | None = None

    @property
    def account(self) -> Account:
        """Raises NotFound."""
        if self.found is None:
            raise not_found(self.name or "")
        return self.found


def control_plane(request: Request) -> ArmCall:
    """Token, api-version and the scope of the path are right, or ARM's error."""
    caller = _bearer(request)
    path = request.path_params
    if "deployment" in path:
        # Before the version: the guide's curl line lacks the '?' and so carries its version in the name.
        check_name(path["deployment"])
    _check_version(request.query_params.get("api-version"))
    subscription, group, name = path["subscription"], path.get("group"), path.get("account")
    rooms: Groups = request.app.state.groups
    if subscription.lower() not in rooms.subscriptions():
        raise NotFound(f"The subscription '{subscription}' could not be found.", code="SubscriptionNotFound")
    found = None
    if group is not None and name is not None:
        rooms.get(subscription, group)
        accounts: Accounts = request.app.state.accounts
        found = accounts.by_arm_id(ACCOUNT.format(subscription=subscription, group=group, account=name))
    template = ACCOUNT if name is not None else SUBSCRIPTION if group is None else GROUP
    scope = template.format(subscription=subscription, group=group, account=name)
    return ArmCall(caller=caller, scope=scope, subscription=subscription, group=group, name=name, found=found)


Control = Annotated[ArmCall, Depends(control_plane)]


def host(request: Request) -> str:
    """Scheme and host under which the caller reached us, for the links we hand out."""
    return f"{request.url.scheme}://{request.url.netloc}"


def _bearer(request: Request) -> Caller:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized(
            "The control plane needs a bearer token: Authorization: Bearer TOKEN. `tunery env` prints one as "
            "TUNERY_ARM_TOKEN."
        )
    access: Access = request.app.state.access
    settings: Settings = request.app.state.settings
    return access.by_token(token, audience=settings.arm_audience)


def _check_version(version: str | None) -> None:
    if version is None:
        raise InvalidRequest(
            "The api-version query parameter (?api-version=) is required for all requests.",
            code="MissingApiVersionParameter",
        )
    if not DATED.fullmatch(version):
        raise InvalidRequest(
            f"The api-version '{version}' is invalid: a date is wanted, such as 2023-05-01 or 2025-07-01-preview.",
            code="InvalidApiVersionParameter",
        )
