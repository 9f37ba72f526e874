"""Files and lines for tests of examples."""

import json
from io import BytesIO
from typing import Any

from tunery import examples
from tunery.examples import Finding, Summary

SYSTEM = {"role": "system", "content": "You are brief."}


def user(text: Any = "How are you?", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: Any = "Fine.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(name: str = "add", arguments: Any = '{"a": 1}', id: str = "c1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str = "add", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}, **more}}


def chat(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": list(messages), **more})


def sound_lines(count: int = 50) -> list[str]:
    return [chat(SYSTEM, user(f"What is {number}?"), assistant(f"A number, {number}.")) for number in range(count)]


def checked(content: bytes | list[str]) -> tuple[Summary, list[Finding]]:
    """Summary and all findings of a file with these lines."""
    findings: list[Finding] = []
    if isinstance(content, list):
        content = "".join(line + "\n" for line in content).encode()
    summary = examples.check(BytesIO(content), on_finding=findings.append)
    return summary, findings


def faults(line: str | bytes) -> list[Finding]:
    """The findings about a line that stands after fifty sound ones."""
    line = line.encode() if isinstance(line, str) else line
    _, findings = checked("\n".join(sound_lines()).encode() + b"\n" + line + b"\n")
    return [finding for finding in findings if finding.line == 51]
