"""A sweep that cannot fit into memory is refused before it starts, and one that may not fit is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import plain_console, printed
from small_trainable import Parabola

from sweeper.driver import preflight as memory
from sweeper.driver.preflight import check_disk, check_memory
from sweeper.errors import ResourceError
from sweeper.machines.machine import find_machine
from sweeper.spec.space_file.load import load_spec
from sweeper.spec.sweep import SettledResources
from trainables.diffusion_policy.trainable import TRAINABLE

DATA = {"dataset.repo_id": "builtin/pusht"}


class Heavy(Parabola):
    """Holds so many gigabytes."""

    def __init__(self, held_gb: float) -> None:
        self._held_gb = held_gb

    def memory_gb(self, config: object) -> float:
        return self._held_gb


def said(held_gb: float, resources: SettledResources) -> str:
    console = plain_console(width=200)
    check_memory(Heavy(held_gb), {}, resources, console)
    return printed(console)


def test_what_fits_is_not_spoken_of() -> None:
    assert said(0.001, SettledResources(1, 0, 1, 1)) == ""


def test_a_trial_larger_than_this_machines_memory_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"needs at least .* of memory, and .* are available"):
        said(1e6, SettledResources(1, 0, 1, 1))


def test_trials_that_fit_alone_and_not_together_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_host_gb", lambda: 8.0)
    assert "Lower resources.max_concurrent" in said(2.0, SettledResources(1, 0, 1, 4))
    monkeypatch.setattr(memory, "smallest_gpu_gb", lambda: 8.0)
    assert said(7.0, SettledResources(1, 1, 1, 4)) == ""
    assert "of GPU memory" in said(5.0, SettledResources(1, 0.5, 1, 4))
    with pytest.raises(ResourceError, match="of GPU memory"):
        said(9.0, SettledResources(1, 1, 1, 4))


def test_the_default_policy_holds_at_least_its_weights_four_times() -> None:
    # LeRobot's default U-Net has about 2.5e8 weights; with gradients and moments that is above 3 GB.
    assert 3 < TRAINABLE.memory_gb(DATA) < 6
    assert TRAINABLE.memory_gb({**DATA, "ema.enabled": False}) < TRAINABLE.memory_gb(DATA)


def test_the_disk_is_warned_of_for_as_many_trials_as_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_spec("pusht_quick", ["keep={trials: 1}", "resources.max_concurrent=auto"])
    gb = find_machine(spec.folder).disk_gb / 4  # the one that is kept, and one that runs, take half of it
    here = SettledResources(1, 0, 1, 1)
    for settled, warned in ((here, ""), (None, "The 9 trials whose checkpoints are kept at a time may need")):
        console = plain_console(width=200)
        check_disk(spec, gb, gb, 20, console, settled=settled)
        assert warned in printed(console)
        assert bool(warned) == bool(printed(console))
