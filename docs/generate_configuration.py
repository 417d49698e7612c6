"""Writes docs/configuration.md from the fields of the Diffusion Policy.

python docs/generate_configuration.py            writes the page
python docs/generate_configuration.py --check    checks whether it is current (exit 1 if it is not)
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import ALIASES, FIELDS
from trainables.diffusion_policy_distilled.settings import DISTILL_FIELDS
from trainables.interface import FieldInfo

PAGE = Path(__file__).parent / "configuration.md"

HEAD = """\
# Configuration of `diffusion_policy`

Every field of the trainable, by the dotted name under which it is written in a [space file](spaces.md): under
`config` with a fixed value, or under `parameters` with a range or a list of values.

*Phase* is what must be repeated when a field changes: `data` fields decide what is read, `train` fields
need a new training, `inference` fields can be changed on a trained checkpoint.

This page is written by `python docs/generate_configuration.py`; a test compares it with the code.
"""

DISTILLED = """\
## distill

`diffusion_policy_distilled` has all fields above and these ([few steps](deployment.md#few-steps)). It decides
the student's noise process and sampler itself: `check` refuses other values of those fields.
"""

ESCAPED_BAR = "\\|"

SECTIONS = {
    "dataset": "Which demonstrations are learned from.",
    "policy": "The network, the diffusion process, and the window of time it sees.",
    "optimizer": "The optimiser.",
    "lr_scheduler": "The learning rate over time.",
    "ema": "The exponential moving average of the weights; evaluations and exports use it when it is on.",
    "train": "The training loop.",
    "augment": "Random changes of pictures in training ([augmentation](training.md#image-augmentation)).",
    "eval": "Held-out action error: the same question to every trial.",
    "rollout": "Rollouts in a simulator.",
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for section, fields in groupby(FIELDS.values(), key=lambda info: info.name.partition(".")[0]):
        parts.append(f"## {section}\n\n{SECTIONS[section]}\n\n{_table(list(fields))}")
    parts.append(f"{DISTILLED}\n{_table(list(DISTILL_FIELDS.values()))}")
    parts.append(f"## LeRobot's names\n\nAccepted as well, and shown under the names above.\n\n{_aliases()}")
    return "\n".join(parts)


def _table(fields: list[FieldInfo]) -> str:
    rows = ["| field | default | accepts | phase | meaning |", "|---|---|---|---|---|"]
    for info in fields:
        cells = (f"`{info.name}`", f"`{_written(info.default)}`", _accepts(info), info.phase, info.doc)
        rows.append(f"| {' | '.join(cell.replace('|', ESCAPED_BAR) for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _accepts(info: FieldInfo) -> str:
    words = info.expected()
    if info.kind.startswith("list[") and info.kind != "list[str]":
        words = words.replace(
            f"a {info.kind}", f"a list of {'ints' if info.kind == 'list[int]' else 'numbers'}"
        )
    return words.replace("a list[str]", "a list of texts")


def _aliases() -> str:
    rows = ["| LeRobot | here |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{alias}` | `{own}` |" for alias, own in ALIASES.items())]) + "\n"


def _written(value: Any) -> str:
    """A value as it would stand in YAML."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Write the page, or with --check compare it."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
    if not current:
        print("docs/configuration.md is not current: python docs/generate_configuration.py", file=sys.stderr)
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
