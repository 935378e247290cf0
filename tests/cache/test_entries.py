"""Cache keys and entries: damaged or mixed-up entries are never returned."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml._cache.entries import cache_key, float32, namespace, pack, unpack
from qwen_aiml._cache.protocol import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SERVICE = "https://api.aimlapi.com/v1"
MODEL = "alibaba/qwen-text-embedding-v4"
KEY = "qwen-aiml-1.model.4.0123456789abcdef.00ff"
EMBEDDING = [0.1, -0.25, 3e-39, 1e30]


def stored(key: str, numbers: Sequence[float], magic: bytes = b"qwe\x01", count: int | None = None) -> bytes:
    """Encode an entry with a correct checksum, without validating the embedding."""
    body = struct.pack("<4sI", magic, len(numbers) if count is None else count)
    body += struct.pack(f"<{len(numbers)}f", *numbers)
    return body + hashlib.sha256(key.encode() + body).digest()[:8]


def rounded(numbers: Sequence[float]) -> list[float]:
    """Round numbers to float32."""
    return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("dimensions", [None, 4])
def test_round_trip(kind: Any, dimensions: int | None) -> None:
    """An embedding is returned as float32, for any bytes-like type that a store returns."""
    entry = pack(KEY, EMBEDDING)

    assert rounded(EMBEDDING) == unpack(KEY, kind(entry), dimensions)
    assert rounded(EMBEDDING) != EMBEDDING


def test_float32_is_stored_whole() -> None:
    """An embedding that was read once is stored and read unchanged from then on."""
    once = rounded(EMBEDDING)
    entry = pack(KEY, once)

    assert once == unpack(KEY, entry, None) == float32(EMBEDDING)


def test_form_of_an_entry() -> None:
    """The format of entries is stable, so that existing caches stay readable."""
    entry = pack(KEY, [0.5, -2.0])

    assert entry.hex() == "71776501" + "02000000" + "0000003f" + "000000c0" + "6d4b5ba4e6287e63"
    assert entry == stored(KEY, [0.5, -2.0])


@pytest.mark.parametrize(
    "embedding", [[], [0.0, -0.0], [1e-60], [math.nan, 1.0], [math.inf, -math.inf], [1.0, 3.5e38]], ids=str
)
def test_what_float32_cannot_hold(embedding: list[float]) -> None:
    """An embedding that would be all zero or not finite as float32 is not stored."""
    assert float32(embedding) is None


@pytest.mark.parametrize("numbers", [[], [0.0, -0.0], [math.nan, 1.0], [math.inf, -math.inf]], ids=str)
def test_malformed_entries(numbers: list[float]) -> None:
    """An entry without a valid embedding is a miss, even if its checksum is correct."""
    assert unpack(KEY, stored(KEY, numbers), None) is None


def test_damage() -> None:
    """An entry with one bit flipped, or of a different length, is a miss."""
    entry = pack(KEY, EMBEDDING)

    for at in range(len(entry) * 8):
        damaged = bytearray(entry)
        damaged[at // 8] ^= 1 << at % 8
        assert unpack(KEY, damaged, None) is None
    for length in range(len(entry)):
        assert unpack(KEY, entry[:length], None) is None
        assert unpack(KEY, entry + entry[:length] + b"\0", None) is None


@pytest.mark.parametrize(
    "entry",
    [
        stored(KEY + "0", EMBEDDING),
        stored(KEY[1:], EMBEDDING),
        stored(KEY, EMBEDDING, magic=b"qwe\x02"),
        stored(KEY, EMBEDDING, count=3),
        stored(KEY, EMBEDDING, count=2**32 - 1),
        stored(KEY, EMBEDDING).hex(),
        None,
        {},
        EMBEDDING,
        7,
    ],
    ids=["another key", "a shorter key", "version", "less", "more", "text", "None", "dict", "list", "number"],
)
def test_not_the_entry(entry: object) -> None:
    """An entry of another key or schema, or a value that is not an entry, is a miss."""
    assert unpack(KEY, entry, None) is None


@pytest.mark.parametrize("dimensions", [0, 1, 3, 5, 1024])
def test_another_length(dimensions: int) -> None:
    """An embedding of other dimensions than requested is a miss."""
    assert unpack(KEY, stored(KEY, EMBEDDING), dimensions) is None


def test_literal_names() -> None:
    """
    Names are the same on every platform and Python version.

    If this fails, either undo the change or increment SCHEMA, which invalidates the caches of all users.
    """
    name = namespace(SERVICE, MODEL, 1024, role="query", instruction="Find it", policies=["one"])

    assert name == "qwen-aiml-1.alibaba-qwen-text-embedding-v4.1024.dfc6bf36ab19cd1c"
    assert (
        cache_key(name, "naïve 🦜", "truncate:bytes")
        == f"{name}.20305065e848cdde856158eecb696d95e617f22b1a096318caf74b788b734687"
    )


NAMES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((SERVICE, MODEL, 1024), {}),
    ((SERVICE, MODEL, None), {}),
    ((SERVICE, MODEL, 512), {}),
    (("https://other.example/v1", MODEL, 1024), {}),
    ((SERVICE, MODEL.upper(), 1024), {}),
    ((SERVICE, MODEL.replace("/", "?"), 1024), {}),
    ((SERVICE, MODEL, 1024), {"role": "query"}),
    ((SERVICE, MODEL, 1024), {"role": "query", "instruction": ""}),
    ((SERVICE, MODEL, 1024), {"role": "query", "instruction": "a"}),
    ((SERVICE, MODEL, 1024), {"policies": ["a", "b"]}),
    ((SERVICE, MODEL, 1024), {"policies": ["a,b"]}),
    ((SERVICE, MODEL, 1024), {"policies": ['a", "b']}),
    ((SERVICE, MODEL, 1024), {"policies": ["b", "a"]}),
]


def test_namespaces_differ() -> None:
    """Settings that affect vectors have different namespaces, even on case-insensitive file systems."""
    names = [namespace(*args, **options) for args, options in NAMES]

    assert all(one.lower() != other.lower() for one, other in combinations(names, 2))


@pytest.mark.parametrize("model", [MODEL, "../..\\é\ud800\n", "m" * 1000, "", "模型"], ids=ascii)
def test_safe_names(model: str) -> None:
    """Names are short and valid as file names, whatever the model is called."""
    name = namespace(SERVICE, model, 1024)

    assert re.fullmatch("[A-Za-z0-9_.-]{1,90}", name)
    assert re.fullmatch("[A-Za-z0-9_.-]{1,160}", cache_key(name, model))


def test_readable_names() -> None:
    """A namespace contains the model and the dimensions, or 'default' for those of the service."""
    assert namespace(SERVICE, MODEL, None).startswith("qwen-aiml-1.alibaba-qwen-text-embedding-v4.default.")


def test_keys_differ() -> None:
    """Different texts, ways to shorten them, or namespaces never have the same key."""
    texts = ["", "a", "a ", "A", "1:a", ":a", "0:a", "\ud83e\udd9c", "🦜", "\ud800", "\ufffd", "é", "e\u0301"]
    keys = [cache_key(name, text, how) for name in ("n", "n.") for text in texts for how in ("", "a", "1:")]

    assert len(keys) == len(set(keys))


def test_whole_texts_need_no_label() -> None:
    """A text that was not shortened has the key of an empty label."""
    assert cache_key("n", "a") == cache_key("n", "a", "")


class Kept:
    """A custom cache in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the entries."""
        return [self.entries.get(key) for key in keys]

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store the entries."""
        self.entries.update(entries)

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the entries."""
        return self.get_many(keys)

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Store the entries."""
        self.set_many(entries)


def test_protocol() -> None:
    """An object with the four methods is a cache; a dictionary is not."""
    cache: Cache = Kept()

    assert isinstance(cache, Cache)
    assert not isinstance({}, Cache)
