"""A stand-in for SGLang's kernels: every name can be imported, none can be called; ../../README.md says why."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args: object, **kwargs: object) -> None:
        raise NotImplementedError(f"sgl_kernel.{name} has no CPU version in rollbench's CPU lane")

    return missing
