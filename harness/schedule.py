"""Which process runs which test, where the suite runs on several: what takes long comes first, and is taken apart."""

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
"""Files of long tests that share no server: each of their tests goes to the next process that is free."""

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
"""Files that come before all others, in this order. One that came last would keep one process busy, and no other."""


def longest_first(items: list[pytest.Item]) -> None:
    """Sort what was collected; all other files stay behind these, in their order."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


class TakenApart(LoadFileScheduling):  # type: ignore[misc]
    """A file goes to one process, which starts its servers once; of the files in APART each test goes alone."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return nodeid if PurePath(file).stem in APART else file


def scheduler(config: pytest.Config, log: Any) -> TakenApart | None:
    """Return what distributes the tests of --dist loadfile; None leaves any other to xdist."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # most tests first: the long files have few
    return TakenApart(config, log)
