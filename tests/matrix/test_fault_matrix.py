"""
Every known failure, with every way to embed, over real sockets.

docs/reference/failure-modes.md shows the table; `failure_table` generates it from the rows here.
"""

from __future__ import annotations

import json
import math
import socket
import ssl
import tracemalloc
import zlib
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import shake_256
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    DeadlineError,
    EmbeddingBatchError,
    InputTypeError,
    InputValueError,
    InsufficientCreditsError,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
)
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

pytestmark = pytest.mark.once

KEY = "sk-test-0123456789abcdef"
TEXTS = tuple(f"confidential {at:02d}" for at in range(23))  # three requests
FEW = TEXTS[:13]  # two requests
TEN = TEXTS[:10]
POISON = TEXTS[9]
LONG = "confidential " * 3000  # exceeds the token limit
AGAIN = [f"confidential, again {at}" for at in range(10)]
FIRST_WAY = "core-async"
WAYS = ("core", "core-async", "langchain", "langchain-async", "llamaindex", "llamaindex-async")
ON_TRIO = ("core-async-trio", "langchain-async-trio")  # LlamaIndex's async batches need asyncio
TRANSPORTS = (
    "",
    "/httpx",
    "/httpx-client",
    "/httpx2-client",
)  # the default, the setting, custom HTTP clients
ONE = {"max_concurrency": 1}  # so that the requests before a fault are known


@dataclass(frozen=True, kw_only=True)
class Case:
    """
    A fault and its expected outcome.

    Attributes:
        faults: Faults for the first requests.

        choose: Returns the fault for any other request, given its texts.

        account: Settings of the emulator.

        settings: Settings of the object under test.

        texts: The texts to embed.

        sent: The texts as the service must receive them. None: unchanged.

        requests: The expected number of requests, including retries.

        harmless: Whether the faulty responses are nevertheless valid.

        unpriced: Whether they do not report their usage.

        error: The expected error. None: all texts are embedded.

        facts: Expected attributes of the error.

        failed: Indices of the texts that the error must name.

        missing: Indices of the texts without an embedding. None: those that failed. If these are not all
            texts, the error is in an `EmbeddingBatchError`.

        asks: Seconds that the service requests to wait. None: it does not.

        again: The expected number of requests of another call, with ten texts and no faults. None: no other
            call.
    """

    faults: Sequence[Fault | None] = ()
    choose: Callable[[Sequence[str]], Fault | None] = lambda _: None
    account: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    texts: Sequence[str] = FEW
    sent: Sequence[str] | None = None
    requests: int
    harmless: bool = False
    unpriced: bool = False
    error: type[QwenAIMLError] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    failed: Sequence[int] = ()
    missing: Sequence[int] | None = None
    asks: float | None = None
    again: int | None = 1


@dataclass(frozen=True)
class Row:
    """
    A row of the table in docs/reference/failure-modes.md.

    Attributes:
        name: Prefix of the ids of its tests.

        fault: Description of the failure.

        happens: Description of the behaviour.

        cases: The cases by suffix of their ids, empty if there is only one. No cases: the row has its own
            test below.

        trio: Whether to test it on Trio as well.
    """

    name: str
    fault: str
    happens: str
    cases: Mapping[str, Case] = field(default_factory=dict)
    trio: bool = False


def once(fault: Fault, **more: Any) -> dict[str, Case]:
    """Expect success after one more request."""
    return each({"": fault}, **more)


def each(faults: Mapping[str, Fault], **more: Any) -> dict[str, Case]:
    """Expect success after one more request for each fault."""
    return {name: Case(faults=[fault], requests=3, **more) for name, fault in faults.items()}


def fine(faults: Mapping[str, Fault]) -> dict[str, Case]:
    """Expect that each response is accepted as valid."""
    return {name: Case(faults=[fault] * 2, requests=2, harmless=True) for name, fault in faults.items()}


