"""
Check what is only assumed of the service, and print the observations beside the assumptions.

    make probe

With a key in AIMLAPI_API_KEY it sends the service about 100 requests, for far less than $0.01, and writes
the evidence, without the key, to probe-live.json beside this file. The key of an account without credits, in
AIMLAPI_EMPTY_KEY, adds one row. Without a key it queries the emulator, which shows that the probe works, and
writes probe-emulator.json. Code that relies on an assumption names the row that would refute it, as in
``(probe: long)``; ``(probe: none)`` means that nothing can provoke the case.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx

from qwen_aiml._protocol.arrays import load_numpy
from qwen_aiml._texts.tokens import ADDED_TOKENS, load
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable

Body: TypeAlias = dict[str, Any]

HERE = Path(__file__).parent
URL = "https://api.aimlapi.com"
V4, V3 = "alibaba/qwen-text-embedding-v4", "alibaba/qwen-text-embedding-v3"
LENGTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048)
TEXT = "Laura is a DJ."
BURST = 40
KEY, EMPTY_KEY = "a-key-of-the-emulator", "a-key-without-credits"
KEPT_NUMBERS = 3
UNKNOWN, NOT_ASKED = "nothing", "not asked"

WITHOUT_KEY = """\
AIMLAPI_API_KEY is not set, so the emulator is asked. This shows that the probe works, and tells nothing of
the service. With a key: AIMLAPI_API_KEY=... make probe
"""
LEGEND = """\
as assumed  code that names the row, as in (probe: rows), is right
DIFFERS     that code has to change
answered    nothing was assumed; the answer is news
no answer   the service said nothing of it
not asked   it takes a key of an account without credits, in AIMLAPI_EMPTY_KEY
failed      the row could not be asked; see the evidence

