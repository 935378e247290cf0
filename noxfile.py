"""
The checks, each in its own environment; `make` lists them.

Most sessions are rows of a table. `-- ARGUMENTS` are appended to a session's last command.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"  # --parallel
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"  # only installed Pythons are tested
nox.options.error_on_missing_interpreters = False  # in CI too: summary.py says which were missing
nox.options.reuse_venv = "yes"
nox.options.allow_parallel = True
nox.options.sessions = []

ROOT = Path(__file__).parent
REPORTS = ROOT / ".nox" / "reports"
LOWEST = Path(".ci", "lowest.txt")
PINS = {line.partition("==")[0]: line for line in LOWEST.read_text("utf-8").split() if "==" in line}
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
EXTRAS = ",".join(PROJECT["project"]["optional-dependencies"])
EMPTY = sorted(path.parent for path in Path("distributions").glob("*/pyproject.toml"))
INSTALL_LINE = re.compile(r"^# %pip install -q ((?:.*\\\n#)*.*)$", re.MULTILINE)
PAGES = {page.stem: INSTALL_LINE.findall(page.read_text("utf-8")) for page in Path("cookbook").glob("*.py")}
PYTEST = "python -m pytest"
EVERY_BRANCH = "-m 'not (long or once or slow)'"  # these tests cover every branch
PARALLEL = "-n 3 --dist worksteal"  # more workers than two cores, since tests wait a lot
PARALLEL_MATRIX = "-n 2 --dist worksteal"  # two sessions of the matrix run concurrently

# PYTHONDONTWRITEBYTECODE because uv does not compile modules; they are compiled on first import.
for variable in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(variable, None)
os.environ["PYTHONIOENCODING"] = "utf-8"
os.environ["COVERAGE_FILE"] = str(ROOT / ".nox" / "coverage-data")  # plus a suffix for each process
os.environ["DAFT_ANALYTICS_ENABLED"] = "0"  # otherwise importing it contacts another host
os.environ["NO_MKDOCS_2_WARNING"] = "1"

# pyenv's shims find only the versions that are activated.
PYENV = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, sorted(PYENV.glob("versions/*/bin")))])
SUPPORTED = nox.project.python_versions(PROJECT)
OWN = f"3.{sys.version_info.minor}"
FOUND = [version for version in SUPPORTED if version == OWN or shutil.which(f"python{version}")] or [OWN]
OLDEST, NEWEST = FOUND[0], FOUND[-1]
FOR_LOWEST = min(set(FOUND) & {"3.10", "3.11", "3.12"}, default="3.12")  # no wheels for newer Pythons
FOR_COOKBOOK = max(set(FOUND) & {"3.11", "3.12", "3.13"}, default="3.13")  # required by some vector stores
FOR_WHEEL = FOUND[-2:][0]


def environment(session: nox.Session, *installs: str) -> None:
    """Install a session's packages, unless its environment was created from the same files and arguments."""
    files = [Path(name).read_bytes() for name in ("pyproject.toml", LOWEST)]
    made_from = hashlib.sha256(repr([*files, installs]).encode()).hexdigest()
    stamp = Path(session.virtualenv.location, "made-from")
    if stamp.exists():
        if stamp.read_text("utf-8") == made_from:
            return
        shutil.rmtree(session.virtualenv.location)
        session.virtualenv.create()
    for arguments in installs:
        session.install(*arguments.split())
    stamp.write_text(made_from, "utf-8")


def run(session: nox.Session, *commands: str) -> None:
    """Run commands; save pytest's reports for summary.py, and the results of vector stores for page.py."""
    for number, command in enumerate(commands, 1):
        words = shlex.split(command)
        if "pytest" in words:  # xunit1, the old format, supports properties of tests
            words += [f"--junitxml={REPORTS / session.name}-{number}.xml", "-o", "junit_family=xunit1"]
            session.env["QWEN_AIML_STORES_RESULTS"] = str(REPORTS / session.name / "results.json")
        session.run(*words, *(session.posargs if number == len(commands) else ()))


def built(name: str, suffix: str = ".whl") -> str:
    """Return the path of a file that `dist` built."""
    (found,) = ROOT.glob(f"dist/{name.replace('-', '_')}-*{suffix}")
    return str(found)


def add(name: str, python: str, tags: str, installs: list[str], *commands: str) -> None:
    """Add a session that performs the *installs*, one after another, and runs *commands*."""

    def session_of_table(session: nox.Session) -> None:
        environment(session, *installs)
        run(session, *commands)

    session_of_table.__doc__ = "; ".join(commands)
    nox.session(python=python, name=name, tags=tags.split())(session_of_table)


