"""Every mistake is found in an example of it, and not where it is mended."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import cards, memory
from harness.cards import CARDS, Card
from harness.mistakes import MISTAKES, check
from harness.shapes import SHAPES, tensors
from harness.skyrl import parse
from harness.store import load
from tests.commands import rollbench
from tests.test_migrate import GUIDE, blocks

H100, ADA, T4 = (cards.named(name) for name in ("H100", "4090", "T4"))
HALF, HUGE = "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-72B-Instruct"


def yaml(backend: str, *lines: str) -> str:
    """Keys of generator (`max_turns: 1`), and others by their sections (`trainer.strategy: fsdp`)."""
    tree: dict[str, object] = {"generator": {"backend": backend}}
    for line in lines:
        name, value = line.split(": ", 1)
        *sections, last = (name if name.startswith("trainer.") else f"generator.{name}").split(".")
        at = tree
        for section in sections:
            at = at.setdefault(section, {})  # type: ignore[assignment]
        at[last] = json.loads(value)
    return json.dumps(tree, indent=1)


FA3, FLASHINFER = (f'engine_init_kwargs.attention_backend: "{name}"' for name in ("fa3", "flashinfer"))
APART, TURNS = "run_engines_locally: false", "use_conversation_multi_turn: "
PATH, POLICY = "trainer.policy.model.path: ", "trainer.placement.policy_num_gpus_per_node: "
RANK, TENSOR = "trainer.policy.model.lora.rank: ", "inference_engine_tensor_parallel_size: "
EXAMPLES = [  # words of the mistake, the GPU, the mistake, and what mends it
    ("runs vLLM only", None, "generator:\n  inference_engine:\n    backend: sglang\n",
     "generator:\n  inference_engine:\n    backend: vllm\n"),
    ("multi_turn=False", None, yaml("sglang", TURNS + "false"), yaml("sglang", TURNS + "true")),
    ("SM>=80 and SM<=90", T4, yaml("sglang", FA3), yaml("sglang", FLASHINFER)),
    ("SM>=80 and SM<=90: B200 has SM 100 (SkyRL", cards.named("b200"), yaml("sglang"), yaml("sglang", FLASHINFER)),
    ("the guide says that fa3", ADA, yaml("sglang", FA3), yaml("sglang", FLASHINFER)),
    ("refuses a second one", None, yaml("sglang", FLASHINFER), yaml("sglang", FLASHINFER, APART)),
    ("tensor parallel inference", None, yaml("sglang", TENSOR + "2"), yaml("sglang", TENSOR + "1")),
    ("LoRA enabled requires vLLM", None, yaml("sglang", RANK + "8"), yaml("vllm", RANK + "8")),
    ("only vllm is supported", None, yaml("sglang", 'trainer.strategy: "megatron"'),
     yaml("sglang", 'trainer.strategy: "fsdp2"')),
    ("eval_sampling_params.stop", None, yaml("sglang", 'eval_sampling_params.stop: ["x"]'),
     yaml("sglang", "eval_sampling_params.stop: null")),
    ("enable_http_endpoint", None, yaml("sglang", "enable_http_endpoint: true"),
     yaml("sglang", "enable_http_endpoint: false")),
    ("off_policy_correction", None, yaml("sglang", 'trainer.algorithm.off_policy_correction.tis_ratio_type: "token"'),
     yaml("vllm", 'trainer.algorithm.off_policy_correction.tis_ratio_type: "token"')),
    ("no effect on SGLang: enforce_eager", None, yaml("sglang", "enforce_eager: true"), yaml("sglang")),
    ("may hang", None, yaml("vllm", "vllm_v1_disable_multiproc: false"),
     yaml("vllm", "vllm_v1_disable_multiproc: true")),
    ("no effect in SkyRL of today", None, "generator:\n  inference_engine:\n    vllm_v1_disable_multiproc: true\n",
     "generator:\n  inference_engine:\n    enforce_eager: false\n"),
    ("2-3x slower", None, yaml("vllm", RANK + "8", "enforce_eager: true"), yaml("vllm", RANK + "8")),
    ("at least 1", None, yaml("vllm", TENSOR + "0"), yaml("vllm", TENSOR + "1")),
    ("above 0 and at most 1", None, yaml("vllm", "gpu_memory_utilization: 80"),
     yaml("vllm", "gpu_memory_utilization: 0.8")),
    ("little is left", None, yaml("vllm", "gpu_memory_utilization: 0.95"), yaml("vllm", "gpu_memory_utilization: 0.9")),
    ("num_policy_gpus (8), num_rollout_gpus (4)", None, yaml("vllm", POLICY + "8", TENSOR + "4"),
     yaml("vllm", POLICY + "8", TENSOR + "4", "num_inference_engines: 2")),
    ("weights cannot fit: 135.4 GiB of weights on each of 1", H100, yaml("vllm", f'{PATH}"{HUGE}"', RANK + "8"),
     yaml("vllm", f'{PATH}"{HUGE}"', RANK + "8", TENSOR + "4")),
    ("room for 66,392 tokens", Card("small", 90, 3),
     yaml("vllm", f'{PATH}"{HALF}"', "gpu_memory_utilization: 0.56", RANK + "8",
          "sampling_params.max_generate_length: 100000"), yaml("vllm", f'{PATH}"{HALF}"', RANK + "8")),
    ("trainer cannot fit: 135.4 GiB on each of 8", H100, yaml("vllm", f'{PATH}"{HUGE}"', TENSOR + "8", POLICY + "8"),
     yaml("vllm", f'{PATH}"{HUGE}"', TENSOR + "8", "trainer.policy.fsdp_config.cpu_offload: true")),
]  # fmt: skip


@pytest.mark.parametrize(("words", "card", "wrong", "right"), EXAMPLES, ids=[row[0] for row in EXAMPLES])
def test_a_mistake_is_found_and_gone_when_mended(words: str, card: Card | None, wrong: str, right: str) -> None:
    said = [one.words for one in check(parse(wrong), card)]
    assert any(words in text for text in said), said
    assert not [one.words for one in check(parse(right), card) if words in one.words]


def test_every_row_has_an_example() -> None:
    met = {one.words.split(": ")[0] for _, card, wrong, _ in EXAMPLES for one in check(parse(wrong), card)}
    assert {row.words.split(": ")[0] for row in MISTAKES} == met


@pytest.mark.parametrize("text", blocks())
@pytest.mark.parametrize("card", [None, H100, ADA])
def test_blocks_of_the_guide_can_run(text: str, card: Card | None) -> None:
    assert not [one for one in check(parse(text), card) if one.level == "error"]


@pytest.mark.parametrize("line", ['engine_init_kwargs.quantization: "fp8"', "inference_engine_expert_parallel_size: 8"])
def test_weights_that_the_formula_does_not_know_are_not_judged(line: str) -> None:
    text = yaml("vllm", f'{PATH}"{HUGE}"', RANK + "8", line)
    assert not list(check(parse(text), H100))


def test_what_the_guide_mends_is_a_warning_of_ours() -> None:
    (one,) = check(parse((GUIDE / "vllm.yaml").read_text()), H100)
    assert (one.level, one.line, one.fix) == ("warning", 9, "vllm_v1_disable_multiproc: true")


def test_check_shows_line_and_fix_and_ends_1_for_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("generator:\n  backend: sglang\n  use_conversation_multi_turn: false\n")
    done = rollbench("check", str(file), "--gpu", "RTX 3090")
    assert done.returncode == 1
    assert f"error    {file}: line 3: generator.use_conversation_multi_turn: `use_" in done.stdout
    assert "         fix: use_conversation_multi_turn: true\n" in done.stdout
    assert f"{file}: sglang on RTX 3090: 1 error(s), 1 warning(s)" in done.stdout
    assert "memory is not judged" in done.stdout
    file.write_text("generator:\n  backend: sglang\n")
    assert rollbench("check", str(file)).returncode == 0
    assert "did you mean RTX 4090?" in rollbench("check", str(file), "--gpu", "RTX 4091").stderr


def test_weights_are_those_of_the_checkpoint() -> None:
    counted = {name: memory.parameters(tensors(shape)) for name, shape in SHAPES.items()}
    assert counted["Qwen2.5-0.5B"] == 494_032_768  # as Hugging Face counts them
    assert counted["Llama-3-8B"] == 8_030_261_248
    assert memory.weights(SHAPES["Llama-3-8B"], gpus=2) == counted["Llama-3-8B"]
    assert memory.kv_token(SHAPES["Qwen2.5-7B"]) == 57344
    assert memory.kv_token(SHAPES["Qwen2.5-7B"], tensor=8) == 57344 / 4  # four heads: two GPUs hold each
    assert memory.kv_token(SHAPES["Qwen2.5-7B"], tensor=2, pipeline=4) == 57344 / 8


def test_a_trainer_takes_what_its_docs_say() -> None:
    assert sum(memory.training(1000).values()) == 18_000
    assert sum(memory.training(1000, reference=True, critic=True).values()) == 38_000
    assert sum(memory.training(1000, gpus=4, sent=0).values()) == 4000
    assert sum(memory.training(1000, adapter=10).values()) == 2160


@pytest.mark.parametrize(
    ("case", "over"), [("single_turn/0.5B-512", 0.02), ("weight_sync/0.5B-ipc", 0.02), ("weight_sync/7B-ipc", 0.10)]
)
def test_the_cache_is_as_large_as_measured(case: str, over: float) -> None:
    """vLLM's own count of blocks on an H100 (79.2 GiB as torch shows it), in the tracked records; what a batch's
    activations take is not counted."""
    paths = [*Path("results/1x-nvidia-h100-80gb-hbm3", case).glob("vllm-*.json")]
    for record in map(load, paths):
        measured = record.flags["num_gpu_blocks"] * record.flags["block_size"]
        shape = SHAPES[record.params["model"]]
        told = memory.kv_tokens(shape, 79.2 * memory.GIB, record.options["memory_fraction"])
        assert 1 <= told / measured < 1 + over
    assert paths


def test_a_trainer_is_as_large_as_measured() -> None:
    """What torch had allocated on an H100 while a trainer rested behind its step (docs/config.md)."""
    for size, reference, critic, measured in [
        ("0.5B", True, False, 9.3), ("0.5B", True, True, 17.6), ("1.5B", True, False, 28.8), ("1.5B", True, True, 54.8),
    ]:  # fmt: skip
        count = memory.parameters(tensors(SHAPES[f"Qwen2.5-{size}"]))
        told = sum(memory.training(count, reference=reference, critic=critic).values()) / memory.GIB
        assert told == pytest.approx(measured, rel=0.015)


def test_what_a_batch_needs_is_estimated() -> None:
    """The peak of forward and backward passes there, over what the trainer holds at rest."""
    for size, tokens, checkpointing, measured, off in [
        ("0.5B", 8192, False, 22.7 - 9.3, 0.06), ("1.5B", 8192, False, 47.8 - 28.8, 0.30),
        ("1.5B", 16384, False, 63.6 - 28.9, 0.30), ("1.5B", 8192, True, 58.7 - 54.8, 0.20),
    ]:  # fmt: skip
        shape = SHAPES[f"Qwen2.5-{size}"]
        told = memory.activations(shape, tokens, checkpointing) + memory.logits(shape, 4096, fused=True)
        assert told / memory.GIB == pytest.approx(measured, rel=off)


def test_the_gpu_of_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nvml:
        nvmlDeviceGetCudaComputeCapability = staticmethod(lambda _: (8, 6))
        nvmlDeviceGetName = staticmethod(lambda _: "NVIDIA GeForce RTX 3090")
        nvmlDeviceGetMemoryInfo = staticmethod(lambda _: SimpleNamespace(total=24 << 30))

    monkeypatch.setattr(cards, "nvml", lambda: nullcontext(Nvml))
    monkeypatch.setattr(cards, "handles", lambda _: [])
    assert cards.here() is None
    monkeypatch.setattr(cards, "handles", lambda _: ["first", "second"])
    assert cards.here() == Card("NVIDIA GeForce RTX 3090", 86, 24)


def test_models_are_known_by_their_hubs_names() -> None:
    assert memory.ours("meta-llama/Meta-Llama-3-8B-Instruct") == "Llama-3-8B"
    assert memory.shape(HALF) is SHAPES["Qwen2.5-0.5B"]
    assert memory.shape("someone/else") is memory.shape("/no/folder") is None
    assert all(card.sm >= 70 and card.gib >= 16 for card in CARDS)
