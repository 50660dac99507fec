"""A stand-in for torchvision in every process of a launch: any name of it can be imported, none can be called.

README.md beside this folder says why.
"""

import importlib.abc
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any


class AnyName(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class Absent(metaclass=AnyName):
    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError("rollbench's CPU lane has no torchvision, so no images")


class StandIn(types.ModuleType):
    __version__ = "0.28.0+stand.in"  # transformers compares it

    def __getattr__(self, name: str) -> Any:
        return getattr(Absent, name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.append(Finder())  # last: a real torchvision goes first
