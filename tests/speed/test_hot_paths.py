"""The functions that asv times (benchmarks/asv/hot_paths.py), under pytest-benchmark."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.asv import hot_paths

PATHS = [
    (kind, name)
    for kind in (hot_paths.Wire, hot_paths.Records, hot_paths.Many)
    for name in vars(kind)
    if name.startswith("time_")
]


@pytest.fixture
def ready(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hot path, called with what asv would keep for it."""
    monkeypatch.chdir(tmp_path)
    kind, name = request.param
    paths = kind()
    kept = [paths.setup_cache()] if hasattr(paths, "setup_cache") else []
    if hasattr(paths, "setup"):
        paths.setup()
    yield partial(getattr(paths, name), *kept)
    if hasattr(paths, "teardown"):
        paths.teardown()


@pytest.mark.speed
@pytest.mark.parametrize("ready", PATHS, indirect=True, ids=[name for _, name in PATHS])
def test_hot_path(benchmark: Any, ready: Any) -> None:
    benchmark(ready)
