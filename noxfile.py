"""
The checks, each in an environment of its own; `make` lists what they are called.

Environments are kept in `.nox/` and made again when pyproject.toml or
lowest.txt changes. With `-- ARGUMENTS`, sessions that run pytest pass them on.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import sys
import tarfile
import tempfile
import zipfile
from itertools import chain
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"  # --parallel
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"  # what is tested is what the machine has
nox.options.error_on_missing_interpreters = False  # in CI too: summary.py says which were missing
nox.options.reuse_venv = "yes"
nox.options.allow_parallel = True
nox.options.sessions = []

ROOT = Path(__file__).parent
LOWEST = ROOT / ".ci" / "lowest.txt"
REPORTS = ROOT / ".nox" / "reports"
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PACKAGES = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
OPTIONAL = PYPROJECT["project"]["optional-dependencies"]
PINS = dict(re.findall(r"^([\w-]+)==([\w.]+)", LOWEST.read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = ",".join(OPTIONAL)
TESTS = f"-e .[{EXTRAS}] --group tests"
COPIED = (
    *("tests", "cookbook", "benchmarks", "docs"),
    *("pyproject.toml", "hatch_build.py", "README.md", "CHANGELOG.md"),
)
EMPTY = sorted(path.name for path in (ROOT / "distributions").iterdir() if path.is_dir())
REPOSITORY = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
INSTALL_LINE = re.compile(r"^# %pip install -q ((?:.*\\\n#)*.*)$", re.MULTILINE)
NOT_ONCE = ("-m", "not long and not once")
TWO_AT_A_TIME = ("-n", "2", "--dist", "worksteal")

# The last, since uv leaves it to the first import to compile a module.
for variable in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(variable, None)
os.environ["PYTHONIOENCODING"] = "utf-8"
os.environ["DAFT_ANALYTICS_ENABLED"] = "0"  # or its import contacts another host

# pyenv's own commands find only the versions that are switched on.
PYENV = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, sorted(PYENV.glob("versions/*/bin")))])
SUPPORTED = nox.project.python_versions(PYPROJECT)
OWN = f"3.{sys.version_info.minor}"
FOUND = [version for version in SUPPORTED if version == OWN or shutil.which(f"python{version}")] or [OWN]
OLDEST, NEWEST = FOUND[0], FOUND[-1]
FOR_LOWEST = min(set(FOUND) & {"3.10", "3.11", "3.12"}, default="3.12")  # no wheels for newer Pythons
FOR_COOKBOOK = max(set(FOUND) & {"3.11", "3.12", "3.13"}, default="3.13")  # needed by some vector stores
FOR_WHEEL = FOUND[-2:][0]

ONE_FRAMEWORK = """
from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml.emulator import Emulator
assert len(QwenAIMLEmbeddings(**Emulator().client_options()).embed_query("a")) == 1024
"""
INSTALLED = f"""
from sysconfig import get_path
import {", ".join(PACKAGES)}
assert all(one.__file__.startswith(get_path("purelib")) for one in ({", ".join(PACKAGES)}))
"""


def environment(session: nox.Session, *installs: str) -> None:
    """
    Install what a session needs, unless its environment was made from the same files.

    Args:
        session: The session.

        installs: Arguments of one install command each.
    """
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "pyproject.toml", LOWEST)]
    made_from = hashlib.sha256("\0".join([*files, *installs]).encode()).hexdigest()
    stamp = Path(session.virtualenv.location) / "made-from"
    if stamp.exists():
        if stamp.read_text(encoding="utf-8") == made_from:
            return
        shutil.rmtree(session.virtualenv.location)
        session.virtualenv.create()
    for arguments in installs:
        session.install(*arguments.split())
    stamp.write_text(made_from, encoding="utf-8")


def pytest(session: nox.Session, *arguments: str, runner: str = "pytest", part: str = "", **env: str) -> None:
    """
    Run pytest, and keep its counts for summary.py.

    Args:
        session: The session.

        arguments: Those of pytest, after which come those of the session.

        runner: The module that is run, with arguments of its own.

        part: Which of several runs in one session this is.

        env: Additional environment variables.
    """
    report = (
        f"--junitxml={REPORTS / session.name}{part}.xml",
        "-o",
        "junit_family=legacy",
    )  # takes record_property
    session.run("python", "-m", *runner.split(), *report, *arguments, *session.posargs, env=env)


@nox.session(python=NEWEST, tags=["test"])
def lint(session: nox.Session) -> None:
    """
    Check style and format with ruff.
    """
    environment(session, "--group lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(name="format", python=NEWEST)
def format_(session: nox.Session) -> None:
    """
    Fix and format the code with ruff.
    """
    environment(session, "--group lint")
    session.run("ruff", "check", "--fix")
    session.run("ruff", "format")


@nox.session(python=OLDEST, tags=["test"])  # where what newer standard libraries added is an error
def types(session: nox.Session) -> None:
    """
    Check types with mypy --strict.
    """
    environment(session, f"{TESTS} --group types")
    session.run("mypy")


@nox.session(python=NEWEST)
def selected(session: nox.Session) -> None:
    """
    Run the tests that the arguments select, on the newest Python.
    """
    environment(session, TESTS)
    pytest(session)


@nox.session(python=NEWEST)
def probe(session: nox.Session) -> None:
    """
    Ask the service what is assumed of it, or the emulator if there is no key.
    """
    environment(session, TESTS)
    session.run("python", "tests/recorded/probe.py")


@nox.session(python=NEWEST, tags=["test"])
def coverage(session: nox.Session) -> None:
    """
    Run all tests; those that are not marked `once` must reach every branch.
    """
    environment(session, TESTS)
    session.env["COVERAGE_FILE"] = str(
        Path(session.virtualenv.location) / "coverage"
    )  # and a suffix per process
    session.run("coverage", "erase")
    pytest(session, *TWO_AT_A_TIME, *NOT_ONCE, runner="coverage run -m pytest")
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
    pytest(session, *TWO_AT_A_TIME, "-m", "once and not long", part="-once")


def tests(session: nox.Session) -> None:
    """
    Run the tests with the newest versions of everything; those marked `once` on the newest Python only.
    """
    environment(session, TESTS)
    pytest(session, *(() if session.python == NEWEST else NOT_ONCE))


@nox.session(python=FOR_LOWEST, tags=["matrix"])
def lowest(session: nox.Session) -> None:
    """
    Run the tests with the lowest versions claimed, which must equal those of lowest.txt.
    """
    for claim in chain(PYPROJECT["project"]["dependencies"], *OPTIONAL.values()):
        name, bound = re.findall(r"^([\w-]+)>=([\d.]+)", claim)[0]
        if re.sub(r"(\.0)+$", "", PINS.get(name, "")) != re.sub(r"(\.0)+$", "", bound):
            session.error(f"pyproject.toml says {name}>={bound}, lowest.txt says {PINS.get(name)}")
    environment(
        session,
        f"-e .[{EXTRAS}] --group tests-base -c {LOWEST.relative_to(ROOT)}",
        f"--no-deps -r {LOWEST.relative_to(ROOT)}",
    )
    pytest(session, *NOT_ONCE)


def built(name: str, suffix: str = ".whl") -> Path:
    """
    Find what `dist` built.

    Args:
        name: The distribution's name.

        suffix: Of its file.
    """
    (found,) = (ROOT / "dist").glob(f"{name.replace('-', '_')}-*{suffix}")
    return found


@nox.session(python=NEWEST, tags=["test"])
def dist(session: nox.Session) -> None:
    """
    Build the sdist, the wheel from it, and the empty distributions into dist/; check what they hold.
    """
    environment(session, "--group build")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation")
    for name in EMPTY:
        source = str(ROOT / "distributions" / name)
        session.run(
            "python", "-m", "build", "--no-isolation", "--wheel", "--outdir", str(ROOT / "dist"), source
        )
    if not REPOSITORY:
        session.warn(
            "The repository's URL is open (repository in pyproject.toml), so there are no project URLs, and "
            "the README's links stay relative"
        )
    session.run("twine", "--no-color", "check", "--strict", *map(str, (ROOT / "dist").iterdir()))
    for name in EMPTY:
        with zipfile.ZipFile(built(name)) as archive:
            if found := [file for file in archive.namelist() if ".dist-info/" not in file]:
                session.error(f"{name} should be empty, and holds {found}")
    with zipfile.ZipFile(built("qwen-aiml")) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    if odd := held ^ (wanted | {f"{name}/py.typed" for name in PACKAGES}):
        session.error(f"the wheel lacks these files, or should not hold them: {sorted(odd)}")
    with tarfile.open(built("qwen-aiml", ".tar.gz")) as files:
        tops = {name.split("/")[1] for name in files.getnames()}
    if lacking := {*PACKAGES, *COPIED} - tops:
        session.error(f"the sdist lacks {sorted(lacking)}")


@nox.session(python=NEWEST, tags=["test"], requires=["dist"], reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """
    Import the wheels away from the sources: the core, each framework by its own name, all packages.
    """
    core = built("qwen-aiml")
    session.chdir(session.create_tmp())
    for installed, program in (
        ([f"{core}"], "import qwen_aiml"),
        ([f"{core}", str(built("langchain-qwen-aiml"))], ONE_FRAMEWORK),
        ([f"{core}", str(built("llama-index-embeddings-qwen-aiml"))], "import llama_index_qwen_aiml"),
        ([f"{core}[{EXTRAS}]", "pytest"], INSTALLED),  # for the plugin
    ):
        session.install(*installed)
        session.run("python", "-c", program)


@nox.session(python=FOR_WHEEL, tags=["matrix"], requires=["dist"], reuse_venv=False, name="wheel-tests")
def wheel_tests(session: nox.Session) -> None:
    """
    Run the tests on the wheel, far from the sources.
    """
    session.install(f"{built('qwen-aiml')}[{EXTRAS}]", "--group", "tests")
    with tempfile.TemporaryDirectory() as away:
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(away) / name)
        session.chdir(away)
        session.run("python", "-c", INSTALLED)
        pytest(session, "-p", "no:cacheprovider", *NOT_ONCE)


def stores(session: nox.Session) -> None:
    """
    Try the vector stores of both frameworks with the newest versions of everything.
    """
    environment(session, "-e .[langchain,llama-index] --group stores")
    try_stores(session)


@nox.session(name="stores-lowest", python=FOR_LOWEST, tags=["matrix", "compatibility"])
def stores_lowest(session: nox.Session) -> None:
    """
    Try them with the lowest frameworks claimed, and the newest of the stores' packages that take those.
    """
    frameworks = " ".join(
        f"{name}=={PINS[name]}" for name in ("langchain-core", "llama-index-core", "pydantic")
    )
    environment(
        session,
        f"-e .[langchain,llama-index] --group stores-base {frameworks}",
        f"--no-deps langchain-tests=={PINS['langchain-tests']}",
    )
    try_stores(session)


def try_stores(session: nox.Session) -> None:
    """
    Run the tests of the stores, and keep their results for docs/compatibility.md.
    """
    results = REPORTS / session.name  # page.py reads the folder's name
    results.mkdir(parents=True, exist_ok=True)
    pytest(session, "tests/stores", QWEN_AIML_STORES_RESULTS=str(results / "results.json"))


@nox.session(python=FOR_COOKBOOK)
def distributed(session: nox.Session) -> None:
    """
    Run what needs Redis or a Ray cluster; tests are skipped where redis-server or unshare are missing.
    """
    environment(session, "-e .[daft,emulator,langchain] --group distributed")
    pytest(session, "tests/distributed")


@nox.session(python=FOR_COOKBOOK, tags=["matrix"])
def cookbook(session: nox.Session) -> None:
    """
    Run the cookbook's pages as notebooks, without a key and without a network.
    """
    environment(session, f"-e .[{EXTRAS}] --group cookbook")
    session.env["MPLCONFIGDIR"] = str(Path(session.virtualenv.location) / "matplotlib")
    session.run(
        "python", "-c", "import matplotlib.font_manager", silent=True
    )  # or a page says that it lists fonts
    pytest(session, "tests/notebooks", *TWO_AT_A_TIME)


@nox.session(python=FOR_COOKBOOK, name="cookbook-heavy")
def cookbook_heavy(session: nox.Session) -> None:
    """
    Run the pages whose packages would hold those of the other pages back; Spark needs Java.
    """
    environment(session, f"-e .[{EXTRAS}] --group cookbook-heavy")
    pytest(session, "tests/notebooks", "-k", "crewai or parallel")


@nox.session(name="cookbook-installs", python=FOR_COOKBOOK, requires=["dist"], reuse_venv=False)
def cookbook_installs(session: nox.Session) -> None:
    """
    Install each page's own line in a new environment, with the wheel for the index's, and run the page alone.
    """
    wheel = str(built("qwen-aiml"))
    for page in sorted((ROOT / "cookbook").glob("*.py")):
        found = INSTALL_LINE.search(page.read_text(encoding="utf-8"))
        if not found or (session.posargs and page.stem not in session.posargs):
            continue
        line = shlex.split(found[1].replace("\\\n#", ""))
        shutil.rmtree(session.virtualenv.location)
        session.virtualenv.create()
        session.install(*(re.sub(r"^qwen-aiml(?=\[)", wheel, package) for package in line))
        with tempfile.TemporaryDirectory() as away:
            shutil.copytree(ROOT / "cookbook" / "data", Path(away) / "data")
            shutil.copy(page, away)
            session.chdir(away)
            offline = {"PYTHONPATH": str(ROOT / "tests" / "notebooks" / "offline"), "OFFLINE_LOG": os.devnull}
            session.run("python", page.name, env={**offline, "MPLBACKEND": "agg", "AIMLAPI_API_KEY": ""})
            session.chdir(ROOT)


@nox.session(python=NEWEST, tags=["matrix"])
def docs(session: nox.Session) -> None:
    """
    Build the documentation into site/; a link to nowhere is an error.
    """
    environment(session, "--group docs")
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python=NEWEST)
def fuzz(session: nox.Session) -> None:
    """
    Feed random responses to what reads them; one that breaks it is kept in `.nox/`.
    """
    environment(session, "-e .[simdjson] --group fuzz")
    program = ROOT / "tests" / "long" / "fuzz_answers.py"
    session.run(
        "python", str(program), "-timeout=20", f"-artifact_prefix={ROOT / '.nox'}{os.sep}", *session.posargs
    )


for version in SUPPORTED:
    tags = ["tests"] if version in {NEWEST, FOR_LOWEST, FOR_WHEEL} else ["tests", "matrix"]
    nox.session(python=version, name=f"tests-{version}", tags=tags)(tests)
    tags = ["compatibility", "matrix"] if version == NEWEST else ["compatibility"]
    nox.session(python=version, name=f"stores-{version}", tags=tags)(stores)
