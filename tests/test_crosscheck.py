"""The engines' own tools beside rollbench: what is asked of them, how their answers are read, and the mock engine."""

import asyncio
import json
import time
from functools import partial
from typing import Any

import pytest

from harness import clientcheck, crosscheck
from harness.clientcheck import Found
from harness.crosscheck import Tell, Way
from harness.errors import LaunchFailed, UserError
from harness.worker import mock_server
from harness.worker.engines import Sampling
from harness.worker.mock import FIRST, PER_TOKEN, Mock, beats, messages
from harness.worker.play import play
from harness.workload import arriving, independent

PARAMS = {"prompts": 64, "input_tokens": 128, "output_tokens": 32}
VLLM = {"num_requests": 64, "total_num_tokens": 64 * 160, "elapsed_time": 2.0}
SGLANG = {"successful_requests": 64, "total_input_tokens": 8192, "total_output_tokens": 2048, "total_latency": 4.0}


def test_prompts_have_exact_lengths_and_share_nothing() -> None:
    texts = [c["conversations"][0]["value"] for c in crosscheck.conversations(128, 64)]
    assert {len(text) for text in texts} == {64}
    assert len(set(texts)) == 128
    assert all(text.isascii() and text.isalnum() for text in texts)


@pytest.mark.parametrize(("engine", "measured", "found"), [("vllm", VLLM, 1024.0), ("sglang", SGLANG, 512.0)])
def test_output_of_tools_is_read(engine: str, measured: dict[str, Any], found: float) -> None:
    assert crosscheck.tok_per_s(engine, measured, PARAMS) == found


@pytest.mark.parametrize(
    ("engine", "measured"),
    [("vllm", VLLM | {"total_num_tokens": 64 * 160 + 51}), ("sglang", SGLANG | {"total_output_tokens": 2047})],
)
def test_a_tool_that_did_other_work_counts_for_nothing(engine: str, measured: dict[str, Any]) -> None:
    with pytest.raises(LaunchFailed, match="were asked for"):
        crosscheck.tok_per_s(engine, measured, PARAMS)


def test_launches_take_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> list[float]:
        order.append(name)
        return [1.0]

    ways = [Way(name, partial(measure, name)) for name in "ab"]
    found = crosscheck.in_turn(ways, 3, lambda _: None)
    assert "".join(order) == "abbaab"
    assert found == {"a": [[1.0]] * 3, "b": [[1.0]] * 3}


def test_a_line_says_whether_both_are_the_same_speed() -> None:
    same, text = crosscheck.line("a tool", [[99.0, 100.0, 101.0], [102.0]], [[100.0], [102.0]])
    assert same
    assert "a tool: 1.000 [1.000, 1.000], 2 pairs (100, 102 / 100, 102)" in text
    assert not crosscheck.line("a tool", [[120.0]], [[100.0]])[0]


@pytest.mark.parametrize(("speed", "lines"), [(101.0, 1), (80.0, 2)])
def test_a_deviation_is_followed_up(monkeypatch: pytest.MonkeyPatch, speed: float, lines: int) -> None:
    def ways(engine: str, gpus: int, tell: Tell) -> list[Way]:
        speeds = {"rollbench": 100.0, "tool": speed, "tool, mended": 100.0}
        return [Way(name, partial(list, [value]), "it naps") for name, value in speeds.items()]

    monkeypatch.setattr(crosscheck, "ways", ways)
    found = list(crosscheck.report(["vllm"], 0, 1, lambda _: None))
    assert [ok for ok, _ in found] == [lines == 1, True][:lines]
    assert ("it naps" in found[-1][1]) == (lines == 2)


def test_an_engine_without_a_tool_is_refused() -> None:
    with pytest.raises(UserError, match="no benchmark of its own"):
        next(crosscheck.report(["fake"], 0, 1, lambda _: None))


def test_an_even_schedule_is_on_time_wherever_it_begins() -> None:
    times = [17.0 + i / 50 for i in range(clientcheck.count(50))]
    found = clientcheck.judged(50, times)
    assert found.late < 1e-9
    assert found.achieved == pytest.approx(1)
    late = clientcheck.judged(50, [t + 0.05 * (i % 50 == 7) for i, t in enumerate(times)])
    assert late.late == pytest.approx(0.05)
    assert not late.sustained
    slow = clientcheck.judged(50, [i / 49 for i in range(clientcheck.count(50))])
    assert slow.achieved == pytest.approx(0.98)