def raw(body: bytes, status: int = 200, **headers: str) -> Fault:
    """Respond with a body."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(status=status, body=body, headers=headers)


def rows(change: Callable[[list[Any]], Any]) -> Fault:
    """Change the rows of a valid response."""
    return Fault(edit=lambda content: content | {"data": change(content["data"])})


def row(**values: Any) -> Fault:
    """Change the first row of a valid response."""
    return rows(lambda data: [data[0] | values, *data[1:]])


def numbers(change: Callable[[list[float]], Any]) -> Fault:
    """Change the first embedding of a valid response."""
    return rows(lambda data: [data[0] | {"embedding": change(data[0]["embedding"])}, *data[1:]])


def resized(change: Callable[[list[float]], Any]) -> Fault:
    """Change all embeddings of a valid response."""
    return rows(lambda data: [row | {"embedding": change(row["embedding"])} for row in data])


def without_index(data: list[Any]) -> list[Any]:
    return [{"embedding": row["embedding"]} for row in data]


def poisoned(fault: Fault) -> Callable[[Sequence[str]], Fault | None]:
    """Inject a fault into each request that contains the poisonous text."""
    return lambda texts: fault if POISON in texts else None


def poison(requests: int = 7, error: type[QwenAIMLError] = APIStatusError, **more: Any) -> Case:
    """Expect that the text is isolated, and all others are embedded."""
    return Case(requests=requests, error=error, **{"failed": [9], **more})


def always(fault: Fault) -> Callable[[Sequence[str]], Fault | None]:
    return lambda _: fault


def refusing(*failed: int, requests: int) -> Case:
    """Expect that all these texts are isolated."""
    texts = {TEXTS[at] for at in failed}
    return poison(requests, account={"refuses": texts.__contains__}, failed=failed)


def refused(status: int) -> dict[str, Any]:
    return {"refuses": lambda text: text == POISON, "refusal_status": status}


def final(error: type[QwenAIMLError], *faults: Fault, facts: Mapping[str, Any] | None = None) -> Case:
    """Expect that a call ends after these faults, without successful requests."""
    return Case(
        faults=faults,
        texts=TEXTS,
        requests=len(faults),
        settings=ONE | {"max_retries": len(faults) - 1},
        error=error,
        facts={"attempts": len(faults), **(facts or {})},
        failed=range(10),
        missing=range(23),
    )


def at_once(error: type[QwenAIMLError], fault: Fault, **facts: Any) -> Case:
    """Expect that a fault ends the call although retries are left."""
    return replace(final(error, fault, facts=facts), settings=ONE)


def late(error: type[QwenAIMLError], fault: Fault, **settings: Any) -> Case:
    """Expect that the embeddings of a successful request before the fault are kept."""
    return Case(
        faults=[None, fault],
        texts=TEXTS,
        requests=2,
        settings=ONE | settings,
        error=error,
        facts={"attempts": 1},
        failed=range(10, 20),
        missing=range(10, 23),
    )


def bomb() -> bytes:
    """Return a few megabytes that decompress to 270."""
    packer = zlib.compressobj(wbits=31)
    filling = bytes(2**16) + shake_256().digest(600)
    start, block = (packer.compress(filling) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return start + block * 4095


RETRIED = (408, 409, 429, 500, 501, 502, 503, 504, 505, *range(520, 531))
ASKED = {
    "seconds": {"retry-after": "0.02"},
    "date": {"retry-after": "Thu, 01 Jan 2026 12:00:01 GMT"},  # 0.02 s from now, by these tests' clock
    "milliseconds": {"retry-after-ms": "20"},
}

TABLE = (
    Row(
        "reset-before",
        "Connection reset before the request is read",
        "retried; nothing is billed twice",
        once(Fault(reset="before")),
    ),
    Row(
        "reset-after",
        "Connection reset instead of a response",
        "retried; the lost response was billed",
        once(Fault(reset="after")),
    ),
    Row(
        "reset-during",
        "Connection reset in the middle of a response",
        "retried; the lost response was billed",
        once(Fault(reset="during")),
        trio=True,
    ),
    Row(
        "cut",
        "Truncated response, compressed or not",
        "retried; the lost response was billed",
        each({"at-once": Fault(cut=0), "later": Fault(cut=999), "gzip": Fault(cut=99, gzip=True)}),
    ),
    Row(
        "hang",
        "No response",
        "retried after `timeout`; the lost response may have been billed",
        once(Fault(hang=True), settings={"timeout": 0.2}),
        trio=True,
    ),
    Row(
        "slow",
        "Response that arrives one byte at a time",
        "read to its end: `timeout` applies to each network operation, not to the whole response",
        {
            "": Case(
                faults=[Fault(drip=1e-9)],  # as fast as an event loop turns
                texts=TEXTS[:1],
                requests=1,
                harmless=True,
                settings={"timeout": 0.2},
            )
        },
    ),
    Row(
        "deadline",
        "No response, or headers or a body that arrive too slowly for `total_timeout`",
        "`DeadlineError` in time; completed embeddings are kept",
        {
            "hang": late(DeadlineError, Fault(hang=True), total_timeout=0.5, timeout=5),
            "headers": late(DeadlineError, Fault(drip=0.05), total_timeout=0.5, timeout=5),
            "body": late(
                DeadlineError,
                Fault(status=200, body=bytes(10**6), drip=1e-9),
                total_timeout=0.5,
                timeout=5,
            ),
        },
    ),
    Row("nobody", "Connection refused", "retried, then `TransportError`"),
    Row("not-http", "A server that does not speak HTTP", "retried, then `TransportError`"),
    Row(
        "certificate",
        "Certificate that cannot be verified",
        "`TransportError` without a retry; the key is not sent",
    ),
    Row(
        "redirect",
        "Redirect to another URL",
        "`APIStatusError` without a retry; not followed, so the key goes nowhere else",
    ),
    Row(
        "retried-status",
        "408, 409, 429, 5xx except 511",
        "retried; nothing is billed twice",
        each({str(status): Fault(status=status) for status in RETRIED}),
    ),
    Row(
        "retry-after",
        "408, 409, 429, 5xx except 511 with `Retry-After`, as seconds or a date, or `retry-after-ms`",
        "retried after that time; after a 429 all other requests wait as well",
        {
            f"{status}-{form}": Case(
                faults=[Fault(status=status, headers=headers)],
                texts=TEN,
                requests=2,
                asks=0.02,
                again=None if status == 429 else 1,
            )
            for status, (form, headers) in product((429, 503), ASKED.items())
        },
    ),
    Row(
        "retry-too-late",
        "`Retry-After` beyond `total_timeout`",
        "`DeadlineError` immediately; completed embeddings are kept",
        {
            str(status): replace(
                late(DeadlineError, Fault(status=status, headers={"retry-after": "30"}), total_timeout=9),
                again=None,  # the client still waits
            )
            for status in (429, 503)
        },
    ),
    Row(
        "lasting",
        "A reset, 429 or 5xx except 500, 504 and 524 at every attempt",
        "after `max_retries` retries `TransportError`, `RateLimitError` or `APIStatusError`",
        {
            "reset": final(TransportError, *[Fault(reset="before")] * 3),
            "429": final(RateLimitError, *[Fault(status=429)] * 3),
            "503": final(APIStatusError, *[Fault(status=503)] * 3, facts={"reason": "service"}),
        },
    ),
    Row(
        "no-retries",
        "Any transient failure with `max_retries=0`",
        "the error without a retry; nothing is sent, or billed, twice",
        {
            "reset": final(TransportError, Fault(reset="after")),
            "hang": replace(
                final(TransportError, Fault(hang=True), facts={"timed_out": True}),
                settings=ONE | {"max_retries": 0, "timeout": 0.2},
            ),
            "500": final(APIStatusError, Fault(status=500)),
            "malformed": final(ResponseFormatError, row(embedding=None)),
        },
    ),
    Row(
        "final-status",
        "401; exhausted balance, whatever the status; any other status",
        "`AuthenticationError`, `InsufficientCreditsError`, `APIStatusError` without a retry",
        {
            "401": at_once(AuthenticationError, Fault(status=401), status_code=401),
            "402": at_once(InsufficientCreditsError, Fault(status=402), status_code=402),
            "403-credits": at_once(InsufficientCreditsError, Fault(status=403), status_code=403),
            "403-scope": at_once(APIStatusError, raw(b'{"message": "No such scope"}', 403), reason="account"),
            "404": at_once(APIStatusError, Fault(status=404), status_code=404),
            # A 2xx that does not report its usage leaves the total unknown.
            "200-credits": replace(
                at_once(
                    InsufficientCreditsError, raw(b'{"error": {"message": "You have run out of credits"}}')
                ),
                unpriced=True,
            ),
            "429-credits": at_once(
                InsufficientCreditsError, raw(b'{"message": "You have run out of credits"}', 429)
            ),
            "400-dimensions": at_once(
                APIStatusError, raw(b'{"message": "dimensions is invalid"}', 400), reason="request"
            ),
            "511": at_once(APIStatusError, Fault(status=511), status_code=511),
        },
    ),
    Row(
        "late",
        "One of these errors after some successful requests",
        "`EmbeddingBatchError`; completed embeddings are in its `embeddings`",
        {
            "401": late(AuthenticationError, Fault(status=401)),
            "credits": Case(
                account={"credits": 12},  # six for ten texts
                texts=TEXTS,
                requests=3,
                settings=ONE,
                error=InsufficientCreditsError,
                facts={"attempts": 1, "status_code": 403},
                failed=range(20, 23),
            ),
        },
        trio=True,
    ),
    Row(
        "no-embeddings",
        "200 with HTML, an error, incomplete JSON or nothing; 204",
        "retried; the useless response may have been billed",
        each(
            {
                "html": raw(b"<html>Just a moment...</html>", content_type="text/html"),
                "error": raw(b'{"error": {"message": "Internal server error"}}'),
                "half": Fault(edit=lambda content: json.dumps(content).encode()[:999]),
                "empty": raw(b""),
                "list": raw(b"[]"),
                "no-data": raw(b'{"object": "list"}'),
                "null-data": raw(b'{"data": null}'),
                "204": Fault(status=204),
            },
            unpriced=True,
        ),
    ),
    Row(
        "encoding",
        "Body that does not match `content-encoding`",
        "retried; the useless response may have been billed",
        once(raw(b"{}", content_encoding="gzip")),
    ),
    # The body is also cut: a client that reads that far sees a lost response, whose usage is not unknown.
    Row(
        "oversized",
        "Body of more than 16 MiB",
        "not read to its end; retried",
        once(Fault(status=200, body=bytes(2**25), cut=2**24 + 2**20), unpriced=True),
        trio=True,
    ),
    Row("bomb", "Small body that decompresses to hundreds of megabytes", "not read to its end; retried"),
    Row(
        "row-count",
        "Too few or too many rows",
        "retried",
        each(
            {
                "missing": rows(lambda data: data[:-1]),
                "extra": rows(lambda data: [*data, data[0] | {"index": len(data)}]),
                "none": rows(lambda _: []),
            }
        ),
        trio=True,
    ),
    Row(
        "row-index",
        "`index` duplicated, missing in some rows, out of range, or not a number",
        "retried",
        each(
            {
                "doubled": row(index=1),
                "absent-on-some": rows(lambda data: [*without_index(data[:1]), *data[1:]]),
                "too-high": row(index=10),
                "negative": row(index=-1),
                "fraction": row(index=0.5),
                "string": row(index="0"),
                "boolean": row(index=False),
            }
        ),
    ),
    Row(
        "row-kind",
        "Row or embedding that is null or of another type",
        "retried",
        each(
            {
                "null": rows(lambda data: [None, *data[1:]]),
                "list": rows(lambda data: [data[0]["embedding"], *data[1:]]),
                "embedding-null": row(embedding=None),
                "embedding-absent": rows(lambda data: [{"index": 0}, *data[1:]]),
                "embedding-empty": row(embedding=[]),
                "embedding-nested": numbers(lambda values: [values]),
                "embedding-text": row(embedding="not base64"),
            }
        ),
    ),
    Row(
        "row-numbers",
        "Null, string, boolean, NaN or infinity in an embedding; all zero",
        "retried",
        {
            **each(
                {
                    "null": numbers(lambda values: [None, *values[1:]]),
                    "string": numbers(lambda values: ["0.5", *values[1:]]),
                    "boolean": numbers(lambda values: [True, *values[1:]]),
                    "zero": numbers(lambda values: [0.0] * len(values)),
                    "base64-nan": row(embedding=b64encode(pack("<64f", *[math.nan] * 64)).decode()),
                    "base64-infinity": row(embedding=b64encode(pack("<64f", *[math.inf] * 64)).decode()),
                }
            ),
            **each(
                {
                    "nan": numbers(lambda values: [math.nan, *values[1:]]),
                    "infinity": numbers(lambda values: [math.inf, *values[1:]]),
                },
                unpriced=True,  # not JSON, so its usage cannot be read
            ),
        },
    ),
    Row(
        "row-length",
        "One or all embeddings with too few or too many dimensions",
        "retried",
        each(
            {
                "one-short": numbers(lambda values: values[:-1]),
                "one-long": numbers(lambda values: [*values, 0.5]),
                "all-short": resized(lambda values: values[:-1]),
                "all-long": resized(lambda values: [*values, 0.5]),
            }
        ),
    ),
    Row(
        "malformed-always",
        "Any malformed response, 408, 500, 504, 524, or no response, at every attempt and for all texts",
        "bisection, four more requests, then `ResponseFormatError`, `APIStatusError` or `TransportError`",
        {
            name: Case(
                choose=always(fault),
                texts=TEXTS,
                requests=7,
                settings=ONE | {"max_retries": 2} | ({"timeout": 0.1} if fault.hang else {}),
                error=error,
                failed=range(10),
                missing=range(23),
            )
            for name, fault, error in (
                ("malformed", row(embedding=None), ResponseFormatError),
                ("500", Fault(status=500), APIStatusError),
                ("hang", Fault(hang=True), TransportError),
            )
        },
    ),
    Row(
        "order",
        "Rows in another order, or without any `index`",
        "sorted by `index`; taken in the order received if none has one",
        fine(
            {
                "reversed": rows(lambda data: data[::-1]),
                "no-index": rows(without_index),
                "null-index": rows(lambda data: [row | {"index": None} for row in data]),
                "float-index": rows(lambda data: [row | {"index": float(row["index"])} for row in data]),
            }
        ),
    ),
    Row(
        "form",
        "201, another content type, gzip, base64, unknown or missing fields",
        "accepted",
        {
            **fine(
                {
                    "201": Fault(status=201),
                    "content-type": Fault(status=200, headers={"content-type": "text/html"}),
                    "gzip": Fault(gzip=True),
                    "unknown-field": Fault(edit=lambda content: content | {"error": None, "more": {}}),
                    "only-data": Fault(
                        edit=lambda content: {"data": content["data"], "usage": content["usage"]}
                    ),
                }
            ),
            "base64": Case(account={"base64": True}, settings={"encoding_format": "base64"}, requests=2),
        },
    ),
    Row(
        "poison",
        "One rejected text: for its content, or 400, 413, 422 without a reason",
        "isolated by bisection in at most six more requests; all others embedded; its index is in `failures`",
        {
            "content": poison(account=refused(400), facts={"reason": "content"}),
            "400": poison(
                choose=poisoned(raw(b'{"message": "Can not digest confidential 09"}', 400)),
                facts={"reason": "text"},
            ),
            "worst-place": refusing(4, requests=8),
            "413": poison(account=refused(413), facts={"reason": "length"}),
            "422": poison(account=refused(422), facts={"reason": "text"}),
        },
        trio=True,
    ),
    Row(
        "poison-service",
        "One text that gets 408, 500, 504 or 524 at every attempt",
        "isolated in the same way, after the last retry",
        {
            str(status): poison(
                8,
                account=refused(status),
                settings={"max_retries": 1},
                facts={"status_code": status},
            )
            for status in (408, 500, 504, 524)
        },
    ),
    Row(
        "poison-malformed",
        "One text for which the response is malformed, or never comes, at every attempt",
        "isolated in the same way, after the last retry",
        {
            "malformed": poison(
                8,
                ResponseFormatError,
                choose=poisoned(row(embedding=None)),
                settings={"max_retries": 1},
            ),
            "hang": poison(
                8,
                TransportError,
                choose=poisoned(Fault(hang=True)),
                settings={"max_retries": 1, "timeout": 0.2},
                facts={"timed_out": True},
            ),
        },
    ),
    Row(
        "poison-two",
        "Two rejected texts, in one request or in two",
        "both are isolated",
        {
            "apart": refusing(9, 12, requests=10),
            "together": refusing(3, 7, requests=10),
        },
    ),
    Row(
        "rejected-all",
        "Every text rejected without a reason",
        "the error, after the third text that is rejected in a request of its own",
        {
            "": Case(
                choose=always(raw(b'{"message": "No"}', 400)),
                texts=TEXTS,
                requests=13,
                settings=ONE,
                error=APIStatusError,
                facts={"reason": "text", "attempts": 1},
                failed=[0],
                missing=range(23),
            )
        },
    ),
    Row(
        "row-limit",
        "Fewer texts per request than documented: a 400 that names the number",
        "split to that number, which later requests respect",
        {"": Case(account={"max_rows": 4}, texts=TEXTS, settings=ONE, requests=8, again=3)},
    ),
    Row(
        "too-long",
        "Text with too many tokens",
        "isolated like a rejected text; all others are embedded",
        {
            "": Case(
                texts=(*TEXTS[:9], LONG),
                requests=6,
                error=APIStatusError,
                facts={"reason": "length"},
                failed=[9],
            )
        },
    ),
    Row(
        "too-long-truncate",
        'Text with too many tokens and `on_too_long="truncate"`',
        "the beginning is embedded",
    ),
    Row(
        "too-long-mean",
        'Text with too many tokens and `on_too_long="split_mean"`',
        "the mean of its pieces, weighted by length and normalised",
    ),
    Row(
        "input",
        "Blank texts; values that are not strings; a string instead of a list",
        "`InputValueError` or `InputTypeError` with all indices; nothing is sent",
    ),
    Row(
        "blank-replaced",
        'Blank texts with `on_blank="replace"`',
        "`blank_replacement` is embedded in place of them",
        {
            "": Case(
                texts=(*TEXTS[:8], "", " \n"),
                sent=(*TEXTS[:8], "a confidential blank", "a confidential blank"),
                settings={"on_blank": "replace", "blank_replacement": "a confidential blank"},
                requests=1,
            )
        },
    ),
    Row("repeated", "Identical texts", "sent, and billed, once", {"": Case(texts=TEN * 2, requests=1)}),
)

own_tests: set[str] = set()
has_httpx2 = find_spec("httpx2") is not None


def in_ways(name: str, *values: Any, trio: bool = False) -> Iterator[Any]:
    """
    Yield parameters of a test: *values*, then a way with its transport.

    `make soak` runs all ways. Other runs use the first way and one more, and both on Trio if *trio*, chosen
    so that each way is combined with each transport in some rows.

    Args:
        name: Prefix of the ids.

        values: Parameters before the way.

        trio: Whether to include the ways on Trio.
    """
    ways = (*WAYS, *(ON_TRIO if trio else ()))
    others = [(way, transport) for way, transport in product(ways, TRANSPORTS) if way != FIRST_WAY]
    at = crc32(name.encode())
    chosen = {(FIRST_WAY, ""), others[at % len(others)]}
    if trio:
        chosen.update((way, TRANSPORTS[at % len(TRANSPORTS)]) for way in ON_TRIO)
    for way, transport in product(ways, TRANSPORTS):
        marks = [] if (way, transport) in chosen else [pytest.mark.long]
        if "httpx2" in transport:
            marks.append(pytest.mark.skipif(not has_httpx2, reason="httpx2 needs Python 3.11"))
        yield pytest.param(*values, way + transport, id=f"{name}-{way}{transport}", marks=marks)


def across(name: str, *variants: str) -> pytest.MarkDecorator:
    """Parametrize a row's own test with ways, and with variants if there are any."""
    own_tests.add(name)
    if not variants:
        return pytest.mark.parametrize("way", list(in_ways(name)))
    values = [value for variant in variants for value in in_ways(f"{name}-{variant}", variant)]
    return pytest.mark.parametrize(("variant", "way"), values)