No row asks what a key at its spending cap gets.
"""


class Probe:
    """
    Sends requests, and records the evidence.

    Args:
        client: An ``httpx.Client``.

        key: The API key.

        empty_key: Key of an account without credits; an empty string if there is none.

    Attributes:
        evidence: One entry per request: the row, the request and the response.

        credits: Credits that responses reported.
    """

    def __init__(self, client: httpx.Client, key: str, empty_key: str = "") -> None:
        self._client = client
        self._key = key
        self.empty_key = empty_key
        self.row = ""
        self.evidence: list[Body] = []
        self.credits = 0

    def get(self, path: str) -> httpx.Response:
        """Send a GET request without a key."""
        response = self._client.get(f"{URL}{path}")
        self._keep({"path": path}, response)
        return response

    def embed(self, texts: Any, *, model: str = V4, key: str | None = None, **more: Any) -> httpx.Response:
        """Post to the endpoint, with 64 dimensions unless others are given."""
        body = {"model": model, "input": texts, "dimensions": 64, **more}
        headers = {"Authorization": f"Bearer {self._key if key is None else key}"}
        response = self._client.post(f"{URL}/v1/embeddings", json=body, headers=headers)
        self.credits += int(response.headers.get("x-aimlapi-credits-used", 0))
        self._keep(body, response)
        return response

    def vectors(self, texts: list[str], **more: Any) -> list[list[float]]:
        """Embed texts, and return the vectors in the order of the texts; raise if there are none."""
        rows = sorted(
            self.embed(texts, **more).raise_for_status().json()["data"], key=lambda row: row["index"]
        )
        return [row["embedding"] for row in rows]

    def _keep(self, sent: Body, response: httpx.Response) -> None:
        headers = {name: value for name, value in response.headers.items() if name != "set-cookie"}
        entry = {"row": self.row, "sent": _short(sent), "status": response.status_code, "headers": headers}
        self.evidence.append({**entry, "body": _short(_json(response) or response.text)})

    def written(self) -> str:
        """Return the evidence as JSON, with the keys replaced."""
        text = json.dumps(self.evidence, indent=1, ensure_ascii=False)
        for key in filter(None, (self._key, self.empty_key)):
            text = text.replace(key, "[key]")
        return text + "\n"


def _short(value: Any) -> Any:
    """Shorten long texts, and reduce vectors to their beginning, length and norm."""
    if isinstance(value, str):
        return value if len(value) <= 300 else f"{value[:300]}... {len(value)} characters"
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list) and len(value) > 10 and all(isinstance(item, (int, float)) for item in value):
        return {"first": value[:KEPT_NUMBERS], "numbers": len(value), "norm": math.hypot(*value)}
    return [_short(item) for item in value] if isinstance(value, list) else value


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def cosine(a: list[float], b: list[float]) -> float:
    """Return the cosine of two vectors."""
    numpy = load_numpy()
    return float(numpy.dot(a, b) / (numpy.linalg.norm(a) * numpy.linalg.norm(b)))


def refusal(response: httpx.Response, *names: str) -> str:
    """Return the status, and which of *names* the body contains."""
    named = [name for name in names if name in response.text]
    return f"{response.status_code}{' names ' + ', '.join(named) if named else ''}"


def catalogue(probe: Probe, model: str = V4) -> str:
    """Read the price of a model."""
    response = probe.get(f"/v1/models?id={model}&include=all")
    found = (_json(response) or {}).get("data")
    if not found:
        return f"HTTP {response.status_code}, no entry"
    units = (found[0].get("pricing") or {}).get("units") or []
    prices = [f"${unit.get('price')} per {unit.get('per')} {unit.get('measure')}" for unit in units]
    return f"aliases {found[0].get('aliases')}; {'; '.join(prices) or 'no price'}"


def lengths(probe: Probe) -> str:
    """Request each number of dimensions of v4."""
    odd = {}
    for length in LENGTHS:
        response = probe.embed([TEXT], dimensions=length)
        found = len(response.json()["data"][0]["embedding"]) if response.is_success else response.status_code
        if found != length:
            odd[length] = found
    return f"other than requested: {odd}" if odd else "each as requested"


def norms(probe: Probe) -> str:
    """Measure the vectors of v4 at each number of dimensions."""
    found = {length: math.hypot(*probe.vectors([TEXT], dimensions=length)[0]) for length in LENGTHS}
    odd = {length: round(norm, 4) for length, norm in found.items() if abs(norm - 1) > 1e-3}
    return f"not 1: {odd}" if odd else "1 at each"


def prefixes(probe: Probe) -> str:
    """Compare a short vector with the beginning of a long one."""
    [whole] = probe.vectors([TEXT], dimensions=2048)
    found = [cosine(probe.vectors([TEXT], dimensions=length)[0], whole[:length]) for length in LENGTHS[:-1]]
    return "yes" if min(found) > 0.9999 else f"no, cosine {min(found):.4f}"


def v3(probe: Probe) -> str:
    """Request each number of dimensions of v3."""
    statuses: dict[int, list[int]] = {}
    for length in LENGTHS:
        statuses.setdefault(probe.embed([TEXT], model=V3, dimensions=length).status_code, []).append(length)
    return "; ".join(f"{status}: {', '.join(map(str, found))}" for status, found in sorted(statuses.items()))


def too_long(probe: Probe) -> str:
    """Send a text of some 9,000 tokens."""
    response = probe.embed(["word " * 9_000])
    if response.is_success:
        return f"truncated? {response.json().get('usage')} billed"
    return refusal(response, "Range of input length")


def blank(probe: Probe) -> str:
    """Send an empty text, a space and a line break."""
    return ", ".join(str(probe.embed([text]).status_code) for text in ("", " ", "\n"))


def encodings(probe: Probe) -> str:
    """Request each encoding of a vector."""
    found = []
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        response = probe.embed([TEXT], **options)
        data = response.json()["data"][0]["embedding"] if response.is_success else response.status_code
        found.append("list" if isinstance(data, list) else "string" if isinstance(data, str) else str(data))
    return ", ".join(found)


def effect(probe: Probe, **options: Any) -> str:
    """Check whether an option changes the vector."""
    response = probe.embed([TEXT], **options)
    if not response.is_success:
        return refusal(response)
    likeness = cosine(response.json()["data"][0]["embedding"], probe.vectors([TEXT])[0])
    return "no effect" if likeness > 0.999999 else f"changes the vector, cosine {likeness:.4f}"


def instruction(probe: Probe) -> str:
    """Compare how much closer a query is to its document than to another, with and without the prefix."""
    query, right, other = "Who plays records?", TEXT, "Laura owns many records of births and marriages."
    prefix = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    with_it, without, a, b = probe.vectors([prefix + query, query, right, other], dimensions=1024)
    margins = [cosine(vector, a) - cosine(vector, b) for vector in (with_it, without)]
    return "margin {:.3f} with it, {:.3f} without".format(*margins)


def order(probe: Probe) -> str:
    """Check the order of ten rows."""
    rows = probe.embed([f"text {at}" for at in range(10)]).raise_for_status().json()["data"]
    return "ascending" if [row["index"] for row in rows] == list(range(10)) else "another"


def repeated(probe: Probe) -> str:
    """Send a text twice, and in another batch."""
    first, again = probe.vectors([TEXT])[0], probe.vectors([TEXT])[0]
    among = probe.vectors(["another", TEXT, "a third"])[1]
    differences = [max(map(abs, map(float.__sub__, first, other))) for other in (again, among)]
    return "identical" if not any(differences) else "differ by {:.1e}, in a batch {:.1e}".format(*differences)


def usage(probe: Probe) -> str:
    """Name the fields in which a response reports its cost."""
    body = probe.embed([TEXT]).raise_for_status().json()
    charge = (body.get("meta") or {}).get("usage") or {}
    return f"usage: {', '.join(body.get('usage') or {})}; meta: {', '.join(charge)}"


def counted(probe: Probe) -> str:
    """Compare the tokens billed for a text with those of Qwen's published vocabulary."""
    text = "Alle Menschen sind frei und gleich an Würde und Rechten geboren. 人人生而自由"
    billed = probe.embed([text]).raise_for_status().json()["usage"]["total_tokens"]
    return f"{billed} billed, {load().count(text) - ADDED_TOKENS} counted"


