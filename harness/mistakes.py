"""Mistakes in a SkyRL configuration, a row each: its test, what it comes to, and what to write instead.

Rows name where they come from: the guide (its section 7), SkyRL's own checks (skyrl_train/utils/utils.py of its tag
skyrl_train-v0.4.0, in its words), SGLang's, or arithmetic (harness/memory.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from harness import memory
from harness.cards import FA3, Card
from harness.memory import GIB
from harness.shapes import Shape, tensors
from harness.skyrl import Config
from harness.skyrl_keys import ALL, NEW

Level = Literal["error", "warning"]
KWARGS, TURNS, FRACTION = (
    f"generator.{name}" for name in ("engine_init_kwargs", "use_conversation_multi_turn", "gpu_memory_utilization")
)
ATTENTION, MODEL, LORA = f"{KWARGS}.attention_backend", "trainer.policy.model.path", "trainer.policy.model.lora.rank"
BACKEND, EAGER, CORE, HTTP = (
    f"generator.{name}" for name in ("backend", "enforce_eager", "vllm_v1_disable_multiproc", "enable_http_endpoint")
)
STRATEGY = "trainer.strategy"
TENSOR, PIPELINE, EXPERT = (
    f"generator.inference_engine_{name}_parallel_size" for name in ("tensor", "pipeline", "expert")
)
PLACE, ALGORITHM = "trainer.placement", "trainer.algorithm"
COUNTS = [
    name for name in ALL
    if name.endswith(("_parallel_size", "inference_engines", "_per_prompt", "_num_nodes", "gpus_per_node", "max_turns",
                      "max_generate_length", "mini_batch_size"))
]  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A configuration and the GPU that it is to run on (None: not known, and what depends on it is not judged)."""

    config: Config
    card: Card | None = None

    def __call__(self, name: str, default: Any = None) -> Any:
        return self.config.of(name, default)

    @property
    def sglang(self) -> bool:
        return self.config.backend == "sglang"

    @property
    def attention(self) -> str:
        """SkyRL v0.4.0 asks SGLang for fa3 where the file names no backend."""
        return str(self.config.kwargs.get("attention_backend", "fa3" if self.sglang else "")).lower()

    @property
    def engine_gpus(self) -> int:
        """Of one engine."""
        return self.count(TENSOR) * self.count(PIPELINE)

    @property
    def engines_gpus(self) -> int:
        """Of all engines together."""
        copies = self.count("generator.num_inference_engines")
        return self.engine_gpus * copies * self.count("generator.inference_engine_data_parallel_size")

    @property
    def trainer_gpus(self) -> int:
        """As stated, else as many as the engines have."""
        each, nodes = f"{PLACE}.policy_num_gpus_per_node", f"{PLACE}.policy_num_nodes"
        return self.count(each) * self.count(nodes) if self(each) else self.engines_gpus

    def count(self, name: str) -> int:
        return max(int(self(name, 1)), 1)

    @property
    def shape(self) -> Shape | None:
        return memory.shape(str(model)) if (model := self(MODEL) or self("generator.model_name")) else None

    @property
    def plain(self) -> bool:
        """Whether the formulas hold for the engine: whole weights of 2 bytes on its GPUs, a fraction in range."""
        apart = {"quantization", "cpu_offload_gb"} & self.config.kwargs.keys() or self.count(EXPERT) > 1
        return bool(self.card) and 0 < self(FRACTION, 0.8) <= 1 and not apart

    @property
    def total(self) -> float:
        return self.card.gib * GIB if self.card else 0.0


@dataclass(frozen=True)
class Mistake:
    """`test`: whether it is made, or in words what is. `key`: by the guide's name, whose line is shown."""

    level: Level
    key: str
    test: Callable[[Asked], bool | str]
    words: str
    fix: str


@dataclass(frozen=True)
class Found:
    level: Level
    line: int  # 0: the file does not state the key
    key: str
    words: str
    fix: str


def without_effect(asked: Asked) -> str:
    """vLLM's own keys in a file for SGLang."""
    paths = {asked.config.path(name): name for name, key in ALL.items() if key.backends == ("vllm",)}
    return ", ".join(path.rpartition(".")[2] for path in paths if path in asked.config.entries) if asked.sglang else ""


