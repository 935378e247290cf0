"""
Run programs on a Ray node whose processes have no API key; print exit codes and output as JSON.

    unshare -rn -pf --kill-child --mount-proc python ray_keys.py FOLDER PROGRAM...

Programs run in FOLDER. Only the driver has the API key; some programs pass it on to the workers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import ray_job
from qwen_aiml.emulator import Emulator, serve


def main(folder: str, programs: list[str]) -> None:
    """
    Run programs one after another.

    Args:
        folder: Working directory, which also contains the log.

        programs: Source code of the programs.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607
    key = {"AIMLAPI_API_KEY": ray_job.ENVIRONMENT.pop("AIMLAPI_API_KEY")}
    os.environ.update(ray_job.ENVIRONMENT)
    sockets = tempfile.mkdtemp(prefix="ray-")
    log = (Path(folder) / "log").open("wb")
    ended = []
    with serve(Emulator()) as url:
        os.environ["AIMLAPI_BASE_URL"] = url
        ray_job.start([[*ray_job.HEAD, f"--temp-dir={sockets}", "--num-cpus=3"]], log)
        for program in programs:
            done = subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, **key},
                cwd=folder,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=ray_job.PATIENCE,
            )
            log.write(done.stdout)
            ended.append([done.returncode, done.stdout.decode(errors="replace")])
    print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except BaseException:  # noqa: BLE001 (the process must end after any error, which ends all others)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
