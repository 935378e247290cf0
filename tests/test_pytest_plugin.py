"""The pytest plugin, in projects that use it."""

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

# An application that passes no options through, and creates one of its clients before any fixture is set up.
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
    """Return a function that runs an application's tests in a separate process, with an API key set."""
    pytester.makeini(CONFIGURATION)
    pytester.makepyfile(application=APPLICATION)
    monkeypatch.setenv("AIMLAPI_API_KEY", "sk-mine")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # other plugins are slow to import, or warn
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), *filter(None, sys.path)]))

    def run_tests(tests: str, *options: str, **outcomes: int) -> pytest.RunResult:
        pytester.makepyfile(test_application=tests)
        result = pytester.runpytest_subprocess(*options, timeout=300)
        result.assert_outcomes(**outcomes)
        return result

    return run_tests


def test_registered() -> None:
    """The distribution registers the plugin, so that installing it is enough."""
    values = [entry.value for entry in entry_points(group="pytest11") if entry.name == "qwen_aiml"]

    assert values == ["pytest_qwen_aiml"]


def test_fixture(run: Callable[..., pytest.RunResult]) -> None:
    """An application's requests go to the emulator, which the test can script and inspect."""
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
    """The classes of both frameworks use the emulator without options."""
    run(FRAMEWORKS, passed=1)


def test_marker(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    """
    The marker works without the fixture, takes settings, and is merged with those of the class and module.

    A marker on a parameter applies to that variant only, before the test's function-scoped fixtures and after
    wider ones. No socket is opened.
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
    """With ``serve``, programs that the test starts use the emulator too."""
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
    """The emulator's responses can be recorded, with the service's URL and no API key, and replayed."""
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
    """Positional and unknown settings of the marker are errors."""
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
    """If no test uses the emulator, no fixture of ours is set up, and the core and httpx are not imported."""
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
    """``--fixtures`` describes the fixture."""
    result = run("def test_nothing(): pass", "--fixtures", passed=0)

    result.stdout.fnmatch_lines(["qwen_aiml_emulator -- *", "*embeddings of qwen-aiml go to*"])
