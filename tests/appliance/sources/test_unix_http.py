# SPDX-License-Identifier: Apache-2.0
"""Answers over a Unix socket: boundaries anywhere, broken and hostile ones."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.sources import unix_http
from appliance.sources.unix_http import Head, HttpError, get, open_stream, read_body, read_head


def receive(data: bytes, cuts: list[int]) -> tuple[Head, bytes]:
    """What the reader makes of `data` when it comes in pieces that end at `cuts`."""

    async def run() -> tuple[Head, bytes]:
        reader = asyncio.StreamReader(limit=unix_http.MAX_LINE)

        async def feed() -> None:
            start = 0
            for cut in sorted({cut % (len(data) + 1) for cut in cuts}):
                reader.feed_data(data[start:cut])
                start = cut
                await asyncio.sleep(0)
            reader.feed_data(data[start:])
            reader.feed_eof()

        feeding = asyncio.create_task(feed())
        try:
            head = await read_head(reader)
            return head, b"".join([piece async for piece in read_body(reader, head)])
        finally:
            await feeding

    return asyncio.run(run())


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    parts = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=6))
    lines = [f"{len(part):x}{draw(st.sampled_from(['', ';name=value', ' ']))}\r\n".encode() + part for part in parts]
    trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
    return b"".join(parts), b"\r\n".join([*lines, b"0\r\n" + trailer + b"\r\n"])


@given(chunked(), st.lists(st.integers(0, 5000), max_size=20))
def test_chunks_and_pieces_may_end_anywhere(answer: tuple[bytes, bytes], cuts: list[int]) -> None:
    body, wire = answer
    head, found = receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: 1\r\nx: 2\r\n\r\n" + wire, cuts)
    assert (head.status, head.headers["x"], found) == (200, "1, 2", body)


@given(st.binary(max_size=500), st.lists(st.integers(0, 600), max_size=10), st.booleans())
def test_bodies_with_a_length_or_until_the_end(body: bytes, cuts: list[int], length: bool) -> None:
    field = f"Content-Length: {len(body)}\r\n" if length else ""
    more = b"rest that does not belong to it" if length else b""
    assert receive(f"HTTP/1.0 200 OK\r\n{field}\r\n".encode() + body + more, cuts)[1] == body


@given(chunked(), st.integers(1, 400))
def test_an_answer_that_is_cut_is_an_error(answer: tuple[bytes, bytes], missing: int) -> None:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + answer[1]
    with pytest.raises(HttpError):
        receive(wire[: -min(missing, len(wire))], [])


@given(st.binary(max_size=2000), st.booleans())
def test_whatever_comes_is_an_answer_or_an_error(data: bytes, started: bool) -> None:
    try:
        receive((b"HTTP/1.1 200 OK\r\n" if started else b"") + data, [])
    except HttpError as error:
        assert error.message


@pytest.mark.parametrize("answer", [
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"HTTP/1.1 2\xb20 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nSpace : 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5_0\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 10,
])  # fmt: skip
def test_answers_that_make_no_sense(answer: bytes) -> None:
    with pytest.raises(HttpError):
        receive(answer, [])


async def _serve(path: Path, answer: bytes, *, close: bool = True) -> asyncio.Server:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(answer)
            await writer.drain()
            if not close:
                await reader.read()
            writer.close()
        except ConnectionError:
            pass

    return await asyncio.start_unix_server(talk, str(path))


def ask(tmp_path: Path, answer: bytes, *, limit: int = 1000, seconds: float = 5.0, close: bool = True) -> bytes:
    async def run() -> bytes:
        server = await _serve(tmp_path / "s", answer, close=close)
        try:
            return await get(str(tmp_path / "s"), "/x", limit=limit, seconds=seconds)
        finally:
            server.close()

    return asyncio.run(run())


def test_an_answer_larger_than_the_limit_is_not_read_to_its_end(tmp_path: Path) -> None:
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 300_000
    with pytest.raises(HttpError, match="more than 1000 bytes"):
        ask(tmp_path, endless, close=False)


def test_an_engine_that_falls_silent(tmp_path: Path) -> None:
    with pytest.raises(HttpError, match="no complete answer within 0 s"):
        ask(tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", seconds=0.1, close=False)


def test_a_refusal_says_what_the_engine_says(tmp_path: Path) -> None:
    with pytest.raises(HttpError, match="/x: 500 Oops: it broke") as caught:
        ask(tmp_path, b"HTTP/1.1 500 Oops\r\n\r\nit \x1bbroke")
    assert caught.value.file == str(tmp_path / "s")


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    async def run(path: str) -> None:
        async with open_stream(path, "/x"):
            pass

    with pytest.raises(HttpError, match="cannot be reached: No such file"):
        asyncio.run(run(str(tmp_path / "none")))
    with pytest.raises(HttpError, match="cannot be reached"):
        asyncio.run(run("/" + "x" * 300))
