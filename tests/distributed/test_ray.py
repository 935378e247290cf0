"""The code for Ray in docs/how-to/daft.md, with Daft and Ray Data, with and without API keys on workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen_aiml.emulator._vectors import lexical

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "how-to" / "daft.md").read_text(encoding="utf-8")
(RAY_DATA,) = (
    part.partition("```")[0] for part in PAGE.split("```text\n")[1:] if part.startswith("import ray\n")
)
(WITH_KEY,) = (
    part.partition("```")[0] for part in PAGE.split("```text\n")[1:] if part.startswith("import os, ray\n")
)
DAFT = """
import os
import daft
from daft.functions import embed_text
from daft_qwen_aiml import QwenAIMLProvider

daft.set_runner_ray(os.environ["RAY_ADDRESS"])
df = daft.read_parquet(f"{os.getcwd()}/texts/*.parquet")
df.select(embed_text(df["text"], provider=QwenAIMLProvider(dimensions=64))).collect()
"""
COUNT = 2500
SECONDS = 1800


@pytest.mark.long
def test_keys_of_workers(in_namespaces: tuple[str, ...], tmp_path: Path) -> None:
    """The page's code embeds each row if workers have an API key; otherwise the error names the variable."""
    (tmp_path / "texts").mkdir()
    table = pa.table({"text": [f"text {at}" for at in range(COUNT)]})
    pq.write_table(table, tmp_path / "texts" / "all.parquet")
    ray_data = RAY_DATA.replace("/shared", str(tmp_path))
    programs = [DAFT, ray_data, WITH_KEY + DAFT, WITH_KEY + ray_data]
    done = subprocess.run(  # noqa: S603 (our own program)
        [*in_namespaces, sys.executable, str(HERE / "ray_keys.py"), str(tmp_path), *programs],
        check=False,
        stdout=subprocess.PIPE,
        timeout=SECONDS,
    )
    assert done.returncode == 0, (tmp_path / "log").read_text(errors="replace")[-3000:]
    ended = json.loads(done.stdout)

    assert [code == 0 for code, _ in ended] == [False, False, True, True], ended
    for _, output in ended[:2]:
        assert "ConfigurationError: no API key" in output
        assert "AIMLAPI_API_KEY" in output.rpartition("ConfigurationError: no API key")[2]
    rows = pq.read_table(tmp_path / "embedded").to_pylist()
    assert sorted(row["text"] for row in rows) == sorted(table["text"].to_pylist())
    for row in rows[:: COUNT // 20]:
        assert row["embedding"] == lexical.embed(row["text"], 512, "embedding-v4").tolist()
