"""Tunery's own web process and engine: python tunery_server.py WORK.json

Deployments are those of WORK.json instead of rows of a database; everything else is the service's own.
"""

import asyncio
import sys
from pathlib import Path

import msgspec
import uvicorn

from tunery import app, wiring
from tunery.catalog import BUNDLED, CHAT, COMPLETION
from tunery.deployments import Serving
from tunery.messages import Adapter
from tunery.serving import commands
from tunery.serving.pool import EnginePool
from tunery.settings import Settings
from tunery.weights import Weights


class Given:
    """Deployment "base", and one for each adapter by its number."""

    def __init__(self, adapters: list[dict[str, str]]) -> None:
        self._adapters = {str(number): Adapter(**adapter) for number, adapter in enumerate(adapters)}

    def serve(self, _account_id: int, name: str) -> Serving:
        return Serving(
            name=name,
            model=name,
            weights=Weights(BUNDLED),
            adapter=self._adapters.get(name),
            kinds=frozenset({CHAT, COMPLETION}),
            context_length=8192,
        )


async def main() -> None:
    work = msgspec.json.decode(Path(sys.argv[1]).read_bytes())
    settings = Settings(home=Path(work["folder"]) / "home", models=Path(work["base"]).parent, port=work["port"])
    rooms = wiring.services(settings)
    engines = EnginePool(
        rooms.catalog.base_model,
        settings.home / "engines",
        commands.embedded(threads=work["threads"], device=settings.device),
        silence_seconds=settings.engine_silence_seconds,
    )
    application = app.web(rooms, engines)
    application.state.deployments = Given(work["adapters"])
    await engines.mount(Weights(BUNDLED), None)
    server = uvicorn.Server(
        uvicorn.Config(app.entrance(application), port=settings.port, lifespan="off", log_level="warning")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    print(rooms.accounts.keys(rooms.accounts.first())[0], flush=True)
    await serving
    await engines.close()


if __name__ == "__main__":
    asyncio.run(main())
