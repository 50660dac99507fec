"""Tests of trainers/ need torch, which the light environment has not: there only those of the tasks run."""

from importlib.util import find_spec
from pathlib import Path

from hypothesis import settings

settings.register_profile("trainers", deadline=None, derandomize=True)  # a first call of torch takes its time
settings.load_profile("trainers")

LIGHT = {"test_tasks.py"}
collect_ignore = (
    [] if find_spec("torch") else [p.name for p in Path(__file__).parent.glob("test_*.py") if p.name not in LIGHT]
)
