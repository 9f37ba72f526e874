"""What a line may be, as types: chat (contract.md 2.2), completion (2.3) and preference (2.4). Knows no file.

The types say what a single value may be, `conversation.py` what a sequence of messages may be. `explain.py` says the
same as these types, slower and in words; a property test holds the two together.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Format = Literal["chat", "completion", "preference"]
Absent = None | UnsetType
"""A key that is null counts as absent, so that dumps with a null for every unused key go through."""
Name = Annotated[str, msgspec.Meta(min_length=1)]


class _Strict(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Types of which there is just one have `type` as a field: msgspec asks for a tag only where it has to choose."""


class TextPart(_Strict, frozen=True, gc=False):
    type: Literal["text"]
    text: str


Content = str | Annotated[tuple[TextPart, ...], msgspec.Meta(min_length=1)]


class CalledFunction(_Strict, frozen=True, gc=False):
    name: Name
    arguments: str


class ToolCall(_Strict, frozen=True, gc=False):
    type: Literal["function"]
    id: Name
    function: CalledFunction


class FunctionSpec(_Strict, frozen=True, gc=False):
    name: Name
    description: str | Absent = UNSET
    parameters: dict[str, Any] | Absent = UNSET
    strict: bool | Absent = UNSET


class ToolSpec(_Strict, frozen=True, gc=False):
    type: Literal["function"]
    function: FunctionSpec


class SystemMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="system"):
    content: Content
    name: str | Absent = UNSET
    weight: Absent = UNSET
    tool_calls: Absent = UNSET
    tool_call_id: Absent = UNSET
    function_call: Absent = UNSET


class DeveloperMessage(SystemMessage, frozen=True, gc=False, tag_field="role", tag="developer"):
    pass


class UserMessage(SystemMessage, frozen=True, gc=False, tag_field="role", tag="user"):
    pass


class AssistantMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="assistant"):
    content: Content | Absent = UNSET
    name: str | Absent = UNSET
    weight: Literal[0, 1] | Absent = UNSET
    tool_calls: Annotated[tuple[ToolCall, ...], msgspec.Meta(min_length=1)] | Absent = UNSET
    tool_call_id: Absent = UNSET
    function_call: CalledFunction | Absent = UNSET


class ToolMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: Name
    name: str | Absent = UNSET
    weight: Absent = UNSET
    tool_calls: Absent = UNSET
    function_call: Absent = UNSET


class FunctionMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="function"):
    content: Content
    name: Name
    weight: Absent = UNSET
    tool_calls: Absent = UNSET
    tool_call_id: Absent = UNSET
    function_call: Absent = UNSET


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
Messages = Annotated[tuple[Message, ...], msgspec.Meta(min_length=1)]
Output = Annotated[tuple[AssistantMessage | ToolMessage, ...], msgspec.Meta(min_length=1)]


class ChatLine(_Strict, frozen=True, gc=False):
    messages: Messages
    tools: tuple[ToolSpec, ...] | Absent = UNSET
    parallel_tool_calls: bool | Absent = UNSET
    functions: tuple[FunctionSpec, ...] | Absent = UNSET


class CompletionLine(_Strict, frozen=True, gc=False):
    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    completion: Annotated[str, msgspec.Meta(min_length=1)]


class PreferenceInput(_Strict, frozen=True, gc=False):
    messages: Messages
    tools: tuple[ToolSpec, ...] | Absent = UNSET
    parallel_tool_calls: bool | Absent = UNSET


class PreferenceLine(_Strict, frozen=True, gc=False):
    input: PreferenceInput
    preferred_output: Output
    non_preferred_output: Output


Line = ChatLine | CompletionLine | PreferenceLine
