"""Prompts are token ids as in the released training data, whatever the instruction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from tokenizers import Tokenizer

from rldg_policies.openvla.config import CheckpointError
from rldg_policies.openvla.nano_vocabulary import PAD_ID, nano_tokenizer
from rldg_policies.openvla.presets import preset
from rldg_policies.openvla.prompt import PromptEncoder, load_tokenizer

NANO = preset("openvla-nano")
Make = Callable[[int], Tokenizer]


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(nano_tokenizer(), NANO)


def test_the_released_prompt_ends_with_the_ids_of_out_and_the_empty_token(llama_like: Make) -> None:
    ids = PromptEncoder(llama_like(29871), preset("openvla-7b")).prompt("Insert the Plug", 7)
    assert ids[:3] == [1, 512, 29901]
    assert ids[-4:] == [13, 3744, 29901, 29871]


def test_the_instruction_is_put_in_lower_case(encoder: PromptEncoder) -> None:
    assert encoder.prompt("INSERT the Plug", 7) == encoder.prompt("insert the plug", 7)


def test_words_of_the_tasks_are_one_token_each(encoder: PromptEncoder) -> None:
    empty = len(encoder.prompt("insert", 6))
    assert len(encoder.prompt("insert the usb-c plug into the matching hole of the board", 6)) == empty + 10


@pytest.mark.parametrize(
    "instruction", ["Gr\u00f6\u00dfe \u7ed9 \U0001f916", "</s> <PAD> <action7> <0x41>", "x" * 300, "a\nb\tc"]
)
def test_every_text_has_ids_and_none_is_special(encoder: PromptEncoder, instruction: str) -> None:
    ids = encoder.prompt(instruction, 6)
    assert all(2 < i < 704 for i in ids[1:])
    assert encoder.tokenizer.decode(ids[1:-1]) == NANO.prompt.format(instruction=instruction.lower())


def test_the_nano_tokenizer_is_the_same_at_every_call_and_survives_a_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(nano_tokenizer().to_str())
    assert load_tokenizer(tmp_path / "tokenizer.json").to_str() == nano_tokenizer().to_str()


def test_the_label_of_a_prompt_is_ignored_and_the_actions_and_the_end_are_trained(encoder: PromptEncoder) -> None:
    prompt = encoder.prompt("insert the plug", 3)
    example = encoder.example("insert the plug", [710, 720, 959])
    assert example.input_ids == [*prompt, 710, 720, 959, 2]
    assert example.labels == [-100] * len(prompt) + [710, 720, 959, 2]


def test_batches_are_padded_on_the_right(encoder: PromptEncoder) -> None:
    short, long = encoder.example("insert", [710]), encoder.example("insert the plug", [711])
    batch = encoder.batch([short, long])
    assert batch.input_ids.dtype == torch.int64 and batch.input_ids.shape == batch.labels.shape
    assert batch.input_ids[0].tolist() == short.input_ids + [PAD_ID] * 2
    assert batch.labels[0].tolist() == short.labels + [-100] * 2
    assert batch.input_ids[1].tolist() == long.input_ids


@pytest.mark.parametrize("instruction", ["", "  \n"])
def test_an_empty_instruction_is_refused(encoder: PromptEncoder, instruction: str) -> None:
    with pytest.raises(ValueError, match="instruction: is empty"):
        encoder.prompt(instruction, 7)


def test_an_instruction_that_leaves_no_room_is_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(ValueError, match=r"instruction: 'plug .* makes a prompt of \d+ tokens, must be at most 500"):
        encoder.prompt("plug " * 500, 7)


def test_padding_and_truncation_of_the_file_are_not_applied() -> None:
    tokenizer = nano_tokenizer()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=100)
    assert PromptEncoder(tokenizer, NANO).prompt("push", 7) == PromptEncoder(nano_tokenizer(), NANO).prompt("push", 7)


def test_the_tokenizer_of_mistral_is_refused(llama_like: Make) -> None:
    with pytest.raises(CheckpointError, match="tokenizer: '\u2581' has id 28705, must be 29871"):
        PromptEncoder(llama_like(28705), preset("openvla-7b"))


def test_the_nano_tokenizer_is_refused_by_the_released_model() -> None:
    with pytest.raises(CheckpointError, match="'<PAD>' has id 960, must be 32000"):
        PromptEncoder(nano_tokenizer(), preset("openvla-7b"))


def test_a_tokenizer_without_all_ids_is_refused() -> None:
    larger = msgspec.structs.replace(NANO, llama=msgspec.structs.replace(NANO.llama, vocab_size=2048))
    with pytest.raises(CheckpointError, match="has 961 ids, none is 961; must have all below 1984"):
        PromptEncoder(nano_tokenizer(), larger)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(path)
    path.write_text(nano_tokenizer().to_str()[:1000])
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        load_tokenizer(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        load_tokenizer(path)
