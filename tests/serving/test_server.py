"""Engine processes and the sockets to them, with a tiny base."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.serving.given import ask, run
from tests.waiting import PATIENCE, until
from tunery.bases import BaseModel
from tunery.errors import EngineUnavailable, InvalidRequest, NotFound
from tunery.messages import Adapter, Answer, Ask, Cancel, Done, Generate, Piece, Ping, Started, Usage
from tunery.serving import commands
from tunery.serving.client import MOST_UNREAD, EngineClient, Unread
from tunery.serving.engine import Engine
from tunery.serving.pool import EnginePool
from tunery.serving.server import Connection, EngineThread
from tunery.serving.server import Engine as AnyEngine
from tunery.serving.wire import frame, read_frame
from tunery.weights import Weights

TINY = Weights("tiny")
ENDLESS = {"max_tokens": None, "logit_bias": {0: -100.0, 2: -100.0}}


class Process:
    """`python -m tunery.serving` started by hand."""

    def __init__(self, base: BaseModel, path: Path) -> None:
        command = [sys.executable, "-m", "tunery.serving", "--base", msgspec.json.encode(base).decode()]
        self.socket = path
        self.process = subprocess.Popen(
            [*command, "--socket", str(path), "--threads", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout.readline() == b"ready\n"

    def end(self) -> int:
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(base, tmp_path_factory.mktemp("s") / "private" / "engine.sock")
    yield process
    assert process.end() == 0


@contextlib.asynccontextmanager
async def client_of(server: Process) -> AsyncIterator[EngineClient]:
    client = EngineClient(server.socket)
    try:
        yield client
    finally:
        await client.close()


async def text_of(client: EngineClient, generate: Generate) -> str:
    return "".join([answer.text async for answer in client.generate(generate) if isinstance(answer, Piece)])


def test_the_socket_is_its_owners_alone(server: Process) -> None:
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700


def test_many_requests_share_a_connection_and_get_their_own_answers(
    server: Process, engine: Engine, adapters: list[Adapter]
) -> None:
    generates = [
        ask(prompt, adapter=adapter) for prompt in ("The quick", "0123", "dog.") for adapter in (None, *adapters)
    ]

    async def all_at_once() -> list[str]:
        async with client_of(server) as client:
            return await asyncio.gather(*(text_of(client, generate) for generate in generates))

    assert asyncio.run(all_at_once()) == [running.text() for running in run(engine, *generates)]


def test_answers_begin_with_started_and_end_with_done_under_the_callers_id(server: Process) -> None:
    async def converse() -> list[Answer]:
        async with client_of(server) as client:
            return [answer async for answer in client.generate(ask("The quick", id="mine"))]

    answers = asyncio.run(converse())
    assert (type(answers[0]), type(answers[-1])) == (Started, Done)
    assert {answer.id for answer in answers} == {"mine"}


def test_the_same_id_twice_at_once_is_two_requests(server: Process) -> None:
    async def converse() -> list[str]:
        async with client_of(server) as client:
            return await asyncio.gather(*(text_of(client, ask(p, id="same", echo=True)) for p in ("ab", "cd")))

    first, second = asyncio.run(converse())
    assert (first[:2], second[:2]) == ("ab", "cd")


def test_a_refusal_raises_the_error_it_names(server: Process) -> None:
    async def converse() -> None:
        async with client_of(server) as client:
            await text_of(client, ask([9999]))

    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(converse())
    assert caught.value.param == "prompt"


def test_closing_the_answers_early_cancels_the_request(tmp_path: Path) -> None:
    """Against a socket that only listens: the engine's side of a cancel is shown in test_engine.py."""
    asks: list[Ask] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = msgspec.msgpack.Decoder(Ask)
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                asks.append(decoder.decode(await read_frame(reader)))
                if isinstance(asks[-1], Generate):
                    writer.write(frame(Started(id=asks[-1].id, prompt_tokens=1)))

    async def converse() -> None:
        async with await asyncio.start_unix_server(listen, tmp_path / "s"):
            client = EngineClient(tmp_path / "s")
            answers = client.generate(ask())
            await anext(answers)
            await answers.aclose()
            while len(asks) < 2:
                await asyncio.sleep(0.01)
            await client.close()

    asyncio.run(asyncio.wait_for(converse(), PATIENCE))
    assert asks[1] == Cancel(id=asks[0].id)


