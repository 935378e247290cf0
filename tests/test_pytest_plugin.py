"""The plugin for pytest, in projects that use it."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["pytester"]

CONFIGURATION = """
[pytest]
addopts = -p pytest_qwen_aiml -p anyio -p pytest_recording.plugin -p pytest_socket
    --strict-markers --strict-config --block-network
filterwarnings = error
"""

# An application that passes no options through, and makes one of its clients before any fixture is there.
APPLICATION = """
from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig

EARLY = EmbeddingClient(EmbeddingConfig(dimensions=64))

def embed(texts):
    return EmbeddingClient(EmbeddingConfig(dimensions=64)).embed(texts).embeddings

async def aembed(texts):
    async with AsyncEmbeddingClient(EmbeddingConfig(dimensions=64)) as client:
        return await client.embed(texts)
"""

FRAMEWORKS = """
from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding

def test_frameworks(qwen_aiml_emulator):
    QwenAIMLEmbeddings().embed_query("a")
    QwenAIMLEmbedding().get_query_embedding("b")
    assert list(qwen_aiml_emulator.texts_billed) == ["a", "b"]
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Give a function that runs tests of an application, in another process, with a developer's key set."""
    pytester.makeini(CONFIGURATION)
    pytester.makepyfile(application=APPLICATION)
    monkeypatch.setenv("AIMLAPI_API_KEY", "sk-mine")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others take seconds to import, or warn
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), *filter(None, sys.path)]))

    def run_tests(tests: str, *options: str, **outcomes: int) -> pytest.RunResult:
        pytester.makepyfile(test_application=tests)
        result = pytester.runpytest_subprocess(*options, timeout=300)
        result.assert_outcomes(**outcomes)
        return result

    return run_tests


def test_registered() -> None:
    """The distribution registers it, so that an install is all it takes."""
    values = [entry.value for entry in entry_points(group="pytest11") if entry.name == "qwen_aiml"]

    assert values == ["pytest_qwen_aiml"]


def test_fixture(run: Callable[..., pytest.RunResult]) -> None:
    """What an application embeds goes to the emulator, which is told what happens and asked what did."""
    run(
        """
        import os

        import application
        import pytest
        from qwen_aiml import EmbeddingBatchError
        from qwen_aiml.emulator import Fault

        def test_requests(qwen_aiml_emulator):
            application.EARLY.embed(["early"])
            application.embed([f"text {number}" for number in range(12)])
            assert qwen_aiml_emulator.request_count == 3
            assert qwen_aiml_emulator.requests[0].texts == ("early",)
            assert sum(qwen_aiml_emulator.texts_billed.values()) == 13

        def test_each_has_its_own(qwen_aiml_emulator):
            assert qwen_aiml_emulator.request_count == 0

        @pytest.mark.anyio
        async def test_async(qwen_aiml_emulator):
            await application.aembed(["text"])
            assert qwen_aiml_emulator.request_count == 1

        def test_faults(qwen_aiml_emulator):
            qwen_aiml_emulator.script(None, Fault(status=401))
            with pytest.raises(EmbeddingBatchError):
                application.embed([f"text {number}" for number in range(20)])

        def test_key(qwen_aiml_emulator):
            assert "sk-mine" not in os.environ.values()

        def test_without():
            assert os.environ["AIMLAPI_API_KEY"] == "sk-mine"
        """,
        passed=7,  # one of them on asyncio and on Trio
    )


@pytest.mark.once
@pytest.mark.slow
def test_frameworks(run: Callable[..., pytest.RunResult]) -> None:
    """The classes of both frameworks need no options."""
    run(FRAMEWORKS, passed=1)


