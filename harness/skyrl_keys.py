"""The keys of a SkyRL configuration, a row each: name in the guide and today, type, whose it is, what it does.

Sources: ppo_base_config.yaml and config.py of SkyRL's tag skyrl_train-v0.4.0, the last with SGLang, which has the names
of the guide; skyrl/train/config/config.py of 2026-08-21 (commit a9564572), where the engine's keys stand under
generator.inference_engine and vLLM is the only backend.
"""

from collections.abc import Iterator
from dataclasses import dataclass

ENGINE = "generator.inference_engine"  # today's place of the engine's keys
BOTH = ("sglang", "vllm")
VLLM = ("vllm",)
OLD, NEW = "guide", "today"  # layouts
NUMBER = (int, float)


@dataclass(frozen=True)
class Key:
    """`name`: as in the guide, empty where only today has it; `today`: empty where it is gone. `kind`: a type, or the
    words it may be. `backends`: those on which it has an effect."""

    name: str
    today: str
    kind: type | tuple[str, ...]
    meaning: str
    backends: tuple[str, ...] = BOTH

    def at(self, layout: str) -> str:
        return self.today if layout == NEW else self.name


def _engine(
    name: str, kind: type | tuple[str, ...], meaning: str, today: str = "", only: tuple[str, ...] = BOTH
) -> Key:
    return Key(f"generator.{name}", f"{ENGINE}.{today or name}", kind, meaning, only)


def _gone(name: str, kind: type, meaning: str) -> Key:
    return Key(f"generator.{name}", "", kind, meaning)


def _new(name: str, kind: type, meaning: str) -> Key:
    return Key("", f"{ENGINE}.{name}", kind, meaning, VLLM)


def _same(name: str, kind: type | tuple[str, ...], meaning: str) -> Key:
    return Key(name, name, kind, meaning)


_PARALLEL = "inference_engine_{}_parallel_size"
ROWS = (
    _engine("backend", BOTH, "the engine that answers"),
    _engine("num_inference_engines", int, "engines side by side", "num_engines"),
    *(
        _engine(_PARALLEL.format(name), int, f"{name} parallel: {what}", f"{name}_parallel_size")
        for name, what in (
            ("tensor", "GPUs that share each matrix"),
            ("pipeline", "GPUs that share the layers"),
            ("expert", "GPUs that share the experts"),
            ("data", "copies inside an engine"),
        )
    ),
    _engine("gpu_memory_utilization", float, "share of the GPU for weights and cache (SGLang: mem_fraction_static)"),
    _engine("enable_prefix_caching", bool, "prompt tokens are reused (SGLang: not disable_radix_cache)"),
    _engine("weight_sync_backend", ("nccl", "gloo", "delta", "sharded_rdt"), "how new weights come"),
    _engine("weight_transfer_threshold_cuda_ipc_GB", float, "how much weight goes over at once"),
    _engine("engine_init_kwargs", dict, "the engine's own arguments, by its own names"),
    _engine("max_num_seqs", int, "requests at once (SGLang: max_running_requests)"),
    _engine("max_num_batched_tokens", int, "prompt tokens in one pass (SGLang: max_prefill_tokens)"),
    _engine("model_dtype", str, "of the engine's weights"),
    _engine("run_engines_locally", bool, "the engines are started here, not reached over HTTP"),
    _engine("served_model_name", str, "the model's name over HTTP"),
    _engine("external_proxy_url", str, "a router that runs already"),
    _engine("external_server_urls", list, "servers that run already"),
    _engine("vllm_v1_disable_multiproc", bool, "the engine core in the worker's process", only=VLLM),
    _engine("enforce_eager", bool, "no compilation, no CUDA graphs", only=VLLM),
    _engine("enable_chunked_prefill", bool, "long prompts are cut", only=VLLM),
    _engine("fully_sharded_loras", bool, "LoRA shared by tensor parallel", only=VLLM),
    _engine("enable_ray_prometheus_stats", bool, "figures for Ray's Prometheus", only=VLLM),
    _gone("model_name", str, "the model"),
    _gone("async_engine", bool, "vLLM's asynchronous engine"),
    _gone("remote_inference_engine_urls", list, "servers that run already"),
    _gone("enable_http_endpoint", bool, "the engines over HTTP"),
    _gone("http_endpoint_host", str, "its host"),
    _gone("http_endpoint_port", int, "its port"),
    _gone("override_existing_update_group", str, "a weight group that is there is made anew"),
    _gone("rope_scaling", dict, "of long contexts"),
    _gone("rope_theta", float, "of long contexts"),
    _new("delta_weight_sync", dict, "only what changed is sent"),
    _new("enable_return_routed_experts", bool, "which experts a token went through"),
    _new("offload_kv_for_weight_sync", bool, "the cache leaves the GPU while weights come"),
    _new("use_expandable_segments", bool, "how torch takes memory"),
    _new("distributed_executor_backend", str, "ray or mp"),
    _new("language_model_only", bool, "no vision"),
    _new("speculative_config", dict, "speculative decoding"),
    _new("enable_pd", bool, "prefill and decoding apart"),
    _new("num_prefill", int, "engines for prefill"),
    _new("router_init_kwargs", dict, "of the router"),
    _same("generator.use_conversation_multi_turn", bool, "each turn a message of its own; SGLang needs it"),
    _same("generator.n_samples_per_prompt", int, "answers to each prompt"),
    _same("generator.max_turns", int, "turns of a conversation"),
    _same("generator.max_input_length", int, "tokens of a prompt with all turns before it"),
    _same("trainer.strategy", ("fsdp", "fsdp2", "megatron"), "how the trainer is shared out"),
    _same("trainer.placement.colocate_all", bool, "trainer and engines on the same GPUs"),
    _same("trainer.policy.model.path", str, "the model that learns"),
    _same("trainer.policy.model.lora.rank", int, "of the adapter that learns (0: all weights)"),
)

