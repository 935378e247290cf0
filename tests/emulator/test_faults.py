"""Faults in the process behave like those over a network."""

# ruff: noqa: SIM300 - expected == actual, in all tests

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Send = Callable[..., Awaitable[httpx.Response]]

URL = "https://api.aimlapi.com/v1/embeddings"


@pytest.mark.anyio
async def test_script_order(send: Send) -> None:
    """Each request takes the next fault, in order; None or an empty script means a normal response."""
    emulator = Emulator()
    emulator.script(Fault(status=500), None)
    emulator.script(Fault(status=503))

    assert [500, 200, 503, 200] == [(await send(emulator)).status_code for _ in range(4)]
    assert [500, 200, 503, 200] == [request.status for request in emulator.requests]


def test_script_of_a_list() -> None:
    """A script rejects a list of faults."""
    with pytest.raises(ValueError, match=r"script takes faults one by one, .*, not list$"):
        Emulator().script(None, [Fault(status=500)])  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "name", "message"),
    [
        (400, "BadRequestException", "Invalid payload provided"),
        (401, "UnauthorizedException", "This request requires a valid API key."),
        (403, "ForbiddenException", "You've run out of credits."),
        (404, "NotFoundException", "Not Found"),
        (408, "RequestTimeoutException", "Request Timeout"),
        (429, "TooManyRequestsException", "Too Many Requests"),
        (500, "InternalServerErrorException", "Internal server error"),
        (502, "BadGatewayException", "Bad Gateway"),
        (503, "ServiceUnavailableException", "Service unavailable"),
        (504, "GatewayTimeoutException", "Generation timeout"),
        (599, "UnknownException", "Unknown"),
    ],
)
async def test_status(send: Send, status: int, name: str, message: str) -> None:
    """A status is sent with the body documented for it; the request is not processed."""
    emulator = Emulator(credits=10)
    emulator.script(Fault(status=status))
    response = await send(emulator)

    assert (status, name) == (response.status_code, response.json()["error"]["name"])
    assert response.json()["message"].startswith(message)
    assert status == response.json()["status"]
    assert 10 == emulator.credits


@pytest.mark.anyio
@pytest.mark.parametrize("status", [520, 521, 522, 523, 524])
async def test_proxy_status(send: Send, status: int) -> None:
    """The proxy's statuses are sent as an HTML page."""
    emulator = Emulator()
    emulator.script(Fault(status=status))
    response = await send(emulator)

    assert (status, "text/html; charset=UTF-8") == (response.status_code, response.headers["content-type"])
    assert f"<h1>api.aimlapi.com | {status}: " in response.text


@pytest.mark.anyio
async def test_own_answer(send: Send) -> None:
    """Custom headers and a custom body replace the documented ones."""
    emulator = Emulator()
    emulator.script(
        Fault(status=429, headers={"Retry-After": "7", "Content-Type": "text/plain"}, body=b"slow")
    )
    response = await send(emulator)

    assert (429, "7", "text/plain", b"slow") == (
        response.status_code,
        response.headers["retry-after"],
        response.headers["content-type"],
        response.content,
    )


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "content"), [(201, None), (200, b""), (204, None)])
async def test_other_success(send: Send, status: int, content: bytes | None) -> None:
    """A request with another 2xx status is processed and billed; only status and body are replaced."""
    emulator = Emulator(credits=10)
    emulator.script(Fault(status=status, body=content))
    response = await send(emulator)

    assert (status, 9) == (response.status_code, emulator.credits)
    assert (status == 201) == bool(response.content)
    assert "1" == response.headers["x-aimlapi-credits-used"]


@pytest.mark.anyio
@pytest.mark.parametrize("status", [304, 302])
async def test_not_success(send: Send, status: int) -> None:
    """A 3xx is not billed; 304 has no body."""
    emulator = Emulator(credits=10)
    emulator.script(Fault(status=status, headers={"location": "https://elsewhere.test"}))
    response = await send(emulator)

    assert (status, 10, status == 304) == (response.status_code, emulator.credits, not response.content)


@pytest.mark.anyio
@pytest.mark.parametrize(("when", "left", "status"), [("before", 10, None), ("after", 9, 200)])
async def test_reset(send: Send, when: Any, left: int, status: int | None) -> None:
    """A reset is a read error; the request is billed if the reset comes after processing."""
    emulator = Emulator(credits=10)
    emulator.script(Fault(reset=when))
    with pytest.raises(httpx.ReadError, match="reset by peer") as raised:
        await send(emulator)

    assert str(raised.value.request.url) == URL
    assert (left, [status]) == (emulator.credits, [request.status for request in emulator.requests])


@pytest.mark.anyio
@pytest.mark.parametrize(("when", "billed"), [("before", 0), ("during", 1), ("after", 1)])
async def test_lost_answers_are_billed(send: Send, when: Any, billed: int) -> None:
    """A text whose response was lost is billed, unless the reset came before processing."""
    emulator = Emulator()
    emulator.script(Fault(reset=when))
    with pytest.raises(httpx.ReadError, match="reset by peer"):
        await send(emulator)

    assert billed == emulator.texts_billed["Laura is a DJ."]


@pytest.mark.anyio
async def test_redirect(send: Send) -> None:
    """A redirect has the given location, and is neither processed nor billed."""
    emulator = Emulator()
    emulator.script(Fault(status=307, headers={"location": "http://elsewhere.test/v1/embeddings"}))
    response = await send(emulator)

    assert (307, "http://elsewhere.test/v1/embeddings") == (
        response.status_code,
        response.headers["location"],
    )
    assert not emulator.texts_billed


