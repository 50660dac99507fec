"""The functions that asv times (benchmarks/asv/hot_paths.py), under pytest-benchmark."""

from collections.abc import Iterator
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
def ready(request: pytest.FixtureRequest) -> Iterator[Any]:
    kind, name = request.param
    paths = kind()
    paths.setup()
    yield getattr(paths, name)
    paths.teardown()


@pytest.mark.speed
@pytest.mark.parametrize("ready", PATHS, indirect=True, ids=[name for _, name in PATHS])
def test_hot_path(benchmark: Any, ready: Any) -> None:
    benchmark(ready)
