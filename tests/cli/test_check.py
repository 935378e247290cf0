"""``python -m qwen_aiml check``: what it prints and returns for right, wrong and missing settings."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml.__main__ import main
from qwen_aiml._cli.check import check
from qwen_aiml.emulator import Emulator, Fault, intercept, serve

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-test-0123456789abcdef"
MODEL = "text-embedding-v4"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that runs the check on an emulator, and returns exit status and outcomes by name."""
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)

    def run(
        emulator: Emulator, url: str | None = None, **options: Any
    ) -> tuple[int, dict[str, tuple[str, str]]]:
        with serve(emulator) as base_url:
            monkeypatch.setenv("AIMLAPI_BASE_URL", url or base_url)
            status = check(model=MODEL, **options)
        rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
        assert not [line for line in rows if KEY in line[2]]
        return status, {name: (outcome, detail) for outcome, name, detail in rows}

    return run


def test_all_is_well(lines: Any) -> None:
    """With a valid key, each line is ok, and one text is billed, once."""
    emulator = Emulator(api_keys=[KEY], credits=20_140_000, latency=0.15)
    status, outcomes = lines(emulator, dimensions=64)

    assert status == 0
    assert {outcome for outcome, _ in outcomes.values()} == {"ok"}
    assert list(outcomes) == ["url", "key", "balance", "model", "dimensions", "latency", "cost", "limits"]
    assert outcomes["balance"][1] == "10.07 USD"
    assert outcomes["dimensions"][1] == "64, unit length"
    assert outcomes["cost"][1] == "tokens 2, credits 1, USD 0.0000005"
    assert "10 texts per request, 6 requests in flight at first" in outcomes["limits"][1]
    assert sum(emulator.texts_billed.values()) == 1


@pytest.mark.parametrize(
    ("settings", "faults", "failed", "detail"),
    [
        ({"api_keys": ["another"]}, [], "key", "HTTP 401"),
        ({"credits": 0}, [], "balance", "0.00 USD. What to do: top up"),
        ({}, [None, Fault(status=401)], "key", "AuthenticationError: HTTP 401"),
        ({}, [None, Fault(status=403)], "balance", "InsufficientCreditsError: HTTP 403"),
        ({}, [None, Fault(status=503)], "embedding", "APIStatusError: HTTP 503"),
        ({}, [None, Fault(reset="after")], "embedding", "TransportError: no response"),
    ],
)
def test_what_fails(lines: Any, settings: Any, faults: list[Any], failed: str, detail: str) -> None:
    """A failed check is named with the reason, and nothing is sent twice."""
    emulator = Emulator(**settings)
    emulator.script(*faults)
    status, outcomes = lines(emulator)

    assert status == 1
    assert [name for name, (outcome, _) in outcomes.items() if outcome == "failed"] == [failed]
    assert detail in outcomes[failed][1]
    assert emulator.request_count == max(1, len(faults))


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (Fault(status=404), "HTTP 404 without a balance"),
        (Fault(edit=lambda _: b"<html>"), "HTTP 200 without a balance"),
        (Fault(edit=lambda _: {"current_balance": None}), "HTTP 200 without a balance"),
        (Fault(reset="before"), "no response"),
    ],
)
def test_unknown_balance(lines: Any, fault: Fault, detail: str) -> None:
    """A balance that can't be read is unknown, which is not an error: a gateway may have none."""
    emulator = Emulator()
    emulator.script(fault)
    status, outcomes = lines(emulator)

    assert (status, outcomes["balance"], outcomes["model"][0]) == (0, ("unknown", detail), "ok")


def test_url_of_a_gateway(lines: Any) -> None:
    """If the URL does not end in /v1, the balance is not requested."""
    emulator = Emulator()
    with intercept(emulator):
        status, outcomes = lines(emulator, "https://gateway.example/openai")

    assert status == 0
    assert outcomes["balance"][0] == "unknown"
    assert outcomes["url"][1] == "https://gateway.example/openai, from AIMLAPI_BASE_URL"
    assert emulator.request_count == 1


def test_odd_response(lines: Any) -> None:
    """A norm other than 1, an unknown cost and a missing model name are reported as such."""
    emulator = Emulator()
    emulator.script(None, Fault(edit=lambda body: {"data": [{**body["data"][0], "embedding": [3.0] * 1024}]}))
    status, outcomes = lines(emulator)

    assert status == 0
    assert outcomes["dimensions"][1] == "1024, length 96.0000, not 1"
    assert outcomes["cost"] == ("unknown", "tokens unknown, credits 1, USD 0.0000005")
    assert outcomes["model"][1].endswith("names none")


@pytest.mark.parametrize(("key", "outcome"), [(KEY, 0), ("wrong-key-of-another-account", 1), ("", 1)])
def test_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, outcome: int
) -> None:
    """The command connects with the key and the URL of the environment."""
    monkeypatch.setenv("AIMLAPI_API_KEY", key)
    emulator = Emulator(api_keys=[KEY])
    with serve(emulator) as base_url:
        monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
        assert main(["check", "--dimensions", "64"]) == outcome

    assert sum(emulator.texts_billed.values()) == (outcome == 0)
    assert ("failed" in capsys.readouterr().out) == (outcome == 1)


def test_module() -> None:
    """The package runs as a module; without a command, it prints the usage."""
    command = [sys.executable, "-m", "qwen_aiml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603

    assert done.returncode == 2
    assert "COMMAND" in done.stderr


def test_certificates_that_can_not_be_read(
    lines: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """An unreadable certificate file named in the environment is reported, not raised."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    status, outcomes = lines(Emulator())

    assert (status, outcomes["settings"][0]) == (1, "failed")
    assert "SSL_CERT_FILE" in outcomes["settings"][1]
