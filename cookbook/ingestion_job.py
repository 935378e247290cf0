"""
The jobs that ingestion.py runs, kills and runs again.

    python ingestion_job.py langchain FOLDER
    python ingestion_job.py llama-index FOLDER

Each indexes the files FOLDER/texts/*.txt, and keeps all it needs to go on in FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def with_langchain(folder: Path) -> dict[str, Any]:
    """Bring a Chroma collection up to date with the texts: added, changed and deleted ones."""
    from langchain_chroma import Chroma
    from langchain_classic.indexes import SQLRecordManager
    from langchain_core.documents import Document
    from langchain_core.indexing import index
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    from langchain_qwen_aiml import QwenAIMLEmbeddings

    # Few requests at a time, so that there is something to interrupt.
    embeddings = QwenAIMLEmbeddings(dimensions=512, max_concurrency=4, cache=str(folder / "langchain.db"))
    store = Chroma("texts", embeddings, persist_directory=str(folder / "chroma"))
    records = SQLRecordManager("chroma/texts", db_url=f"sqlite:///{folder}/records.db")
    records.create_schema()

    splitter = RecursiveCharacterTextSplitter(chunk_size=800, chunk_overlap=0)
    passages = splitter.split_documents(
        [
            Document(path.read_text(encoding="utf-8"), metadata={"source": path.name})
            for path in sorted((folder / "texts").glob("*.txt"))
        ]
    )
    outcome = index(
        passages, records, store, cleanup="full", source_id_key="source", key_encoder="sha256", batch_size=100
    )
    usage = embeddings.usage
    return {**outcome, "requests": usage.requests, "tokens": usage.total_tokens}


def with_llama_index(folder: Path) -> dict[str, Any]:
    """Bring a vector store up to date with the texts: added, changed and deleted ones."""
    from llama_index.core import Document
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import TokenTextSplitter
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.core.vector_stores import SimpleVectorStore

    from llama_index_qwen_aiml import QwenAIMLEmbedding

    embedding = QwenAIMLEmbedding(dimensions=512, max_concurrency=4, cache=str(folder / "llama_index.db"))
    vectors, documents = folder / "vectors.json", folder / "documents.json"
    vector_store = (
        SimpleVectorStore.from_persist_path(str(vectors)) if vectors.exists() else SimpleVectorStore()
    )
    docstore = (
        SimpleDocumentStore.from_persist_path(str(documents)) if documents.exists() else SimpleDocumentStore()
    )
    pipeline = IngestionPipeline(
        transformations=[TokenTextSplitter(separator="\n\n", chunk_size=200, chunk_overlap=0), embedding],
        vector_store=vector_store,
        docstore=docstore,
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
        disable_cache=True,  # the framework's own; ours keeps what is done after each request
    )
    nodes = pipeline.run(
        documents=[
            Document(text=path.read_text(encoding="utf-8"), id_=path.name)
            for path in sorted((folder / "texts").glob("*.txt"))
        ]
    )
    # The vectors first: what is in the document store is taken for done.
    vector_store.persist(str(vectors))
    docstore.persist(str(documents))
    usage = embedding.usage
    stored = len(vector_store.data.embedding_dict)
    return {
        "num_added": len(nodes),
        "num_stored": stored,
        "requests": usage.requests,
        "tokens": usage.total_tokens,
    }


JOBS = {"langchain": with_langchain, "llama-index": with_llama_index}

if __name__ == "__main__":
    print(JOBS[sys.argv[1]](Path(sys.argv[2])))
