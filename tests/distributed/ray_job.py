"""
Embed on a Ray cluster of two nodes; kill a worker, and the driver twice; restart; print the texts billed.

    unshare -rn -pf --kill-child --mount-proc python ray_job.py FOLDER COUNT

It runs in separate network and process namespaces, so that Ray listens on this machine only, and all of its
processes end with this one. FOLDER contains the texts; all output is written there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO

from qwen_aiml.emulator import Emulator, serve

HERE = Path(__file__).parent
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
NODE = ["--num-cpus=1", "--object-store-memory=200000000", "--disable-usage-stats"]
HEAD = ["--head", "--port=6399", "--include-dashboard=false"]
REDIS = ["--bind", "127.0.0.1", "--port", "6398", "--save", ""]
PATIENCE = 300  # seconds
ATTEMPTS = 5
ENVIRONMENT = {
    "AIMLAPI_API_KEY": "k",
    "DAFT_ANALYTICS_ENABLED": "0",
    "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, str(HERE)])),
    "RAY_ADDRESS": "127.0.0.1:6399",
    "RAY_AUTH_MODE": "disabled",  # only this namespace can reach the cluster
    "RAY_raylet_start_wait_time_s": "60",
}


def start(nodes: list[list[str]], log: IO[bytes]) -> None:
    """Start nodes; retry if one of Ray's agents exceeds its 15 seconds, as on a busy machine."""
    for _ in range(ATTEMPTS):
        commands = [[*RAY, "start", *NODE, *node] for node in nodes]
        done = (subprocess.run(command, check=False, stdout=log, stderr=log) for command in commands)
        if all(one.returncode == 0 for one in done):
            return
        subprocess.run([*RAY, "stop", "--force"], check=False, stdout=log, stderr=log)
    raise RuntimeError("Ray did not start")


def workers() -> list[int]:
    """Return the ids of Daft's embedding processes, which are found by Ray's titles for them."""
    found: list[int] = []
    give_up = time.monotonic() + 30
    while not found and time.monotonic() < give_up:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                title = path.read_bytes()
                if title.startswith(b"ray::") and b"Swordfish" in title and b"Flotilla" not in title:
                    found.append(int(path.parent.name))
    return found


def wait_for(emulator: Emulator, requests: int, job: subprocess.Popen[bytes]) -> bool:
    """Wait for a number of requests or the end of the job; return whether the job is still running."""
    give_up = time.monotonic() + PATIENCE
    while emulator.request_count < requests and job.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    return job.poll() is None


def main(folder: str, count: int) -> None:
    """
    Run the job; print the requests before each kill and the texts billed as JSON.

    Args:
        folder: Folder with the texts.

        count: Number of texts.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607
    os.environ.update(ENVIRONMENT)
    sockets = tempfile.mkdtemp(prefix="ray-")  # paths of sockets are limited to 107 characters
    log = (Path(folder) / "log").open("wb")
    emulator = Emulator(latency=0.1)
    subprocess.Popen(["redis-server", *REDIS, "--dir", folder], stdout=log)  # noqa: S607
    with serve(emulator) as url:
        os.environ["AIMLAPI_BASE_URL"] = url
        head = [*HEAD, f"--temp-dir={sockets}"]
        start([head, [f"--address={ENVIRONMENT['RAY_ADDRESS']}"]], log)
        job = [sys.executable, str(HERE / "job.py"), f"{folder}/texts", f"{folder}/embedded"]
        job.append("redis://127.0.0.1:6398")
        killed = []
        with subprocess.Popen(job, stdout=log, stderr=log) as first:
            wait_for(emulator, count // 50, first)
            busy = workers()
            if not busy:
                subprocess.run(["ps", "axww"], check=False, stdout=log)  # noqa: S607
            os.kill(busy[0], 9)
            killed.append(emulator.request_count)
            survived = wait_for(emulator, count // 25, first)
            first.kill()
        with subprocess.Popen(job, stdout=log, stderr=log) as second:
            wait_for(emulator, emulator.request_count + count // 50, second)
            second.kill()
            killed.append(emulator.request_count)
        code = subprocess.run(job, stdout=log, stderr=log, timeout=PATIENCE, check=False).returncode
        billed = emulator.texts_billed
        report = {
            "code": code,
            "killed": killed,
            "workers": len(busy),
            "survived": survived,
            "requests": emulator.request_count,
        }
        print(json.dumps({**report, "texts": len(billed), "billed": billed.total()}), flush=True)
        shutil.rmtree(sockets, ignore_errors=True)
        os._exit(0)  # ends all processes of the namespace


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except BaseException:  # noqa: BLE001 (the process must end after any error)
        traceback.print_exc()
    os._exit(1)
