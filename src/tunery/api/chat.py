"""The chat API's body in, its answer out (contract.md 3.2 to 3.4). Knows no HTTP and no engine."""

from collections.abc import Iterator, Sequence
from secrets import token_hex
from typing import Any

import msgspec

from tunery.api.answer import Order, writable
from tunery.api.conversation import (
    FunctionSpec,
    Message,
    ResponseFormat,
    ToolSpec,
    check_functions,
    check_tools,
    json_form,
    plain_messages,
    read_choice,
)
from tunery.api.sampling import Sampling, check_range, read
from tunery.api.wire import decode
from tunery.deployments import Serving
from tunery.errors import InvalidRequest
from tunery.messages import Calls, Generate, Piece, TokenLogprob, ToolCall
from tunery.records import new_id


class ChatBody(Sampling, frozen=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionSpec] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    data_sources: Any = None
    modalities: list[str] | None = None
    audio: Any = None


def chat_order(body: bytes, serving: Serving, owner: str) -> Order:
    """Raises InvalidRequest that names the parameter and what it may be."""
    chat = read(body, ChatBody)
    if chat.data_sources is not None:
        raise InvalidRequest("data_sources isn't supported: put the text into the messages.", param="data_sources")
    if chat.audio is not None or set(chat.modalities or ()) - {"text"}:
        param = "modalities" if chat.audio is None else "audio"
        raise InvalidRequest(f"{param} isn't supported beyond text: the base models here write text only.", param=param)
    options = chat.options()
    calls = _calls(chat)
    request = Generate(
        id=new_id("chatcmpl-"),
        owner=owner,
        adapter=serving.adapter,
        messages=plain_messages(chat.messages),
        tools=_written_tools(body) if calls else None,
        calls=calls or Calls(),
        json_form=json_form(chat.response_format),
        max_tokens=_max_tokens(chat, serving.context_length),
        best_of=chat.n or 1,
        logprobs=_logprobs(chat),
        **options,
    )
    rendering = ChatRendering(legacy=chat.functions is not None)
    return Order(request=request, rendering=rendering, stream=bool(chat.stream), include_usage=chat.includes_usage())


def _max_tokens(chat: ChatBody, context_length: int) -> int | None:
    if chat.max_tokens is not None and chat.max_completion_tokens is not None:
        # OpenAI refuses the pair too: whichever were taken, the other would be a wish silently dropped.
        raise InvalidRequest(
            "max_tokens and max_completion_tokens mean the same; give only one of them.", param="max_tokens"
        )
    check_range("max_tokens", chat.max_tokens, 1, context_length)
    check_range("max_completion_tokens", chat.max_completion_tokens, 1, context_length)
    return chat.max_tokens if chat.max_completion_tokens is None else chat.max_completion_tokens


def _logprobs(chat: ChatBody) -> int | None:
    check_range("top_logprobs", chat.top_logprobs, 0, 20)
    if chat.logprobs:
        return chat.top_logprobs or 0
    if chat.top_logprobs is not None:
        raise InvalidRequest("top_logprobs, 0 to 20, may only be given when logprobs is true.", param="top_logprobs")
    return None


class _WrittenTools(msgspec.Struct, frozen=True):
    """The template shows tools to the model key by key, so it gets them as they were written."""

    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None


def _calls(chat: ChatBody) -> Calls | None:
    """None: there is nothing to call, or it may not be called."""
    if chat.tools is not None and chat.functions is not None:
        raise InvalidRequest("tools and functions mean the same; give only tools.", param="functions")
    if chat.tools:
        check_tools(chat.tools)
    if chat.functions is not None:
        check_functions(chat.functions)
    tools = [tool.function.name for tool in chat.tools or [] if tool.function]
    functions = [function.name for function in chat.functions or []]
    by_tools = read_choice(chat.tool_choice, tools, Calls(parallel=chat.parallel_tool_calls is not False))
    by_functions = read_choice(chat.function_call, functions, Calls(parallel=False, param="functions"))
    if tools:
        return by_tools
    return by_functions if functions else None


def _written_tools(body: bytes) -> list[dict[str, Any]] | None:
    written = decode(body, _WrittenTools)
    return written.tools or [{"type": "function", "function": function} for function in written.functions or []]


class ChatRendering:
    """Messages and deltas. `legacy`: a call is told as function_call, for requests that gave functions."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, *, legacy: bool) -> None:
        self._legacy = legacy
        self._begun: set[int] = set()

    def whole(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        calls = _joined([call for piece in pieces for call in piece.tool_calls])
        tokens = [token for piece in pieces for token in piece.logprobs]
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
        if calls and self._legacy:
            message["function_call"] = _function(calls[0])
        elif calls:
            message["tool_calls"] = [_named(call) for call in calls]
        return {
            "index": index,
            "message": message,
            "logprobs": _told_logprobs(tokens),
            "finish_reason": self._reason(pieces[-1]),
        }

    def deltas(self, piece: Piece) -> Iterator[dict[str, Any]]:
        index = piece.index
        if index not in self._begun:
            self._begun.add(index)
            yield _delta(index, {"role": "assistant", "content": "", "refusal": None})
        if piece.text or piece.logprobs:
            yield _delta(index, {"content": piece.text}, logprobs=_told_logprobs(piece.logprobs))
        for call in piece.tool_calls:
            if self._legacy:
                yield _delta(index, {"function_call": _function(call)})
            else:
                told = {"function": _function(call)} if call.name is None else _named(call)
                yield _delta(index, {"tool_calls": [{"index": call.index, **told}]})
        if piece.finish_reason:
            yield _delta(index, {}, finish_reason=self._reason(piece))

    def _reason(self, piece: Piece) -> str | None:
        return "function_call" if piece.finish_reason == "tool_calls" and self._legacy else piece.finish_reason


def _delta(
    index: int,
    delta: dict[str, Any],
    *,
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _joined(parts: Sequence[ToolCall]) -> list[ToolCall]:
    """Whole calls out of their parts."""
    calls: dict[int, ToolCall] = {}
    for part in parts:
        call = calls.setdefault(part.index, ToolCall(index=part.index, name=part.name))
        calls[part.index] = msgspec.structs.replace(call, arguments=call.arguments + part.arguments)
    return list(calls.values())


def _named(call: ToolCall) -> dict[str, Any]:
    return {"id": f"call_{token_hex(12)}", "type": "function", "function": _function(call)}


def _function(call: ToolCall) -> dict[str, Any]:
    return {**({} if call.name is None else {"name": call.name}), "arguments": call.arguments}


def _told_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not tokens:
        return None
    return {
        "content": [
            {
                **_scored(token.token, token.token_bytes, token.logprob),
                "top_logprobs": [_scored(*alternative) for alternative in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _scored(token: str, data: bytes, logprob: float | None) -> dict[str, Any]:
    assert logprob is not None, "only an echoed prompt has a token without one, and chat doesn't echo"
    return {"token": token, "logprob": writable(logprob), "bytes": list(data)}
