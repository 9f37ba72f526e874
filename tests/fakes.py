"""Fakes of the inference seams, and a real server to put them behind."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from enum import Enum
from typing import Any, Literal

import msgspec
import uvicorn

from tests.waiting import until
from tunery.deployments import Serving
from tunery.errors import DeploymentNotFound, TuneryError
from tunery.messages import Adapter, Done, Generate, Piece, Started, TokenLogprob, ToolCall
from tunery.weights import Quantization, Weights


class Silence(Enum):
    """A step at which the engine says nothing more until its reader is gone."""

    FOREVER = "forever"


Event = Started | Piece | Done
Step = Event | Exception | Silence | float
"""A number: seconds in which nothing comes."""
Script = Callable[[Generate], Iterable[Step]]


class FakeGenerator:
    """Plays `script` for each request, raising the exceptions in it, and remembers what it was asked.

    Requests go through MessagePack, as they do on the way to an engine: what can't be sent fails here too.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or says("Hello")
        self.requests: list[Generate] = []
        self.weights: list[Weights] = []
        self.given = 0
        """Events handed out so far."""
        self.cancelled = threading.Event()
        """Set once an answer was closed before its end."""

    async def generate(self, weights: Weights, request: Generate, /) -> AsyncGenerator[Event, None]:
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Generate)
        self.weights.append(weights)
        self.requests.append(sent)
        ended = False
        try:
            for step in self.script(sent):
                await asyncio.sleep(0)
                ended = isinstance(step, Done | Exception)
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Silence):
                    await asyncio.Event().wait()
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    self.given += 1
                    yield step
        finally:
            if not ended:
                self.cancelled.set()


def says(
    *texts: str,
    finish: Literal["stop", "length", "tool_calls"] = "stop",
    calls: Iterable[ToolCall] = (),
    cached_tokens: int = 0,
) -> Script:
    """Every choice says these texts, a token each, then makes these calls. Prompts have three tokens."""

    def script(request: Generate) -> Iterator[Step]:
        prompts = request.prompts or [""]
        yield Started(id=request.id, prompt_tokens=3 * len(prompts))
        for index in range(len(prompts) * request.n):
            prompt = prompts[index // request.n]
            if request.echo and isinstance(prompt, str):
                yield piece(request, index, prompt, first=True)
            for text in texts:
                yield piece(request, index, text)
            yield Piece(id=request.id, index=index, tool_calls=list(calls), finish_reason=finish)
        yield Done(
            id=request.id,
            prompt_tokens=3 * len(prompts),
            completion_tokens=len(texts) * len(prompts) * request.n,
            cached_tokens=cached_tokens,
        )

    return script


def piece(request: Generate, index: int, text: str, *, first: bool = False) -> Piece:
    """One token of a choice; the first one of an echoed prompt has no log probability."""
    logprobs = []
    if request.logprobs is not None:
        alternatives = [(text, text.encode(), -0.5), ("other", b"other", -1.5), ("third", b"third", -2.5)]
        top = [] if first else alternatives[: request.logprobs]
        logprob = None if first else -0.5
        logprobs = [TokenLogprob(token=text, token_bytes=text.encode(), logprob=logprob, top=top)]
    return Piece(id=request.id, index=index, text=text, logprobs=logprobs)


def serving(
    name: str,
    *kinds: str,
    context_length: int = 8192,
    units: int | None = None,
    quantization: Quantization | None = None,
) -> Serving:
    return Serving(
        name=name,
        model=f"gpt-35-turbo-0613.ft-{name}",
        weights=Weights("tiny", quantization),
        adapter=Adapter(digest=f"digest-of-{name}", directory=f"adapters/{name}"),
        kinds=frozenset(kinds or ("chat", "completion")),
        context_length=context_length,
        units=units,
    )


class FakeDeployments:
    """Deployments of one account by name; an error in place of one is raised."""

    def __init__(self, account_id: int, **deployments: Serving | TuneryError) -> None:
        self._account_id = account_id
        self._deployments = deployments

    def serve(self, account_id: int, name: str) -> Serving:
        found = self._deployments.get(name) if account_id == self._account_id else None
        if found is None:
            raise DeploymentNotFound
        if isinstance(found, TuneryError):
            raise found
        return found


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """A real server for an ASGI app on a free loopback port; its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the server didn't start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
