"""
Run the checks, each in an environment of its own, on every supported Python found.

Standard library only. Environments live in `.venv-ci/` and are made again when
pyproject.toml, lowest.txt or this file changes; uv makes them, from PATH or
installed in there too, or else venv and pip. Up to two jobs run at a time; the
output of each is printed whole when it ends.
"""

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path

SUPPORTED = ("3.10", "3.11", "3.12", "3.13", "3.14")
NEEDS = {
    "lowest": SUPPORTED[:3],  # the lowest versions have no wheels for newer Pythons
    "cookbook": SUPPORTED[1:4],  # nor have some vector stores, and others want no older one
    "notebooks": SUPPORTED[1:4],
    "stores_lowest": SUPPORTED[:3],
}
PACKAGES = ("qwen_aiml", "langchain_qwen_aiml", "llama_index_qwen_aiml", "pytest_qwen_aiml")
ONE_FRAMEWORK = """
from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml.emulator import Emulator
assert len(QwenAIMLEmbeddings(**Emulator().client_options()).embed_query("a")) == 1024
"""
SECONDS = 1800  # for one command; the slowest takes a fifth of that on an idle machine
SOAK_SECONDS = 3600
COOKBOOK_SECONDS = 3600  # each page has a limit of its own
COUNTED = {
    "tests",
    "coverage",
    "lowest",
    "wheel",
    "stores",
    "stores_lowest",
    "cookbook",
    "notebooks",
    "record",
    "soak",
}
NOT_ONCE = ("-m", "not long and not once")

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv-ci"
COVERAGE = HOME / "coverage" / "data"  # each process adds its own suffix
BIN, EXE = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
UV = shutil.which("uv")

PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LOWEST = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8")
PINS = dict(re.findall(r"^([\w-]+)==([\w.]+)", LOWEST, re.MULTILINE))
# Read with patterns, since tomllib came with Python 3.11.
CLAIMS = PYPROJECT[PYPROJECT.index("\ndependencies = [") : PYPROJECT.index("\n[dependency-groups]")]
OPTIONAL = CLAIMS.partition("[project.optional-dependencies]")[2]
EXTRAS = ",".join(re.findall(r"^([\w-]+) = \[", OPTIONAL, re.MULTILINE))


class StepError(Exception):
    """
    A check failed; the reader finds why above.
    """


class Job:
    """
    One job's output and its environments.

    Args:
        version: Minor version of Python, such as "3.12".

        python: That interpreter, to make environments with.

        seconds: How long to fuzz.

        pages: Which pages of the cookbook to run; all, if none is named.

    Attributes:
        output: What its commands printed, in order.

        passed, failed: Tests counted in pytest's closing lines, and pages; errors count as failed.
    """

    def __init__(self, version: str, python: str, seconds: int, pages: Collection[str]) -> None:
        self.version = version
        self.python = python
        self.seconds = seconds
        self.pages = pages
        self.uv = installer()
        self.output = ""
        self.passed = self.failed = 0

    def run(self, *command: str | Path, cwd: Path = ROOT, limit: int = SECONDS, **env: str) -> None:
        """
        Run a command to its end, or to the time limit, in seconds.

        Raises:
            StepError: If it does not exit with 0 in time.
        """
        words = [str(word) for word in command]
        self.output += f"$ {' '.join(words)}\n"
        code, text = call(words, cwd, env, limit)
        self.output += text
        if code:
            msg = f"exit code {code}"
            raise StepError(msg)

    def pytest(self, *command: str | Path, cwd: Path = ROOT, limit: int = SECONDS, **env: str) -> None:
        """
        Run a command that ends in pytest, and count its tests.
        """
        self.count(*command, "--color=no", "-p", "no:cacheprovider", cwd=cwd, limit=limit, **env)

    def count(self, *command: str | Path, cwd: Path = ROOT, limit: int = SECONDS, **env: str) -> None:
        """
        Run a command that closes as pytest does, and count what it says.
        """
        start = len(self.output)
        try:
            self.run(*command, cwd=cwd, limit=limit, **env)
        finally:
            closing = re.findall(r"^=*\s?((?:\d+ \w+,? ?)+)in [\d.]+s", self.output[start:], re.MULTILINE)
            counts = re.findall(r"(\d+) (passed|failed|errors?)", closing[-1] if closing else "1 error")
            self.passed += sum(int(number) for number, word in counts if word == "passed")
            self.failed += sum(int(number) for number, word in counts if word != "passed")

    def environment(self, name: str, *installs: str, fresh: bool = False) -> Path:
        """
        Make an environment, or take the one that was made from the same files.

        Args:
            name: Its folder in `.venv-ci`.

            installs: Arguments of one install command each.

            fresh: Whether to make it again in any case.

        Returns:
            Its interpreter.

        Raises:
            StepError: If it cannot be made.
        """
        folder, stamp = HOME / name, HOME / name / "made-from"
        python = folder / BIN / EXE
        parts = (PYPROJECT, LOWEST, Path(__file__).read_text(encoding="utf-8"), self.python, *installs)
        made_from = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        if not fresh and stamp.exists() and stamp.read_text(encoding="utf-8") == made_from:
            return python
        try:
            self.make(folder, *installs)
        except StepError:
            if not self.uv:
                raise
            self.uv = None  # pip may know a proxy, a mirror or a certificate that uv does not
            self.make(folder, *installs)
        stamp.write_text(made_from, encoding="utf-8")
        return python

    def make(self, folder: Path, *installs: str) -> None:
        """
        Make an environment and install into it.
        """
        shutil.rmtree(folder, ignore_errors=True)
        python = folder / BIN / EXE
        if self.uv:
            self.run(self.uv, "venv", "--quiet", "--python", self.python, folder)
        else:
            self.run(self.python, "-m", "venv", folder)
            self.run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")  # for --group
        for arguments in installs:
            self.install(python, *arguments.split())

    def install(self, python: Path, *arguments: str | Path) -> None:
        """
        Install into an environment.
        """
        if self.uv:
            self.run(self.uv, "pip", "install", "--quiet", "--python", python, *arguments)
        else:
            self.run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)


