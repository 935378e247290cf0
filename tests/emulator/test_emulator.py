"""The emulated account: credits, rate limits, recorded requests, settings."""

# ruff: noqa: SIM300 - expected == actual, in all tests

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import qwen_aiml.emulator
from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    Post = Callable[..., httpx.Response]

URL = "https://api.aimlapi.com/v1/embeddings"
V4 = "alibaba/qwen-text-embedding-v4"


def test_surface() -> None:
    """All exported names exist."""
    names = ["Emulator", "Fault", "ReceivedRequest", "Vectoriser", "intercept", "serve"]
    assert names == sorted(qwen_aiml.emulator.__all__)
    assert all(hasattr(qwen_aiml.emulator, name) for name in qwen_aiml.emulator.__all__)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"api_keys": "key"}, "collection"),
        ({"api_keys": []}, "blank"),
        ({"api_keys": ["key", " "]}, "blank"),
        ({"latency": -1}, "latency"),
        ({"latency": float("nan")}, "latency"),
        ({"rate_limit": 0}, "rate_limit"),
        ({"rate_limit": 1, "burst": 0}, "burst"),
        ({"burst": 1}, "rate_limit"),
        ({"concurrency_limit": 0}, "concurrency_limit"),
        ({"retry_after": -1}, "retry_after"),
        ({"retry_after": float("inf")}, "retry_after"),
        ({"max_rows": 0}, "max_rows"),
        ({"refusal_status": 399}, "refusal_status"),
        ({"refusal_status": 600}, "refusal_status"),
        ({"credits": -1}, "credits"),
        ({"region": "moon"}, "region"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], problem: str) -> None:
    """Settings out of range raise ValueError on creation, naming the setting."""
    with pytest.raises(ValueError, match=problem):
        Emulator(**arguments)


def test_credits(post: Post, body: Callable[..., Any]) -> None:
    """Requests are billed until the balance is too low, then get 403; a cheaper request still succeeds."""
    emulator = Emulator(credits=3)

    assert [200, 403, 200] == [post(emulator, body("a" * size)).status_code for size in (50, 50, 4)]
    assert 0 == emulator.credits


def test_no_credits(post: Post) -> None:
    """The error for missing credits has the documented message, and the kind in the service's spelling."""
    response = post(Emulator(credits=0))

    assert "You've run out of credits." in response.json()["message"]
    assert {"kind": "err_insufficent_credits"} == response.json()["error"]["data"]
    assert "Forbidden" == response.json()["title"]


@pytest.mark.parametrize("change", [{"dimensions": 100}, {"dimensions": 63}, {"model": "x"}])
def test_failures_are_not_billed(post: Post, body: Callable[..., Any], change: dict[str, Any]) -> None:
    """Requests rejected by the gateway or the upstream are not billed."""
    emulator = Emulator(credits=100)
    post(emulator, body() | change)

    assert 100 == emulator.credits


def test_rate_limit(post: Post) -> None:
    """Requests beyond the rate get the upstream's 429, without retry-after, and are not billed."""
    now = 100.0
    emulator = Emulator(rate_limit=2, credits=100, clock=lambda: now)

    answers = [post(emulator) for _ in range(3)]
    now = 100.9
    answers.append(post(emulator))
    now = 101.0
    answers += [post(emulator) for _ in range(3)]

    assert [200, 200, 429, 429, 200, 200, 429] == [answer.status_code for answer in answers]
    assert 96 == emulator.credits
    assert {
        "error": {
            "message": "You have exceeded your current request limit.",
            "type": "limit_requests",
            "code": "limit_requests",
        }
    } == answers[-1].json()
    assert not [name for name in answers[-1].headers if "retry" in name or "ratelimit" in name]