def test_marker(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    """
    The marker alone is enough, gives settings, and is joined with those of the class and the module.

    One of a variant counts for that variant, before the fixtures of the test and after wider ones.
    No socket is opened.
    """
    pytester.makepyfile(
        test_variants="""
        import os

        import application
        import pytest

        @pytest.fixture(scope="module")
        def wider():
            assert os.environ["AIMLAPI_API_KEY"] == "sk-mine"

        @pytest.fixture
        def row():
            if os.environ["AIMLAPI_API_KEY"] != "sk-mine":
                return application.embed(["text"])

        @pytest.mark.parametrize("marked", [
            False, pytest.param(True, marks=pytest.mark.qwen_aiml_emulator), False
        ])
        def test_variant(marked, row, wider):
            assert (row is not None) is marked
        """
    )
    run(
        """
        import application
        import pytest

        pytestmark = pytest.mark.qwen_aiml_emulator(max_rows=5, credits=100)

        def test_module(qwen_aiml_emulator):
            application.embed([f"text {number}" for number in range(10)])
            rows = [(request.status, len(request.texts)) for request in qwen_aiml_emulator.requests]
            assert rows == [(400, 10), (200, 5), (200, 5)]
            assert qwen_aiml_emulator.credits < 100

        @pytest.mark.qwen_aiml_emulator(max_rows=10)
        class TestClass:
            @pytest.mark.qwen_aiml_emulator(credits=None)
            def test_method(self, qwen_aiml_emulator):
                application.embed([f"text {number}" for number in range(10)])
                assert qwen_aiml_emulator.request_count == 1
                assert qwen_aiml_emulator.credits is None

        def test_without_asking_for_the_fixture():
            assert len(application.embed(["text"])) == 1
        """,
        "--disable-socket",
        passed=6,
    )


def test_served(run: Callable[..., pytest.RunResult]) -> None:
    """With ``serve`` a program that the test starts gets there, too."""
    run(
        """
        import subprocess
        import sys

        import pytest

        @pytest.mark.qwen_aiml_emulator(serve=True)
        def test_program(qwen_aiml_emulator):
            subprocess.run([sys.executable, "-c", "import application; application.embed(['a'])"], check=True)
            assert qwen_aiml_emulator.requests[0].texts == ("a",)
        """,
        passed=1,
    )


def test_cassettes(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    """What it answers can be recorded, under the service's address and without a key, and played back."""
    tests = """
        import application
        import pytest

        @pytest.fixture(scope="module")
        def vcr_config():
            return {"match_on": ["method", "uri", "body"]}

        @pytest.mark.vcr
        def test_recorded(qwen_aiml_emulator, request):
            application.EARLY.embed(["early"])
            recording = request.config.getoption("--record-mode") == "once"
            assert qwen_aiml_emulator.request_count == recording
        """
    run(tests, "--record-mode=once", passed=1)
    (cassette,) = pytester.path.rglob("*.yaml")
    text = cassette.read_text(encoding="utf-8")
    assert "https://api.aimlapi.com/v1/embeddings" in text
    assert "sk-mine" not in text

    run(tests, "--record-mode=none", passed=1)


def test_wrong_marker(run: Callable[..., pytest.RunResult]) -> None:
    """Settings without names, and unknown ones, are refused with their names."""
    result = run(
        """
        import pytest

        @pytest.mark.qwen_aiml_emulator(5)
        def test_positional(): pass

        @pytest.mark.qwen_aiml_emulator(max_row=5)
        def test_unknown(): pass
        """,
        errors=2,
    )

    result.stdout.fnmatch_lines(["*UsageError: pytest.mark.qwen_aiml_emulator takes settings by name only*"])
    result.stdout.fnmatch_lines(["*TypeError: *max_row*"])


def test_unused(run: Callable[..., pytest.RunResult]) -> None:
    """Where no test asks for it, no fixture of ours is set up, and neither core nor httpx imported."""
    result = run(
        """
        import sys

        def test_imports():
            assert "pytest_qwen_aiml" in sys.modules
            assert not {"qwen_aiml", "httpx", "uvicorn"} & sys.modules.keys()
        """,
        "--setup-show",
        passed=1,
    )

    assert "qwen_aiml" not in result.stdout.str().partition("test_imports")[0].partition("collected")[2]


def test_told(run: Callable[..., pytest.RunResult]) -> None:
    """``--fixtures`` tells what it is for."""
    result = run("def test_nothing(): pass", "--fixtures", passed=0)

    result.stdout.fnmatch_lines(["qwen_aiml_emulator -- *", "*embeddings of qwen-aiml go to*"])