def failure_table() -> str:
    """Format the table for docs/reference/failure-modes.md."""
    lines = [f"| {row.fault} | {row.happens} | `{row.name}` |" for row in TABLE]
    return "\n".join(["| failure | behaviour | test |", "| --- | --- | --- |", *lines])


def test_page_has_the_table() -> None:
    """The page contains the table that is tested."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "failure-modes.md"

    assert f"\n\n{failure_table()}\n\n" in page.read_text(encoding="utf-8")


def test_every_row_is_tested() -> None:
    """Every row has cases or its own test."""
    assert {row.name for row in TABLE if not row.cases} == own_tests


def tokens(texts: Iterable[str]) -> int:
    return sum(-(-len(text.encode()) // 4) for text in texts)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its causes and the failures it contains."""
    while error is not None:
        yield error
        if isinstance(error, EmbeddingBatchError):
            yield from error.failures.values()
        error = error.__cause__ or error.__context__


def check(case: Case, way: str, service: Any, ask: Any, vector: Any) -> None:
    """Inject the faults of a case, and check the outcome."""
    account = Emulator(**case.account)
    service.use(account, case.faults, case.choose)
    faults = service.given
    outcome = ask(way, case.settings, list(case.texts), None if case.again is None else AGAIN)

    # Every text that can be embedded has its own embedding, and errors name the others with a reason.
    sent = case.texts if case.sent is None else case.sent
    missing = case.failed if case.missing is None else case.missing
    rows = [None if at in missing else vector(text) for at, text in enumerate(sent)]
    if case.error is None:
        assert outcome.error is None
        assert outcome.embeddings == rows
    else:
        reason = outcome.error
        if len(missing) < len(sent):
            assert type(reason) is EmbeddingBatchError
            assert (reason.embeddings, reason.indices) == (rows, tuple(missing))
            assert reason.usage == outcome.usage
            assert sorted(reason.failures) == list(case.failed)
            reason = reason.failures[case.failed[0]]
            assert isinstance(reason, case.error)
        assert type(reason) is case.error
        assert {name: getattr(reason, name) for name in case.facts} == case.facts
        if len(missing) == len(sent):
            assert reason.indices == tuple(case.failed)
    for error in chain(outcome.error):
        assert KEY not in f"{error} {error!r}"
        assert "confidential" not in f"{error} {error!r}"

    # No request is unnecessary, and no text is billed twice unless a fault lost its response.
    processed = [
        (request.texts, fault)
        for request, fault in zip(account.requests, faults, strict=True)
        if request.status is not None and request.status < 300
    ]
    lost = [texts for texts, fault in processed if fault is not None and not case.harmless]
    embedded = {text for text, row in zip(sent, rows, strict=True) if row is not None}
    assert account.request_count == outcome.usage.requests == case.requests
    assert account.texts_billed == Counter(embedded) + Counter(text for texts in lost for text in texts)
    reported = [texts for texts, fault in processed if fault is None or fault.edit or case.harmless]
    assert outcome.usage.total_tokens == (None if case.unpriced else sum(map(tokens, reported)))

    if case.again is not None:
        assert outcome.again == [vector(text) for text in AGAIN]
        assert service.account.request_count == case.again