TESTS = [f"-e .[{EXTRAS}] --group tests"]
STORES = "-e .[langchain,llama-index] --group stores"
FRAMEWORKS = " ".join(PINS[name] for name in ("langchain-core", "llama-index-core", "pydantic"))
OLD_TESTS = [f"-e .[{EXTRAS}] --group tests-base -c {LOWEST}", f"--no-deps -r {LOWEST}"]
OLD_STORES = [f"{STORES}-base {FRAMEWORKS}", f"--no-deps {PINS['langchain-tests']}"]
COOKBOOK = f"-e .[{EXTRAS}] --group cookbook"
DISTRIBUTED = ["-e .[daft,emulator,langchain,llama-index] --group distributed"]
HEAVY = "-k 'crewai or parallel'"  # pages that require old versions of packages that others use
COVERAGE = [
    "coverage erase",
    f"coverage run -m pytest {PARALLEL} -m 'not (long or slow)'",
    "coverage combine --quiet",
    "coverage report",
]
add("coverage", NEWEST, "test", TESTS, *COVERAGE)  # first, as it takes longest
add("lint", NEWEST, "test", ["--group lint"], "ruff check", "ruff format --check")
add("format", NEWEST, "", ["--group lint"], "ruff check --fix", "ruff format")
add("types", OLDEST, "test", [f"{TESTS[0]} --group types"], "mypy")  # where newer features are errors
add("selected", NEWEST, "", TESTS, PYTEST)
add("probe", NEWEST, "", TESTS, "python tests/recorded/probe.py")
add("fuzz", NEWEST, "", ["-e .[simdjson] --group fuzz"], "python tests/long/fuzz_answers.py -timeout=20")
for version in SUPPORTED:
    elsewhere = {NEWEST, FOR_LOWEST, FOR_WHEEL}  # where other sessions run the same tests
    matrix = "" if version in elsewhere else "matrix"
    add(f"tests-{version}", version, f"tests {matrix}", TESTS, f"{PYTEST} {PARALLEL_MATRIX} {EVERY_BRANCH}")
    matrix = "matrix" if version == NEWEST else ""
    add(f"stores-{version}", version, f"compatibility {matrix}", [STORES], f"{PYTEST} tests/stores")
add("stores-lowest", FOR_LOWEST, "compatibility matrix", OLD_STORES, f"{PYTEST} tests/stores")
add("slow", NEWEST, "matrix", TESTS, f"{PYTEST} {PARALLEL_MATRIX} -m 'slow and not long'")
add("lowest", FOR_LOWEST, "matrix", OLD_TESTS, f"{PYTEST} {PARALLEL_MATRIX} {EVERY_BRANCH}")
add("docs", NEWEST, "matrix", ["--group docs"], "mkdocs build --strict")
add("docs-serve", NEWEST, "", ["--group docs"], "mkdocs serve --dev-addr 127.0.0.1:8000")
add("cookbook", FOR_COOKBOOK, "matrix", [COOKBOOK], f"{PYTEST} tests/notebooks {PARALLEL_MATRIX}")
add("cookbook-heavy", FOR_COOKBOOK, "", [f"{COOKBOOK}-heavy"], f"{PYTEST} tests/notebooks {HEAVY}")
add("distributed", FOR_COOKBOOK, "", DISTRIBUTED, f"{PYTEST} tests/distributed")


@nox.session(python=NEWEST, tags=["test"])
def dist(session: nox.Session) -> None:
    """Build the sdist, the wheel from it, and the empty distributions into dist/; check their contents."""
    environment(session, "--group build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation")
    for source in EMPTY:
        session.run("python", "-m", "build", "--no-isolation", "--wheel", "--outdir", "dist", str(source))
    session.run("python", ".ci/check_dist.py")
    session.run("twine", "--no-color", "check", "--strict", *map(str, Path("dist").iterdir()))


@nox.session(python=NEWEST, tags=["test"], requires=["dist"], reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """Import the wheels outside the source tree: the core, each adapter, all packages."""
    core, check = built("qwen-aiml"), str(ROOT / ".ci" / "check_wheel.py")
    session.chdir(session.create_tmp())
    for installs, packages in (
        ([core], ["qwen_aiml"]),
        ([core, built("langchain-qwen-aiml")], ["langchain_qwen_aiml"]),
        ([core, built("llama-index-embeddings-qwen-aiml")], ["llama_index_qwen_aiml"]),
        ([f"{core}[{EXTRAS}]", "pytest"], PACKAGES),
    ):
        session.install(*installs)
        session.run("python", check, *packages)


@nox.session(python=FOR_WHEEL, tags=["matrix"], requires=["dist"], reuse_venv=False, name="wheel-tests")
def wheel_tests(session: nox.Session) -> None:
    """Run the tests of the sdist on the wheel, outside the source tree."""
    session.install(f"{built('qwen-aiml')}[{EXTRAS}]", "--group", "tests")
    with tempfile.TemporaryDirectory() as away:
        shutil.unpack_archive(built("qwen-aiml", ".tar.gz"), away)
        session.chdir(*Path(away).iterdir())
        for name in PACKAGES:
            shutil.rmtree(name)
        session.run("python", str(ROOT / ".ci" / "check_wheel.py"), *PACKAGES)
        run(session, f"{PYTEST} -p no:cacheprovider {PARALLEL_MATRIX} {EVERY_BRANCH}")


@nox.session(name="cookbook-installs", python=FOR_COOKBOOK, requires=["dist"], reuse_venv=False)
@nox.parametrize("page", names := sorted(page for page in PAGES if PAGES[page]), ids=names)
def cookbook_installs(session: nox.Session, page: str) -> None:
    """Run a page's own install line, with our wheel instead of the published package, and then the page."""
    packages = shlex.split(PAGES[page][0].replace("\\\n#", ""))
    session.install(*(re.sub(r"^qwen-aiml(?=\[)", built("qwen-aiml"), package) for package in packages))
    away = Path(session.create_tmp())
    shutil.copytree(ROOT / "cookbook" / "data", away / "data", dirs_exist_ok=True)
    shutil.copy(ROOT / "cookbook" / f"{page}.py", away)
    session.chdir(away)
    offline = {"PYTHONPATH": str(ROOT / "tests" / "notebooks" / "offline"), "OFFLINE_LOG": os.devnull}
    session.run("python", f"{page}.py", env={**offline, "MPLBACKEND": "agg", "AIMLAPI_API_KEY": ""})
