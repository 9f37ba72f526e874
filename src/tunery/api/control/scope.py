"""The one dependency of all ARM routes: token, api-version, what the path names, and the right to it.

What the caller holds no role on is to him as if it were not: the same 404, in the same words.
"""

from typing import Annotated

import msgspec
from fastapi import Depends, Request

from tunery import groups, roles
from tunery.access import Access
from tunery.accounts import Accounts, not_found
from tunery.api.rights import authorise, operation_of
from tunery.api.wire import DATED
from tunery.deploying import check_name
from tunery.errors import InvalidRequest, NotFound, Unauthorized
from tunery.groups import Groups
from tunery.records import Account
from tunery.roles import ACCOUNT, GROUP, LOCATION, PROVIDER, SUBSCRIPTION, Caller
from tunery.settings import Settings

__all__ = ["ACCOUNT", "GROUP", "LOCATION", "PROVIDER", "SUBSCRIPTION", "ArmCall", "Control", "SignedIn", "host"]


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
    """Token, api-version, the scope of the path and the right to it are there, or ARM's error."""
    caller = _bearer(request)
    path = request.path_params
    if "deployment" in path:
        # Before the version: the guide's curl line lacks the '?' and so carries its version in the name.
        check_name(path["deployment"])
    _check_version(request.query_params.get("api-version"))
    subscription, group, name = path["subscription"], path.get("group"), path.get("account")
    _refuse_unseen(request, caller, subscription, group, name)
    template = ACCOUNT if name is not None else SUBSCRIPTION if group is None else GROUP
    scope = template.format(subscription=subscription, group=group, account=name)
    authorise(request, caller, scope)
    accounts: Accounts = request.app.state.accounts
    found = None if name is None else accounts.by_arm_id(scope)
    return ArmCall(caller=caller, scope=scope, subscription=subscription, group=group, name=name, found=found)


def _refuse_unseen(request: Request, caller: Caller, subscription: str, group: str | None, name: str | None) -> None:
    known: Groups = request.app.state.groups
    scope = SUBSCRIPTION.format(subscription=subscription)
    if subscription.lower() not in known.subscriptions() or not roles.sees(caller, scope):
        raise NotFound(f"The subscription '{subscription}' could not be found.", code="SubscriptionNotFound")
    if group is not None:
        scope = GROUP.format(subscription=subscription, group=group)
        if not roles.sees(caller, scope):
            raise groups.not_found(group)
    if group is not None and name is not None:
        known.get(subscription, group)
        if not roles.sees(caller, ACCOUNT.format(subscription=subscription, group=group, account=name)):
            raise not_found(name)


def signed_in(request: Request) -> Caller:
    """The dependency of ARM routes above all subscriptions, which answer with what the caller may see."""
    caller = _bearer(request)
    _check_version(request.query_params.get("api-version"))
    roles.require_row(operation_of(request))
    return caller


SignedIn = Annotated[Caller, Depends(signed_in)]
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