def fa3(asked: Asked, bad: Callable[[int], bool]) -> str:
    wrong = asked.sglang and asked.attention == "fa3" and asked.card is not None and bad(asked.card.sm)
    how = "" if asked.config.kwargs.get("attention_backend") else " (SkyRL v0.4.0 sets fa3 where nothing is said)"
    return f"{asked.card.name} has SM {asked.card.sm}{how}" if wrong and asked.card else ""


def weights(asked: Asked) -> str:
    """Weights alone beyond what the engine may take."""
    if not asked.plain or not asked.shape or not asked.card:
        return ""
    need, may = memory.weights(asked.shape, asked.engine_gpus), asked(FRACTION, 0.8) * asked.total
    told = f"{need / GIB:.1f} GiB of weights on each of {asked.engine_gpus} GPU(s)"
    return f"{told}, {may / GIB:.1f} GiB allowed of {asked.card.gib:.4g}" if need > may else ""


def cache(asked: Asked) -> str:
    """A cache that does not hold one request."""
    if not asked.plain or not asked.shape or weights(asked):
        return ""
    output = asked("generator.sampling_params.max_generate_length", 1024)
    length = int(asked("trainer.max_prompt_length", 512)) + int(output)
    dtype = "fp8" if "fp8" in str(asked.config.kwargs.get("kv_cache_dtype")) else "bfloat16"
    shares = asked.count(TENSOR), asked.count(PIPELINE)
    room = memory.kv_tokens(asked.shape, asked.total, asked(FRACTION, 0.8), *shares, dtype)
    return f"room for {max(room, 0):,.0f} tokens, one request may have {length:,}" if room < length else ""


def trainer(asked: Asked) -> str:
    """Masters, moments and gradients beyond the GPU."""
    offloads = asked("trainer.policy.fsdp_config.cpu_offload", False)
    if not asked.shape or not asked.card or offloads or asked(LORA, 0) or "trainer" not in asked.config.entries:
        return ""
    count = memory.parameters(tensors(asked.shape))
    need = sum(memory.training(count, asked.trainer_gpus, sent=0).values())
    told = f"{need / GIB:.1f} GiB on each of {asked.trainer_gpus} GPU(s) for masters, moments and gradients"
    return f"{told} (16 bytes a parameter), which has {asked.card.gib:.4g}" if need > asked.total else ""


def too_few(name: str) -> Mistake:
    """A count below 1."""
    return Mistake("error", name, lambda a: a(name, 1) < 1, "must be at least 1", f"{name.rpartition('.')[2]}: 1")


def beside(asked: Asked) -> str:
    """Unequal numbers of GPUs, where the file states both."""
    counted = asked(f"{PLACE}.policy_num_gpus_per_node") and asked(f"{PLACE}.colocate_all", True)
    differ = counted and asked.trainer_gpus != asked.engines_gpus
    return f"num_policy_gpus ({asked.trainer_gpus}), num_rollout_gpus ({asked.engines_gpus})" if differ else ""


def local(asked: Asked) -> bool:
    return asked.sglang and bool(asked("generator.run_engines_locally", True))


def stops(asked: Asked) -> bool:
    return asked.sglang and any(asked(f"generator.{part}sampling_params.stop") for part in ("", "eval_"))


def corrects(asked: Asked) -> bool:
    chosen = ("tis_ratio_type", "sequence_mask_metric")
    return asked.sglang and any(asked(f"{ALGORITHM}.off_policy_correction.{name}") for name in chosen)


