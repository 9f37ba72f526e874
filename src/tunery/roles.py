"""Who may do what: operations need actions, roles grant actions. The only table of rights; knows no HTTP and no rows.

An operation is a route: its method and its path template, on the data plane without /openai and /v1. API, ARM and
Studio ask the same `may`. Roles are Azure's built-in ones (contract.md 4.9); an account's key may do everything on the
data plane of its account and nothing on ARM.
"""

import re
from fnmatch import fnmatchcase

import msgspec

from tunery.errors import Forbidden, InvalidRequest, PermissionDenied
from tunery.records import Account, Assignment

PROVIDER = "Microsoft.CognitiveServices"
DATA = f"{PROVIDER}/accounts/OpenAI"
SUBSCRIPTION = "/subscriptions/{subscription}"
GROUP = SUBSCRIPTION + "/resourceGroups/{group}"
ACCOUNT = f"{GROUP}/providers/{PROVIDER}/accounts/{{account}}"
LOCATION = f"{SUBSCRIPTION}/providers/{PROVIDER}/locations/{{location}}"

GROUPS = "Microsoft.Resources/subscriptions/resourceGroups"
CHAT = f"{DATA}/deployments/chat/completions/action"
COMPLETION = f"{DATA}/deployments/completions/action"

ACTIONS = {
    "POST /files": f"{DATA}/files/write",
    "POST /files/import": f"{DATA}/files/write",
    "GET /files": f"{DATA}/files/read",
    "GET /files/{file_id}": f"{DATA}/files/read",
    "GET /files/{file_id}/content": f"{DATA}/files/read",
    "GET /files/{file_id}/findings": f"{DATA}/files/read",
    "GET /files/{file_id}/statistics": f"{DATA}/files/read",
    "GET /files/{file_id}/examples": f"{DATA}/files/read",
    "GET /files/{file_id}/overlap": f"{DATA}/files/read",
    "GET /files/{file_id}/corrections": f"{DATA}/files/read",
    "GET /files/{file_id}/corrected": f"{DATA}/files/read",
    "DELETE /files/{file_id}": f"{DATA}/files/delete",
    "POST /uploads": f"{DATA}/uploads/write",
    "GET /uploads/{upload_id}": f"{DATA}/uploads/read",
    "POST /uploads/{upload_id}/parts": f"{DATA}/uploads/write",
    "POST /uploads/{upload_id}/complete": f"{DATA}/uploads/write",
    "POST /uploads/{upload_id}/cancel": f"{DATA}/uploads/write",
    "POST /fine_tuning/jobs": f"{DATA}/fine-tunes/write",
    "POST /fine_tuning/estimate": f"{DATA}/fine-tunes/estimate/action",
    "POST /fine_tuning/recipe": f"{DATA}/fine-tunes/read",
    "GET /fine_tuning/models": f"{DATA}/models/read",
    "GET /fine_tuning/jobs": f"{DATA}/fine-tunes/read",
    "GET /fine_tuning/jobs/{job_id}": f"{DATA}/fine-tunes/read",
    "DELETE /fine_tuning/jobs/{job_id}": f"{DATA}/fine-tunes/delete",
    "POST /fine_tuning/jobs/{job_id}/cancel": f"{DATA}/fine-tunes/write",
    "POST /fine_tuning/jobs/{job_id}/pause": f"{DATA}/fine-tunes/write",
    "POST /fine_tuning/jobs/{job_id}/resume": f"{DATA}/fine-tunes/write",
    "GET /fine_tuning/jobs/{job_id}/events": f"{DATA}/fine-tunes/read",
    "POST /fine_tuning/jobs/{job_id}/events": f"{DATA}/fine-tunes/read",
    "GET /fine_tuning/jobs/{job_id}/metrics": f"{DATA}/fine-tunes/read",
    "GET /fine_tuning/jobs/{job_id}/checkpoints": f"{DATA}/fine-tunes/read",
    "POST /fine_tuning/jobs/{job_id}/checkpoints/{checkpoint}/copy": f"{DATA}/fine-tunes/write",
    "GET /fine_tuning/jobs/{job_id}/checkpoints/{checkpoint}/copy": f"{DATA}/fine-tunes/read",
    "GET /models": f"{DATA}/models/read",
    "GET /models/{name}": f"{DATA}/models/read",
    "DELETE /models/{name}": f"{DATA}/models/delete",
    "POST /chat/completions": CHAT,
    "POST /deployments/{deployment}/chat/completions": CHAT,
    "POST /completions": COMPLETION,
    "POST /deployments/{deployment}/completions": COMPLETION,
    "GET /deployments": f"{DATA}/deployments/read",
    "POST /deployments": f"{DATA}/deployments/write",
    "GET /deployments/{deployment}": f"{DATA}/deployments/read",
    "PATCH /deployments/{deployment}": f"{DATA}/deployments/write",
    "PUT /deployments/{deployment}": f"{DATA}/deployments/write",
    "POST /deployments/{deployment}/pause": f"{DATA}/deployments/write",
    "POST /deployments/{deployment}/resume": f"{DATA}/deployments/write",
    "GET /deployments/{deployment}/usages": f"{DATA}/deployments/read",
    "DELETE /deployments/{deployment}": f"{DATA}/deployments/delete",
    "GET /fine-tunes": f"{DATA}/fine-tunes/read",
    "GET /fine-tunes/{fine_tune}": f"{DATA}/fine-tunes/read",
    "GET /fine-tunes/{fine_tune}/events": f"{DATA}/fine-tunes/read",
    "GET /usages": f"{DATA}/usages/read",
    "GET /machine": f"{DATA}/machine/read",
    "GET /tenants": "Microsoft.Resources/tenants/read",
    "GET /subscriptions": "Microsoft.Resources/subscriptions/read",
    f"GET {SUBSCRIPTION}/locations": "Microsoft.Resources/subscriptions/locations/read",
    f"GET {SUBSCRIPTION}/providers": "Microsoft.Resources/subscriptions/providers/read",
    f"GET {SUBSCRIPTION}/providers/{{provider}}": "Microsoft.Resources/subscriptions/providers/read",
    f"POST {SUBSCRIPTION}/providers/{{provider}}/register": f"{PROVIDER}/register/action",
    f"GET {SUBSCRIPTION}/resourceGroups": f"{GROUPS}/read",
    f"GET {GROUP}": f"{GROUPS}/read",
    f"HEAD {GROUP}": f"{GROUPS}/read",
    f"PUT {GROUP}": f"{GROUPS}/write",
    f"DELETE {GROUP}": f"{GROUPS}/delete",
    f"GET {SUBSCRIPTION}/providers/{PROVIDER}/accounts": f"{PROVIDER}/accounts/read",
    f"GET {GROUP}/providers/{PROVIDER}/accounts": f"{PROVIDER}/accounts/read",
    f"GET {ACCOUNT}": f"{PROVIDER}/accounts/read",
    f"PUT {ACCOUNT}": f"{PROVIDER}/accounts/write",
    f"PATCH {ACCOUNT}": f"{PROVIDER}/accounts/write",
    f"DELETE {ACCOUNT}": f"{PROVIDER}/accounts/delete",
    f"POST {ACCOUNT}/listKeys": f"{PROVIDER}/accounts/listKeys/action",
    f"POST {ACCOUNT}/regenerateKey": f"{PROVIDER}/accounts/regenerateKey/action",
    f"GET {ACCOUNT}/auditLogs": f"{PROVIDER}/accounts/auditLogs/read",
    f"GET {ACCOUNT}/models": f"{PROVIDER}/accounts/models/read",
    f"GET {ACCOUNT}/skus": f"{PROVIDER}/accounts/skus/read",
    f"GET {ACCOUNT}/usages": f"{PROVIDER}/accounts/usages/read",
    f"GET {ACCOUNT}/deployments": f"{PROVIDER}/accounts/deployments/read",
    f"GET {ACCOUNT}/deployments/{{deployment}}": f"{PROVIDER}/accounts/deployments/read",
    f"GET {ACCOUNT}/deployments/{{deployment}}/skus": f"{PROVIDER}/accounts/deployments/read",
    f"GET {ACCOUNT}/deployments/{{deployment}}/usages": f"{PROVIDER}/accounts/deployments/read",
    f"GET {ACCOUNT}/deployments/{{deployment}}/dailyUsages": f"{PROVIDER}/accounts/deployments/read",
    f"PUT {ACCOUNT}/deployments/{{deployment}}": f"{PROVIDER}/accounts/deployments/write",
    f"POST {ACCOUNT}/deployments/{{deployment}}": f"{PROVIDER}/accounts/deployments/write",
    f"PATCH {ACCOUNT}/deployments/{{deployment}}": f"{PROVIDER}/accounts/deployments/write",
    f"POST {ACCOUNT}/deployments/{{deployment}}/pause": f"{PROVIDER}/accounts/deployments/write",
    f"POST {ACCOUNT}/deployments/{{deployment}}/resume": f"{PROVIDER}/accounts/deployments/write",
    f"DELETE {ACCOUNT}/deployments/{{deployment}}": f"{PROVIDER}/accounts/deployments/delete",
    f"GET {SUBSCRIPTION}/providers/{PROVIDER}/skus": f"{PROVIDER}/skus/read",
    f"GET {SUBSCRIPTION}/providers/{PROVIDER}/modelCapacities": f"{PROVIDER}/locations/models/read",
    f"GET {LOCATION}/modelCapacities": f"{PROVIDER}/locations/models/read",
    f"GET {LOCATION}/models": f"{PROVIDER}/locations/models/read",
    f"GET {LOCATION}/usages": f"{PROVIDER}/locations/usages/read",
    f"GET {LOCATION}/operations/{{operation}}": f"{PROVIDER}/locations/operations/read",
}
"""Operation to the action it needs."""

