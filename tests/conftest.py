"""Fixtures shared by all tests: a clean environment, no waiting, both event loops."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml import _keys, _models, _urls
from qwen_aiml._engine import retry
from qwen_aiml._engine.limiter import Limiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "sk-test-0123456789abcdef"

os.environ["DAFT_ANALYTICS_ENABLED"] = "0"  # read on import; otherwise Daft would contact another host
os.environ["DAFT_PROGRESS_BAR"] = "0"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the API key, base URL and proxies of this machine from the environment."""
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    ours = (*_keys.KEY_VARIABLES, *_urls.URL_VARIABLES, _urls.HTTP_VARIABLE)
    for name in (*ours, *proxies, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without delay, also after a 429."""
    monkeypatch.setattr(retry, "FIRST_BACKOFF", 0.0)
    monkeypatch.setattr(Limiter, "refused", lambda self, start, *_: self.lost(start))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Make SIGINT interrupt the test: processes that a shell starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def restored_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore process-wide state that programs of the docs set: log level, models, tracer provider."""
    from opentelemetry import trace  # noqa: PLC0415 (only here, since whoever imports it is traced)
    from opentelemetry.util._once import Once  # noqa: PLC0415

    monkeypatch.setattr(_models, "_models", dict(_models._models))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    yield
    logging.getLogger("qwen_aiml").setLevel(logging.NOTSET)


@pytest.fixture(params=["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run async tests on asyncio and on Trio."""
    return request.param


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Return a function that prints a line past pytest's capture."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    assert reporter is not None
    assert capture is not None

    def print_line(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(line)

    return print_line
