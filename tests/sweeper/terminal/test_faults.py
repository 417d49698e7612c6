"""How faults are printed: nothing is cut, at any width, and what is to be copied stays whole."""

from __future__ import annotations

import pytest

from sweeper.errors import SpecError, SpecFault
from sweeper.terminal.faults import print_config_error, print_spec_error, wrapped
from tests.sweeper.command_line import plain_console, printed
from trainables.interface import ConfigError, Fault

PLACE = "/home/user/a folder/with a very long path/space files/of my robot/space.yaml:12"
NAME = "parameters.policy.use_separate_rgb_encoder_per_camera.values"
PATH = "/home/user/abcdefghijklmnopqrstuvwxyz/abcdefghijklmnopqrstuvwxyz/abcdefghijklmnopqrstuvwxyz.yaml"
LINE = "  policy.use_separate_rgb_encoder_per_camera: {values: [true, false], when: 'policy.horizon > 16'}"
CODE = "`policy.horizon: {min: 16}`"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [40, 60, 80, 120, 240])
def test_faults_are_whole_at_any_width(width: int, terminal: bool):
    console = plain_console(width, terminal=terminal)
    fault = SpecFault(
        PLACE, 12, NAME, f"{PATH} is not a file.", f"Write {CODE}, or under parameters:\n{LINE}"
    )
    argument = SpecFault(f"argument {NAME}=[1, 2, 3]", 0, NAME, "is not a field.", "")
    print_spec_error(console, SpecError([fault, argument]))
    lines = printed(console).splitlines()
    for whole in (PLACE, NAME, PATH, LINE, CODE, f"argument {NAME}=[1, 2, 3]"):
        assert any(whole in line for line in lines), whole
    assert any(line.endswith(NAME) for line in lines)
    loose = [line for line in lines if not any(part in line for part in (PLACE, NAME, PATH, LINE, CODE))]
    assert max(map(len, loose)) <= width


def test_faults_of_a_configuration_are_whole_too():
    console = plain_console(40)
    print_config_error(console, ConfigError([Fault(NAME, f"{PATH} is not a file.", "Remove it.")]))
    assert NAME in printed(console)
    assert PATH in printed(console)


def test_a_text_is_broken_at_spaces_only():
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("a `b c d` e", 7) == ["a", "`b c d`", "e"]
    assert wrapped("a `b c d e f g`", 7) == ["a `b c", "d e f", "g`"]
    assert wrapped("first\n  an indented line: 3\nlast", 5) == ["first", "  an indented line: 3", "last"]
    assert wrapped("", 5) == []