LISTS = frozenset(
    {
        f"GET {SUBSCRIPTION}/locations",
        f"GET {SUBSCRIPTION}/providers",
        f"GET {SUBSCRIPTION}/providers/{{provider}}",
        f"GET {SUBSCRIPTION}/resourceGroups",
        f"GET {SUBSCRIPTION}/providers/{PROVIDER}/accounts",
        f"GET {GROUP}/providers/{PROVIDER}/accounts",
        f"GET {SUBSCRIPTION}/providers/{PROVIDER}/skus",
        f"GET {SUBSCRIPTION}/providers/{PROVIDER}/modelCapacities",
        f"GET {LOCATION}/modelCapacities",
        f"GET {LOCATION}/models",
        f"GET {LOCATION}/operations/{{operation}}",
    }
)
"""Operations on a subscription or group that tell what everybody there may know, or only what the caller may see: a
role anywhere below lets them in."""

OPEN = frozenset(
    {
        "GET /metadata/endpoints",
        "GET /adfs/.well-known/openid-configuration",
        "GET /adfs/discovery/keys",
        "POST /adfs/oauth2/token",
        "POST /adfs/oauth2/devicecode",
        "GET /adfs/oauth2/deviceauth",
        "POST /adfs/oauth2/deviceauth",
    }
)
"""The way to a token, and so before any right. Nothing else may be here."""

