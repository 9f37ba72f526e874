"""Answers that were good enough to learn from, collected until they are a training file."""

from typing import Any, NamedTuple

import msgspec

from tunery.files import TRAINING, Files
from tunery.records import File
from tunery.studio.play.drafts import Drafts
from tunery.studio.play.talk import Kind


class Collected(NamedTuple):
    """One example, a line of the file to be."""

    id: str
    example: dict[str, Any]

    @property
    def prompt(self) -> str:
        if "messages" in self.example:
            return str(self.example["messages"][-2]["content"])
        return str(self.example["prompt"])

    @property
    def answer(self) -> str:
        if "messages" in self.example:
            return str(self.example["messages"][-1]["content"])
        return str(self.example["completion"])

    def saying(self, answer: str) -> dict[str, Any]:
        """The same example with another answer."""
        if "messages" in self.example:
            *before, last = self.example["messages"]
            return {"messages": [*before, {**last, "content": answer}]}
        return {**self.example, "completion": answer}


class Basket:
    """One caller's examples of one kind: a file has chats or completions, never both."""

    def __init__(self, drafts: Drafts, kind: Kind) -> None:
        self._drafts, self._kind = drafts, kind

    def all(self) -> list[Collected]:
        """Oldest first."""
        kept = self._drafts.all(self._kind)
        return [Collected(draft.id, msgspec.json.decode(draft.content, type=dict[str, Any])) for draft in kept][::-1]

    def add(self, example: dict[str, Any]) -> None:
        self._drafts.put(self._kind, msgspec.json.encode(example).decode())

    def change(self, collected: Collected, answer: str) -> None:
        self._drafts.put(self._kind, msgspec.json.encode(collected.saying(answer)).decode(), collected.id)

    def remove(self, collected: list[Collected]) -> None:
        self._drafts.delete(self._kind, [one.id for one in collected])


def lines(collected: list[Collected]) -> bytes:
    """The training file."""
    return b"".join(msgspec.json.encode(one.example) + b"\n" for one in collected)


def keep(files: Files, account_id: int, name: str, content: bytes) -> File:
    """Upload it as a training file. Raises as `Files.keep` does; what was collected stays in any case."""
    with files.receive() as incoming:
        incoming.write(content)
    return files.keep(incoming, account_id=account_id, filename=name, purpose=TRAINING)
