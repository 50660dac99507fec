"""Trace files: a workload as JSON lines, one conversation a line, recorded from a case or from elsewhere, and replayed.

    {"due": 0.5, "turns": [{"prompt": [5, 9, 2], "output": 64}, {"prompt": [7], "output": 32, "pause": 1.5}]}

`due`: seconds from the start; `prompt`: new token ids, or as a number how many to draw at random; `output`: tokens to
generate; `pause`: seconds between the answer before and this turn (a tool call, a user).
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UserError
from harness.rollouts import Requests
from harness.workload import Seed, random_ids

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1)]


class Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: Tokens | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    output: Tokens
    pause: Seconds = 0.0


class Conversation(BaseModel):
    model_config = ConfigDict(extra="forbid")
    due: Seconds = 0.0
    turns: Annotated[list[Turn], Field(min_length=1)]


def load(path: Path) -> list[Conversation]:
    """The conversations of a file. Raises UserError, naming file and line, for what is none."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(Conversation.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "line"
                raise UserError(f"{path}, line {number}: no conversation ({where}: {first['msg']})") from None
    if not found:
        raise UserError(f"{path}: holds no conversation")
    return found


def save(requests: Requests, path: Path) -> None:
    """Record a workload."""
    new, due, outputs = requests.new, requests.due_B.tolist(), requests.output_B.tolist()
    with path.open("w") as file:
        for places in requests.conversations:
            turns = [{"prompt": new[p], "output": outputs[p]} | ({"pause": due[p]} if due[p] else {}) for p in places]
            turns[0].pop("pause", None)
            file.write(json.dumps({"due": due[places[0]], "turns": turns}) + "\n")


def requests(conversations: list[Conversation], seed: Seed, vocab: int) -> Requests:
    """The workload of a trace; prompts given as a number are drawn by the seed. Raises UserError for a token id beyond
    the model's vocabulary."""
    turns = [turn for conversation in conversations for turn in conversation.turns]
    pieces = []
    for place, turn in enumerate(turns):
        if isinstance(turn.prompt, int):
            ids = random_ids([*seed, place], 1, turn.prompt, vocab)[0]
        else:
            ids = np.array(turn.prompt, np.int32)
        if (top := int(ids.max())) >= vocab:
            raise UserError(f"the trace holds token id {top}, the model's vocabulary ends at {vocab - 1}")
        pieces.append(ids)
    due = [seconds for c in conversations for seconds in (c.due, *(turn.pause for turn in c.turns[1:]))]
    return Requests(
        ids_N=np.concatenate(pieces),
        input_B=np.array([len(ids) for ids in pieces], np.int32),
        output_B=np.array([turn.output for turn in turns], np.int32),
        conversation_B=np.repeat(np.arange(len(conversations)), [len(c.turns) for c in conversations]).astype(np.int32),
        due_B=np.array(due, np.float64),
    )
