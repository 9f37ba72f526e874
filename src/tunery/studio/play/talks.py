"""Conversations that are open somewhere, and the answers that are being written in them.

An answer belongs to its conversation, not to a page: it goes on through a reload. Once no page shows the conversation
any more, its answers are cancelled in the engine and what they said until then is kept.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

import anyio
import msgspec
from nicegui import background_tasks

from tunery.api.answer import CUT_SHORT
from tunery.api.asking import ask
from tunery.catalog import CHAT, COMPLETION
from tunery.errors import EngineUnavailable, TooLarge, TuneryError
from tunery.messages import Done, Piece, Started
from tunery.records import new_id
from tunery.studio.play.drafts import TALK, Drafts
from tunery.studio.play.talk import Answer, Round, Talk, body
from tunery.studio.visitor import Visitor

logger = logging.getLogger(__name__)

OPERATIONS = {
    CHAT: "POST /deployments/{deployment}/chat/completions",
    COMPLETION: "POST /deployments/{deployment}/completions",
}


class OpenTalk:
    """One conversation, shared by all pages that show it."""

    def __init__(self, talk: Talk, draft_id: str, drafts: Drafts) -> None:
        self.talk, self.id = talk, draft_id
        self.version = 0
        """Changes with the list of rounds and whatever was written by hand in it."""
        self.watchers = 0
        self.finished: list[Answer] = []
        """In the order in which they ended, since it was opened."""
        self._drafts = drafts
        self._running: dict[int, asyncio.Task[None]] = {}
        self._saving = asyncio.Lock()

    @property
    def busy(self) -> bool:
        return bool(self._running)

    async def save(self) -> None:
        """Keep it as it is now."""
        async with self._saving:
            content = msgspec.json.encode(self.talk).decode()
            await anyio.to_thread.run_sync(self._drafts.put, TALK, content, self.id)

    async def changed(self) -> None:
        """After a change by hand."""
        self.version += 1
        await self.save()

    async def send(self, visitor: Visitor, prompt: str) -> None:
        """A new round, answered by every pane at once."""
        turn = Round(prompt=prompt)
        self.talk.rounds.append(turn)
        self.talk.draft = ""
        await self.answer(visitor, turn, range(len(self.talk.panes)))

    async def answer(self, visitor: Visitor, turn: Round, panes: Iterable[int]) -> None:
        """Answer a round, or answer it again."""
        for pane in panes:
            answer = Answer(deployment=self.talk.panes[pane])
            turn.answers[pane] = answer
            task = background_tasks.create(self._write(visitor, turn, pane, answer), name=f"answer of {self.id}")
            self._running[id(answer)] = task
            task.add_done_callback(partial(self._ended, answer))
        await self.changed()

    async def stop(self) -> None:
        """Cancel what runs, in the engine too; returns once it has ended."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            await self.save()

    def _ended(self, answer: Answer, _task: "asyncio.Task[None]") -> None:
        self._running.pop(id(answer), None)
        if answer.state == "running":  # cancelled before its first step
            answer.state = "stopped"
        self.finished.append(answer)

    async def _write(self, visitor: Visitor, turn: Round, pane: int, answer: Answer) -> None:
        started = time.monotonic()
        try:
            await self._listen(visitor, turn, pane, answer, lambda: time.monotonic() - started)
            answer.state = "done"
        except asyncio.CancelledError:
            # Stopping is no failure, and what was said stays.
            answer.state = "stopped"
        except TuneryError as error:
            answer.state, answer.error = "failed", error.message
        except Exception:
            # An edge, like a route's.
            logger.exception("an answer in the Playground broke off")
            answer.state, answer.error = "failed", TuneryError().message
        finally:
            answer.seconds = time.monotonic() - started
        await self.save()

    async def _listen(
        self, visitor: Visitor, turn: Round, pane: int, answer: Answer, elapsed: Callable[[], float]
    ) -> None:
        """The API's own way of a request: right, deployment, body, limit, engine, meter."""
        rooms, account, kind = visitor.rooms, visitor.account, self.talk.kind
        sent = msgspec.json.encode(body(self.talk, turn, pane))
        if len(sent) > rooms.settings.max_body_bytes:
            raise TooLarge(f"The request body has more than {rooms.settings.max_body_bytes} bytes.")
        serving = await visitor.do(OPERATIONS[kind], rooms.deployments.serve, account.id, answer.deployment)
        answer.context_length = serving.context_length
        asked = await ask(kind, sent, serving, account_id=account.id, desk=rooms)
        async with contextlib.aclosing(asked.events):
            async for event in asked.events:
                if isinstance(event, Started):
                    answer.prompt_tokens = event.prompt_tokens
                elif isinstance(event, Piece):
                    answer.first_seconds = answer.first_seconds or elapsed()
                    answer.text += event.text
                    answer.completion_tokens += 1
                    answer.finish_reason = event.finish_reason or answer.finish_reason
                else:
                    _count(answer, event)
                    return
        raise EngineUnavailable(CUT_SHORT)


class Talks:
    """Every conversation that a page shows, by whose it is."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, str, str], OpenTalk] = {}

    async def open(self, visitor: Visitor, draft_id: str) -> OpenTalk:
        """The visitor's conversation of this id, or a new one; to be closed once the page is gone."""
        drafts = drafts_of(visitor)
        found = self._open.get((*drafts.owner, draft_id))
        if found is None:
            kept = await anyio.to_thread.run_sync(drafts.get, TALK, draft_id)
            # Looked up again: another page may have opened it while we read.
            found = self._open.get((*drafts.owner, draft_id))
            if found is None:
                talk, known_id = (Talk(), new_id("draft-")) if kept is None else (_read(kept.content), draft_id)
                found = self._open[*drafts.owner, known_id] = OpenTalk(talk, known_id, drafts)
        found.watchers += 1
        return found

    async def close(self, visitor: Visitor, shown: OpenTalk) -> None:
        """A page that showed it is gone."""
        shown.watchers -= 1
        if shown.watchers == 0:
            self._open.pop((*drafts_of(visitor).owner, shown.id), None)
            await shown.stop()


def drafts_of(visitor: Visitor) -> Drafts:
    return Drafts(visitor.rooms.store, visitor.account.id, visitor.caller)


def _read(content: str) -> Talk:
    talk = msgspec.json.decode(content, type=Talk)
    for turn in (*talk.chat, *talk.completion):
        for answer in turn.answers.values():
            if answer.state == "running":  # the service was ended meanwhile
                answer.state = "stopped"
    return talk


def _count(answer: Answer, done: Done) -> None:
    answer.prompt_tokens, answer.cached_tokens = done.prompt_tokens, done.cached_tokens
    answer.completion_tokens = done.completion_tokens