# Keys that no rule reads: by section and type. `policy`, `critic` and `ref` have the same ones.
_SAMPLING = {"int": "max_generate_length top_k logprobs", "float": "temperature repetition_penalty top_p min_p",
             "list": "stop", "dict": "additional_kwargs"}  # fmt: skip
_ALGORITHM = "trainer.algorithm"
_REST: dict[str, dict[str, str]] = {
    "data": {"list": "train_data val_data"},
    "data.dataloader": {"int": "num_workers", "bool": "persistent_workers"},
    "environment": {"str": "env_class", "dict": "skyrl_gym"},
    "generator": {
        "bool": "batched append_eos_token_after_stop_str_in_multi_turn zero_reward_on_non_stop use_cache_salt "
        "apply_overlong_filtering step_wise_trajectories vision_language_generator merge_stepwise_output",
        "int": "eval_n_samples_per_prompt", "dict": "chat_template_kwargs",
    },
    "generator.chat_template": {"str": "source name_or_path"},
    "generator.sampling_params": _SAMPLING,
    "generator.eval_sampling_params": _SAMPLING,
    _ALGORITHM: {
        "bool": "advantage_batch_normalize grpo_norm_by_std use_entropy_loss use_kl_in_reward use_kl_loss use_tis "
        "zero_variance_filter",
        "str": "advantage_estimator kl_estimator_type loss_reduction policy_loss_type value_head_prefix",
        "float": "clip_ratio_c entropy_loss_coef eps_clip_high eps_clip_low gamma kl_loss_coef lambd temperature "
        "tis_imp_ratio_cap value_clip zero_variance_filter_tol",
        "int": "max_seq_len",
    },
    f"{_ALGORITHM}.cispo": {"str": "cispo_anchor", "float": "cispo_eps_clip_high cispo_eps_clip_low"},
    f"{_ALGORITHM}.clip_cov": {"float": "clip_cov_lb clip_cov_ub clip_ratio"},
    f"{_ALGORITHM}.dppo": {"float": "delta_high delta_low", "str": "dppo_type"},
    f"{_ALGORITHM}.dynamic_sampling": {"int": "max_sample_batches", "float": "min_replace_ratio", "str": "type"},
    f"{_ALGORITHM}.kl_cov": {"float": "kl_cov_frac ppo_kl_coef"},
    f"{_ALGORITHM}.kl_ctrl": {"int": "horizon", "float": "kl_target", "str": "type"},
    f"{_ALGORITHM}.off_policy_correction": {
        "float": "geo_mask_high geo_mask_low outlier_token_is_threshold_high outlier_token_is_threshold_low "
        "product_mask_high product_mask_low sequence_tis_ratio_clip_high token_mask_is_threshold_high "
        "token_mask_is_threshold_low token_tis_ratio_clip_high",
        "str": "sequence_mask_metric tis_ratio_type",
    },
    f"{_ALGORITHM}.sapo": {"float": "tau_neg tau_pos"},
    "trainer": {
        "bool": "bf16 disable_fast_tokenizer dump_data_batch dump_eval_results enable_ray_gpu_monitor "
        "eval_before_train flash_attn fused_lm_head_logprob gradient_checkpointing "
        "gradient_checkpointing_use_reentrant recompute_old_logprobs_per_minibatch remove_microbatch_padding "
        "update_ref_every_epoch use_expandable_segments use_sample_packing",
        "int": "ckpt_interval critic_mini_batch_size epochs eval_batch_size eval_interval hf_save_interval "
        "log_example_interval logprobs_chunk_size max_ckpts_to_keep max_prompt_length max_tokens_per_microbatch "
        "max_training_steps micro_forward_batch_size_per_gpu micro_train_batch_size_per_gpu num_logger_eval_samples "
        "num_logger_train_samples policy_mini_batch_size print_example_interval seed train_batch_size "
        "update_epochs_per_batch vocab_entropy_chunk_memory_mb vocab_entropy_chunk_size",
        "str": "ckpt_path export_path fused_lm_head_logprob_backend log_path project_name resume_mode "
        "resume_path run_name sequence_parallel_backend",
        "any": "logger rope_scaling rope_theta", "dict": "mtp", "list": "tags",
    },
    "trainer.fully_async": {
        "bool": "clear_kv_cache_on_weight_sync enabled sample_full_batch simulate_training",
        "int": "max_staleness_steps num_parallel_generation_workers",
        "float": "simulate_training_step_seconds simulate_weight_sync_seconds",
    },
    "trainer.placement": {
        "bool": "colocate_policy_ref",
        "int": "critic_num_gpus_per_node critic_num_nodes policy_num_gpus_per_node policy_num_nodes "
        "ref_num_gpus_per_node ref_num_nodes",
    },
}  # fmt: skip
_NETWORK: dict[str, dict[str, str]] = {
    "": {"bool": "inference_only_init language_model_only record_memory use_torch_compile",
         "dict": "megatron_config model_config_kwargs torch_profiler_config", "int": "sequence_parallel_size"},
    ".fsdp_config": {"bool": "cpu_offload", "int": "fsdp_size", "any": "reshard_after_forward", "dict": "wrap_policy"},
    ".fsdp_config.mixed_precision": {"str": "buffer_dtype param_dtype reduce_dtype"},
    ".model": {"dict": "fake_int4_qat", "str": "path"},
    ".model.lora": {"int": "rank alpha max_cpu_loras max_loras", "float": "dropout",
                    "str": "init_method lora_sync_path", "any": "exclude_modules target_modules"},
    ".optimizer_config": {"list": "adam_betas", "float": "lr max_grad_norm weight_decay", "int": "num_warmup_steps",
                          "bool": "offload_after_step", "str": "scheduler"},
}  # fmt: skip
_TYPES: dict[str, type] = {t.__name__: t for t in (bool, int, float, str, list, dict)} | {"any": object}


def _rest() -> Iterator[Key]:
    networks = {f"trainer.{who}{at}": found for who in ("policy", "critic", "ref") for at, found in _NETWORK.items()}
    for section, by_type in (_REST | networks).items():
        for kind, names in by_type.items():
            yield from (_same(f"{section}.{name}", _TYPES[kind], "") for name in names.split())


ALL = {key.name or key.today: key for key in (*_rest(), *ROWS)}  # a row with a meaning goes over one without
KNOWN = {layout: {key.at(layout): key for key in ALL.values() if key.at(layout)} for layout in (OLD, NEW)}
SECTIONS = {
    layout: {name.rsplit(".", n)[0] for name in known for n in range(1, name.count(".") + 1)}
    for layout, known in KNOWN.items()
}  # names that hold other keys
