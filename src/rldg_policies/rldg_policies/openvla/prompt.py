"""From an instruction to token ids, and from demonstrations to batches (OpenVLA, section 3.2).

A training sequence is ``<s> prompt ▁ action tokens </s>``, and the model puts the patches behind ``<s>``; trained are
the action tokens and ``</s>``. The ids are put together here and never go through text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rldg_policies.openvla.config import LLAMA_EMPTY_TOKEN, CheckpointError, Config
from rldg_policies.openvla.model import IGNORED

BEGIN, END = 1, 2  # <s> and </s>
# of Llama 2; a vocabulary of the same size with other ids (Mistral's) would be accepted otherwise
_LLAMA_IDS = {"\u2581In": 512, "Out": 3744, ":": 29901, "<0x0A>": 13}


class Example(NamedTuple):
    """One training sequence and its labels, of the same length."""

    input_ids: list[int]
    labels: list[int]


class Batch(NamedTuple):
    """Both (batch, tokens) int64, padded on the right."""

    input_ids: Tensor
    labels: Tensor


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        CheckpointError: it is missing or not a tokenizer.
    """
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; the released folder has a tokenizer.json"
        ) from None
    except Exception as error:  # tokenizers raises nothing more special
        raise CheckpointError(f"{path}: not a tokenizer: {' '.join(str(error).split())}; copy it again") from None


class PromptEncoder:
    """Makes token ids.

    Args:
        tokenizer: of the model.
        config: of the model.

    Raises:
        CheckpointError: the tokenizer is another one than the model was trained with.
    """

    def __init__(self, tokenizer: Tokenizer, config: Config) -> None:
        expected = {"<s>": BEGIN, "</s>": END, "<PAD>": config.llama.pad_token_id, "\u2581": config.empty_token_id}
        if config.empty_token_id == LLAMA_EMPTY_TOKEN:
            expected |= _LLAMA_IDS
        for token, wanted in expected.items():
            found = tokenizer.token_to_id(token)
            if found != wanted:
                raise CheckpointError(
                    f"tokenizer: {token!r} has id {found}, must be {wanted}; "
                    "use the tokenizer.json of the model's folder"
                )
        absent = [i for i in range(config.action_base_id) if tokenizer.id_to_token(i) is None]
        if absent or tokenizer.get_vocab_size() > config.llama.vocab_size:
            raise CheckpointError(
                f"tokenizer: has {tokenizer.get_vocab_size()} ids{f', none is {absent[0]}' if absent else ''}; "
                f"must have all below {config.action_base_id} and at most {config.llama.vocab_size}"
            )
        tokenizer.encode_special_tokens = True  # the text "</s>" in an instruction is text
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self._config = tokenizer, config

    def prompt(self, instruction: str, action_dim: int) -> list[int]:
        """Ids of the prompt, from ``<s>`` to the empty token before the first action.

        Raises:
            ValueError: the instruction is empty, or leaves no room for ``action_dim`` action tokens.
        """
        config = self._config
        if not instruction.strip():
            raise ValueError("instruction: is empty; say what the robot is to do")
        text = config.prompt.replace("{instruction}", instruction.lower())
        ids = [BEGIN, *self.tokenizer.encode(text, add_special_tokens=False).ids]
        if ids[-1] != config.empty_token_id:
            ids.append(config.empty_token_id)
        room = config.max_length - config.patches - action_dim - 1  # one more for </s>
        if len(ids) > room:
            raise ValueError(
                f"instruction: {instruction[:40]!r}... makes a prompt of {len(ids)} tokens, must be at most {room}"
            )
        return ids

    def example(self, instruction: str, action_ids: Sequence[int]) -> Example:
        """The training sequence of an instruction and the action that answers it.

        Raises:
            ValueError: as :meth:`prompt`.
        """
        prompt = self.prompt(instruction, len(action_ids))
        answer = [*(int(i) for i in action_ids), END]
        return Example(prompt + answer, [IGNORED] * len(prompt) + answer)

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest."""
        longest = max(len(example.input_ids) for example in examples)

        def padded(rows: list[list[int]], value: int) -> Tensor:
            return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

        ids, labels = ([list(example[i]) for example in examples] for i in (0, 1))
        return Batch(padded(ids, self._config.llama.pad_token_id), padded(labels, IGNORED))
