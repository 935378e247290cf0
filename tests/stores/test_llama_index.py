"""LlamaIndex's vector stores with our embeddings: the same scenario on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.schema import MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from llama_index_qwen_aiml import QwenAIMLEmbedding
from llama_index_stores import STORES, Place
from scenario import (
    ABOUT_THE_CAT,
    CAT,
    FRENCH,
    FRENCH_TEXTS,
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

    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import BaseNode, NodeWithScore

    from qwen_aiml.emulator import Emulator


def node(text: str, language: str) -> TextNode:
    """Return a node of a separate document, whose language is not embedded."""
    document = RelatedNodeInfo(node_id=f"document of {id_of(text)}")
    return TextNode(
        id_=id_of(text),
        text=text,
        metadata={"language": language},
        excluded_embed_metadata_keys=["language"],
        relationships={NodeRelationship.SOURCE: document},
    )


def nodes() -> list[BaseNode]:
    """Return new nodes, since an index may modify those it gets."""
    return [node(text, language) for text, language in TEXTS.items()]


place = places(STORES, "llama-index-core")


@pytest.fixture
def embedding(emulator: Emulator) -> QwenAIMLEmbedding:
    """Return the embedding class under test."""
    return QwenAIMLEmbedding(dimensions=LENGTH, **emulator.client_options())


@pytest.fixture
def index(place: Place, embedding: QwenAIMLEmbedding) -> VectorStoreIndex:
    """Return an index that contains the texts."""
    opened = place.open(embedding, LENGTH)
    opened.insert_nodes(nodes())
    return opened


def retrieve(index: VectorStoreIndex, query: str, k: int = 10, **options: Any) -> list[NodeWithScore]:
    return index.as_retriever(similarity_top_k=k, **options).retrieve(query)


def texts_of(found: list[NodeWithScore]) -> list[str]:
    return sorted(hit.text for hit in found)


def test_search(index: VectorStoreIndex) -> None:
    """Inserted nodes are found, the nearest first, with their metadata and IDs."""
    found = retrieve(index, ABOUT_THE_CAT, 2)

    assert found[0].text == CAT
    assert found[0].node_id == id_of(CAT)
    assert found[0].metadata == {"language": TEXTS[CAT]}
    assert len(found) == 2
    assert texts_of(retrieve(index, ABOUT_THE_CAT)) == sorted(TEXTS)


def test_scores(index: VectorStoreIndex) -> None:
    """A query equal to a text finds it first, with the highest score; other scores decrease."""
    found = retrieve(index, STOCKS)
    scores = [hit.get_score() for hit in found]

    assert found[0].text == STOCKS
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_filter(index: VectorStoreIndex) -> None:
    """A metadata filter returns only matching documents."""
    only = MetadataFilters(filters=[MetadataFilter(key="language", value=FRENCH)])

    assert texts_of(retrieve(index, ABOUT_THE_CAT, filters=only)) == FRENCH_TEXTS


def test_mmr(index: VectorStoreIndex) -> None:
    """Maximal marginal relevance returns the nearest first, and no text twice."""
    found = retrieve(index, ABOUT_THE_CAT, 3, vector_store_query_mode="mmr")

    assert found[0].text == CAT
    assert len(set(texts_of(found))) == 3


def test_replace(index: VectorStoreIndex) -> None:
    """A text inserted under an existing ID, after the old one was deleted, replaces it."""
    new = "Il pleut fort aujourd'hui."
    index.delete_nodes([id_of(CAT)])
    index.insert_nodes([TextNode(id_=id_of(CAT), text=new, metadata={"language": FRENCH})])

    assert texts_of(retrieve(index, new)) == sorted({*TEXTS, new} - {CAT})


def test_delete(index: VectorStoreIndex) -> None:
    """Nodes deleted by ID are no longer found."""
    index.delete_nodes([id_of(CAT)])

    assert texts_of(retrieve(index, ABOUT_THE_CAT)) == sorted({*TEXTS} - {CAT})


def test_delete_document(index: VectorStoreIndex) -> None:
    """The nodes of a document are deleted by the document's ID."""
    index.delete_ref_doc(f"document of {id_of(CAT)}", delete_from_docstore=True)

    assert texts_of(retrieve(index, ABOUT_THE_CAT)) == sorted({*TEXTS} - {CAT})


def test_reopen(
    place: Place, index: VectorStoreIndex, emulator: Emulator, embedding: QwenAIMLEmbedding
) -> None:
    """A store that is closed and reopened has all nodes, and only the query is embedded."""
    del index
    place.close()
    paid = sum(emulator.texts_billed.values())
    opened = place.open(embedding, LENGTH)

    assert texts_of(retrieve(opened, ABOUT_THE_CAT)) == sorted(TEXTS)
    assert sum(emulator.texts_billed.values()) == paid + 1


@pytest.mark.anyio
async def test_async(place: Place, embedding: QwenAIMLEmbedding) -> None:
    """The async methods do the same; some classes need an object created for them."""
    place.asynchronous = True
    index = place.open(embedding, LENGTH)
    await index.ainsert_nodes(nodes())
    retriever = index.as_retriever(similarity_top_k=10)

    assert (await retriever.aretrieve(ABOUT_THE_CAT))[0].text == CAT
    await index.adelete_nodes([id_of(CAT)])
    assert texts_of(await retriever.aretrieve(ABOUT_THE_CAT)) == sorted({*TEXTS} - {CAT})


def test_roles(place: Place, emulator: Emulator) -> None:
    """Nodes are embedded with the metadata mode for embedding, and queries with the instruction."""
    embedding = QwenAIMLEmbedding(
        dimensions=LENGTH, query_instruction=INSTRUCTION, **emulator.client_options()
    )
    index = place.open(embedding, LENGTH)
    inserted = nodes()
    inserted[0].excluded_embed_metadata_keys = []
    index.insert_nodes(inserted)
    found = retrieve(index, ABOUT_THE_CAT, 1)

    assert found[0].text == CAT
    documents, query = emulator.requests
    assert documents.texts[0] == f"language: {TEXTS[CAT]}\n\n{CAT}"
    assert documents.texts == tuple(each.get_content(MetadataMode.EMBED) for each in inserted)
    assert query.texts == (f"Instruct: {INSTRUCTION}\nQuery:{ABOUT_THE_CAT}",)


def test_other_length_is_not_searched(
    place: Place, index: VectorStoreIndex, emulator: Emulator, record_property: Callable[[str, object], None]
) -> None:
    """A store with vectors of other dimensions raises when it is searched."""
    del index
    place.close()

    with pytest.raises(Exception) as caught:  # noqa: PT011 (each store raises its own)
        retrieve(reopened(place, emulator), ABOUT_THE_CAT)
    record_property("says", said(caught.value))


def test_other_length_is_not_added(
    place: Place, index: VectorStoreIndex, emulator: Emulator, record_property: Callable[[str, object], None]
) -> None:
    """A store with vectors of other dimensions raises when nodes are inserted."""
    del index
    place.close()

    with pytest.raises(Exception) as caught:  # noqa: PT011 (each store raises its own)
        reopened(place, emulator).insert_nodes([node("another", FRENCH)])
    record_property("says", said(caught.value))


def reopened(place: Place, emulator: Emulator) -> VectorStoreIndex:
    return place.open(QwenAIMLEmbedding(dimensions=OTHER_LENGTH, **emulator.client_options()), OTHER_LENGTH)
