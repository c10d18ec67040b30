"""Distribute tests over the processes of a parallel run. Long files come first, and some of them are split."""

from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

APART = (
    "test_topologies",
    "test_fuzz",
    "test_model",
    "test_chaos",
    "test_tls",
    "test_acl",
    "test_faults",
    "test_properties",
)
"""Files of long tests that share no server. Each of their tests goes to the next free process."""

LONG = (
    *APART,
    "test_bench",
    "test_metrics",
    "test_batch",
    "test_long_poll",
    "test_store",
    "test_browser",
    "test_embedded",
    "test_rotation",
)
"""Files that come before all others, in this order. A long file at the end would keep only one process busy."""


def longest_first(items: list[pytest.Item]) -> None:
    """Sort the collected tests: the files of LONG come first, and all others follow in their order."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


class TakenApart(LoadFileScheduling):  # type: ignore[misc]
    """A schedule that gives each file to one process, which starts the file's servers once.

    The tests of the files in APART are distributed one by one.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return nodeid if PurePath(file).stem in APART else file


def scheduler(config: pytest.Config, log: Any) -> TakenApart | None:
    """Return the schedule for --dist loadfile. For any other --dist, return None and so leave the schedule to xdist."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # xdist would put files with most tests first; the long files have few tests
    return TakenApart(config, log)
