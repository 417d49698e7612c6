"""Fixtures shared by all tests."""

from __future__ import annotations

import functools
import gc
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.fast_tests import FAST, has_none

# The tests compare numbers, and one thread makes them the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
# Ray starts its workers at 15, where tests beside them would leave them hardly any of the CPUs.
os.environ.setdefault("RAY_worker_niceness", "0")

# What a shell starts in the background is deaf to Ctrl-C, and so would be the processes of the tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The modules that are imported from here on stay; see `pytest_collection_finish`.
gc.disable()

ROOT = Path(__file__).parent.parent

# How long an example takes says nothing on a busy machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference files and real datasets that may lie beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference files (a folder `shared` beside the checkout) are not here")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have golden files made again with ``--remake-golden``."""
    parser.addoption("--remake-golden", action="store_true", help="Write golden files instead of comparing.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out modules without a fast test if only those are wanted: most of them import much."""
    if config.getoption("markexpr") != FAST or collection_path.suffix != ".py":
        return None
    return True if has_none(collection_path) else None


def pytest_collection_finish() -> None:
    """Keep what the collection imported out of every later garbage collection; nothing of it can be freed."""
    gc.collect()
    gc.freeze()
    gc.enable()


SHARES_RAY = re.compile(r"\bcluster: Any|\(cluster[,)]|, cluster[,)]")
"""How a module asks for the fixture `cluster`, one Ray for all tests of a process."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a module's tests in one process, and all modules that share a Ray in the same one.

    xdist's own ``loadgroup`` sets an attribute of tests that pytest 9 no longer reads, so it groups nothing.
    """
    from xdist.scheduler.loadscope import LoadScopeScheduling

    @functools.cache
    def text_of(module: str) -> str:
        return (config.rootpath / module).read_text()

    class OneRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "ray" if SHARES_RAY.search(text_of(path)) else path

        def _cost(self, scope: str) -> tuple[bool, bool, bool, int]:
            """Order scopes by what they start: a shared Ray, one of their own, slow tests."""
            text = "" if scope == "ray" else text_of(scope)
            return scope == "ray", "mark.ray" in text, "mark.slow" in text, len(self.workqueue[scope])

        def _assign_work_unit(self, node: Any) -> None:
            """Assign what takes longest first, so that the processes end together."""
            self.workqueue.move_to_end(max(self.workqueue, key=self._cost), last=False)
            super()._assign_work_unit(node)

        def _reschedule(self, node: Any) -> None:
            """Never leave a process with one test: it would wait for a second one before it runs it."""
            if node not in self.registered_collections:
                return  # It replaces a process that ended, and gets its tests when it has collected.
            super()._reschedule(node)
            if self._pending_of(self.assigned_work[node]) < 2:
                super()._reschedule(node)

        def remove_node(self, node: Any) -> str | None:
            """Report the test that ended its process, and run the others: xdist would repeat that test."""
            units = self.assigned_work[node]
            running = next((unit for unit in units.values() if not all(unit.values())), {})
            ended = next((test for test, done in running.items() if not done), None)
            if ended is not None:
                running[ended] = True
            for scope in [scope for scope, unit in units.items() if all(unit.values())]:
                del units[scope]
            super().remove_node(node)
            return ended

    return OneRay(config, log)