def headers(probe: Probe) -> str:
    """Name the headers of a response that identify it or describe limits."""
    names = probe.embed([TEXT]).headers
    return ", ".join(sorted(name for name in names if name.startswith(("x-", "ratelimit", "retry"))))


def burst(probe: Probe) -> str:
    """Send as many concurrent requests as a program may."""
    with ThreadPoolExecutor(BURST) as threads:
        responses = list(threads.map(lambda at: probe.embed([f"{at}"]), range(BURST)))
    statuses = Counter(response.status_code for response in responses)
    advised = [value for each in responses if (value := each.headers.get("retry-after"))]
    return ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())) + (
        f", Retry-After {advised[0]}" if advised else ""
    )


def no_credits(probe: Probe) -> str:
    """Send a request with a key of an account without credits."""
    if not probe.empty_key:
        return NOT_ASKED
    return refusal(probe.embed([TEXT], key=probe.empty_key), "credits")


def unbilled(probe: Probe) -> str:
    """Look for a charge in a response to a request that failed."""
    return "charged" if "x-aimlapi-credits-used" in probe.embed([TEXT] * 11).headers else "no charge"


@dataclass(frozen=True)
class Row:
    """
    One question about the service.

    Attributes:
        name: Name by which code refers to it.

        question: Description for people.

        assumed: What the code assumes; `UNKNOWN` if it assumes nothing.

        ask: Returns the observation, in the words of *assumed* if it matches.
    """

    name: str
    question: str
    assumed: str
    ask: Callable[[Probe], str]


ROWS = [
    Row("price", "price of v4", UNKNOWN, catalogue),
    Row("price-v3", "price of v3", UNKNOWN, lambda probe: catalogue(probe, V3)),
    Row("status", "status of success", "200", lambda probe: str(probe.embed([TEXT]).status_code)),
    Row("dimensions", "v4 has the eight dimensions", "each as requested", lengths),
    Row("norms", "norms of v4's vectors", "1 at each", norms),
    Row("prefixes", "a short vector is the beginning of a long one", UNKNOWN, prefixes),
    Row("v3-dimensions", "dimensions of v3", UNKNOWN, v3),
    Row(
        *("bad-dimensions", "100 dimensions", "400 names dimension"),
        lambda probe: refusal(probe.embed([TEXT], dimensions=100), "dimension"),
    ),
    Row(
        *("rows", "11 texts in a request", "400 names larger than 10"),
        lambda probe: refusal(probe.embed([f"{at}" for at in range(11)]), "larger than 10"),
    ),
    Row("long", "a text of 9,000 tokens", "400 names Range of input length", too_long),
    Row("blank", "empty text, space, line break", "400, 400, 400", blank),
    Row("token-ids", "token ids", "400", lambda probe: refusal(probe.embed([[1, 2]]))),
    Row("encoding", "encoding_format: none, float, base64", "list, list, list", encodings),
    Row("text-type", "text_type=query", "no effect", lambda probe: effect(probe, text_type="query")),
    Row(
        *("instruct", "instruct, with text_type=query", "no effect"),
        lambda probe: effect(probe, text_type="query", instruct="Find the answer"),
    ),
    Row("prefix", "a query with the prefix Instruct: ...", UNKNOWN, instruction),
    Row("order", "order of ten rows", "ascending", order),
    Row("repeated", "a text again, and in another batch", UNKNOWN, repeated),
    Row("usage", "what a response says of its cost", UNKNOWN, usage),
    Row("tokens", "tokens of a text", UNKNOWN, counted),
    Row("headers", "headers", UNKNOWN, headers),
    Row("unbilled", "a failed request", "no charge", unbilled),
    Row("wrong-key", "a wrong key", "401", lambda probe: refusal(probe.embed([TEXT], key="wrong"))),
    Row("no-credits", "an account without credits", "403 names credits", no_credits),
    Row("model", "an unknown model", "404", lambda probe: refusal(probe.embed([TEXT], model="alibaba/none"))),
    # Last, since a limit that it hits may persist.
    Row("burst", f"{BURST} requests at once", UNKNOWN, burst),
]