@pytest.mark.anyio
async def test_edit(send: Send) -> None:
    """An edit replaces the response's content with a dict, including NaN and infinity, or with bytes."""
    emulator = Emulator()
    emulator.script(
        Fault(edit=lambda answer: answer | {"data": [math.nan, -math.inf, None]}),
        Fault(edit=lambda _: b"<html>"),
    )
    edited, raw = await send(emulator), await send(emulator)

    assert edited.text.startswith('{"data":[NaN,-Infinity,null],"model":"text-embedding-v4"')
    assert (200, b"<html>") == (raw.status_code, raw.content)


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [Fault(edit=lambda _: {}), Fault(status=201, body=b"{}")])
async def test_refusals_stand(send: Send, fault: Fault) -> None:
    """A fault that changes a successful response does not change a rejection."""
    emulator = Emulator(credits=0)
    emulator.script(fault)

    assert 403 == (await send(emulator)).json()["status"]


@pytest.mark.anyio
async def test_latency(send: Send) -> None:
    """A response takes the emulator's latency plus the fault's, also without a read timeout."""
    emulator = Emulator(latency=0.05)
    emulator.script(Fault(latency=0.1, status=500))
    started = time.monotonic()
    response = await send(emulator, timeout=None)

    assert (500, True) == (response.status_code, time.monotonic() - started >= 0.15)


@pytest.mark.anyio
async def test_latency_of_a_rejection(send: Send) -> None:
    """A 429 for the rate limit does not take the latency of a response with embeddings."""
    emulator = Emulator(latency=30, rate_limit=1, clock=lambda: 0.0)
    with pytest.raises(httpx.ReadTimeout):
        await send(emulator, timeout=0.1)

    assert (await send(emulator, timeout=10)).status_code == 429


@pytest.mark.anyio
async def test_timeout(send: Send) -> None:
    """A read timeout shorter than the latency raises httpx's timeout after that time."""
    emulator = Emulator(latency=30, credits=10)
    started = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        await send(emulator, timeout=0.05)

    assert 0.05 <= time.monotonic() - started < 10
    assert 9 == emulator.credits


@pytest.mark.anyio
async def test_hang(send: Send) -> None:
    """A request that hangs is billed, and its client gets httpx's timeout."""
    emulator = Emulator()
    emulator.script(Fault(hang=True))
    with pytest.raises(httpx.ReadTimeout):
        await send(emulator, timeout=0.05)

    assert (1, [200]) == (
        emulator.texts_billed["Laura is a DJ."],
        [request.status for request in emulator.requests],
    )


@pytest.mark.anyio
async def test_hang_without_timeout(body: Callable[..., Any]) -> None:
    """A task that hangs without a timeout waits until cancelled, and counts towards the limit until then."""
    emulator = Emulator(concurrency_limit=1)
    emulator.script(Fault(hang=True))
    statuses = []
    options = emulator.client_options()
    options["http_client"].close()
    async with options["http_async_client"] as client:

        async def post() -> None:
            headers = {"authorization": "Bearer key"}
            response = await client.post(URL, json=body(), headers=headers, timeout=None)
            statuses.append(response.status_code)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(post)
                await anyio.wait_all_tasks_blocked()
                await post()
                group.cancel_scope.cancel()
            await post()

    assert [429, 200] == statuses
    assert 1 == emulator.rejected_count


def test_hang_of_a_thread(post: Callable[..., httpx.Response], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that hangs without a timeout sleeps for years, within the limit of `time.sleep`."""
    waits: list[float] = []
    monkeypatch.setattr("qwen_aiml.emulator._serving.transports.time.sleep", waits.append)
    emulator = Emulator()
    emulator.script(Fault(hang=True))
    with pytest.raises(httpx.ReadTimeout):
        post(emulator, timeout=None)

    assert [True] == [10**7 < wait < threading.TIMEOUT_MAX for wait in waits]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"status": 199}, "200 to 599"),
        ({"status": 600}, "200 to 599"),
        ({"latency": -0.1}, "latency"),
        ({"latency": math.inf}, "latency"),
        ({"cut": -1}, "cut must be"),
        ({"reset": "later"}, '"before", "during" or "after"'),
        ({"drip": -0.1}, "drip must be"),
        ({"drip": math.inf}, "drip must be"),
        ({"body": b"x"}, "need a status"),
        ({"headers": {"a": "b"}}, "need a status"),
        ({"reset": "after", "status": 500}, "no answer"),
        ({"reset": "after", "cut": 5}, "no answer"),
        ({"reset": "after", "edit": dict}, "no answer"),
        ({"reset": "before", "drip": 1}, "no answer"),
        ({"reset": "before", "gzip": True}, "no answer"),
        ({"reset": "during", "cut": 5}, "one of them"),
        ({"reset": "during", "status": 304}, "empty body"),
        ({"hang": True, "status": 500}, "no other setting"),
        ({"hang": True, "reset": "after"}, "no other setting"),
        ({"hang": True, "latency": 1}, "no other setting"),
        ({"edit": dict, "status": 200}, "one of them"),
        ({"status": 204, "body": b"x"}, "no body"),
        ({"status": 204, "gzip": True}, "no body"),
        ({"status": 304, "cut": 1}, "empty body"),
        ({"status": 500, "body": b"", "cut": 0}, "empty body"),
        ({"status": 500, "headers": {"Content-Length": "3"}}, "content-length"),
        ({"status": 500, "gzip": True, "headers": {"Content-Encoding": "br"}}, "content-encoding"),
    ],
)
def test_bad_faults(settings: dict[str, Any], problem: str) -> None:
    """Impossible combinations raise ValueError on creation, with the reason."""
    with pytest.raises(ValueError, match=problem):
        Fault(**settings)
