"""Work counted from a configuration, held against the weights of a model and against sums by hand."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import efficiency, models, shapes

CONFIG: dict[str, Any] = {  # 2 layers, q 8 wide, kv 4
    "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 12, "vocab_size": 10, "tie_word_embeddings": False,
}  # fmt: skip
MIXED = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 4}
MATRICES = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12  # of a layer
REQUESTS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 39), st.integers(1, 40)), max_size=5)


def config_of(name: str) -> dict[str, object]:
    return shapes.configuration(shapes.SHAPES[name])


@pytest.mark.parametrize("name", [n for n, shape in shapes.SHAPES.items() if shape.weights])
def test_parameters_are_those_of_the_weights(name: str) -> None:
    shape = shapes.SHAPES[name]
    weights = dict(models._weights(shape, np.random.default_rng(0)))
    assert efficiency.parameters(config_of(name)) == sum(array.size for array in weights.values())
    idle = [
        f".experts.{i}." for i in range(shape.active, shape.experts)
    ]  # as if each token went through the first ones
    matrices = [a.size for n, a in weights.items() if a.ndim == 2 and not any(x in n for x in ("embed", *idle))]
    assert efficiency.matmul_parameters(config_of(name)) == sum(matrices)


@pytest.mark.parametrize(
    ("name", "published"),  # sizes of the checkpoints on the hub
    [
        ("Qwen2.5-0.5B", 494_032_768), ("Qwen2.5-1.5B", 1_543_714_304), ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen2.5-72B", 72_706_203_648), ("Llama-3-8B", 8_030_261_248), ("Llama-3-70B", 70_553_706_496),
        ("Qwen3-30B-A3B", 30_532_122_624),
    ],
)  # fmt: skip
def test_parameters_of_published_models(name: str, published: int) -> None:
    assert efficiency.parameters(config_of(name)) == published
    assert sum(math.prod(size) for _, size in shapes.tensors(shapes.SHAPES[name])) == published


def test_a_token_goes_through_few_experts() -> None:
    """Published as 3.3 billion active parameters of 30.5, embedding and output among them."""
    config = config_of("Qwen3-30B-A3B")
    active = efficiency.matmul_parameters(config) + 151936 * 2048
    assert active == pytest.approx(3.3e9, rel=0.02)
    assert efficiency.flops(config, [1], [0], [1]) == 2 * efficiency.matmul_parameters(config) + 4 * 48 * 32 * 128


def test_bytes_of_a_mixture_depend_on_which_experts_are_chosen() -> None:
    with pytest.raises(ValueError, match="a mixture of experts: which of them a step reads is not known"):
        efficiency.bytes_read(config_of("tiny-moe"), [1], [1], 2)
    assert efficiency.unread(CONFIG) == ""


def test_a_tied_output_is_multiplied_with_and_biases_are_parameters() -> None:
    plain, tied = efficiency.parameters(CONFIG), CONFIG | {"tie_word_embeddings": True}
    assert efficiency.parameters(tied) == plain - 80
    assert efficiency.matmul_parameters(tied) == efficiency.matmul_parameters(CONFIG) == 2 * MATRICES + 80
    biased = CONFIG | {"attention_bias": True, "mlp_bias": True}
    assert efficiency.parameters(biased) == plain + 2 * (8 + 4 + 4 + 8 + 12 + 12 + 8)


@given(REQUESTS)
def test_flops_and_bytes_are_the_sums_over_tokens(requests: list[tuple[int, int, int]]) -> None:
    flops, cache = 0, 0
    for prompt, cached, output in requests:
        for position in range(cached % prompt + 1, prompt + output):  # the context of each token that is computed
            flops += 2 * 2 * MATRICES + 4 * 2 * 8 * position
            cache += 2 * 2 * 4 * position * (position > prompt)
        flops += output * 2 * 80
    prompt_B, cached_B, output_B = np.array(requests, np.int32).reshape(-1, 3).T
    assert efficiency.flops(CONFIG, prompt_B, cached_B % prompt_B, output_B) == flops
    weights = (efficiency.parameters(CONFIG) - 80) * max(output_B, default=0)
    assert efficiency.bytes_read(CONFIG, prompt_B, output_B, 2) == 2 * (weights + cache)


def test_training_goes_back_and_forth_over_what_learns() -> None:
    forward, head = efficiency.flops(CONFIG, [3, 5], [0, 0], [4, 2]), 2 * 80 * 6
    assert efficiency.training_flops(CONFIG, [3, 5], [4, 2]) == 3 * forward
    assert efficiency.training_flops(CONFIG, [3, 5], [4, 2], adapter=True) == 2 * forward
    assert efficiency.training_flops(CONFIG, [3, 5], [4, 2], critic=True) == 6 * forward - 3 * head


def test_steps_that_the_engine_counted() -> None:
    more = efficiency.bytes_read(CONFIG, [3], [2], 4, steps=5) - efficiency.bytes_read(CONFIG, [3], [2], 4)
    assert more == 4 * 3 * (efficiency.parameters(CONFIG) - 80)


def test_long_contexts_do_not_overflow() -> None:
    n = np.full(1000, 100_000, np.int32)
    assert efficiency.flops(CONFIG, n, 0 * n, n) > 1e14


def test_shares_of_the_peak() -> None:
    assert efficiency.mfu(989e12, 2.0, 989, gpus=2) == pytest.approx(0.25)
    assert efficiency.mbu(3350e9, 4.0, 3350) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_local_experts": 8}, r"a mixture of experts \(num_local_experts\)"),
        ({"model_type": "qwen3_moe", "num_experts": 8}, "config.json lacks num_experts_per_tok, moe_intermediate_size"),
        (MIXED | {"mlp_only_layers": [0]}, "a mixture of experts with dense layers between"),
        (MIXED | {"decoder_sparse_step": 2}, "a mixture of experts with dense layers between"),
        (MIXED | {"shared_expert_intermediate_size": 5}, "a mixture of experts with a shared one"),
        ({"model_type": "mistral"}, "model type mistral, not llama, qwen2, qwen3, qwen3_moe"),
        ({"hidden_size": None, "vocab_size": None}, "config.json lacks hidden_size, vocab_size"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_is_not_counted_says_why(change: dict[str, object], reason: str) -> None:
    assert efficiency.unsupported(CONFIG) == ""
    with pytest.raises(ValueError, match=reason):
        efficiency.parameters(CONFIG | change)
