"""What is measured: a module a scenario, each a frozen dataclass and its CASES."""

from harness.scenario import Options

# The main job, `nox -s bench-sglang bench-vllm`: small enough for a first look, the same on every engine.
MAIN_CPU = ("single_turn/tiny-16",)
MAIN_GPU = ("single_turn/0.5B-512",)

# One thread a process and no compilation: on few cores the engines' threads get in each other's way, and a CPU figure
# shows that all works, not how fast an engine is.
CPU = Options(
    dtype="float32", eager=True, multiprocessing=False, max_running=256, chunked_prefill=2048, kv_tokens=40_000
)
GPU = Options()
LONG = Options(max_model_len=32768)

HALF, SEVEN, SEVENTY = "Qwen2.5-0.5B", "Qwen2.5-7B", "Llama-3-70B"