def test_requests_are_judged_in_the_order_of_their_schedule() -> None:
    assert clientcheck.in_order([("bench-a1-10", 3.0), ("bench-a1-2", 4.0), ("bench-a1-0", 1.0)]) == [1.0, 4.0, 3.0]


def test_lost_requests_are_no_figure() -> None:
    with pytest.raises(LaunchFailed, match="149 requests of 150"):
        clientcheck.judged(50, [0.0] * 149)


def test_rates_double_until_one_fails_twice() -> None:
    asked: list[int] = []

    def measure(rate: int) -> Found:
        asked.append(rate)
        once = rate == 100 and asked.count(100) == 1  # as other work on the machine does
        return Found(rate, 0.02 if once or rate > 200 else 0.001, 1.0)

    found = clientcheck.climbed(measure)
    assert asked == [50, 100, 100, 200, 400, 400]
    assert clientcheck.top(found) == 200
    assert clientcheck.line("a client", found) == (
        "a client: sustains 200/s: p99 1.0 ms late, 100.0% of the rate; not 400/s: p99 20.0 ms late, 100.0% of the rate"
    )


async def moments(count: int) -> list[float]:
    return [moment async for moment in beats(count)]


def test_the_mock_keeps_time() -> None:
    start = time.perf_counter()
    found = asyncio.run(moments(4))
    assert len(found) == 4
    assert found[0] - start >= FIRST
    assert found[-1] - start >= FIRST + 3 * PER_TOKEN


def test_rollbenchs_client_plays_on_the_mock() -> None:
    engine, asked = Mock(), arriving(independent((0,), [4] * 20, [3] * 20, 256), 200, "fixed", (0,))
    out = engine.loop.run_until_complete(play(engine, asked, Sampling(stream=True)))
    assert out.output_B.tolist() == [3] * 20
    assert (out.sent_B >= out.due_B).all()


def test_requests_are_cut_from_what_a_connection_brings() -> None:
    body = b'{"max_tokens": 2, "prompt": "ab"}'
    head = f"POST /v1/completions HTTP/1.1\r\nX-Request-Id: 7\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert mock_server.request(head[:30]) is None
    assert mock_server.request(head + body[:-1]) is None
    assert mock_server.request(head + body + b"GET") == ("/v1/completions", "7", body, b"GET")
    assert mock_server.request(b"GET /v1/models HTTP/1.1\r\n\r\n") == ("/v1/models", "", b"", b"")


def test_messages_are_cut_from_a_stream() -> None:
    stream = mock_server.event({"choices": [1]}) + mock_server.event({"usage": 2}) + b"data: [DONE]\n\n"
    assert messages(stream + b"data: {") == ([{"choices": [1]}, {"usage": 2}], b"data: {")
    found, unread = [], b""
    for at in range(0, len(stream), 5):
        more, unread = messages(unread + stream[at : at + 5])
        found += more
    assert found == [{"choices": [1]}, {"usage": 2}]


async def asked_over_http(log: mock_server.Log, name: str) -> bytes:
    server = await asyncio.get_running_loop().create_server(
        lambda: mock_server.Connection(log), mock_server.LOOPBACK, 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    body = json.dumps({"prompt": [1, 2], "max_tokens": 3}).encode()
    headers = f"x-request-id: {name}\r\nContent-Length: {len(body)}"
    writer.write(f"POST /v1/completions HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body)
    data = await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")  # on the same connection
    data += await reader.readuntil(b'"owned_by": "mock"}]}')
    writer.close()
    server.close()
    return data


def test_the_mock_serves_over_http_and_notes_arrivals() -> None:
    log = mock_server.Log()
    data = asyncio.run(asked_over_http(log, "1"))
    assert data.count(b'"text": "a"') == 3
    assert b'"completion_tokens": 3' in data
    assert b"data: [DONE]" in data
    taken = log.take()
    assert (len(taken["arrived"]), len(taken["lags"])) == (1, 3)
    asyncio.run(asked_over_http(log, ""))  # a test request, no part of a schedule
    assert log.take()["arrived"] == []
