"""What the emulator's vectors promise."""

# ruff: noqa: SIM300 - expected == actual, in all tests

from __future__ import annotations

import hashlib
import math
import struct
from operator import mul
from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator._vectors.lexical import embed

if TYPE_CHECKING:
    from collections.abc import Sequence

LENGTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048)
# Of each language: what is asked, the sentence that answers it, and others.
FAQ = {
    "English": (
        "How do I reset my password?",
        "To reset your password, open Settings and choose Security.",
        "Our office is closed on public holidays.",
        "The invoice is sent by e-mail on the first day of each month.",
        "Bananas ripen faster when they are kept next to apples.",
    ),
    "Chinese": (
        "公共假日办公室开门吗?",
        "我们的办公室在公共假日关闭。",
        "要重置密码,请打开设置并选择安全。",
        "发票在每月的第一天通过电子邮件发送。",
        "香蕉和苹果放在一起会熟得更快。",
    ),
    "Arabic": (
        "كيف ينضج الموز؟",
        "ينضج الموز أسرع عندما يوضع بجانب التفاح.",
        "لإعادة تعيين كلمة المرور، افتح الإعدادات واختر الأمان.",
        "مكتبنا مغلق في أيام العطل الرسمية.",
        "تُرسل الفاتورة بالبريد الإلكتروني في اليوم الأول من كل شهر.",
    ),
    "Hindi": (
        "चालान कब भेजा जाता है?",
        "चालान हर महीने के पहले दिन ई-मेल से भेजा जाता है।",
        "पासवर्ड रीसेट करने के लिए सेटिंग्स खोलें और सुरक्षा चुनें।",
        "हमारा कार्यालय सार्वजनिक छुट्टियों पर बंद रहता है।",
        "सेब के पास रखने पर केले जल्दी पकते हैं।",
    ),
}


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Give the cosine of two vectors of length one."""
    return math.fsum(map(mul, one, other))


@pytest.mark.parametrize("dimensions", [64, 512, 1024])
@pytest.mark.parametrize("language", FAQ)
def test_query_finds_its_answer(language: str, dimensions: int) -> None:
    """A query is nearer to the sentence that shares its words than to any other, by 0.1."""
    query, answer, *others = (embed(text, dimensions, "v4") for text in FAQ[language])

    assert cosine(query, answer) > 0.1 + max(cosine(query, other) for other in others)


@pytest.mark.parametrize("dimensions", LENGTHS)
def test_unit_length(dimensions: int) -> None:
    """A vector has the length asked for, and is as near to length one as float32 allows."""
    vector = embed("Laura is a DJ.", dimensions, "v4")

    assert (dimensions, "f") == (len(vector), vector.typecode)
    assert cosine(vector, vector) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("dimensions", LENGTHS)
def test_shorter_is_prefix(dimensions: int) -> None:
    """A shorter vector is the start of the longest, scaled to length one."""
    prefix = embed("Laura is a DJ.", 2048, "v4")[:dimensions]
    length = math.sqrt(cosine(prefix, prefix))

    assert [value / length for value in prefix] == pytest.approx(
        list(embed("Laura is a DJ.", dimensions, "v4"))
    )


@pytest.mark.parametrize("text", ["", " ", "?!", "\n", "😀", "a", "\u200d", "e" * 100_000])
def test_never_zero(text: str) -> None:
    """No text, however odd, gives a vector with a zero in it."""
    vector = embed(text, 64, "v4")

    assert 0.0 not in vector
    assert cosine(vector, vector) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße", "STRASSE"),
        ("\ufb01ne", "fine"),  # a ligature
        ("caf\u00e9", "cafe\u0301"),
        ("a,b", "a b"),
        ("a\n\n b", "a b"),
        ("نمی\u200cخواهم", "نمیخواهم"),
    ],
)
def test_folding(one: str, other: str) -> None:
    """Case, compatibility forms, joiners, punctuation and white space do not count."""
    assert embed(one, 64, "v4") == embed(other, 64, "v4")


@pytest.mark.parametrize(("one", "other"), [("C++", "C"), ("😀", "😡"), ("कि", "की"), ("ab", "ba")])
def test_distinct(one: str, other: str) -> None:
    """Symbols, vowel signs and the order of letters do count."""
    assert embed(one, 64, "v4") != embed(other, 64, "v4")


def test_spaces_differ() -> None:
    """The same text in two models' spaces gives vectors that have nothing in common."""
    v3, v4 = (embed("Laura is a DJ.", 1024, space) for space in ("v3", "v4"))

    assert abs(cosine(v3, v4)) < 0.15


def test_repetition_is_sublinear() -> None:
    """A word said often does not drown the others."""
    vector = embed("apple apple apple apple apple apple pear", 1024, "v4")

    assert cosine(vector, embed("pear", 1024, "v4")) > 0.2


def test_same_everywhere() -> None:
    """The vectors are those of every other platform and Python: recordings hold them."""
    texts = [text for faq in FAQ.values() for text in faq]
    packed = b"".join(struct.pack("<2048f", *embed(text, 2048, "v4")) for text in texts)

    assert (
        "f68d2004628f8772a882bb0fa0907140a1f4022d79143d21b6a7c2e5b8fce683"
        == hashlib.sha256(packed).hexdigest()
    )
