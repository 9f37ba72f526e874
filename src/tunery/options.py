"""Command-line options that several groups of commands share."""

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path | None, typer.Option(help="Folder that holds everything the service keeps.")]
