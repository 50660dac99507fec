"""Results of other benchmark tools: read, kept apart from our records, shown beside them; never compared or gated.

The files carry no version. What is known of them was read in vLLM 0.26 and 0.32 and in SGLang 0.5.17 and 0.5.20; a file
with a field that those do not write, or without one that they do, is refused.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from harness import store
from harness.envs import PAIR
from harness.errors import UserError
from harness.metrics import METRICS
from harness.store import FOREIGN

READ = "vLLM 0.26 to 0.32 and SGLang 0.5.17 to 0.5.20"
STATISTIC = re.compile(r"(mean|median|std|max|p\d+(\.\d+)?)_(ttft|tpot|itl|e2el|e2e_latency|client_queue_time|"
                       r"e2el_including_client_queue)_ms")  # fmt: skip
TIMES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "latency", "e2e_latency": "latency"}  # theirs: ours
DETAILS = frozenset({"input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times",
                     "generated_texts", "errors", "cached_tokens", "cached_tokens_details"})  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """`sign`: fields that no other tool's file has together. `needs`: numbers that must be there, those that are a
    figure with our metric's name; `may`: what else there can be, `told` the part of it that is kept."""

    name: str
    engine: str
    sign: frozenset[str]
    needs: Mapping[str, str]
    told: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    families: re.Pattern[str] = field(default=re.compile(r"(?!)"))  # names that may be there besides
    metadata: bool = False  # whether a user's own fields may be there, which are text


TOOLS = (
    Tool(
        "vllm bench latency", "vllm", frozenset({"avg_latency", "latencies"}), {"avg_latency": ""},
        told=frozenset({"model_id"}), may=frozenset({"latencies", "percentiles", "std_latency"}),
    ),
    Tool(
        "vllm bench throughput", "vllm", frozenset({"elapsed_time", "tokens_per_second"}),
        {"elapsed_time": "step_time", "tokens_per_second": "total_throughput", "requests_per_second": "",
         "num_requests": "", "total_num_tokens": ""},
        told=frozenset({"model_id", "num_requests", "total_num_tokens"}),
    ),
    Tool(
        "SGLang bench_serving", "", frozenset({"total_output_tokens_retokenized"}),
        {"duration": "step_time", "output_throughput": "output_throughput", "total_throughput": "total_throughput",
         "completed": "", "total_input_tokens": "", "total_output_tokens": "", "request_throughput": "",
         "input_throughput": "", "median_ttft_ms": "", "median_e2e_latency_ms": ""},
        told=frozenset({"tag", "backend", "dataset_name", "request_rate", "max_concurrency", "sharegpt_output_len",
                        "random_input_len", "random_output_len", "random_range_ratio", "completed",
                        "total_input_tokens", "total_output_tokens", "concurrency", "accept_length"}),
        may=DETAILS | {"server_info", "cache_report", "total_input_text_tokens", "total_input_vision_tokens",
                       "total_output_tokens_retokenized", "max_output_tokens_per_s", "max_concurrent_requests"},
        families=STATISTIC,
    ),
    Tool(
        "vllm bench serve", "", frozenset({"total_token_throughput"}),
        {"duration": "step_time", "output_throughput": "output_throughput",
         "total_token_throughput": "total_throughput", "completed": "", "failed": "", "total_input_tokens": "",
         "total_output_tokens": "", "request_throughput": ""},
        told=frozenset({"backend", "label", "model_id", "num_prompts", "request_rate", "burstiness", "max_concurrency",
                        "ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps", "completed", "failed",
                        "total_input_tokens", "total_output_tokens"}),
        may=DETAILS | {"date", "endpoint_type", "tokenizer_id", "request_goodput", "max_output_tokens_per_s",
                       "max_concurrent_requests", "rtfx", "rps_change_events"},
        families=re.compile(rf"{STATISTIC.pattern}|(probe|spec_decode|diffusion)_\w+"), metadata=True,
    ),
)  # fmt: skip


class Foreign(BaseModel):
    """One result of another tool. Empty text: neither its file nor who imported it says. `figures`: samples by our
    metric's name, in our unit, counted by the tool's rules."""

    model_config = ConfigDict(extra="forbid")
    foreign: Literal[1] = 1
    tool: str
    engine: str
    version: str
    model: str
    machine: str
    case: str
    measured: str
    imported: AwareDatetime
    file: str
    sha256: str
    params: dict[str, Any]
    figures: dict[str, list[float]]


def parse(path: Path, engine: str = "", machine: str = "", case: str = "") -> list[Foreign]:
    """The results in a file: one JSON object, or one a line. Raises UserError, naming the field, where it is not as a
    known version of a known tool writes it."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    found = []
    for where, part in _parts(path, text):
        tool = _tool(where, part)
        _check(where, tool, part)
        found.append(_foreign(tool, part, engine, machine, case, path))
    return found


def _parts(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object with the place where it stands."""
    try:
        parts = [(str(path), json.loads(text))]
    except ValueError:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        try:
            parts = [(f"{path}, line {number}", json.loads(line)) for number, line in lines]
        except ValueError:
            raise UserError(f"{path}: neither JSON nor lines of JSON") from None
    for where, part in parts:
        if not isinstance(part, dict):
            raise UserError(f"{where}: no JSON object, as `vllm bench` and SGLang's bench_serving write one")
        yield where, part
    if not parts:
        raise UserError(f"{path}: it is empty")


