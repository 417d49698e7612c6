"""The pages about space files and configuration say what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sweeper.spec.sampler_options import SAMPLER_OPTIONS
from sweeper.spec.space_file.fields import SECTIONS, SETTINGS
from sweeper.spec.space_file.load import load_spec
from sweeper.spec.stopper_options import STOPPER_OPTIONS

ROOT = Path(__file__).parent.parent.parent
SPACES = (ROOT / "docs" / "spaces.md").read_text()
YAML_BLOCKS = re.findall(r"```yaml\n(.*?)```", SPACES, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", SPACES, re.DOTALL)
    for line in block.splitlines()
    if not line.startswith("sweeper init ")  # tests/sweeper/commands/test_init_command.py runs these
]


def test_the_page_has_examples():
    assert len(YAML_BLOCKS) >= 4
    assert len(COMMANDS) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(YAML_BLOCKS)))
def test_every_example_is_a_good_space(tmp_path, number):
    path = tmp_path / "example.yaml"
    whole = yaml.safe_load(YAML_BLOCKS[0])
    part = yaml.safe_load(YAML_BLOCKS[number])
    if "objectives" in part:
        whole.pop("metric")
    if "parameters" in part:
        whole.pop("constraints")
    if "inference" in part:  # what is examined on trained policies is not searched by training
        for name in part["inference"]["parameters"]:
            whole["parameters"].pop(name, None)
        whole.pop("constraints")
    path.write_text(yaml.safe_dump({**whole, **part}))
    load_spec(path)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_good_space(monkeypatch, command):
    monkeypatch.chdir(ROOT)
    program, name, path, *overrides = shlex.split(command)
    assert (program, name) == ("sweeper", "check")
    load_spec(path, overrides)


def test_every_section_and_setting_is_described():
    for section in SECTIONS:
        assert re.search(rf"^## .*\b{section}\b", SPACES, re.MULTILINE), section
    for section, settings in SETTINGS.items():
        text = SPACES[SPACES.index(f"## {section}") :].split("\n## ")[0]
        for name in settings:
            # A setting stands in the table of its section, or, of a metric, in its example.
            assert f"`{name}`" in text or (section == "metric" and f"{name}:" in text), (section, name)


def test_the_table_of_sampler_options_is_that_of_the_program():
    section = SPACES[SPACES.index("## search\n") :].split("\n## ")[0]
    listed = [line for line in section.splitlines() if line.startswith("| `") and line.count("|") == 5]
    known = []
    for method, options in SAMPLER_OPTIONS.items():
        for option in options:
            default = option.default_words or f"`{str(option.info.default).lower()}`"
            known.append(f"| `{method}` | `{option.name}` | {default} | {option.info.doc} |")
    assert listed == known


def test_the_table_of_stopper_options_is_that_of_the_program():
    section = SPACES[SPACES.index("## early_stop\n") :].split("\n## ")[0]
    listed = [line for line in section.splitlines() if line.startswith("| `") and line.count("|") == 5]
    assert listed == [
        f"| `{method}` | `{info.name}` | `{str(info.default).lower()}` | {info.doc} |"
        for method, options in STOPPER_OPTIONS.items()
        for info in options
    ]
    for method in STOPPER_OPTIONS:
        assert re.search(rf"^\| `{method}` \|[^|]+\|[^|]+\|$", section, re.MULTILINE), method


@pytest.mark.slow
def test_the_configuration_page_is_current():
    script = ROOT / "docs" / "generate_configuration.py"
    answer = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert answer.returncode == 0, answer.stderr


TRANSLATED = [("README.md", "README.zh-CN.md"), ("docs/quickstart.md", "docs/quickstart.zh-CN.md")]


def blocks(page: str) -> list[str]:
    """The commands, examples and outputs of a page, without comments, which are translated."""
    found = re.findall(r"```(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [re.sub(r" +#.*", "", block) for block in found]


@pytest.mark.parametrize(("page", "translation"), TRANSLATED)
def test_a_translation_has_the_commands_and_links_of_its_page(page: str, translation: str) -> None:
    assert len(blocks(page)) >= 5
    assert blocks(translation) == blocks(page)
    links = [
        {
            link.replace(".zh-CN.md", ".md")
            for link in re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
        }
        for name in (page, translation)
    ]
    assert links[0] == links[1]


@pytest.mark.parametrize("page", [*(path for path, _ in TRANSLATED), *(path for _, path in TRANSLATED)])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    here = [link for link in links if not link.startswith("http")]
    assert len(here) >= 5
    assert [link for link in here if not (path.parent / link).exists()] == []