_SEE = (
    "Microsoft.Resources/*/read",
    f"{PROVIDER}/accounts/read",
    f"{PROVIDER}/accounts/deployments/read",
    f"{PROVIDER}/accounts/models/read",
    f"{PROVIDER}/accounts/skus/read",
    f"{PROVIDER}/locations/models/read",
    f"{PROVIDER}/locations/operations/read",
    f"{PROVIDER}/skus/read",
)
_TUNE = tuple(f"{DATA}/{kind}/*" for kind in ("files", "uploads", "fine-tunes", "models"))

OWNER = "Owner"
USAGES_READER = "Cognitive Services Usages Reader"
ROLES: dict[str, tuple[str, ...]] = {
    OWNER: ("*",),
    "Cognitive Services OpenAI User": (*_SEE, f"{DATA}/*/read", CHAT, COMPLETION),
    "Cognitive Services OpenAI Contributor": (*_SEE, f"{PROVIDER}/accounts/deployments/*", f"{DATA}/*"),
    "Cognitive Services Contributor": (
        *_SEE,
        *_TUNE,
        f"{PROVIDER}/register/action",
        f"{PROVIDER}/accounts/write",
        f"{PROVIDER}/accounts/delete",
        f"{PROVIDER}/accounts/listKeys/action",
        f"{PROVIDER}/accounts/regenerateKey/action",
        f"{PROVIDER}/accounts/deployments/*",
        f"{PROVIDER}/accounts/auditLogs/read",
        *(f"{DATA}/deployments/{what}" for what in ("read", "write", "delete")),
        f"{DATA}/usages/read",
        f"{DATA}/machine/read",
    ),
    USAGES_READER: (
        "Microsoft.Resources/subscriptions/read",
        f"{PROVIDER}/accounts/usages/read",
        f"{PROVIDER}/locations/usages/read",
    ),
}
"""Role to the actions it grants; * stands for anything."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who proved who he is: a principal with its roles, or the holder of an account's key."""

    id: str | None = None
    """The principal's object id; a key has none."""
    name: str
    kind: str
    """Key, User or Application, as ARM's systemData spells it."""
    account: Account | None = None
    """Whose key it is."""
    assignments: tuple[Assignment, ...] = ()


