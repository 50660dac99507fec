"""The calls that SGLang's own ways of taking weights share: those of its tokenizer manager, as its server makes them.

A request flushes the prefix cache by itself, in the same call, so that its flush has no time of its own.
"""

from collections.abc import Sequence
from typing import Any


async def told(adapter: Any, name: str, request: Any) -> None:
    """Make a call. Raises RuntimeError with SGLang's words when it refuses."""
    success, message, *_ = await adapter.call(name, request, None)
    if not success:
        raise RuntimeError(f"SGLang refused {name}: {message}")


def serialized(value: Any) -> bytes:
    """What SGLang's serialiser makes of tensors: handles on a GPU's memory, or on shared memory that torch moves a
    CPU's tensors to. Those go by name, since a passed descriptor needs a parent that both processes have; and SGLang's
    patch, which names GPUs by their identifiers, must not see them."""
    import torch
    from sglang.srt.utils import MultiprocessingSerializer
    from sglang.srt.utils.patch_torch import monkey_patch_torch_reductions

    if torch.cuda.is_available():
        monkey_patch_torch_reductions()
    else:
        torch.multiprocessing.set_sharing_strategy("file_system")
    found: bytes = MultiprocessingSerializer.serialize(value)
    return found


async def update_from_tensor(adapter: Any, each: Sequence[bytes], load_format: str | None, flush: bool) -> None:
    """`update_weights_from_tensor` of what `serialized` made, once for each rank."""
    from sglang.srt.managers.io_struct import UpdateWeightsFromTensorReqInput

    request = UpdateWeightsFromTensorReqInput(
        serialized_named_tensors=list(each), load_format=load_format, flush_cache=flush
    )  # fmt: skip
    await told(adapter, "update_weights_from_tensor", request)
