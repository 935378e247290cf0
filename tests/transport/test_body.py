"""Response bodies: collected, decompressed and limited in size."""

from __future__ import annotations

import gzip

from qwen_aiml._transport.body import Body


def test_bytes_after_the_gzip() -> None:
    """Bytes after the end of a gzip stream are dropped and end the reading, in any chunk."""
    packed = gzip.compress(b"{}")
    one, two = (Body(200, {"content-encoding": "gzip"}, 100) for _ in range(2))

    assert one.feed(packed + b"more")
    assert not two.feed(packed)
    assert two.feed(b"more")
    assert one.response().body == two.response().body == b"{}"