def may(caller: Caller, operation: str, where: Account | str) -> bool:
    """Whether the caller may do that to an account, or to a whole scope such as /subscriptions/S."""
    action = ACTIONS.get(operation)
    if action is None:
        return False
    if caller.account is not None:
        return isinstance(where, Account) and where.id == caller.account.id and is_data_action(action)
    scope = folded(where)
    return any(
        grants(assignment.role, action)
        and (covers(assignment.scope, scope) or (operation in LISTS and covers(scope, assignment.scope)))
        for assignment in caller.assignments
    )


def require(caller: Caller, operation: str, where: Account | str) -> None:
    """Raises PermissionDenied (data plane) or Forbidden (ARM) that names who, which action, and where."""
    if may(caller, operation, where):
        return
    require_row(operation)
    action = ACTIONS[operation]
    who = f"'{caller.name}'" if caller.id is None else f"'{caller.name}' (object id {caller.id})"
    if is_data_action(action):
        raise PermissionDenied(
            f"The principal {who} lacks the data action '{action}' that the operation '{operation}' needs. "
            "`tunery roles add` gives it a role that has it."
        )
    raise Forbidden(
        f"The client {who} has no authorization to perform the action '{action}' over the scope '{shown(where)}'. "
        "If a role was given to it just now, try again; `tunery roles add` gives one."
    )


def require_row(operation: str) -> None:
    """For operations that everybody who signed in may do: Raises Forbidden if the table doesn't know it."""
    if operation not in ACTIONS:
        raise Forbidden(f"The operation '{operation}' has no row in the table of roles, so nobody may do it.")


def sees(caller: Caller, where: Account | str) -> bool:
    """Whether the caller holds any role there or below; what he doesn't see is to him as if it were not."""
    scope = folded(where)
    return any(covers(held.scope, scope) or covers(scope, held.scope) for held in caller.assignments)


def changes(operation: str) -> bool:
    """Whether the operation leaves something behind, so that it belongs into the audit log. Unknown ones count."""
    action = ACTIONS.get(operation, "")
    return not action.endswith("/read") and action not in (CHAT, COMPLETION, f"{DATA}/fine-tunes/estimate/action")


def is_data_action(action: str) -> bool:
    return action.startswith(f"{DATA}/")


def grants(role: str, action: str) -> bool:
    return any(fnmatchcase(action, pattern) for pattern in ROLES.get(role, ()))


def named_role(name: str) -> str:
    """The role of that name in any case. Raises InvalidRequest that lists the roles."""
    for role in ROLES:
        if role.lower() == name.strip().lower():
            return role
    raise InvalidRequest(f"There is no role '{name}'. Roles are: {', '.join(ROLES)}.", param="role")


SCOPE = re.compile(
    rf"/subscriptions/[^/]+(/resourceGroups/[^/]+(/providers/{re.escape(PROVIDER)}/accounts/[^/]+)?)?", re.IGNORECASE
)


def checked_scope(role: str, scope: str) -> str:
    """A scope that this role may be given on. Raises InvalidRequest."""
    if scope == "/":
        return scope
    found = SCOPE.fullmatch(scope.rstrip("/"))
    if found is None:
        raise InvalidRequest(
            f"'{scope}' is no scope. One is /subscriptions/S, /subscriptions/S/resourceGroups/G, the whole id of an "
            "account, or / for everything.",
            param="scope",
        )
    if role == USAGES_READER and found[1]:
        raise InvalidRequest(f"The role '{USAGES_READER}' is given on a whole subscription only.", param="scope")
    return scope


def shown(where: Account | str) -> str:
    return where if isinstance(where, str) else where.arm_id


def folded(where: Account | str) -> str:
    """A scope as it is compared and kept: lower case, no slash at its end; the root of all is empty."""
    return shown(where).lower().rstrip("/")


def covers(outer: str, inner: str) -> bool:
    """Whether a folded scope is another one or contains it."""
    return inner == outer or inner.startswith(f"{outer}/")
