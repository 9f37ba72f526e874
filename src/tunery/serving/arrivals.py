"""Requests that have come and don't run yet: their grammars are being compiled. Knows no batch."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait

from tunery.models.tokenizer import Tokenizer
from tunery.serving.grammar import Grammars
from tunery.serving.request import Request, guarded

COMPILING_SECONDS = 0.01
"""To wait for a grammar when there is nothing else to do; then new requests are looked at."""


class Arrivals:
    """In their order, save for those that wait for a grammar."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._grammars = Grammars(tokenizer)
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        self._requests.append(request)

    def drop(self, request: Request) -> None:
        """If it is still here."""
        if request in self._requests:
            self._requests.remove(request)

    def begin(self, begin: Callable[[Request], None], *, idle: bool) -> None:
        """Calls `begin` with those whose grammar is compiled; if idle, waits a moment for one."""
        arrived, self._requests = self._requests, []
        for request in arrived:
            with guarded(request.generate.id, request.deliver):
                if request.grammar is None:
                    request.grammar = self._grammars.prepare(request.generate)
                if request.grammar.done():
                    begin(request)
                else:
                    self._requests.append(request)
        if self._requests and idle:
            compiling = [request.grammar for request in self._requests if request.grammar]
            wait(compiling, timeout=COMPILING_SECONDS, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        """Ends what compiles grammars."""
        self._grammars.close()