CASES = [
    value
    for row in TABLE
    for variant, case in row.cases.items()
    for value in in_ways("-".join(filter(None, (row.name, variant))), case, trio=row.trio)
]


@pytest.mark.parametrize(("case", "way"), CASES)
def test_fault(case: Case, way: str, service: Any, ask: Any, vector: Any, no_waiting: list[float]) -> None:
    """The behaviour of each failure is that of the table."""
    check(case, way, service, ask, vector)

    if case.asks is not None:
        assert case.asks <= no_waiting[0] <= 1.1 * case.asks


@across("bomb")
def test_bomb(way: str, service: Any, ask: Any, vector: Any) -> None:
    """A decompression bomb is not expanded in memory or read to its end, which is cut off."""
    fault = raw(bomb(), content_encoding="gzip")
    [case] = once(replace(fault, cut=len(bomb()) - 1), unpriced=True).values()
    tracemalloc.start()
    try:
        check(case, way, service, ask, vector)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 2**27


@across("nobody")
def test_nobody_listens(way: str, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is retried, and the error names the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    monkeypatch.setenv("AIMLAPI_BASE_URL", address)
    outcome = ask(way, ONE | {"max_retries": 2}, TEXTS)

    assert type(outcome.error) is TransportError
    assert f"no response from {address}: no connection" in str(outcome.error)
    assert (outcome.error.attempts, outcome.error.indices) == (3, tuple(range(10)))
    assert (outcome.usage.requests, outcome.usage.total_tokens) == (3, 0)


@across("not-http")
def test_not_http(way: str, ask: Any, peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that is not HTTP is a transport error."""
    with peer(b"SSH-2.0-OpenSSH_9.9\r\n", connections=3) as other:
        monkeypatch.setenv("AIMLAPI_BASE_URL", f"http://127.0.0.1:{other.port}/v1")
        outcome = ask(way, ONE | {"max_retries": 2}, TEXTS)

        assert not other.has_more()
    assert type(outcome.error) is TransportError
    assert (outcome.error.attempts, outcome.error.indices) == (3, tuple(range(10)))
    assert "confidential" not in str(outcome.error)


@across("certificate")
def test_certificate(way: str, ask: Any, peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with an invalid certificate receives nothing, and the request is not retried."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(Path(__file__).parent / "self_signed.pem")
    with peer(connections=1, tls=tls) as other:
        monkeypatch.setenv("AIMLAPI_BASE_URL", f"https://127.0.0.1:{other.port}/v1")
        outcome = ask(way, ONE, TEXTS)

        assert not other.has_more()
    assert other.received == [b""]
    assert type(outcome.error) is TransportError
    assert (outcome.error.attempts, outcome.error.transient) == (1, False)
    assert "its certificate can't be verified" in str(outcome.error)


@across("redirect", "301", "302", "303", "307", "308")
def test_redirect(variant: str, way: str, service: Any, ask: Any, peer: Any, vector: Any) -> None:
    """A redirect is an error, and is not followed."""
    with peer() as other:
        location = {"location": f"http://127.0.0.1:{other.port}/v1/embeddings"}
        fault = Fault(status=int(variant), headers=location)
        case = at_once(APIStatusError, fault, status_code=int(variant))
        check(replace(case, settings=ONE | {"timeout": 1}), way, service, ask, vector)

        assert not other.has_more()


@across("too-long-truncate")
def test_truncated(way: str, service: Any, ask: Any, vector: Any) -> None:
    """A text that is too long gets the embedding of its beginning, which takes one more request."""
    account = service.account
    outcome = ask(way, {"on_too_long": "truncate"}, [*TEXTS[:9], LONG], AGAIN)
    [beginning] = account.requests[-1].texts

    assert LONG.startswith(beginning)
    assert 0.7 < len(beginning) / len(LONG) < 1
    assert outcome.embeddings == [vector(text) for text in (*TEXTS[:9], beginning)]
    assert account.request_count == outcome.usage.requests == 7
    assert account.texts_billed == Counter([*TEXTS[:9], beginning])


@across("too-long-mean")
def test_split(way: str, service: Any, ask: Any, vector: Any) -> None:
    """A text that is too long gets the mean of its pieces, which are sent in one request."""
    account = service.account
    outcome = ask(way, {"on_too_long": "split_mean"}, [*TEXTS[:9], LONG], AGAIN)
    pieces = account.requests[-1].texts
    sums = [
        sum(value * len(piece) for value, piece in zip(column, pieces, strict=True))
        for column in zip(*map(vector, pieces), strict=True)
    ]

    assert "".join(pieces) == LONG
    assert outcome.embeddings[:9] == [vector(text) for text in TEXTS[:9]]
    assert outcome.embeddings[9] == pytest.approx([value / math.hypot(*sums) for value in sums])
    assert account.request_count == outcome.usage.requests == 7
    assert account.texts_billed == Counter([*TEXTS[:9], *pieces])


INPUTS: dict[str, tuple[Any, type[QwenAIMLError], tuple[int, ...]]] = {
    "blank": (["confidential", "", "confidential", " \n", "\u3000"], InputValueError, (1, 3, 4)),
    "kind": (["confidential", None, 3, b"confidential", ["confidential"]], InputTypeError, (1, 2, 3, 4)),
    "both": (["", 3], InputTypeError, (0, 1)),
    "bare": ("confidential", InputTypeError, ()),
    "number": (3, InputTypeError, ()),
}


@across("input", *INPUTS)
def test_input(variant: str, way: str, service: Any, ask: Any, vector: Any) -> None:
    """Invalid input raises an error with all indices before any request is sent."""
    texts, error, indices = INPUTS[variant]
    account = service.account
    outcome = ask(way, {}, texts, AGAIN)

    assert type(outcome.error) is error
    assert (outcome.error.indices, outcome.error.attempts) == (indices, 0)
    assert "confidential" not in str(outcome.error)
    assert account.request_count == outcome.usage.requests == 0
    assert outcome.again == [vector(text) for text in AGAIN]