def converse_in(engine: AnyEngine, *asks: tuple[Connection, Ask | None]) -> list[tuple[Connection, Answer]]:
    """What an engine's thread answers if all of this lies ready, and is to stop after it."""
    frames: list[tuple[Connection, bytes]] = []
    thread = EngineThread(engine, frames.extend)
    for connection, asked in asks:
        thread.put(connection, asked)
    thread.stop()
    thread.run()
    decoder = msgspec.msgpack.Decoder(Answer)
    return [(connection, decoder.decode(data[4:])) for connection, data in frames]


def test_a_cancel_reaches_the_request_of_its_connection_only(engine: Engine) -> None:
    one, other = Connection(None), Connection(None)
    first, second = (ask(id="same") for _ in range(2))
    assert converse_in(engine, (one, first), (other, second), (one, Cancel(id="same"))) == []
    assert (list(one.requests), list(other.requests)) == ([], ["same"])
    assert engine.busy
    converse_in(engine, (other, Cancel(id="same")))
    assert not engine.busy


def test_a_closed_connection_cancels_its_requests_and_no_others(engine: Engine) -> None:
    leaving, staying = Connection(None), Connection(None)
    converse_in(engine, (leaving, ask()), (leaving, ask()), (staying, ask(id="stays")), (leaving, None))
    answers: list[Answer] = []
    staying.requests["stays"].deliver = answers.append
    while engine.busy:
        engine.step()
    assert {answer.id for answer in answers} == {"stays"}


def test_an_id_that_is_running_already_is_refused(engine: Engine) -> None:
    connection = Connection(None)
    ((_, answer),) = converse_in(engine, (connection, ask(id="twice")), (connection, ask(id="twice")))
    assert (answer.id, answer.kind) == ("twice", "InvalidRequest")


@pytest.mark.parametrize("garbage", [b"\xff" * 64, struct.pack(">I", 3) + b"\xc1\xc1\xc1", b"GET / HTTP/1.1\r\n\r\n"])
def test_garbage_closes_its_connection_only(server: Process, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(PATIENCE)
        stranger.connect(str(server.socket))
        stranger.sendall(garbage)
        assert stranger.recv(1) == b""

    async def converse() -> None:
        async with client_of(server) as client:
            await client.ping()

    asyncio.run(converse())


def test_asks_in_one_packet_are_answered_each(server: Process) -> None:
    asks: list[Ask] = [Ping(id="1"), Ping(id="2")]
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE)
        raw.connect(str(server.socket))
        raw.sendall(b"".join(map(frame, asks)))
        with raw.makefile("rb") as answers:
            bodies = [answers.read(int.from_bytes(answers.read(4))) for _ in asks]
    pongs = [msgspec.msgpack.decode(body, type=Answer) for body in bodies]
    assert [pong.id for pong in pongs] == ["1", "2"]


def test_an_engine_that_answered_holds_nothing_but_what_it_keeps_for_later(server: Process) -> None:
    async def converse() -> Usage | None:
        async with client_of(server) as client:
            async for _ in client.generate(ask("word " * 40)):
                pass
            return await client.ping()

    usage = asyncio.run(converse())
    assert usage is not None
    assert (usage.running, usage.waiting, usage.held_blocks) == (0, 0, 0)
    assert 0 < usage.cached_blocks == usage.blocks - usage.free_blocks


def test_no_engine_behind_the_socket_is_engine_unavailable(tmp_path: Path) -> None:
    async def converse() -> None:
        await EngineClient(tmp_path / "none.sock").ping()

    with pytest.raises(EngineUnavailable):
        asyncio.run(converse())


@pytest.mark.parametrize("end", ["end of input", "SIGTERM"])
def test_the_process_ends_when_told_even_while_it_generates(base: BaseModel, tmp_path: Path, end: str) -> None:
    process = Process(base, tmp_path / "s" / "e.sock")

    async def converse() -> None:
        async with client_of(process) as client:
            answers = client.generate(ask("The quick", **ENDLESS))
            await anext(answers)
            if end == "SIGTERM":
                process.process.terminate()
            else:
                process.process.stdin.close()
            with pytest.raises(EngineUnavailable):
                async for _ in client.generate(ask("0123", **ENDLESS)):
                    pass
            await answers.aclose()

    asyncio.run(asyncio.wait_for(converse(), PATIENCE))
    assert process.process.wait(PATIENCE) == 0
    process.end()


