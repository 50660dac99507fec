"""The equivalence table: what each neutral option is to vLLM and to SGLang, on a CPU and on a GPU."""

from dataclasses import fields
from typing import Any

import pytest

from benchmarks import CPU, GPU
from harness.scenario import Options
from harness.worker import options as table
from harness.worker.engines.sglang import SGLang
from harness.worker.engines.vllm import VLLM

ADAPTERS: dict[str, type[VLLM | SGLang]] = {"vllm": VLLM, "sglang": SGLang}
EVERYWHERE = [(engine, device) for engine in ADAPTERS for device in ("cpu", "cuda")]
APART = {"threads", "native", "multiprocessing", "kv_tokens"}  # no row: variables, overrides, and a rule of its own
VALUES = {  # of each option with a row: one that is not the default
    "dtype": "float16", "seed": 7, "max_model_len": 1234, "max_running": 17, "chunked_prefill": 999, "graph_batch": 33,
    "eager": True, "prefix_caching": False, "memory_fraction": 0.33, "sleep": True, "kv_dtype": "fp8",
    "attention": "triton", "tensor_parallel": 2,
}  # fmt: skip


def flags(engine: str, device: str, **changes: Any) -> dict[str, Any]:
    """From the table alone."""
    return table.flags(engine, Options(**changes).of(engine), device)


def adapter_flags(engine: str, device: str, options: Options) -> dict[str, Any]:
    """All that the engine is started with."""
    return ADAPTERS[engine].flags("auto", options.of(engine), device)


def test_every_neutral_option_has_a_row() -> None:
    assert table.ROWS.keys() == {f.name for f in fields(Options)} - APART == VALUES.keys()
    assert all(row.meaning for row in table.ROWS.values())
    assert {row.device for row in table.ROWS.values()} <= {"", "cuda"}


@pytest.mark.parametrize(("engine", "device"), EVERYWHERE)
@pytest.mark.parametrize("name", VALUES)
def test_an_option_says_something_to_each_engine_where_it_has_an_effect(name: str, engine: str, device: str) -> None:
    changed = flags(engine, device, **{name: VALUES[name]}) != flags(engine, device)
    assert changed == (table.ROWS[name].device in ("", device))


@pytest.mark.parametrize(
    ("engine", "device", "expected"),
    [
        ("vllm", "cpu", {
            "dtype": "bfloat16", "seed": 0, "max_model_len": 4096, "max_num_seqs": 512, "max_num_batched_tokens": 8192,
            "enable_chunked_prefill": True, "enforce_eager": False, "enable_prefix_caching": True,
        }),
        ("vllm", "cuda", {
            "dtype": "bfloat16", "seed": 0, "max_model_len": 4096, "max_num_seqs": 512, "max_num_batched_tokens": 8192,
            "enable_chunked_prefill": True, "enforce_eager": False, "enable_prefix_caching": True,
            "max_cudagraph_capture_size": 512, "gpu_memory_utilization": 0.8,
        }),
        ("sglang", "cpu", {
            "dtype": "bfloat16", "random_seed": 0, "context_length": 4096, "max_running_requests": 512,
            "chunked_prefill_size": 8192, "max_prefill_tokens": 8192, "disable_radix_cache": False,
        }),
        ("sglang", "cuda", {
            "dtype": "bfloat16", "random_seed": 0, "context_length": 4096, "max_running_requests": 512,
            "chunked_prefill_size": 8192, "max_prefill_tokens": 8192, "disable_radix_cache": False,
            "cuda_graph_max_bs_decode": 512, "mem_fraction_static": 0.8,
        }),
    ],
)  # fmt: skip
def test_the_defaults_in_each_engines_words(engine: str, device: str, expected: dict[str, Any]) -> None:
    assert flags(engine, device) == expected


@pytest.mark.parametrize(
    ("changes", "vllm", "sglang"),
    [
        ({"dtype": "float16"}, {"dtype": "float16"}, {"dtype": "float16"}),
        ({"seed": 7}, {"seed": 7}, {"random_seed": 7}),
        ({"max_model_len": 99}, {"max_model_len": 99}, {"context_length": 99}),
        ({"max_running": 17}, {"max_num_seqs": 17}, {"max_running_requests": 17}),
        ({"chunked_prefill": 64}, {"max_num_batched_tokens": 64, "enable_chunked_prefill": True},
         {"chunked_prefill_size": 64, "max_prefill_tokens": 64}),
        ({"graph_batch": 33}, {"max_cudagraph_capture_size": 33}, {"cuda_graph_max_bs_decode": 33}),
        ({"eager": True}, {"enforce_eager": True}, {"disable_cuda_graph": True}),
        ({"prefix_caching": False}, {"enable_prefix_caching": False}, {"disable_radix_cache": True}),
        ({"memory_fraction": 0.5}, {"gpu_memory_utilization": 0.5}, {"mem_fraction_static": 0.5}),
        ({"kv_dtype": "fp8"}, {"kv_cache_dtype": "fp8_e4m3"}, {"kv_cache_dtype": "fp8_e4m3"}),
        ({"kv_dtype": "bfloat16"}, {"kv_cache_dtype": "bfloat16"}, {"kv_cache_dtype": "bf16"}),
        ({"attention": "fa3"}, {"attention_backend": "FLASH_ATTN"}, {"attention_backend": "fa3"}),
        ({"attention": "flashinfer"}, {"attention_backend": "FLASHINFER"}, {"attention_backend": "flashinfer"}),
        ({"attention": "triton"}, {"attention_backend": "TRITON_ATTN"}, {"attention_backend": "triton"}),
    ],
)  # fmt: skip
def test_one_word_says_the_same_to_both(changes: Any, vllm: dict[str, Any], sglang: dict[str, Any]) -> None:
    assert vllm.items() <= flags("vllm", "cuda", **changes).items()
    assert sglang.items() <= flags("sglang", "cuda", **changes).items()


