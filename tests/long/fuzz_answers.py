"""
Fuzz the response parser, guided by coverage: ``make fuzz``, ``make fuzz SECONDS=600``.

Parsing a success may only raise ResponseFormatError, an error response always yields one error, and simdjson,
if it can parse a success, gives the same result. A failing input is printed and saved to a file; pass that
file as an argument to reproduce the failure.
"""

from __future__ import annotations

import math
import sys
from array import array
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris
from msgspec.structs import replace

with atheris.instrument_imports(include=["qwen_aiml._protocol"]):
    from qwen_aiml import APIStatusError, EmbeddingConfig, ResponseFormatError
    from qwen_aiml._protocol.response import Response, decode
    from qwen_aiml._protocol.simd import packed_success
    from qwen_aiml._protocol.status import error_from
    from qwen_aiml.emulator import Emulator

PUBLISHED = Path(__file__).parent.parent / "protocol" / "published_response.json"
KEY = "sk-0123456789abcdef"
CONFIG = EmbeddingConfig(api_key=KEY)
HEAD = 8  # bytes that determine everything except the body
TEXTS = ["Laura is a DJ.", "a text that is long enough to be told when only a part of it is repeated", "字"]


def check(data: bytes) -> None:
    """Parse a response whose first bytes encode the status, row count, dimensions and headers."""
    if len(data) < HEAD:
        return
    status, expected, dimensions = 100 + data[0] * 4, data[1] % 4 + 1, data[2] % 6
    text = data[3:HEAD].decode("latin-1")
    headers = {"x-request-id": text, "x-aimlapi-credits-used": text, "content-type": text}
    answer = Response(status, headers, data[HEAD:])

    error = error_from(answer, TEXTS, CONFIG, CONFIG.secret)
    assert isinstance(error, APIStatusError) or 200 <= status < 300
    assert len(str(error)) < 600
    assert KEY not in str(error)
    usage = answer.usage
    assert all(type(count) in (int, type(None)) for count in (usage.total_tokens, usage.credits_used))
    assert isinstance(answer.request_id, (str, type(None)))
    try:
        rows = decode(answer, expected, dimensions or None)
    except ResponseFormatError:
        return
    assert len(rows.embeddings) == expected
    assert {len(row) for row in rows.embeddings} == {dimensions or len(rows.embeddings[0])}
    assert all(type(number) is float and math.isfinite(number) for row in rows.embeddings for number in row)
    assert all(map(any, rows.embeddings))
    if packed_success(answer.body) is None:
        return
    packed = decode(replace(answer, packed=True), expected, dimensions or None)
    assert (packed.model, packed.request_id) == (rows.model, rows.request_id)
    for row, other in zip(rows.embeddings, packed.embeddings, strict=True):
        assert other == array("f", row)


def seeds() -> list[bytes]:
    """Return the initial responses: the published one and some of an emulator."""
    options = Emulator(credits=3, refuses=lambda text: "bad" in text, shuffle=True).client_options()
    url = f"{CONFIG.base_url}/embeddings"
    bodies = [PUBLISHED.read_bytes()]
    with options["http_client"] as http:
        for key, texts in [
            (KEY, ["a"]),
            (KEY, ["bad"]),
            (KEY, [""]),
            (KEY, ["a"] * 11),
            (KEY, []),
            ("", ["a"]),
            (KEY, ["a"] * 9),
        ]:
            body = {"model": CONFIG.model, "input": texts, "dimensions": 64}
            bodies.append(http.post(url, json=body, headers={"authorization": f"Bearer {key}"}).content)
    bodies += [
        b'{"data":[{"index":1,"embedding":[1,0.5]},{"index":0,"embedding":"AACAPwAAgD8="}]}',
        b'{"message":["a","b"],"requestId":"c","statusCode":400}',
        b'{"error":{"message":"a","data":[{"path":["input",0],"message":"Required"}]}}',
        b'{"title":"a","usage":{"total_tokens":3},"meta":{"usage":{"credits_used":1}}}',
    ]
    heads = [bytes([status, count, 0]) + b"12345" for status in (25, 75, 82) for count in (0, 1)]
    return [head + body for head in heads for body in bodies]


def main() -> None:
    """
    Fuzz, or parse the given files.

    The arguments are those of libFuzzer, such as ``-max_total_time=60``.
    """
    with TemporaryDirectory() as corpus:
        for at, seed in enumerate(seeds()):
            (Path(corpus) / f"{at}").write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], check)
        atheris.Fuzz()


main()
