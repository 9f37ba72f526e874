"""`tunery principals` and `tunery roles`: who may sign in, and who may do what. Every change is in the audit log."""

import getpass
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tunery import roles, settings, wiring
from tunery.errors import InvalidRequest, NotFound
from tunery.options import Home
from tunery.principals import check_password
from tunery.records import Change, PrincipalKind
from tunery.rooms import Services

principals_app = typer.Typer(no_args_is_help=True, help="Who may sign in: people and service principals.")
roles_app = typer.Typer(no_args_is_help=True, help="Who may do what, and where.")

Name = Annotated[str, typer.Argument(help="A principal's name or object id.")]
Role = Annotated[str, typer.Argument(help="One of: " + ", ".join(roles.ROLES) + ".")]
Where = Annotated[
    str | None,
    typer.Option("--scope", help="An account's name, an ARM id, or / for all; the first account if left out."),
]
FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read it from standard input, not make one up.")]


@principals_app.command("list")
def list_principals(home: Home = None) -> None:
    """Show everybody who is known."""
    with opened(home) as rooms:
        table = Table("name", "kind", "object id (client id)", "signs in with")
        for one in rooms.access.principals.all():
            proof = one.issuer or ("a secret" if one.secret_hash else "nothing yet")
            table.add_row(one.name, one.kind, one.id, proof)
        Console().print(table)


@principals_app.command("add")
def add_principal(
    name: Annotated[str, typer.Argument(help="What it is called, and what a person signs in as.")],
    *,
    user: Annotated[bool, typer.Option("--user", help="A person, not a service principal.")] = False,
    password_stdin: FromStdin = False,
    issuer: Annotated[str, typer.Option(help="An outside issuer of the settings that vouches for it.")] = "",
    object_id: Annotated[str | None, typer.Option(help="What that issuer calls it: its oid claim, else sub.")] = None,
    home: Home = None,
) -> None:
    """Make a principal and print its secret, which isn't shown again. It may do nothing until it has a role."""
    if bool(issuer) != bool(object_id):
        raise InvalidRequest("--issuer and --object-id go together: an outside principal has both.")
    password = _password(password_stdin)
    kind = PrincipalKind.USER if user else PrincipalKind.APPLICATION
    with opened(home) as rooms:
        if issuer and issuer not in [known.issuer for known in rooms.settings.issuers]:
            raise InvalidRequest(f"{issuer} is none of the [[issuers]] in tunery.toml.", param="issuer")
        made = rooms.access.principals.add(name, kind, issuer=issuer, object_id=object_id)
        note(rooms, "principals/write", made.name, "/")
        typer.echo(f"id: {made.id}")
        if not issuer:
            typer.echo(f"secret: {rooms.access.principals.set_secret(made, password)}")


@principals_app.command("remove")
def remove_principal(name: Name, home: Home = None) -> None:
    """Remove a principal with its roles; its tokens end at once."""
    with opened(home) as rooms:
        principal = rooms.access.principals.get(name)
        rooms.access.principals.remove(principal)
        note(rooms, "principals/delete", principal.name, "/")
    typer.echo(f"{principal.name} is removed.")


@principals_app.command("secret")
def renew_secret(name: Name, password_stdin: FromStdin = False, home: Home = None) -> None:
    """Give a principal a new secret and print it. The old one, and sign-ins that rest on it, end."""
    with opened(home) as rooms:
        principal = rooms.access.principals.get(name)
        secret = rooms.access.principals.set_secret(principal, _password(password_stdin))
        note(rooms, "principals/secret/write", principal.name, "/")
    typer.echo(f"secret: {secret}")


@roles_app.command("list")
def list_roles(home: Home = None) -> None:
    """Show who holds which role, and where."""
    with opened(home) as rooms:
        table = Table("principal", "role", "scope", "given by")
        for principal, held in rooms.access.principals.assignments():
            table.add_row(principal.name, held.role, held.scope or "/", held.created_by)
        Console().print(table)


@roles_app.command("add")
def add_role(name: Name, role: Role, scope: Where = None, home: Home = None) -> None:
    """Give a principal a role on an account, a resource group, a subscription or everything."""
    with opened(home) as rooms:
        where = _scope(rooms, scope)
        principal = rooms.access.principals.get(name)
        held = rooms.access.principals.assign(principal, role, where, by=getpass.getuser())
        note(rooms, "roleAssignments/write", f"{principal.name}: {held.role}", where)
    typer.echo(f"{principal.name} holds the role {held.role} on {held.scope or '/'}.")


@roles_app.command("remove")
def remove_role(name: Name, role: Role, scope: Where = None, home: Home = None) -> None:
    """Take a role back; it counts at the next request."""
    with opened(home) as rooms:
        where = _scope(rooms, scope)
        principal = rooms.access.principals.get(name)
        rooms.access.principals.unassign(principal, role, where)
        note(rooms, "roleAssignments/delete", f"{principal.name}: {roles.named_role(role)}", where)
    typer.echo(f"{principal.name} no longer holds that role there.")


@contextmanager
def opened(home: Home) -> Iterator[Services]:
    rooms = wiring.services(settings.load(home=home))
    try:
        yield rooms
    finally:
        rooms.close()


def _scope(rooms: Services, given: str | None) -> str:
    """The ARM id that was meant. Raises NotFound for an account that isn't there."""
    if given is None:
        return rooms.accounts.first().arm_id
    if given.startswith("/"):
        return given
    account = rooms.accounts.by_name(given)
    if account is None:
        raise NotFound(f"There is no account '{given}'.")
    return account.arm_id


def _password(from_stdin: bool) -> str | None:
    """Raises InvalidRequest for one that is too short, before anything is made."""
    password = sys.stdin.readline().rstrip("\r\n") if from_stdin else None
    check_password(password)
    return password


def note(rooms: Services, what: str, resource: str, where: str, *, provider: str = "Microsoft.Authorization") -> None:
    """Write down what was changed from this command line."""
    change = Change(
        at=0,
        principal_id=None,
        name=getpass.getuser(),
        kind=PrincipalKind.USER,
        operation="tunery " + " ".join(sys.argv[1:3]),
        action=f"{provider}/{what}",
        scope=roles.folded(where),
        resource=resource,
        status=0,
        address=socket.gethostname(),
        request_id="",
    )
    rooms.audit.write(change)