@cache
def installer() -> str | None:
    """
    Find uv, or install it: it makes an environment in seconds where pip takes more than a minute.

    Returns:
        Its path; None if it can't be had.
    """
    folder = HOME / "uv"
    binary = folder / BIN / ("uv.exe" if os.name == "nt" else "uv")
    commands = [
        [sys.executable, "-m", "venv", folder],
        [folder / BIN / EXE, "-m", "pip", "install", "uv>=0.5"],
    ]
    if UV or binary.exists() or not any(call([str(word) for word in line], ROOT, {})[0] for line in commands):
        return UV or str(binary)
    return None


def call(command: list[str], cwd: Path, extra: dict[str, str], limit: int = SECONDS) -> tuple[int, str]:
    """
    Run a command with no standard input, and interrupt it when its time is up.

    Output goes through a file: a pipe would wait for grandchildren that hold it open.

    Returns:
        Its exit code, and what it printed.
    """
    # The last, as uv leaves it to the first import to compile a module.
    dropped = {"PYTHONPATH", "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE"}
    env = {key: value for key, value in os.environ.items() if key not in dropped}
    env |= {"PYTHONIOENCODING": "utf-8", **extra}
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = 124
            try:
                process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)  # pytest tidies up
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        finally:
            process.kill()
        out.seek(0)
        return code, out.read().decode(errors="replace")


def pythons(only: Collection[str]) -> dict[str, str]:
    """
    Find the supported interpreters by running candidates.

    Args:
        only: The minor versions wanted, such as "3.12".

    Returns:
        One interpreter for each minor version, oldest first.
    """
    candidates: list[str | None] = [shutil.which(f"python{version}") for version in SUPPORTED]
    candidates += [sys.executable, shutil.which("python3")]
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    candidates += [str(path) for path in sorted(pyenv.glob("versions/*/bin/python"))]
    if UV:
        for version in SUPPORTED:
            code, text = call([UV, "python", "find", "--system", "--no-python-downloads", version], ROOT, {})
            candidates.append(text.strip() if code == 0 else None)
    probe = "import sys; print('%d.%d' % sys.version_info[:2])" + ("" if UV else "; import ensurepip, venv")
    found: dict[str, str] = {}
    for candidate in filter(None, candidates):
        try:
            answer = subprocess.run(
                [candidate, "-c", probe], capture_output=True, text=True, timeout=20, check=True, cwd=ROOT
            )
        except (OSError, subprocess.SubprocessError):  # a shim without its Python, or half a Python
            continue
        found.setdefault(answer.stdout.strip(), candidate)
    return {version: found[version] for version in SUPPORTED if version in found and version in only}