def test_without_graphs_no_batch_is_in_one() -> None:
    assert "max_cudagraph_capture_size" not in flags("vllm", "cuda", eager=True)
    assert "cuda_graph_max_bs_decode" not in flags("sglang", "cuda", eager=True)


def test_a_cache_of_so_many_tokens_is_counted_in_blocks_by_vllm() -> None:
    assert {"num_gpu_blocks_override": 63, "block_size": 16}.items() <= flags("vllm", "cuda", kv_tokens=1000).items()
    assert {"num_gpu_blocks_override": 8, "block_size": 128}.items() <= flags("vllm", "cpu", kv_tokens=1000).items()
    assert flags("vllm", "cpu", kv_tokens=1)["num_gpu_blocks_override"] == 1
    for device in ("cpu", "cuda"):
        assert flags("sglang", device, kv_tokens=1000)["max_total_tokens"] == 1000
        assert not {"max_total_tokens", "num_gpu_blocks_override"} & {
            *flags("sglang", device), *flags("vllm", device)
        }  # fmt: skip


@pytest.mark.parametrize(("engine", "device"), EVERYWHERE)
def test_auto_leaves_the_choice_to_the_engine(engine: str, device: str) -> None:
    assert not {"attention_backend", "kv_cache_dtype"} & flags(engine, device).keys()


@pytest.mark.parametrize("value", ["fa2", "FLASH_ATTN", ""])
def test_a_backend_that_is_none_is_refused(value: str) -> None:
    for engine in ADAPTERS:
        with pytest.raises(KeyError):
            flags(engine, "cuda", attention=value)


@pytest.mark.parametrize(("engine", "device"), EVERYWHERE)
def test_an_adapter_passes_the_whole_table_on(engine: str, device: str) -> None:
    """So that no flag of its own hides one that a case has set."""
    options = Options(**VALUES, kv_tokens=5000)
    assert table.flags(engine, options.of(engine), device).items() <= adapter_flags(engine, device, options).items()


@pytest.mark.parametrize(("engine", "device"), EVERYWHERE)
def test_a_native_flag_is_over_all_others(engine: str, device: str) -> None:
    own = {"dtype": "float64", "load_format": "pt", "attention_backend": "MINE", "brand_new": 1}
    found = adapter_flags(engine, device, Options(attention="triton", native={engine: own, "fake": {"dtype": "x"}}))
    assert own.items() <= found.items()
    assert adapter_flags(engine, device, Options())["load_format"] == "auto"


@pytest.mark.parametrize("neutral", ["fa3", "flashinfer", "triton", "torch-native"])
def test_an_adapter_starts_its_engine_with_the_attention_asked_for_on_a_gpu_alone(neutral: str) -> None:
    options = Options(attention=neutral)
    for place, engine in enumerate(ADAPTERS):
        assert adapter_flags(engine, "cuda", options)["attention_backend"] == table.ATTENTION[neutral][place]
        assert "attention_backend" not in adapter_flags(engine, "cuda", GPU)
    assert "attention_backend" not in adapter_flags("vllm", "cpu", options)
    assert adapter_flags("sglang", "cpu", options)["attention_backend"] == "torch_native"


@pytest.mark.parametrize(("engine", "device"), EVERYWHERE)
def test_engines_get_token_ids_and_no_tokenizer(engine: str, device: str) -> None:
    assert adapter_flags(engine, device, CPU if device == "cpu" else GPU)["skip_tokenizer_init"] is True


@pytest.mark.parametrize("apart", [True, False])
def test_vllms_process_is_a_variable(apart: bool) -> None:
    for device in ("cpu", "cuda"):
        found = VLLM.environment(Options(multiprocessing=apart).of("vllm"), device)
        assert found["VLLM_ENABLE_V1_MULTIPROCESSING"] == str(int(apart))
        assert all(isinstance(value, str) for value in found.values())


def test_sglang_is_told_when_there_is_no_gpu() -> None:
    assert SGLang.environment(CPU.of("sglang"), "cpu") == {"SGLANG_USE_CPU_ENGINE": "1"}
    assert SGLang.environment(GPU.of("sglang"), "cuda") == {}
    assert adapter_flags("sglang", "cpu", CPU)["device"] == "cpu"
    assert "device" not in adapter_flags("sglang", "cuda", GPU)