def test_burst(post: Post) -> None:
    """A token bucket admits a burst, then requests at its rate, and never fills beyond the burst."""
    now = 100.0
    emulator = Emulator(rate_limit=10, burst=3, clock=lambda: now)

    answers = [post(emulator).status_code for _ in range(4)]
    for _ in range(2):
        now += 0.1
        answers += [post(emulator).status_code for _ in range(2)]
    now += 60
    answers += [post(emulator).status_code for _ in range(4)]

    assert [200, 200, 200, 429, 200, 429, 200, 429, 200, 200, 200, 429] == answers
    assert 4 == emulator.rejected_count


@pytest.mark.parametrize(
    ("seconds", "header"), [(None, None), (0, "0"), (2.0, "2"), (1e7, "10000000"), (0.25, "0.25")]
)
def test_retry_after(post: Post, seconds: float | None, header: str | None) -> None:
    """A 429 for a limit has the given retry-after in decimal notation, or none."""
    emulator = Emulator(rate_limit=1, retry_after=seconds, clock=lambda: 0.0)

    assert [None, header] == [post(emulator).headers.get("retry-after") for _ in range(2)]


def test_rejected_count(post: Post) -> None:
    """All responses with status 429 are counted, from limits and faults, and no others."""
    emulator = Emulator(rate_limit=1, clock=lambda: 0.0)
    emulator.script(None, None, Fault(status=429), Fault(status=503))
    statuses = [post(emulator).status_code for _ in range(4)]

    assert ([200, 429, 429, 503], 2) == (statuses, emulator.rejected_count)


def test_concurrency_limit(post: Post) -> None:
    """Concurrent requests beyond the limit are rejected, and affect neither the rate nor the balance."""
    emulator = Emulator(concurrency_limit=2, rate_limit=3, credits=100, clock=lambda: 0.0)
    together, done = threading.Barrier(3, timeout=10), threading.Event()

    def meet(answer: dict[str, Any]) -> dict[str, Any]:
        together.wait()
        assert done.wait(10)
        return answer

    emulator.script(*[Fault(edit=meet)] * 2)
    with ThreadPoolExecutor(2) as pool:
        within = [pool.submit(post, emulator) for _ in range(2)]
        together.wait()
        beyond = [post(emulator).status_code for _ in range(3)]
        done.set()
        statuses = [answer.result().status_code for answer in within]
    after = [post(emulator).status_code for _ in range(2)]

    assert ([429] * 3, [200] * 2, [200, 429]) == (beyond, statuses, after)
    assert 97 == emulator.credits


def test_only_what_is_processed_takes_a_place(post: Post) -> None:
    """Requests that do not reach the models do not count towards the concurrency limit."""
    emulator = Emulator(concurrency_limit=1, api_keys=["key"])
    statuses = []

    def meanwhile(answer: dict[str, Any]) -> dict[str, Any]:
        statuses.append(post(emulator, authorization="Bearer wrong").status_code)
        return answer

    emulator.script(Fault(edit=meanwhile), Fault(status=500))

    assert ([200, 200], [500]) == ([post(emulator).status_code for _ in range(2)], statuses)


def test_texts_billed(post: Post, body: Callable[..., Any]) -> None:
    """A text counts once per row embedded and billed, even if a fault changes the response."""
    emulator = Emulator(refuses=lambda text: text == "bad")
    emulator.script(
        None,
        Fault(status=201),
        Fault(edit=lambda _: b""),
        None,
        Fault(status=503),
        Fault(status=429),
        None,
    )
    for texts in (["a", "b", "a"], ["a"], ["c"], ["bad", "a"], ["a"], ["a"], ["d"] * 11):
        post(emulator, body(*texts))

    assert {"a": 3, "b": 1, "c": 1} == emulator.texts_billed


def test_texts_billed_is_a_copy(post: Post) -> None:
    """Changing the returned counter does not change the emulator."""
    emulator = Emulator()
    post(emulator)
    emulator.texts_billed.clear()

    assert {"Laura is a DJ.": 1} == emulator.texts_billed


