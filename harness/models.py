"""Models without a hub: tiny ones with random weights, real shapes for dummy weights; any path or hub name works."""

import hashlib
import inspect
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from harness.errors import UserError, nearest
from harness.paths import cache_home
from harness.shapes import SHAPES, Shape, configuration, of_config, tensors


@dataclass(frozen=True)
class Model:
    """What an engine loads: a folder or a hub name, and how (`auto` or `dummy`, which gives random weights)."""

    path: str
    load_format: str = "auto"
    local: bool = True


def find(name: str) -> Model:
    """The model of that name: one of SHAPES (made at first use), a folder, or a hub's `organisation/name`.

    Raises UserError when it is none of these.
    """
    if name in SHAPES:
        return Model(str(made(name)), "auto" if SHAPES[name].weights else "dummy")
    if Path(name).expanduser().is_dir():
        if not Path(name).expanduser().joinpath("config.json").is_file():
            raise UserError(f"model folder {name} holds no config.json")
        return Model(str(Path(name).expanduser().resolve()))
    if name.startswith(("/", ".", "~")) or (Path(name).parts[1:] and Path(name).parent.is_dir()):
        raise UserError(f"model path {name} does not exist")
    if name.count("/") == 1:
        return Model(name, local=False)
    raise UserError(f"no model {name!r}: {nearest(name, SHAPES)}, or give a folder or a hub's organisation/name")


def config(name: str) -> dict[str, Any]:
    """The model's `config.json`; empty for a hub's model that is not on this machine."""
    path = Path(find(name).path, "config.json")
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def vocabulary(name: str) -> int:
    """Token ids of the model. Raises UserError when its configuration is not on this machine."""
    if not (found := config(name).get("vocab_size")):
        raise UserError(f"model {name}: its vocabulary is not known here (no config.json with vocab_size)")
    return int(found)


def made(name: str) -> Path:
    """The folder of a shape's model under the cache, made at first use; its name carries a hash of what is in it."""
    shape = SHAPES[name]
    content = [asdict(shape), configuration(shape), _tokenizer(), list(tensors(shape)), inspect.getsource(_weights)]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
    folder = cache_home() / "models" / f"{name}-{digest}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        _write(shape, scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process made it first
            if not folder.is_dir():
                raise
    return folder


def _write(shape: Shape, folder: Path) -> None:
    files = {
        "config.json": configuration(shape),
        "generation_config.json": {"bos_token_id": 256, "eos_token_id": 257},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
        },
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=1) + "\n")
    if shape.weights:
        random = np.random.default_rng(0)
        save_file(dict(_weights(shape, random)), folder / "model.safetensors", {"format": "pt"})


def tensors_of(name: str) -> list[tuple[str, tuple[int, ...]]]:
    """`tensors` of a model of ours or of a folder's configuration. Raises UserError for a model that is neither."""
    if name in SHAPES:
        return list(tensors(SHAPES[name]))
    try:
        return list(tensors(of_config(config(name))))
    except ValueError as error:
        raise UserError(f"model {name}: its tensors are not known: {error}") from None


def _weights(shape: Shape, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float32 values; scaled so that activations keep their size."""
    for name, size in tensors(shape):
        if name.endswith("norm.weight"):
            yield name, np.ones(size, np.float32)
        elif name.endswith(".bias"):
            yield name, (0.1 * random.standard_normal(size)).astype(np.float32)
        else:
            scale = 1.0 if name == "model.embed_tokens.weight" else 1 / math.sqrt(size[1])
            yield name, (scale * random.standard_normal(size)).astype(np.float32)


def _tokenizer() -> dict[str, object]:
    """A byte-level tokenizer in the `tokenizers` library's JSON: one token a byte, then <s> and </s>.

    The byte alphabet is GPT-2's: printable bytes stand for themselves, the others for code points from 256 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    alphabet = [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
    special = [
        {"id": 256 + i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, text in enumerate(("<s>", "</s>"))
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {char: i for i, char in enumerate(alphabet)}, "merges": []},
    }
