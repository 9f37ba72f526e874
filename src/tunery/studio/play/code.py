"""Programs that ask what the screen asks, in Python and for the shell: their body is the one that Studio sends.

Foreign text stands in literals only, quoted by `repr` or as JSON, and what doesn't print is escaped in both.
"""

import json
import pprint
from typing import Any, NamedTuple

VERSION = "2024-10-21"
KEY = "AZURE_OPENAI_API_KEY"
WIDTH = 88
PYTHON = """\
from openai import AzureOpenAI

client = AzureOpenAI(  # reads the key from {key}
    azure_endpoint={endpoint!r},
    api_version="{version}",
)
answer = client.{method}.create(
    model={deployment!r},
{arguments}
)
print(answer.choices[0].{text})
"""
CURL = """\
curl -sS "{endpoint}/openai/deployments/{deployment}/{path}?api-version={version}" \\
  -H "api-key: ${key}" \\
  -H "Content-Type: application/json" \\
  --data-binary @- <<'BODY'
{body}
BODY
"""


class Target(NamedTuple):
    """Where a program sends its request."""

    endpoint: str
    """Of the account."""
    deployment: str


def python(target: Target, body: dict[str, Any]) -> str:
    """For openai-python, which takes the body's keys as arguments."""
    chat = "messages" in body
    return PYTHON.format(
        endpoint=target.endpoint,
        deployment=target.deployment,
        key=KEY,
        version=VERSION,
        method="chat.completions" if chat else "completions",
        text="message.content" if chat else "text",
        arguments="\n".join(f"    {name}={_literal(value)}," for name, value in body.items()),
    )


def curl(target: Target, body: dict[str, Any]) -> str:
    """For a POSIX shell, which reads nothing into the body: a line of JSON is never the word that ends it."""
    written = json.dumps(body, ensure_ascii=False, indent=2)
    return CURL.format(
        endpoint=target.endpoint,
        deployment=target.deployment,
        key=KEY,
        version=VERSION,
        path="chat/completions" if "messages" in body else "completions",
        body="".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in written),
    )


def _literal(value: Any) -> str:
    written = pprint.pformat(value, width=WIDTH - 4, sort_dicts=False)
    return written.replace("\n", "\n    ")


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1]
