"""
Check the wheels in dist/: ours must contain every module of its packages, the others no file.

    python .ci/check_dist.py
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def held(wheel: Path) -> set[str]:
    """
    List a wheel's files, without its metadata.

    Args:
        wheel: Path of the wheel.
    """
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def main() -> int:
    """
    Print the problems found.

    Returns:
        The exit code: 1 if there are problems.
    """
    packages = [path.parent for path in ROOT.glob("*_qwen_aiml/__init__.py")] + [ROOT / "qwen_aiml"]
    modules = {path.relative_to(ROOT).as_posix() for package in packages for path in package.rglob("*.py")}
    wanted = modules | {f"{package.name}/py.typed" for package in packages}
    wrong = 0
    for wheel in sorted(ROOT.glob("dist/*.whl")):
        if odd := held(wheel) ^ (wanted if wheel.name.startswith("qwen_aiml-") else set()):
            print(f"{wheel.name} lacks these files, or should not hold them: {sorted(odd)}")
            wrong += 1
    (core,) = ROOT.glob("dist/qwen_aiml-*.whl")
    with zipfile.ZipFile(core) as archive:
        (metadata,) = (
            archive.read(name) for name in archive.namelist() if name.endswith(".dist-info/METADATA")
        )
    if b"\nProject-URL: " not in metadata:
        print("There are no project URLs: the repository's is open, see pyproject.toml.")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
