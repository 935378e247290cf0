"""LangChain's vector stores with our embeddings: the same scenario on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document

from langchain_qwen_aiml import QwenAIMLEmbeddings
from langchain_stores import STORES, Place
from scenario import (
    ABOUT_THE_CAT,
    CAT,
    FRENCH,
    FRENCH_TEXTS,
    IDS,
    INSTRUCTION,
    LENGTH,
    OTHER_LENGTH,
    STOCKS,
    TEXTS,
    id_of,
    places,
    said,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.vectorstores import VectorStore

    from qwen_aiml.emulator import Emulator

DOCUMENTS = [Document(page_content=text, metadata={"language": language}) for text, language in TEXTS.items()]


place = places(STORES, "langchain-core")


@pytest.fixture
def embeddings(emulator: Emulator) -> QwenAIMLEmbeddings:
    """Return the embeddings under test."""
    return QwenAIMLEmbeddings(dimensions=LENGTH, **emulator.client_options())


@pytest.fixture
def store(place: Place, embeddings: QwenAIMLEmbeddings) -> VectorStore:
    """Return a store that contains the texts."""
    opened = place.open(embeddings)
    opened.add_documents(DOCUMENTS, ids=IDS)
    return opened


def texts_of(documents: list[Document]) -> list[str]:
    return sorted(document.page_content for document in documents)


def test_search(place: Place, embeddings: QwenAIMLEmbeddings) -> None:
    """Added documents are found, the nearest first, with their metadata and IDs."""
    store = place.open(embeddings)

    assert store.add_documents(DOCUMENTS, ids=IDS) == IDS
    found = store.similarity_search(ABOUT_THE_CAT, k=2)
    assert found[0].page_content == CAT
    assert found[0].metadata["language"] == TEXTS[CAT]
    assert len(found) == 2
    assert texts_of(store.similarity_search(ABOUT_THE_CAT, k=10)) == sorted(TEXTS)


def test_scores(store: VectorStore) -> None:
    """A query equal to a text finds that text first, and the scores of the others are monotonic."""
    found = store.similarity_search_with_score(STOCKS, k=4)
    scores = [float(score) for _, score in found]

    assert found[0][0].page_content == STOCKS
    assert scores in (sorted(scores), sorted(scores, reverse=True))
    assert len(set(scores)) == 4


def test_filter(place: Place, store: VectorStore) -> None:
    """A metadata filter returns only matching documents."""
    found = store.similarity_search(ABOUT_THE_CAT, k=4, **place.where("language", FRENCH))

    assert texts_of(found) == FRENCH_TEXTS


def test_mmr(store: VectorStore) -> None:
    """A retriever with maximal marginal relevance returns the nearest first, and no text twice."""
    found = store.as_retriever(search_type="mmr", search_kwargs={"k": 3}).invoke(ABOUT_THE_CAT)

    assert found[0].page_content == CAT
    assert len(set(texts_of(found))) == 3


def test_replace(store: VectorStore) -> None:
    """A text added under an existing ID replaces the old one."""
    new = "Il pleut fort aujourd'hui."
    store.add_documents([Document(page_content=new, metadata={"language": FRENCH})], ids=[id_of(CAT)])

    assert texts_of(store.similarity_search(new, k=10)) == sorted({*TEXTS, new} - {CAT})


def test_delete(store: VectorStore) -> None:
    """Documents deleted by ID are no longer found."""
    store.delete([id_of(CAT)])

    assert texts_of(store.similarity_search(ABOUT_THE_CAT, k=10)) == sorted({*TEXTS} - {CAT})


def test_reopen(place: Place, store: VectorStore, emulator: Emulator, embeddings: QwenAIMLEmbeddings) -> None:
    """A store that is closed and reopened has all documents, and none is embedded again."""
    del store
    place.close()
    paid = sum(emulator.texts_billed.values())
    opened = place.open(embeddings)

    assert texts_of(opened.similarity_search(ABOUT_THE_CAT, k=10)) == sorted(TEXTS)
    billed = emulator.texts_billed
    assert sum(billed.values()) - paid <= 2  # the query, and some stores probe the dimensions
    assert all(billed[text] == 1 for text in TEXTS)


@pytest.mark.anyio
async def test_async(place: Place, embeddings: QwenAIMLEmbeddings) -> None:
    """The async methods do the same; some classes need an object created for them."""
    place.asynchronous = True
    store = place.open(embeddings)

    assert await store.aadd_documents(DOCUMENTS, ids=IDS) == IDS
    (found,) = await store.asimilarity_search(ABOUT_THE_CAT, k=1)
    assert found.page_content == CAT
    await store.adelete([id_of(CAT)])
    assert texts_of(await store.asimilarity_search(ABOUT_THE_CAT, k=10)) == sorted({*TEXTS} - {CAT})


def test_roles(place: Place, emulator: Emulator) -> None:
    """Documents are embedded without, and queries with, the instruction."""
    embeddings = QwenAIMLEmbeddings(
        dimensions=LENGTH, query_instruction=INSTRUCTION, **emulator.client_options()
    )
    store = place.open(embeddings)
    store.add_documents(DOCUMENTS, ids=IDS)
    (found,) = store.similarity_search(ABOUT_THE_CAT, k=1)

    assert found.page_content == CAT
    *_, documents, query = emulator.requests
    assert documents.texts == tuple(TEXTS)
    assert query.texts == (f"Instruct: {INSTRUCTION}\nQuery:{ABOUT_THE_CAT}",)


def test_other_length_is_not_searched(
    place: Place, store: VectorStore, emulator: Emulator, record_property: Callable[[str, object], None]
) -> None:
    """A store with vectors of other dimensions raises when it is searched, or opened."""
    del store
    place.close()

    with pytest.raises(Exception) as caught:  # noqa: PT011 (each store raises its own)
        reopened(place, emulator).similarity_search(ABOUT_THE_CAT)
    record_property("says", said(caught.value))


def test_other_length_is_not_added(
    place: Place, store: VectorStore, emulator: Emulator, record_property: Callable[[str, object], None]
) -> None:
    """A store with vectors of other dimensions raises when documents are added, or when it is opened."""
    del store
    place.close()

    with pytest.raises(Exception) as caught:  # noqa: PT011 (each store raises its own)
        reopened(place, emulator).add_documents(DOCUMENTS[:1], ids=[id_of("another")])
    record_property("says", said(caught.value))


def reopened(place: Place, emulator: Emulator) -> Any:
    return place.open(QwenAIMLEmbeddings(dimensions=OTHER_LENGTH, **emulator.client_options()))
