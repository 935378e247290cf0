"""
Metadata added by the build: the project's URLs, and the README with absolute links.

The URLs of the repository and the documentation are set in pyproject.toml, in
`tool.hatch.metadata.hooks.custom`, and nowhere else. While the repository's URL is empty, the metadata has no
URLs, and the README's links stay relative.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")


def project_urls(repository: str, documentation: str) -> dict[str, str]:
    """Return the URLs that package indexes show."""
    if not repository:
        return {}
    return {
        "Documentation": documentation or f"{repository}/tree/main/docs",
        "Source": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }


def absolute(readme: str, repository: str) -> str:
    """Make relative links absolute; those of images point to the raw files."""
    if not repository:
        return readme
    return RELATIVE_LINK.sub(
        lambda link: f"{link[1]}{link[2]}({repository}/{'raw' if link[1] else 'blob'}/main/{link[3]})", readme
    )


class MetadataHook(MetadataHookInterface):  # type: ignore[misc] # not installed
    """The hook that hatchling calls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the dynamic fields."""
        repository = self.config["repository"].rstrip("/")
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["urls"] = project_urls(repository, self.config["documentation"])
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(readme, repository)}
