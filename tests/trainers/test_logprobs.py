"""Chunked log-probabilities: equal to the plain computation, and never the whole logits in memory."""

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.trainers.cases import Case, cases
from trainers.batch import packed
from trainers.logprobs import before, logprobs, logprobs_and_entropy, spread

N, D, V = 37, 8, 53


def plain(hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    log_p_NV = (hidden_ND @ head_VD.T / temperature).log_softmax(-1)
    entropy_N = -(log_p_NV.exp() * log_p_NV).sum(-1)
    return log_p_NV.gather(1, target_N[:, None])[:, 0], entropy_N


def inputs(dtype: torch.dtype = torch.float64, n: int = N, v: int = V, d: int = D) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden_ND, head_VD = (torch.randn(size, d, generator=random).to(dtype).requires_grad_() for size in (n, v))
    return hidden_ND, head_VD, torch.randint(v, (n,), generator=random)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(chunk=st.integers(1, 50), temperature=st.sampled_from([1.0, 0.3, 2.0]))
def test_equal_to_the_plain_computation(dtype: torch.dtype, chunk: int, temperature: float) -> None:
    """Values and gradients, to a few units of the last place of a sum over the vocabulary."""
    near = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    hidden_ND, head_VD, target_N = inputs(dtype)
    expected = plain(hidden_ND, head_VD, target_N, temperature)
    found = logprobs_and_entropy(hidden_ND, head_VD, target_N, temperature=temperature, chunk=chunk)
    alone_N = logprobs(hidden_ND, head_VD, target_N, temperature=temperature, chunk=chunk)
    scale_N = torch.linspace(-1, 1, N, dtype=dtype)
    for mine, its in zip((*found, alone_N), (*expected, expected[0]), strict=True):
        assert torch.allclose(mine, its, atol=near)
        gradients = (
            torch.autograd.grad((one * scale_N).sum(), (hidden_ND, head_VD), retain_graph=True) for one in (mine, its)
        )
        for my_gradient, its_gradient in zip(*gradients, strict=True):
            assert torch.allclose(my_gradient, its_gradient, atol=30 * near)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients(temperature: float) -> None:
    hidden_ND, head_VD, target_N = inputs(n=7, v=11)

    def both(hidden_ND: Tensor, head_VD: Tensor) -> tuple[Tensor, Tensor]:
        return logprobs_and_entropy(hidden_ND, head_VD, target_N, temperature=temperature, chunk=3)

    assert torch.autograd.gradcheck(both, (hidden_ND, head_VD))
    assert torch.autograd.gradcheck(lambda h, w: logprobs(h, w, target_N, chunk=3), (hidden_ND, head_VD))


def test_a_frozen_head_and_frozen_hidden_states_get_no_gradient() -> None:
    hidden_ND, head_VD, target_N = inputs()
    logprobs(hidden_ND, head_VD.detach(), target_N).sum().backward()
    assert hidden_ND.grad is not None
    logprobs(hidden_ND.detach(), head_VD, target_N).sum().backward()
    assert head_VD.grad is not None


def test_the_heads_gradient_is_summed_in_float32() -> None:
    """In bfloat16 a sum of 512 chunks would stop growing: 512 equal tokens give what one gives, times 512."""
    hidden_ND, head_VD, target_N = inputs(torch.bfloat16, n=1, v=5)
    (one_VD,) = torch.autograd.grad(logprobs(hidden_ND, head_VD, target_N).sum(), head_VD)
    many = logprobs(hidden_ND.detach().expand(512, D), head_VD, target_N.expand(512), chunk=1)
    (sum_VD,) = torch.autograd.grad(many.sum(), head_VD)
    assert torch.equal(sum_VD, one_VD * 512)
    assert many.dtype == torch.float32


def test_a_logit_of_minus_infinity_leaves_the_entropy_finite() -> None:
    head_VD = torch.tensor([[1.0], [2.0], [float("-inf")]]).requires_grad_()
    hidden_ND = torch.ones(1, 1)
    logp_N, entropy_N = logprobs_and_entropy(hidden_ND, head_VD, torch.tensor([1]))
    expected = torch.distributions.Categorical(logits=torch.tensor([1.0, 2.0])).entropy()
    assert entropy_N.tolist() == pytest.approx([float(expected)])
    (gradient_VD,) = torch.autograd.grad((5 * entropy_N + logp_N).sum(), head_VD)
    assert bool(gradient_VD[:2].isfinite().all())


class Memory(TorchDispatchMode):
    """The largest tensor that any operation made, and the most bytes that were alive at once of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self.seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.alive += size
            self.peak = max(self.peak, self.alive)
            self.seen[key] = weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.alive -= size
        self.seen.pop(key, None)


def memory_of(computation: Any, n: int, v: int, d: int) -> Memory:
    hidden_ND, head_VD, target_N = inputs(torch.float32, n, v, d)
    with Memory() as memory:
        logp_N, entropy_N = computation(hidden_ND, head_VD, target_N)
        (logp_N + entropy_N).sum().backward()
    assert hidden_ND.grad is not None
    return memory


def test_the_whole_logits_never_stand_in_memory() -> None:
    """512 tokens, a vocabulary of 4096, chunks of 32: forward and backward, beside the plain computation's."""
    n, v, d, chunk = 512, 4096, 16, 32
    ours = memory_of(lambda h, w, t: logprobs_and_entropy(h, w, t, chunk=chunk), n, v, d)
    theirs = memory_of(plain, n, v, d)
    assert theirs.largest == n * v
    assert theirs.peak > 3 * 4 * n * v
    assert ours.largest == chunk * v
    fixed = 4 * (2 * v * d + 2 * n * d + 8 * n)  # gradients (of a chunk and of all), and what is one number a token
    assert ours.peak < 3 * 4 * chunk * v + fixed
    twice = memory_of(lambda h, w, t: logprobs_and_entropy(h, w, t, chunk=chunk), 2 * n, v, d)
    assert twice.largest == ours.largest
    assert twice.peak - ours.peak <= 4 * n * (2 * d + 8)


@given(cases())
def test_hidden_states_and_values_find_their_tokens(case: Case) -> None:
    mask_BT = case.batch.mask_BT
    place_BT1 = torch.arange(mask_BT.shape[1]).expand_as(mask_BT)[..., None]
    place_N = before(place_BT1, mask_BT)[:, 0]
    assert torch.equal(place_N + 1, mask_BT.nonzero()[:, 1])
    own_N = case.new_BT[mask_BT]
    assert torch.equal(spread(own_N, mask_BT), case.new_BT.masked_fill(~mask_BT, 0))


@pytest.mark.parametrize("shape", ["Qwen2", "Llama"])
def test_a_model_gives_the_same_padded_and_packed_as_its_own_logits(shape: str) -> None:
    """A causal LM of Hugging Face: by its logits, by hidden states of padded rows, and by those of one packed row."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{shape}Config")(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = getattr(transformers, f"{shape}ForCausalLM")(config).double().eval()
    batch = cases_example()
    mask_BT, target_N = batch.mask_BT, batch.tokens_BT[batch.mask_BT]
    padded = {"input_ids": batch.tokens_BT, "attention_mask": batch.valid_BT.long()}
    with torch.no_grad():
        logits_BTV = model(**padded).logits
        hidden_BTD = model.model(**padded).last_hidden_state
        row = packed(batch)
        alone = {"input_ids": row.tokens_1N, "position_ids": row.position_1N, "use_cache": False}
        hidden_1ND = model.model(**alone).last_hidden_state
    expected_BT = logits_BTV[:, :-1].log_softmax(-1).gather(2, batch.tokens_BT[:, 1:, None])[..., 0]
    expected_N = expected_BT[mask_BT[:, 1:]]
    head_VD = model.lm_head.weight
    assert torch.allclose(logprobs(before(hidden_BTD, mask_BT), head_VD, target_N), expected_N)
    assert torch.allclose(logprobs(before(hidden_1ND, row.mask_1N), head_VD, target_N), expected_N)


def cases_example() -> Any:
    from trainers.batch import build

    return build(
        [[3, 4, 5], [6], [7, 8]], [[9, 10, 1], [11, 12, 13, 14, 1], [2, 3]], None, [0, 0, 0], [0, 0, 0],
        ended=[True] * 3, limit=8, own=[[True] * 3, [True, False, False, True, True], [True] * 2],
    )  # fmt: skip