def test_the_process_ends_when_its_parent_is_killed(base: BaseModel, tmp_path: Path) -> None:
    """The parent keeps the engine's input open in a third process, so that only the parent's death can tell."""
    path = tmp_path / "s" / "e.sock"
    code = f"""
import os, subprocess, sys
read, write = os.pipe()
keeper = subprocess.Popen(["sleep", "60"], pass_fds=[write])
command = [sys.executable, "-m", "tunery.serving", "--base", {msgspec.json.encode(base).decode()!r},
           "--socket", {str(path)!r}, "--threads", "1"]
engine = subprocess.Popen(command, stdin=read, stdout=subprocess.PIPE)
engine.stdout.readline()
print(engine.pid, keeper.pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    engine, keeper = map(int, parent.stdout.readline().split())
    try:
        parent.kill()
        parent.wait()
        until(lambda: not alive(engine))
        assert alive(keeper)
    finally:
        os.kill(keeper, signal.SIGKILL)
        parent.communicate()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def with_pool(
    base: BaseModel, folder: Path, use: Callable[[EnginePool], Awaitable[None]], *, silence_seconds: float = 60.0
) -> None:
    async def run_it() -> None:
        command = commands.embedded(threads=1, device="cpu")
        pool = EnginePool({"tiny": base}.get, folder, command, silence_seconds=silence_seconds)
        try:
            await asyncio.wait_for(use(pool), 300)
        finally:
            last = pool.pid(TINY)
            await pool.close()
            assert last is None or not alive(last)

    asyncio.run(run_it())


async def pool_text(pool: EnginePool, generate: Generate) -> str:
    return "".join([answer.text async for answer in pool.generate(TINY, generate) if isinstance(answer, Piece)])


def test_engines_that_no_deployment_needs_end_once_nobody_waits_for_them(base: BaseModel, tmp_path: Path) -> None:
    async def use(pool: EnginePool) -> None:
        expected = await pool_text(pool, ask("The quick"))
        first = pool.pid(TINY)
        await pool.keep({TINY})
        assert pool.processes() == {TINY: first}
        async with contextlib.aclosing(pool.generate(TINY, ask("0123", **ENDLESS))) as answers:
            assert isinstance(await anext(answers), Started)
            await pool.keep(set())
            assert pool.processes() == {TINY: first}
        while pool.processes():  # unless a ping is on its way
            await pool.keep(set())
        assert not Path(f"/proc/{first}").exists()
        assert await pool_text(pool, ask("The quick")) == expected

    with_pool(base, tmp_path, use)


def test_the_pool_starts_one_engine_and_routes_by_base(
    base: BaseModel, tmp_path: Path, adapters: list[Adapter]
) -> None:
    async def use(pool: EnginePool) -> None:
        texts = await asyncio.gather(*(pool_text(pool, ask("The quick")) for _ in range(3)))
        assert len(set(texts)) == 1
        await pool.mount(TINY, adapters[0])
        await pool.mount(TINY, None)
        with pytest.raises(NotFound):
            await pool.mount(Weights("other"), None)

    with_pool(base, tmp_path / "engines", use)
    assert len(list((tmp_path / "engines").glob("*.log"))) == 1


def test_quantised_weights_have_a_process_of_their_own_that_starts_when_they_are_asked_for(
    base: BaseModel, tmp_path: Path, adapters: list[Adapter]
) -> None:
    async def use(pool: EnginePool) -> None:
        assert await pool.mount(TINY, adapters[0]) is None
        assert pool.processes() == {TINY: pool.pid(TINY)}
        int8 = Weights("tiny", "int8")
        measured = await pool.mount(int8, None)
        assert measured is not None and measured.mean_difference > 0
        assert pool.processes() == {TINY: pool.pid(TINY), int8: pool.pid(int8)}
        assert pool.pid(TINY) != pool.pid(int8)

    with_pool(base, tmp_path, use)


def test_a_killed_engine_breaks_its_streams_and_the_next_request_starts_another(
    base: BaseModel, tmp_path: Path
) -> None:
    async def use(pool: EnginePool) -> None:
        assert pool.processes() == {}
        expected = await pool_text(pool, ask("The quick"))
        answers = pool.generate(TINY, ask("0123", **ENDLESS))
        assert isinstance(await anext(answers), Started)
        assert pool.processes() == {TINY: pool.pid(TINY)}
        os.kill(pool.pid(TINY), signal.SIGKILL)
        with pytest.raises(EngineUnavailable):
            async for _ in answers:
                pass
        assert pool.processes() == {}
        assert await pool_text(pool, ask("The quick")) == expected

    with_pool(base, tmp_path, use)


def test_who_has_heard_nothing_of_a_killed_engine_is_answered_by_the_next(base: BaseModel, tmp_path: Path) -> None:
    async def use(pool: EnginePool) -> None:
        expected = await pool_text(pool, ask("The quick"))
        killed = pool.pid(TINY)
        os.kill(killed, signal.SIGSTOP)
        asked = [asyncio.create_task(pool_text(pool, ask("The quick"))) for _ in range(3)]
        await asyncio.sleep(0.1)
        os.kill(killed, signal.SIGKILL)
        assert await asyncio.gather(*asked) == [expected] * 3
        assert pool.pid(TINY) != killed

    with_pool(base, tmp_path, use)


def test_a_hung_engine_is_killed_and_its_streams_end_with_an_error(base: BaseModel, tmp_path: Path) -> None:
    async def use(pool: EnginePool) -> None:
        answers = pool.generate(TINY, ask("0123", **ENDLESS))
        assert isinstance(await anext(answers), Started)
        hung = pool.pid(TINY)
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(EngineUnavailable):
            async for _ in answers:
                pass
        assert await pool_text(pool, ask("The quick"))
        assert pool.pid(TINY) != hung

    with_pool(base, tmp_path, use, silence_seconds=5.0)  # that much a busy machine may take for a sound one's pong


async def last_of(answers: AsyncIterator[Answer]) -> Answer:
    return [answer async for answer in answers][-1]


def test_200_open_streams_that_nobody_reads_stall_nobody_and_leave_nothing(base: BaseModel, tmp_path: Path) -> None:
    async def use(pool: EnginePool) -> None:
        expected = await pool_text(pool, ask("The quick"))
        streams = [pool.generate(TINY, ask([5 + number] * 20, **ENDLESS, owner="many")) for number in range(200)]
        for started in await asyncio.gather(*(anext(stream) for stream in streams)):
            assert isinstance(started, Started)
        assert await pool_text(pool, ask("The quick", owner="b")) == expected
        for stream in streams[:150]:
            await stream.aclose()  # vanishes in the middle
        ends = await asyncio.gather(*(last_of(stream) for stream in streams[150:]))
        assert {type(end) for end in ends} == {Done}
        assert await pool_text(pool, ask("The quick")) == expected

    with_pool(base, tmp_path, use)


def test_what_a_slow_reader_leaves_is_joined_and_nothing_is_lost() -> None:
    unread = Unread()
    for number in range(1000):
        unread.put(Piece(id="1", index=number % 2, text=f"{number} ", finish_reason="stop" if number > 997 else None))
    unread.put(Done(id="1", prompt_tokens=1, completion_tokens=1000))
    assert unread.count == MOST_UNREAD + 1

    async def read() -> list[Answer | None]:
        return [await unread.get() for _ in range(unread.count)]

    *pieces, done = asyncio.run(read())
    assert isinstance(done, Done)
    for index in range(2):
        mine = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in mine) == "".join(f"{number} " for number in range(index, 1000, 2))
        assert [piece.finish_reason for piece in mine] == [None] * (len(mine) - 1) + ["stop"]


def test_an_engine_killed_between_requests_is_started_again(base: BaseModel, tmp_path: Path) -> None:
    async def use(pool: EnginePool) -> None:
        await pool.mount(TINY, None)
        killed = pool.pid(TINY)
        os.kill(killed, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: not alive(killed))
        await pool.ping(TINY)
        assert pool.pid(TINY) != killed

    with_pool(base, tmp_path, use)


def test_an_engine_that_cannot_start_says_where_its_log_is(base: BaseModel, tmp_path: Path) -> None:
    broken = msgspec.structs.replace(base, directory=str(tmp_path / "nowhere"))

    async def use(pool: EnginePool) -> None:
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match=r"engine-0\.log"):
                await pool.mount(TINY, None)

    with_pool(broken, tmp_path, use)
    assert "nowhere" in (tmp_path / "engine-0.log").read_text()


def test_a_request_that_leaves_while_the_engine_starts_does_not_stop_it(base: BaseModel, tmp_path: Path) -> None:
    async def use(pool: EnginePool) -> None:
        first = asyncio.create_task(pool_text(pool, ask("The quick")))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(pool_text(pool, ask("The quick")))
        await asyncio.sleep(0)
        first.cancel()
        assert await second

    # The folder's name is too long for a socket, which has to go elsewhere.
    with_pool(base, tmp_path / ("long" * 30), use)