def _tool(where: str, part: Mapping[str, Any]) -> Tool:
    found = next((tool for tool in TOOLS if tool.sign <= part.keys()), None)
    if found is None:
        has = ", ".join(list(part)[:3]) or "no field"
        raise UserError(f"{where}: no result of {', '.join(tool.name for tool in TOOLS)} (it has {has})")
    return found


def _check(where: str, tool: Tool, part: Mapping[str, Any]) -> None:
    """Raises UserError unless every field is one that is known, and what is shown is a number."""

    def refuse(name: str, why: str) -> UserError:
        return UserError(f"{where}: {tool.name}: field {name} {why}; known are files of {READ}")

    for name in tool.needs:
        if name not in part:
            raise refuse(name, "is missing")
    for name, value in part.items():
        known = name in tool.needs or name in tool.told or name in tool.may or tool.families.fullmatch(name)
        if not known and not (tool.metadata and isinstance(value, str)):
            raise refuse(name, "is unknown")
        if (name in tool.needs or STATISTIC.fullmatch(name)) and not _number(value):
            raise refuse(name, f"is {value!r}, no number")
    if tool.engine == "vllm" and "latencies" in part:
        latencies = part["latencies"]
        if not isinstance(latencies, list) or not latencies or not all(map(_number, latencies)):
            raise refuse("latencies", "is no list of numbers")
    if part.get("completed") == 0:
        raise UserError(f"{where}: {tool.name}: field completed is 0: no request succeeded, so there is no figure")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _foreign(tool: Tool, part: Mapping[str, Any], engine: str, machine: str, case: str, path: Path) -> Foreign:
    server = part.get("server_info") or {}  # much more lies in it, secrets too: two fields are taken
    backend = str(part.get("backend", ""))
    said = next((name for name in PAIR if backend.startswith(name)), tool.engine)
    text = json.dumps(part, sort_keys=True)
    return Foreign(
        tool=tool.name, engine=engine or said, version=str(server.get("version", "")),
        model=_folder(part.get("model_id") or server.get("model_path") or ""), machine=machine, case=case,
        measured=str(part.get("date", "")), imported=datetime.now(UTC).replace(microsecond=0), file=path.name,
        sha256=hashlib.sha256(text.encode()).hexdigest(), params=_params(tool, part), figures=_figures(tool, part),
    )  # fmt: skip


def _params(tool: Tool, part: Mapping[str, Any]) -> dict[str, Any]:
    """How the tool was used, and the user's own words."""
    known = tool.needs.keys() | tool.told | tool.may
    own = {name for name in part if name not in known and not tool.families.fullmatch(name)}
    kept = {name: part[name] for name in part if name in tool.told | own and part[name] is not None}
    kept |= {"model_id": _folder(kept["model_id"])} if "model_id" in kept else {}
    return {name: str(v) if isinstance(v, float) and not math.isfinite(v) else v for name, v in kept.items()}


def _folder(model: object) -> str:
    """A path says nothing on another machine, its last part does."""
    return PurePath(str(model)).name if PurePath(str(model)).is_absolute() else str(model)


def _figures(tool: Tool, part: Mapping[str, Any]) -> dict[str, list[float]]:
    """Those that one of our metrics stands for, in its unit."""
    found = {ours: [float(part[name])] for name, ours in tool.needs.items() if ours}
    for theirs, ours in TIMES.items():
        for kind, metric in (("median", ours), ("p90", f"{ours}_p90"), ("p99", f"{ours}_p99")):
            if metric in METRICS and (value := part.get(f"{kind}_{theirs}_ms")):  # 0: it was not streamed
                found[metric] = [float(value) / 1000]
    if tool.name == "vllm bench latency":
        found["step_time"] = [float(value) for value in part["latencies"]]
    return {name: found[name] for name in METRICS if name in found}


def save(found: Sequence[Foreign], root: Path) -> list[Path]:
    """Keep results, each under a name made of tool and content. Raises UserError, before any is written, where one is
    there already."""
    paths = []
    for one in found:
        paths.append(root / FOREIGN / f"{re.sub(r'[^a-z]+', '-', one.tool.lower())}-{one.sha256[:8]}.json")
        if paths[-1].exists() or paths[-1] in paths[:-1]:
            raise UserError(f"{one.file}: imported already as {paths[-1]}: remove that file to import it anew")
    for path, one in zip(paths, found, strict=True):
        store.write(path, one.model_dump_json(indent=1) + "\n")
    return paths


def read(root: Path) -> tuple[list[tuple[Path, Foreign]], list[str]]:
    """Every foreign result with its file, and why files were passed over."""
    found, skipped = list[tuple[Path, Foreign]](), list[str]()
    for path in sorted((root / FOREIGN).glob("*.json")):
        try:
            found.append((path, Foreign.model_validate_json(path.read_bytes())))
        except (OSError, ValidationError):
            skipped.append(f"{path}: no foreign result")
    return found, skipped
