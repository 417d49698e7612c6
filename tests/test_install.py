"""scripts/install.py: where uv looks for packages, and what happens to a half installation."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "install.py"


@pytest.fixture
def install() -> Any:
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def calls(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that the script runs; they do nothing, and those whose name is in ``fail`` fail."""
    made: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        made.append(command)
        return subprocess.CompletedProcess(command, int(command[0] in install.fail), "", "")

    install.fail = set()
    install.subprocess = SimpleNamespace(run=run)
    install.runs = lambda *command: command[0] != "uv" or "uv" not in install.fail
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    monkeypatch.setattr(sys, "argv", ["install.py", "--into", str(tmp_path / ".venv"), ".[dev]", "s3fs"])
    return made


def test_uv_looks_where_pip_looks(install: Any) -> None:
    lines = [
        "global.index-url='https://lab/simple'",
        "global.extra-index-url='file:///disk/one\\nfile:///disk/two'",
        "global.find-links='/wheels /more'",
        "global.timeout='180'",
        ":env:.index-url='https://other/simple'",
    ]
    assert install.from_pip(lines, {}) == {
        "UV_DEFAULT_INDEX": "https://other/simple",
        "UV_INDEX": "file:///disk/one file:///disk/two",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    assert install.from_pip([], {}) == {}


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
def test_an_index_of_uvs_own_overrides_those_of_pip(install: Any, name: str) -> None:
    lines = ["global.index-url='https://lab/simple'", "global.find-links='/wheels'"]
    assert install.from_pip(lines, {name: "https://uv/simple"}) == {"UV_FIND_LINKS": "/wheels"}


def test_the_uv_on_the_path_installs_what_is_asked_for(
    install: Any, calls: list[list[str]], tmp_path: Path
) -> None:
    assert install.main() == 0
    python = str(tmp_path / ".venv" / "bin" / "python")
    expected = ["uv", "pip", "install", "--quiet", "--constraint", "constraints.txt"]
    assert calls[-1] == [*expected, "--editable", ".[dev]", "s3fs", "--python", python]


def test_without_uv_pip_installs_it_first(install: Any, calls: list[list[str]]) -> None:
    install.fail.add("uv")
    assert install.main() == 0
    python = calls[-1][0]
    assert python.endswith(".venv/bin/python")
    assert calls[0] == [python, "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt", "uv"]
    assert calls[-1][:5] == [python, "-m", "uv", "pip", "install"]


def test_pip_installs_if_uv_fails(
    install: Any, calls: list[list[str]], capsys: pytest.CaptureFixture
) -> None:
    install.fail.add("uv")
    install.runs = lambda *_command: True
    assert install.main() == 0
    assert calls[-1][1:4] == ["-m", "pip", "install"]
    assert "uv failed" in capsys.readouterr().err


def test_an_interrupted_installation_installs_all_packages_again(
    install: Any, calls: list[list[str]], tmp_path: Path
) -> None:
    marker = tmp_path / ".venv" / ".installing"
    install.fail.update(("uv", str(tmp_path / ".venv" / "bin" / "python")))
    assert install.main() != 0
    assert marker.exists()
    install.fail.clear()
    assert install.main() == 0
    assert "--reinstall" in calls[-1]
    assert not marker.exists()
    assert install.main() == 0
    assert "--reinstall" not in calls[-1]


def test_a_folder_that_is_no_environment_is_left_alone(
    install: Any, calls: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / ".venv" / "pyvenv.cfg").rename(tmp_path / ".venv" / "thesis.tex")
    install.runs = lambda *_command: False
    with pytest.raises(SystemExit, match="not a virtual environment"):
        install.main()
    assert [path.name for path in (tmp_path / ".venv").iterdir()] == ["thesis.tex"]
    assert calls == []
