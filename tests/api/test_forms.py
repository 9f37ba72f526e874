"""The multipart reader against any content in any chunks: what goes in comes out, and nothing makes it break."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from tunery.api.forms import Form
from tunery.errors import InvalidRequest

BOUNDARY = "boundary"


def request_of(chunks: list[bytes]) -> Request:
    messages: Iterator[dict[str, Any]] = iter(
        [
            *({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks),
            {"type": "http.request", "body": b"", "more_body": False},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    headers = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(body[at : at + size])
        at += size
    return [*chunks, body[at:]]


def read(chunks: list[bytes]) -> tuple[Form, bytes]:
    received = bytearray()
    form = Form("file", received.extend)
    asyncio.run(form.read(request_of(chunks)))
    return form, bytes(received)


CONTENT = st.one_of(
    st.binary(max_size=300), st.sampled_from([b"\r\n--boundar", b"\r\n--", b"--boundary", b"\r", b"\r\n" * 9])
)


@given(content=CONTENT, sizes=st.lists(st.integers(0, 40), max_size=30), file_first=st.booleans())
def test_any_content_in_any_chunks_and_order_comes_out_as_it_went_in(
    content: bytes, sizes: list[int], file_first: bool
) -> None:
    parts = [part("file", content, "train.jsonl"), part("purpose", b"fine-tune")]
    body = b"".join(parts if file_first else parts[::-1]) + f"--{BOUNDARY}--\r\n".encode()
    if b"\r\n--boundary" in b"\r\n" + content + b"\r\n":
        return  # such content can't be sent with this boundary
    form, received = read(cut(body, sizes))
    assert received == content
    assert (form.filename, form.fields) == ("train.jsonl", {"purpose": "fine-tune"})


@given(body=st.binary(max_size=400), sizes=st.lists(st.integers(0, 50), max_size=10))
def test_any_bytes_are_a_form_or_an_invalid_request(body: bytes, sizes: list[int]) -> None:
    try:
        read(cut(b"--" + BOUNDARY.encode() + body, sizes))
    except InvalidRequest:
        return


def test_two_files_too_many_fields_and_too_long_ones_are_refused() -> None:
    end = f"--{BOUNDARY}--\r\n".encode()
    for body in (
        part("file", b"a", "a") + part("file", b"b", "b"),
        part("file", b"a", "a") + b"".join(part(f"f{number}", b"x") for number in range(30)),
        part("file", b"a", "a") + part("purpose", b"x" * 10_000),
    ):
        with pytest.raises(InvalidRequest):
            read([body + end])