FLASHINFER = "engine_init_kwargs: {attention_backend: flashinfer}"
MISTAKES = (
    # SkyRL and SGLang
    Mistake("error", BACKEND, lambda a: a.sglang and a.config.layout == NEW,
            "SkyRL of today runs vLLM only: SGLang was removed (its #1220, 2026-02-26)",
            "backend: vllm, or SkyRL at its tag skyrl_train-v0.4.0, whose keys have the guide's names"),
    Mistake("error", TURNS, lambda a: a.sglang and a(TURNS, True) is False,
            "`use_conversation_multi_turn=False` is not supported for SGLang backend",
            "use_conversation_multi_turn: true"),
    Mistake("error", ATTENTION, lambda a: fa3(a, lambda sm: sm not in FA3),
            "FlashAttention v3 Backend requires SM>=80 and SM<=90", FLASHINFER),
    Mistake("warning", ATTENTION, lambda a: fa3(a, lambda sm: 80 < sm < 90),
            "the guide says that fa3 does not run on this GPU (SGLang's own check lets it pass)", FLASHINFER),
    Mistake("warning", ATTENTION, lambda a: local(a) and "attention_backend" in a.config.kwargs,
            "SkyRL v0.4.0 hands a local SGLang attention_backend=fa3 itself, so that Python refuses a second one",
            "remove SkyRL's own from skyrl_train/inference_engines/ray_wrapped_inference_engine.py"),
    Mistake("error", TENSOR, lambda a: local(a) and a(TENSOR, 1) > 1,
            "We do not support tensor parallel inference engine with SGLang when running engines locally",
            "inference_engine_tensor_parallel_size: 1"),
    Mistake("error", LORA, lambda a: a.sglang and a(LORA, 0) > 0,
            "LoRA enabled requires vLLM backend", "backend: vllm"),
    Mistake("error", STRATEGY, lambda a: a.sglang and a(STRATEGY) == "megatron",
            "only vllm is supported for with megatron", "strategy: fsdp2"),
    Mistake("error", "generator.sampling_params.stop", stops,
            "`sampling_params.stop` and `eval_sampling_params.stop` are not supported for SGLang backend",
            "stop: null"),
    Mistake("error", HTTP, lambda a: a.sglang and a(HTTP, False),
            "generator.enable_http_endpoint is not supported for SGLang backend yet", "enable_http_endpoint: false"),
    Mistake("error", f"{ALGORITHM}.off_policy_correction", corrects,
            "`trainer.algorithm.off_policy_correction` doesn't support Sglang backend", "backend: vllm"),
    Mistake("warning", BACKEND, without_effect,
            "no effect on SGLang", "remove them, or `rollbench migrate --to vllm`"),
    # vLLM
    Mistake("warning", CORE, lambda a: not a.sglang and a.config.layout != NEW and a(CORE) is False,
            "vLLM's workers may hang during initialization (the guide, section 7)", "vllm_v1_disable_multiproc: true"),
    Mistake("warning", CORE, lambda a: a.config.layout == NEW and a(CORE) is not None,
            "no effect in SkyRL of today", "remove it"),
    Mistake("warning", EAGER, lambda a: not a.sglang and a(EAGER, False) and a(LORA, 0) > 0,
            "with LoRA 2-3x slower generation (SkyRL's words; v0.4.0 turns it off)", "enforce_eager: false"),
    # memory and GPUs
    *map(too_few, COUNTS),
    Mistake("error", FRACTION, lambda a: not 0 < a(FRACTION, 0.8) <= 1,
            "a share of the GPU is above 0 and at most 1", "gpu_memory_utilization: 0.8"),
    Mistake("warning", FRACTION, lambda a: 0.9 < a(FRACTION, 0.8) <= 1,
            "little is left for activations and CUDA graphs: out of memory during generation (the guide, section 7)",
            "gpu_memory_utilization: 0.6 and, on vLLM, enforce_eager: true"),
    Mistake("error", f"{PLACE}.policy_num_gpus_per_node", beside, "must be the same when colocating all models",
            "as many GPUs for the policy as engines x tensor x pipeline x data parallel"),
    Mistake("error", MODEL, weights, "the weights cannot fit",
            "a larger tensor parallel size (vLLM), a larger gpu_memory_utilization, or a smaller model"),
    Mistake("error", MODEL, cache, "the KV cache cannot hold one request",
            "a larger gpu_memory_utilization, more GPUs an engine, or shorter requests"),
    Mistake("error", MODEL, trainer, "the trainer cannot fit",
            "more policy_num_gpus_per_node, fsdp_config.cpu_offload: true, or LoRA"),
)  # fmt: skip


def check(config: Config, card: Card | None) -> Iterator[Found]:
    """Mistakes in the order of the table."""
    asked = Asked(config, card)
    for row in MISTAKES:
        if said := row.test(asked):
            words = f"{row.words}: {said}" if isinstance(said, str) else row.words
            yield Found(row.level, config.line(row.key), config.path(row.key), words, row.fix)