def run(probe: Probe) -> list[tuple[Row, str]]:
    """Ask all questions; one that fails is reported as failed."""
    seen = []
    for row in ROWS:
        probe.row = row.name
        try:
            seen.append((row, row.ask(probe)))
        except (httpx.HTTPError, LookupError, ValueError, TypeError) as error:
            seen.append((row, f"failed: {type(error).__name__}: {str(error).splitlines()[0][:100]}"))
    return seen


def verdict(row: Row, seen: str) -> str:
    """Compare the observation with the assumption."""
    if seen.startswith("failed: "):
        return "failed"
    if seen == NOT_ASKED:
        return NOT_ASKED
    if row.assumed == UNKNOWN and seen.startswith("HTTP "):
        return "no answer"
    return "answered" if row.assumed == UNKNOWN else "as assumed" if seen == row.assumed else "DIFFERS"


def table(seen: list[tuple[Row, str]]) -> str:
    """Format the assumptions and the observations as a table."""
    lines = [("row", "question", "assumed", "seen", "verdict")]
    lines += [(row.name, row.question, row.assumed, found, verdict(row, found)) for row, found in seen]
    widths = [max(len(line[at]) for line in lines) for at in range(3)]
    return "\n".join(
        f"{verdict:10}  {name:{widths[0]}}  {question:{widths[1]}}  {assumed:{widths[2]}}  {found}"
        for name, question, assumed, found, verdict in lines
    )


def exit_code(seen: list[tuple[Row, str]], *, live: bool) -> int:
    """Return 1 if a row failed, or differs on the emulator; a difference at the service is a finding."""
    return int(any(verdict(*each) in (("failed",) if live else ("failed", "DIFFERS")) for each in seen))


def emulated() -> httpx.Client:
    """Emulate an account with credits and one without, which has its own key."""
    funded, empty = Emulator(api_keys=[KEY]).transport(), Emulator(credits=0).transport()

    def send(request: httpx.Request) -> httpx.Response:
        is_empty = request.headers.get("authorization") == f"Bearer {EMPTY_KEY}"
        return (empty if is_empty else funded).handle_request(request)

    return httpx.Client(transport=httpx.MockTransport(send))


def main(folder: Path = HERE) -> int:
    """
    Probe the service, or the emulator if there is no key.

    Args:
        folder: Where the evidence is written.

    Returns:
        See `exit_code`.
    """
    key = os.environ.get("AIMLAPI_API_KEY", "").strip()
    origin = "live" if key else "emulator"
    if not key:
        print(WITHOUT_KEY)  # noqa: T201
    empty_key = os.environ.get("AIMLAPI_EMPTY_KEY", "").strip()
    with httpx.Client(timeout=60) if key else emulated() as client:
        probe = Probe(client, key, empty_key) if key else Probe(client, KEY, EMPTY_KEY)
        seen = run(probe)
    path = folder / f"probe-{origin}.json"
    path.write_text(probe.written(), encoding="utf-8")
    cost = f"{probe.credits} credits (${probe.credits / 2_000_000:.6f}) reported"
    asked = "the service" if key else "the emulator"
    print(f"{table(seen)}\n\n{LEGEND}")  # noqa: T201
    print(f"{len(probe.evidence)} requests to {asked}; {cost}; evidence in {path}")  # noqa: T201
    return exit_code(seen, live=bool(key))


if __name__ == "__main__":
    sys.exit(main())