def lint(job: Job) -> None:
    """
    Check style and format.
    """
    python = job.environment("lint", "--group lint")
    job.run(python, "-m", "ruff", "check", ".")
    job.run(python, "-m", "ruff", "format", "--check", ".")


def fix(job: Job) -> None:
    """
    Put the code into the house's form.
    """
    python = job.environment("lint", "--group lint")
    job.run(python, "-m", "ruff", "check", "--fix", ".")
    job.run(python, "-m", "ruff", "format", ".")


def types(job: Job) -> None:
    """
    Check types.
    """
    job.run(job.environment("types", f"-e .[{EXTRAS}] --group tests --group types"), "-m", "mypy")


def docs(job: Job) -> None:
    """
    Build the site; what is doubtful, such as a link to nowhere, is an error.
    """
    python = job.environment("docs", "--group docs")
    job.run(python, "-m", "mkdocs", "build", "--strict", NO_MKDOCS_2_WARNING="1")


def tests(job: Job) -> None:
    """
    Run the tests with the newest versions of everything.
    """
    job.pytest(newest_versions(job), "-m", "pytest")


def others(job: Job) -> None:
    """
    Run the tests that may come out differently than on the oldest and the newest Python.
    """
    job.pytest(newest_versions(job), "-m", "pytest", *NOT_ONCE)


def newest_versions(job: Job) -> Path:
    """
    Make the environment that the tests of one Python run in.
    """
    return job.environment(f"py{job.version}", f"-e .[{EXTRAS}] --group tests")


def lowest(job: Job) -> None:
    """
    Run the tests with the oldest versions we claim.

    Raises:
        StepError: If lowest.txt and the lower bounds in pyproject.toml differ.
    """
    for name, bound in re.findall(r'"([\w-]+)>=([\d.]+)', CLAIMS):
        if re.sub(r"(\.0)+$", "", PINS.get(name, "")) != re.sub(r"(\.0)+$", "", bound):
            msg = f"pyproject.toml says {name}>={bound}, .ci/lowest.txt says {PINS.get(name)}"
            raise StepError(msg)
    python = job.environment(
        "lowest",
        f"-e .[{EXTRAS}] --group tests-base -c .ci/lowest.txt",
        "--no-deps -r .ci/lowest.txt",
    )
    job.pytest(python, "-m", "pytest", *NOT_ONCE)


