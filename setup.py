"""Puts the search spaces into the package.

They lie at the top of the repository, where people look for them, and nowhere else; a wheel carries them as
``sweeper/search_spaces``. Everything else about the build is in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithSpaces(build_py):
    """Copies search_spaces/ beside the built modules: the spaces and their schema."""

    def run(self) -> None:
        """Build the modules, then add the spaces; an editable install finds them in the checkout."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "sweeper" / "search_spaces"
        self.mkpath(str(target))
        for space in sorted(Path("search_spaces").glob("*.*")):
            self.copy_file(str(space), str(target / space.name))


setup(cmdclass={"build_py": BuildWithSpaces})
