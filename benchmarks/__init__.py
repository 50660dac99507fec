"""What is measured: a module a scenario, each a frozen dataclass and its CASES."""

# The main job, `nox -s bench-sglang bench-vllm`: small enough for a first look, the same on every engine.
MAIN_CPU = ("single_turn/tiny-16",)
MAIN_GPU = ("single_turn/0.5B-512",)
