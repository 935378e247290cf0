"""
Responses decoded straight into float32 arrays, if simdjson is installed. No I/O here.

This takes less than half the time of creating lists first.
"""

from __future__ import annotations

import threading
from array import array
from codecs import BOM_UTF8
from functools import cache
from importlib import import_module
from typing import Any, cast

from .schema import Row, Success

MAX_BYTES = 4 * 2**20  # of a body; the parser keeps about ten times that in memory
_OTHER_FIELDS = [name for name in Success.__struct_fields__ if name != "data"]

_of_thread = threading.local()


def packed_success(body: bytes) -> Success | None:
    """
    Decode a body with valid rows, in order and of equal length, into float32 arrays.

    Returns:
        None for any other body, which is left to the slower decoders, and if simdjson is not installed.
    """
    # JSON must not begin with a byte order mark; simdjson would skip it.
    if body.startswith(BOM_UTF8) or (modules := _modules()) is None:
        return None
    simdjson, numpy = modules
    try:
        document = _parser(simdjson).parse(body)
        data = list(document["data"])
        indices = [row["index"] for row in data]
        doubles = numpy.stack([numpy.frombuffer(row["embedding"].as_buffer(of_type="d")) for row in data])
        others = {name: _plain(document.get(name)) for name in _OTHER_FIELDS}
        # For duplicate names, simdjson returns the first member, all other decoders the last.
        has_unique_names = all(len(set(members)) == len(members) for members in map(list, [document, *data]))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        return None
    # True equals 1 but is not an index.
    in_order = set(map(type, indices)) == {int} and indices == list(range(len(indices)))
    # Nested lists would have been flattened.
    if not in_order or not has_unique_names or not _has_only(1 + len(data), body):
        return None
    with numpy.errstate(over="ignore"):
        floats = doubles.astype(numpy.float32)
    if not numpy.isfinite(floats).all() or not floats.any(axis=1).all():
        return None
    # Arrays support everything that is done with the lists.
    rows = [Row(cast("list[float]", array("f", row.tobytes())), at) for at, row in enumerate(floats)]
    return Success(data=rows, **others)


@cache
def _modules() -> tuple[Any, Any] | None:
    try:
        return import_module("simdjson"), import_module("numpy")
    except ImportError:
        return None


def _parser(simdjson: Any) -> Any:
    """Return this thread's parser; a new one would allocate and clear its memory each time."""
    if not hasattr(_of_thread, "parser"):
        _of_thread.parser = simdjson.Parser(max_capacity=MAX_BYTES)
    return _of_thread.parser


def _has_only(lists: int, body: bytes) -> bool:
    """Return whether *body* has at most *lists* opening brackets; counting takes five times as long."""
    at = -1
    for _ in range(lists):
        at = body.find(b"[", at + 1)
    return body.find(b"[", at + 1) < 0


def _plain(value: Any) -> Any:
    return value.as_dict() if hasattr(value, "as_dict") else value
