"""`tunery accounts`: the accounts of this service. Every change is in the audit log."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tunery.accounts import Wanted
from tunery.errors import Conflict, InvalidRequest
from tunery.options import Home
from tunery.rights_cli import note, opened
from tunery.rooms import Services

accounts_app = typer.Typer(no_args_is_help=True, help="Accounts: each has data, models and keys of its own.")

PROVIDER = "Microsoft.CognitiveServices"


@accounts_app.command("list")
def list_accounts(home: Home = None) -> None:
    """Show every account, where it lies, and whether keys open it."""
    with opened(home) as rooms:
        table = Table("name", "location", "resource group", "subscription", "keys")
        for one in rooms.accounts.all():
            keys = "none" if one.disable_local_auth else "two"
            table.add_row(one.name, one.location, one.resource_group, one.subscription_id, keys)
        Console().print(table)


@accounts_app.command("add")
def add_account(
    name: Annotated[str, typer.Argument(help="Unique in this service, in any case.")],
    *,
    location: Annotated[
        str | None, typer.Option(help="A region of the settings; the first account's if left out.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Resource group, made if need be; the first account's if left out.")
    ] = None,
    subscription: Annotated[str | None, typer.Option(help="The first account's if left out.")] = None,
    home: Home = None,
) -> None:
    """Make an account. `tunery env --account NAME` prints its key and path."""
    with opened(home) as rooms:
        first = rooms.accounts.first()
        where, place = subscription or first.subscription_id, location or first.location
        into = group or first.resource_group
        _refuse(rooms, name, where)
        if into.lower() not in [known.name.lower() for known in rooms.groups.all(where)]:
            rooms.groups.put(where, into, location=place, tags=None)
        made, _ = rooms.accounts.put(where, into, name, Wanted(location=place), by="tunery accounts")
        note(rooms, "accounts/write", made.name, made.arm_id, provider=PROVIDER)
    typer.echo(made.arm_id)


@accounts_app.command("remove")
def remove_account(name: Annotated[str, typer.Argument(help="As accounts list shows it.")], home: Home = None) -> None:
    """Remove an account with its data and keys, for good. One with deployments or unfinished jobs stays."""
    with opened(home) as rooms:
        account = rooms.accounts.named(name)
        rooms.accounts.delete(account)
        note(rooms, "accounts/delete", account.name, account.arm_id, provider=PROVIDER)
    typer.echo(f"{account.name} is removed.")


def _refuse(rooms: Services, name: str, subscription: str) -> None:
    if rooms.accounts.by_name(name) is not None:
        raise Conflict(f"There is an account '{name}' already.")
    if subscription.lower() not in rooms.groups.subscriptions():
        raise InvalidRequest(
            f"The subscription '{subscription}' isn't known. Add it to the setting `subscriptions`.",
            param="subscription",
        )