def dist(job: Job) -> None:
    """
    Build the sdist, and the wheel from it, into dist/; check both.

    Raises:
        StepError: If the wheel does not hold exactly our packages, or the sdist lacks the tests.
    """
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    python = job.environment("build", "--group build")
    job.run(python, "-m", "build", "--no-isolation")
    (wheel,), (sdist,) = (sorted((ROOT / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    job.run(python, "-m", "twine", "--no-color", "check", "--strict", wheel, sdist)
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    wanted |= {f"{name}/py.typed" for name in PACKAGES}
    if held != wanted:
        msg = f"the wheel lacks {sorted(wanted - held)} and holds too much: {sorted(held - wanted)}"
        raise StepError(msg)
    with tarfile.open(sdist) as files:
        tops = {name.split("/")[1] for name in files.getnames()}
    folders = {*PACKAGES, "tests", "cookbook", "benchmarks", "docs"}
    if not tops >= {*folders, "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"}:
        msg = f"the sdist holds only {sorted(tops)}"
        raise StepError(msg)


def wheel(job: Job) -> None:
    """
    Install the wheel into a fresh environment, and run the tests on it far from the source tree.
    """
    dist(job)
    (built,) = (ROOT / "dist").glob("*.whl")
    python = job.environment("wheel", fresh=True)
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder)
        for name in ("tests", "cookbook", "benchmarks", "docs"):
            shutil.copytree(ROOT / name, away / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
            shutil.copy(ROOT / name, away)
        job.install(python, built)
        job.run(python, "-c", "import qwen_aiml", cwd=away)  # the core alone, with no framework around
        job.install(python, f"{built}[langchain]")
        job.run(python, "-c", ONE_FRAMEWORK, cwd=away)
        job.install(python, f"{built}[{EXTRAS}]", "--group", "tests")
        where = f"import {', '.join(PACKAGES)}; from sysconfig import get_path as p; " + "; ".join(
            f"assert {package}.__file__.startswith(p('purelib')), {package}" for package in PACKAGES
        )
        job.run(python, "-c", where, cwd=away)
        job.pytest(python, "-m", "pytest", *NOT_ONCE, cwd=away)


def coverage(job: Job) -> None:
    """
    Run the tests, and demand that those which tell something on each Python reach every branch.
    """
    python = newest_versions(job)
    job.pytest(python, "-m", "pytest", "-m", "once")
    shutil.rmtree(COVERAGE.parent, ignore_errors=True)
    COVERAGE.parent.mkdir(parents=True)
    job.pytest(python, "-m", "coverage", "run", "-m", "pytest", *NOT_ONCE, COVERAGE_FILE=str(COVERAGE))
    job.run(python, "-m", "coverage", "combine", "--quiet", COVERAGE_FILE=str(COVERAGE))
    job.run(python, "-m", "coverage", "report", COVERAGE_FILE=str(COVERAGE))


def stores(job: Job) -> None:
    """
    Try the vector stores of both frameworks, with the newest versions of everything.
    """
    try_stores(job, job.environment(f"stores-{job.version}", "-e .[langchain,llama-index] --group stores"))


def stores_lowest(job: Job) -> None:
    """
    Try them with the oldest frameworks we claim, and the newest of the stores' packages that take those.
    """
    frameworks = " ".join(
        f"{name}=={PINS[name]}" for name in ("langchain-core", "llama-index-core", "pydantic")
    )
    python = job.environment(
        "stores-lowest",
        f"-e .[langchain,llama-index] --group stores-base {frameworks}",
        f"--no-deps langchain-tests=={PINS['langchain-tests']}",
    )
    try_stores(job, python)


def try_stores(job: Job, python: Path) -> None:
    """
    Run the tests of the stores, and keep their results for the page of compatibility.

    Args:
        job: What runs them.

        python: The interpreter of an environment.
    """
    results = python.parents[1] / "results.json"
    job.pytest(python, "-m", "pytest", "tests/stores", QWEN_AIML_STORES_RESULTS=str(results))


def cookbook(job: Job) -> None:
    """
    Run the cookbook's pages as notebooks, without a key and without a network.
    """
    job.count(with_stores(job), ROOT / ".ci" / "cookbook.py", *job.pages, limit=COOKBOOK_SECONDS)


def notebooks(job: Job) -> None:
    """
    Run them, and keep what they show in cookbook/notebooks.
    """
    job.count(with_stores(job), ROOT / ".ci" / "cookbook.py", "--write", *job.pages, limit=COOKBOOK_SECONDS)


def with_stores(job: Job) -> Path:
    """
    Make the environment that the cookbook's pages run in.
    """
    return job.environment("cookbook", f"-e .[{EXTRAS}] --group cookbook")


def record(job: Job) -> None:
    """
    Record the cassettes again.
    """
    job.pytest(newest_versions(job), "-m", "pytest", "--record-mode=rewrite", "tests/recorded")


def soak(job: Job) -> None:
    """
    Run the tests that take minutes.
    """
    job.pytest(newest_versions(job), "-m", "pytest", "-m", "long", limit=SOAK_SECONDS)


def fuzz(job: Job) -> None:
    """
    Feed random answers to what reads them; an answer that breaks it is kept in `.venv-ci/`.
    """
    python = job.environment("fuzz", "-e .[simdjson] --group fuzz")
    program = ROOT / "tests" / "long" / "fuzz_answers.py"
    bounds = (f"-max_total_time={job.seconds}", "-timeout=20", f"-artifact_prefix={HOME}{os.sep}")
    job.run(python, program, *bounds, limit=job.seconds + SECONDS)


STEPS = {
    step.__name__: step
    for step in (
        *(lint, fix, types, docs, tests, others, lowest, coverage, dist, wheel),
        *(stores, stores_lowest, cookbook, notebooks, record, soak, fuzz),
    )
}


def plan(steps: Collection[str], found: dict[str, str]) -> dict[str, tuple[str, str]]:
    """
    Choose which Python does what.

    Args:
        steps: What to do.

        found: Interpreters by minor version, oldest first.

    Returns:
        Jobs by title, such as "tests 3.12": the minor version and the interpreter.
        The title's first word is the step.
    """
    (oldest, *_), (*_, newest) = found.items(), found.items()
    jobs = {step: newest for step in steps if step not in {"types", "tests", "stores", *NEEDS}}
    if "types" in steps:
        jobs["types"] = oldest  # what the newer standard libraries added is an error
    if "tests" in steps:
        jobs |= {f"tests {version}": (version, path) for version, path in found.items()}
    if "stores" in steps:
        # In CI, one Python and the lowest will do.
        versions = [newest[0]] if "coverage" in steps else found
        jobs |= {f"stores {version}": (version, found[version]) for version in versions}
    if {"tests", "coverage", "lowest"} <= set(steps):
        # Coverage is the same tests on the newest Python, lowest on the oldest, and the wheel's on the one
        # before the newest.
        jobs = {title.replace("tests ", "others "): made for title, made in jobs.items()}
        del jobs[f"others {newest[0]}"]
        if "wheel" in steps and len(found) > 2:  # noqa: PLR2004 - else it would be one of those
            jobs["wheel"] = list(found.items())[-2]
            del jobs[f"others {jobs['wheel'][0]}"]
    for step in (step for step in NEEDS if step in steps):
        if fit := [python for python in found.items() if python[0] in NEEDS[step]]:
            jobs[step] = fit[0 if "lowest" in step else -1]
        else:
            print(f"{step}: NOT RUN, it needs one of Python {', '.join(NEEDS[step])}")
    return jobs


def perform(
    jobs: dict[str, tuple[str, str]], fuzz_seconds: int, pages: Collection[str]
) -> tuple[int, int, list[str]]:
    """
    Run jobs two at a time, and print the output of each as it ends.

    Args:
        jobs: What `plan` returns.

        fuzz_seconds: How long to fuzz.

        pages: Which pages of the cookbook to run; all, if none is named.

    Returns:
        Tests and pages passed, those failed, and the titles of the jobs that failed.
    """

    def one(title: str) -> tuple[str, Job, str, float]:
        job, start, error = Job(*jobs[title], fuzz_seconds, pages), time.monotonic(), "ok"
        try:
            STEPS[title.split(maxsplit=1)[0]](job)
        except StepError as failure:
            error = f"FAILED, {failure}"
        return title, job, error, time.monotonic() - start

    passed = failed = 0
    broken = []
    with ThreadPoolExecutor(2) as pool:
        try:
            for done in as_completed([pool.submit(one, title) for title in jobs]):
                title, job, outcome, seconds = done.result()
                passed, failed = passed + job.passed, failed + job.failed
                print(f"\n=== {title}\n{job.output}--- {title}: {outcome}, {seconds:.0f} s", flush=True)
                if outcome != "ok":
                    broken.append(title)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return passed, failed, broken


def main() -> int:
    """
    Run the steps named on the command line.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description="Run checks on every supported Python found.")
    parser.add_argument("--pythons", default="", help="only these, such as '3.10 3.13'")
    parser.add_argument("--seconds", type=int, default=60, help="how long to fuzz (default: %(default)s)")
    parser.add_argument("--pages", default="", help="which of the cookbook's, such as 'search clustering'")
    parser.add_argument("steps", nargs="+", choices=STEPS)
    arguments = parser.parse_args()
    # A shell's background job ignores it, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start, steps = time.monotonic(), arguments.steps
    wanted = arguments.pythons.split() or SUPPORTED
    found = pythons(wanted)
    for version in wanted:
        print(f"Python {version}: {found.get(version, 'ABSENT, not tested')}")
    if not found:
        return 1
    jobs = plan(steps, found)
    installer()  # before there are threads
    passed, failed, broken = perform(jobs, arguments.seconds, arguments.pages.split())
    if COUNTED & set(steps) and not passed:
        broken.append("nothing passed")
    print(f"\n{time.monotonic() - start:.0f} s; failed: {', '.join(broken) or 'nothing'}")
    if passed or failed:
        print(f"{passed} passed, {failed} failed")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
