"""In every process of a launch: a stand-in for torchvision, of which any name can be imported and none called, and
memory that is not page-locked where SGLang's LoRA asks for such.

README.md beside this folder says why.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
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


PINNING = ("sglang.srt.lora.layers", "sglang.srt.lora.backend.torch_backend")
FACTORIES = ("tensor", "zeros")  # with which they ask for it


class Unpinned:
    """torch as those modules see it; torch itself stays as it is."""

    def __getattr__(self, name: str) -> Any:
        import torch

        found = getattr(torch, name)
        return unpinned(found) if name in FACTORIES else found


def unpinned(factory: Callable[..., Any]) -> Callable[..., Any]:
    def make(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        return factory(*args, **kwargs)

    return make


class Unpinner(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name in PINNING else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                module.torch = Unpinned()
                module.torch.Tensor.pin_memory = lambda tensor, *_: tensor

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Unpinner())
sys.meta_path.append(Finder())  # last: a real torchvision goes first