def test_refused_requests_leave_the_rate_alone(post: Post) -> None:
    """Only requests that reach the models count against the rate limit."""
    emulator = Emulator(rate_limit=1, api_keys=["key"], clock=lambda: 0.0)
    post(emulator, authorization="Bearer wrong")

    assert 200 == post(emulator).status_code


def test_requests(post: Post, body: Callable[..., Any]) -> None:
    """Requests are recorded with the status of their responses, and without the API key."""
    emulator = Emulator()
    post(emulator, body("a", "b"), authorization="Bearer sesame", x_client_request_id="job-1")
    post(emulator, body(input="c", model="x"))
    post(emulator, body(input=[1, 2], dimensions=None))
    post(emulator, b"[", authorization="Bearer sesame")

    first, second, third, fourth = emulator.requests
    assert (V4, ["a", "b"], ("a", "b"), 64, 200, "job-1") == (
        first.model,
        first.input,
        first.texts,
        first.dimensions,
        first.status,
        first.client_request_id,
    )
    assert ("x", ("c",), 404, None) == (second.model, second.texts, second.status, second.client_request_id)
    assert ([1, 2], (), None, 400) == (third.input, third.texts, third.dimensions, third.status)
    assert (None, None, (), 400) == (fourth.model, fourth.input, fourth.texts, fourth.status)
    assert "sesame" not in repr(emulator.requests) + repr(vars(emulator))


def test_requests_are_bounded(post: Post, body: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the latest requests are recorded, up to a maximum; all are counted."""
    monkeypatch.setattr("qwen_aiml.emulator._emulator._REMEMBERED", 3)
    emulator = Emulator()
    for number in range(5):
        post(emulator, body(str(number)))

    assert 5 == emulator.request_count
    assert [("2",), ("3",), ("4",)] == [request.texts for request in emulator.requests]


def test_peak_in_flight(post: Post) -> None:
    """The peak is the highest number of requests in flight, and does not decrease."""
    emulator = Emulator()
    together = threading.Barrier(3, timeout=10)

    def meet(answer: dict[str, Any]) -> dict[str, Any]:
        together.wait()
        return answer

    emulator.script(*[Fault(edit=meet)] * 3)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: post(emulator), range(3)))
    post(emulator)

    assert 3 == emulator.peak_in_flight


@pytest.mark.anyio
async def test_transports(body: Callable[..., Any]) -> None:
    """The sync and async transports work with custom HTTP clients."""
    emulator = Emulator()
    headers = {"authorization": "Bearer key"}
    with httpx.Client(transport=emulator.transport()) as client:
        here = client.post(URL, json=body(), headers=headers)  # noqa: ASYNC212 - in the process
    async with httpx.AsyncClient(transport=emulator.async_transport()) as async_client:
        there = await async_client.post(URL, json=body(), headers=headers)

    assert (200, here.content) == (here.status_code, there.content)


@pytest.mark.parametrize("base_url", ["https://gateway.example/team/v1", "http://127.0.0.1:4000"])
def test_client_options_with_a_base_url(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever base URL the environment has, requests reach the emulator."""
    monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
    emulator = Emulator()
    with QwenAIMLEmbeddings(**emulator.client_options()) as embeddings:
        embeddings.embed_query("a")

    assert emulator.request_count == 1


@pytest.mark.parametrize(("keys", "key"), [(None, "emulator"), (["first", "second"], "first")])
def test_client_options(keys: list[str] | None, key: str, body: Callable[..., Any]) -> None:
    """The options are a valid API key, and a sync and an async client that identify the service."""
    options = Emulator(api_keys=keys).client_options()

    assert ["emulator"] * 2 == [
        options[name].qwen_aiml_service for name in ("http_client", "http_async_client")
    ]
    with options["http_client"] as client:
        response = client.post(URL, json=body(), headers={"authorization": f"Bearer {options['api_key']}"})
    assert (key, 200) == (options["api_key"], response.status_code)
    assert ["api_key", "http_client", "http_async_client"] == list(options)
    assert isinstance(options["http_async_client"], httpx.AsyncClient)
