"""
A separate environment for each library, so that their dependencies do not constrain each other.

They are in `.venv-bench/`, and are rebuilt only when their requirements change.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv-bench"
SECONDS = 900  # for one install; the slowest takes a tenth of that
REQUIREMENTS = {
    "ours": ["-e", f"{ROOT}[langchain,llama-index,emulator,simdjson]", "httpx2"],
    "langchain-openai": ["langchain-openai"],
    "langchain-aimlapi": ["langchain-aimlapi"],
    "llama-index-openai-like": ["llama-index-embeddings-openai-like"],
    "openai": ["openai"],
    "baseten": ["baseten-performance-client", "numpy"],
    "bare": ["orjson"],
}


def environment(name: str) -> Path:
    """
    Create an environment, or reuse the one created from the same requirements.

    Returns:
        Its interpreter.

    Raises:
        subprocess.CalledProcessError: If it cannot be created.
    """
    folder = HOME / name
    python, stamp = folder / "bin" / "python", folder / "made-from"
    claims = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[dependency-groups]")[0]
    claims = claims if name == "ours" else ""
    made_from = hashlib.sha256("\0".join([sys.version, *REQUIREMENTS[name], claims]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_from:
        return python
    print(f"Making .venv-bench/{name}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    if uv := shutil.which("uv"):
        _call(uv, "venv", "--quiet", "--python", sys.executable, folder)
        _call(uv, "pip", "install", "--quiet", "--python", python, *REQUIREMENTS[name])
    else:
        _call(sys.executable, "-m", "venv", folder)
        _call(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *REQUIREMENTS[name])
    stamp.write_text(made_from, encoding="utf-8")
    return python


def versions(name: str) -> dict[str, str]:
    """
    Return the versions of all packages in an environment.
    """
    script = (
        "import json; from importlib.metadata import distributions as all;"
        "print(json.dumps({one.name.lower().replace('_', '-'): one.version for one in all()}))"
    )
    done = subprocess.run(
        [environment(name), "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _call(*words: str | Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(word) for word in words], check=True, timeout=SECONDS, env=env)
