"""The way into each engine's model processes.

vLLM: `Extension` becomes part of its worker, called by `collective_rpc`. SGLang: `sglang_install`, as a custom weight
loader, gives its scheduler one more call. Requests and replies are what JSON can hold.
"""

import json
import os
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.worker import shortcut
from harness.worker.options import LORA_TARGETS
from harness.worker.receive import Receiver, Request

POOLS = weakref.WeakSet[Any]()  # of vLLM's cache blocks in this process
CORES = weakref.WeakSet[Any]()  # of vLLM, with a loop of their own in this process


def watch() -> None:
    """Know every block pool that is made and every core that runs from now on: vLLM imports this module before."""
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.engine.core import EngineCoreProc

    made = BlockPool.__init__

    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        POOLS.add(self)

    run = EngineCoreProc.run_busy_loop

    def loop(self: Any) -> None:
        CORES.add(self)
        run(self)

    BlockPool.__init__, EngineCoreProc.run_busy_loop = make, loop


if "vllm" in sys.modules:
    watch()


class Extension:
    """Becomes a base of vLLM's worker class."""

    model_runner: Any
    reload_weights: Any
    rank: int

    def rollbench(self, request: Request) -> Any:
        if not hasattr(self, "_rollbench"):
            flush = quick_flush()
            self._rollbench = Receiver(lambda: self.model_runner.model, self._load, self._read, flush, self.rank)
            if CORES and flush is not None:
                (core,), answer = CORES, self._rollbench.answer
                self._rollbench.listen = lambda path: shortcut.listen_in_queue(core, path, answer)
            if self._rollbench.device.type == "cpu":
                self._rollbench.packs = "vLLM packs its matrices on a CPU; its reloading alone knows the way back"
        return self._rollbench.answer(request)

    def rollbench_attention(self) -> dict[str, Any]:
        """The attention backends that the engine chose, and FlashAttention's version."""
        found: dict[str, Any] = {"attention_backend": sorted(
            {group.backend.get_name() for groups in self.model_runner.attn_groups for group in groups}
        )}  # fmt: skip
        if "FLASH_ATTN" in found["attention_backend"]:
            from vllm.v1.attention.backends.fa_utils import get_flash_attn_version

            found["flash_attn_version"] = get_flash_attn_version()
        return found

    def _load(self, named: Iterable[Any]) -> None:
        named = wrapped(self.model_runner.model, named)
        if self._rollbench.packs:
            self.reload_weights(weights_iterator=iter(list(named)))
        else:
            self.model_runner.model.load_weights(named)

    def _read(self, path: str) -> None:
        self.reload_weights(weights_path=path)


def wrapped(model: Any, named: Iterable[Any]) -> Iterable[Any]:
    """The tensors by the names that the engine's loader knows. Where layers take adapters each is wrapped, and its own
    weight is `base_layer.weight`, unless the wrapper loads it by itself or has it under its own name too."""
    wrappers = (module for module in model.modules() if hasattr(module, "base_layer"))
    if all(callable(getattr(one, "load_weights", None)) or _same_weight(one) for one in wrappers):
        return named
    return ((_of_base(name), tensor) for name, tensor in named)


def _same_weight(wrapper: Any) -> bool:
    own = wrapper._parameters.get("weight")
    return own is not None and own is wrapper.base_layer._parameters.get("weight")


def _of_base(name: str) -> str:
    module, _, last = name.rpartition(".")
    return f"{module}.base_layer.{last}" if module.rpartition(".")[2] in LORA_TARGETS else name


def quick_flush() -> Any:
    """A function that empties vLLM's prefix cache, where its scheduler lives in this process (one model process), else
    None. vLLM's own reset, but over the blocks that are cached instead of all there are: 10 ms at 160,000 blocks."""
    pools = list(POOLS)

    def flush() -> None:
        if not all(reset(pool) for pool in pools):
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")

    return flush if pools else None


def reset(pool: Any) -> bool:
    every, watched = pool.blocks, getattr(pool, "_reuse_watchers", None)
    if not watched:  # whose numbers are places in the whole list
        found = pool.cached_block_hash_to_block._cache.values()
        pool.blocks = [b for one in found for b in (one.values() if isinstance(one, dict) else (one,))]
    try:
        return bool(pool.reset_prefix_cache())
    finally:
        pool.blocks = every


def sglang_install(model: Any, named_tensors: Any) -> None:
    """Give SGLang's scheduler, in whose process this runs, the call `rollbench(request, reply)`; `reply` is a path,
    less the rank, for what it returns, since such calls return nothing."""
    from sglang.srt.managers.scheduler import Scheduler

    def rollbench(self: Any, request: Request, reply: str) -> None:
        import torch

        runner, rank = self.tp_worker.model_runner, torch.distributed.get_rank()
        if not hasattr(self, "_rollbench"):
            self._rollbench = Receiver(
                lambda: runner.model,
                lambda named: runner.model.load_weights(wrapped(runner.model, named)),
                lambda path: _read(runner, path),
                lambda: _flush(self),
                rank,
            )
            self._rollbench.place = lambda name: _place(runner.lora_manager, name)
            if torch.distributed.get_world_size() == 1:
                self._rollbench.listen = lambda path: shortcut.listen_in_loop(self, path, self._rollbench.answer)
        value = self._rollbench.answer(request)
        path = f"{reply}.{rank}"
        scratch = Path(f"{path}.{os.getpid()}")
        scratch.write_text(json.dumps(value))
        scratch.replace(path)

    Scheduler.rollbench = rollbench


def _flush(scheduler: Any) -> None:
    """SGLang's own, without giving the allocator's free memory back to the device."""
    if scheduler.flush_cache(empty_cache=False) is False:
        raise RuntimeError("SGLang did not flush its cache: requests are still running")


def _place(manager: Any, name: str) -> None:
    """Into SGLang's pool of adapters on the device, as the first batch with that adapter would."""
    manager.fetch_new_loras({number for number, adapter in manager.lora_refs.items() if adapter.lora_name == name})


def _read(runner: Any, path: str) -> None:
    """SGLang's update from disk, in its own process."""
    from safetensors import safe_open

    def named() -> Iterable[Any]:
        with safe_open(Path(path, "model.safetensors"), "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dictionary
                yield name, file.get_tensor(name)

    runner.model.load_weights(wrapped(runner.model, named()))
