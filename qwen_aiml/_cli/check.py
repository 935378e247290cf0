"""The check command: key, balance and model. Prints one line each and embeds at most one text."""

from __future__ import annotations

import math
import time
from http import HTTPStatus
from typing import Literal

from .._client import EmbeddingClient
from .._config import EmbeddingConfig
from .._errors import AuthenticationError, ConfigurationError, InsufficientCreditsError, QwenAIMLError
from .._keys import KEY_VARIABLES
from .._protocol.response import Response
from .._protocol.status import error_from
from .._transport.environment import proxy_for, tls_context
from .._urls import URL_VARIABLES, first_set

TEXT = "check"
SECONDS = 60.0  # for the whole call
UNIT_NORM = 1e-3  # maximum deviation of a norm from 1

Outcome = Literal["ok", "failed", "unknown"]


def check(*, model: str, dimensions: int | None = None) -> int:
    """
    Check the key and the URL of the environment, and print the results.

    Args:
        model: Model id or short name.

        dimensions: Dimensions to request; None requests none.

    Returns:
        0 if nothing failed, otherwise 1.
    """
    try:
        # Without retries, so that a lost response is not billed twice.
        config = EmbeddingConfig(model=model, dimensions=dimensions, max_retries=0, total_timeout=SECONDS)
        _show("url", "ok", f"{config.base_url}, from {first_set(URL_VARIABLES) or 'the defaults'}")
        if _balance(config):
            return 1
        with EmbeddingClient(config) as client:
            _embed(client)
    except QwenAIMLError as error:
        return _show(_about(error), "failed", f"{type(error).__name__}: {error}")
    return 0


def _embed(client: EmbeddingClient) -> None:
    limits = client.limits  # before they grow
    began = time.perf_counter()
    result = client.embed([TEXT])
    seconds = time.perf_counter() - began
    row, usage = result.embeddings[0], result.usage
    _show("model", "ok", f"{client.config.model}; the response names {result.model or 'none'}")
    norm = math.hypot(*row)
    shape = "unit length" if abs(norm - 1) < UNIT_NORM else f"length {norm:.4f}, not 1"
    _show("dimensions", "ok", f"{len(row)}, {shape}")
    _show("latency", "ok", f"{seconds:.2f} s for one text, connecting included")
    costs = {"tokens": usage.total_tokens, "credits": usage.credits_used, "USD": usage.usd_spent}
    amounts = [f"{unit} {'unknown' if cost is None else _plain(cost)}" for unit, cost in costs.items()]
    _show("cost", "unknown" if None in costs.values() else "ok", ", ".join(amounts))
    found = f"{limits.texts_per_request} texts per request, {limits.in_flight} requests in flight at first"
    _show("limits", "ok", f"{found}; no rate limit met")


def _show(name: str, outcome: Outcome, detail: str) -> int:
    print(f"{outcome:8}{name:12}{detail}")
    return int(outcome == "failed")


def _plain(number: float) -> str:
    """Format a number without an exponent."""
    return f"{number:.12f}".rstrip("0").rstrip(".")


def _about(error: QwenAIMLError) -> str:
    if isinstance(error, AuthenticationError):
        return "key"
    if isinstance(error, ConfigurationError):
        return "settings"
    return "balance" if isinstance(error, InsufficientCreditsError) else "embedding"


def _balance(config: EmbeddingConfig) -> int:
    """
    Check the key and the balance, which is free; return 1 if one of them failed, otherwise 0.

    Source: AI/ML API docs, ``GET /v2/billing``; behind a gateway there may be no such URL.
    """
    key = f"from {first_set(KEY_VARIABLES)}"
    base_url = config.base_url or ""
    if not base_url.endswith("/v1"):
        return _show("balance", "unknown", "the URL does not end in /v1, so that of the balance is not known")
    response = _get(f"{base_url.removesuffix('/v1')}/v2/billing", config)
    if response is None:
        return _show("balance", "unknown", "no response")
    if response.status == HTTPStatus.UNAUTHORIZED:
        error = error_from(response, [], config, config.secret)
        return _show("key", "failed", f"{key}: {error}")
    balance = response.json.get("current_balance") if isinstance(response.json, dict) else None
    if response.status != HTTPStatus.OK or not isinstance(balance, (int, float)):
        return _show("balance", "unknown", f"HTTP {response.status} without a balance")
    _show("key", "ok", f"{key}, accepted")
    if balance > 0:
        return _show("balance", "ok", f"{balance:.2f} USD")
    return _show(
        "balance", "failed", f"{balance:.2f} USD. What to do: top up at https://aimlapi.com/app/billing"
    )


def _get(url: str, config: EmbeddingConfig) -> Response | None:
    """Send a GET with the key as requests are sent, without redirects; return None without a response."""
    import httpx  # noqa: PLC0415 (slow to import)

    headers = {"Authorization": f"Bearer {config.secret.reveal()}", "Accept": "application/json"}
    try:
        with httpx.Client(proxy=proxy_for(url), verify=tls_context(), trust_env=False) as client:
            response = client.get(url, headers=headers, timeout=config.operation_timeout)
    except httpx.HTTPError:
        return None
    return Response(response.status_code, dict(response.headers), response.content)
