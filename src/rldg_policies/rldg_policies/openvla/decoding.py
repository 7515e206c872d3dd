"""Greedy decoding of a fixed number of tokens with remembered keys and values, and with drafts.

Draft and verify (Leviathan et al. 2023, for greedy decoding): guessed tokens are fed along with the known ones; where
the model would have chosen the same, the pass has decided several tokens at once. The result is that of plain decoding
whatever the draft says, up to near ties: passes of different lengths round differently. In float32 none were seen; in
bfloat16 they do occur.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rldg_policies.openvla.model import OpenVLAModel

Draft = Callable[[Sequence[int]], Sequence[int]]
"""``draft(decided)`` guesses the ids of the tokens that follow those already decided; as many as it likes, or none."""
Pass = Callable[..., Tensor]


class Decoded(NamedTuple):
    """The ids that were chosen, and how many forward passes of the language model that took."""

    ids: list[int]
    passes: int


class Decoder:
    """Decodes for one image at a time and prompts up to a length. Not to be used by two threads.

    All memory is taken at once, and on a GPU every pass has one of three fixed shapes (prompt, one token, all tokens)
    and is recorded as a CUDA graph when it first occurs: :meth:`warm_up` makes all of them occur.

    Args:
        model: in evaluation mode, adapters merged; its weights may change in place, but not move.
        prompt_tokens: of the longest prompt.
        tokens: to decode.
        actions_only: choose among the ids of actions; otherwise among all.
        record: turns a function of tensors into one that replays it on tensors of the same shapes, for a pass with
            inputs of fixed shape; by default CUDA graphs on a GPU and nothing, with inputs of any shape, elsewhere.

    Raises:
        ValueError: the sequence would be longer than the model allows, or an adapter is not merged.
    """

    def __init__(
        self,
        model: OpenVLAModel,
        prompt_tokens: int,
        tokens: int,
        *,
        actions_only: bool = True,
        record: Callable[..., Pass] | None = None,
    ) -> None:
        spec, head = model.spec, model.language_model.lm_head
        if type(head) is not nn.Linear:
            raise ValueError(f"decoder: the head is a {type(head).__name__}; merge the adapter before decoding")
        needed = spec.patches + prompt_tokens + tokens
        if needed > spec.max_length:
            raise ValueError(
                f"decoder: {needed} tokens are more than the model's {spec.max_length}; shorten the prompt"
            )
        self._model, self._tokens = model, tokens
        self._fed = prompt_tokens + tokens - 1  # ids that a first pass sees at most: prompt and guesses
        self._first_id = spec.action_base_id - spec.n_bins if actions_only else 0
        self._end_id = spec.action_base_id if actions_only else spec.llama.vocab_size
        on_gpu = head.weight.device.type == "cuda"
        self._record = record or (record_cuda_graph if on_gpu else None)
        self._recorded: dict[int, Pass] = {}  # by number of tokens; 0: the prompt
        with torch.inference_mode():
            # a guess may stand that far behind the last token that it is about
            self._slots = torch.arange(spec.patches + self._fed + tokens, device=head.weight.device)
            self._cache = _Cache(model, len(self._slots))

    @torch.inference_mode()
    def decode(self, pixel_values: Tensor, prompt: Sequence[int], draft: Draft | None = None) -> Decoded:
        """The most likely tokens after a prompt, each given those before.

        Args:
            pixel_values: (1, 6, side, side), on any device.
            prompt: ids.

        Raises:
            ValueError: the prompt is longer than promised, or a guess is no id of the vocabulary.
        """
        if not 1 <= len(prompt) <= self._fed - self._tokens + 1:
            raise ValueError(f"prompt: {len(prompt)} tokens, must be 1 to {self._fed - self._tokens + 1}")
        begin = self._model.spec.patches + len(prompt)  # position of the first token that is decoded
        ids: list[int] = []
        passes = 0
        while len(ids) < self._tokens:
            guesses = self._guesses(draft, ids)
            if not ids:
                chosen = self._first_pass(pixel_values, [*prompt, *guesses], begin - 1, len(guesses) + 1)
            else:
                chosen = self._next_pass([ids[-1], *guesses], begin + len(ids) - 1)
            passes += 1
            ids.append(chosen[0])
            for guess, following in zip(guesses, chosen[1:], strict=True):
                if guess != ids[-1]:
                    break
                ids.append(following)
        return Decoded(ids, passes)

    def warm_up(self, pixel_values: Tensor, prompt: Sequence[int]) -> None:
        """Go through every shape of pass once."""
        self.decode(pixel_values, prompt)
        self.decode(pixel_values, prompt, lambda decided: [self._first_id] * self._tokens if decided else [])

    def _guesses(self, draft: Draft | None, decided: list[int]) -> list[int]:
        """Those worth feeding: what follows the last token is not asked for."""
        guesses = [] if draft is None else [int(guess) for guess in draft(tuple(decided))]
        vocabulary = self._model.spec.llama.vocab_size
        if any(not 0 <= guess < vocabulary for guess in guesses):
            raise ValueError(f"draft: {guesses} must be ids, 0 to {vocabulary - 1}")
        return guesses[: self._tokens - len(decided) - 1]

    def _first_pass(self, pixel_values: Tensor, ids: list[int], last: int, choices: int) -> list[int]:
        """Image, prompt and guesses; the choices at position ``last`` and after it."""
        if self._record:
            ids = ids + [self._model.spec.llama.pad_token_id] * (self._fed - len(ids))
        rows = self._slots[last : last + (self._tokens if self._record else choices)]
        weight = self._model.language_model.lm_head.weight
        inputs = pixel_values.to(weight), torch.tensor([ids], device=weight.device), rows
        return self._run(0, self._prefill, *inputs)[:choices]

    def _next_pass(self, ids: list[int], position: int) -> list[int]:
        """The choices after each of ``ids``, the first of which stands at ``position``."""
        choices = len(ids)
        if self._record and choices > 1:
            ids = ids + ids[-1:] * (self._tokens - choices)
        positions = self._slots[position : position + len(ids)]
        return self._run(len(ids), self._step, torch.tensor([ids], device=positions.device), positions)[:choices]

    def _run(self, key: int, function: Pass, *inputs: Tensor) -> list[int]:
        if self._record:
            if key not in self._recorded:
                self._recorded[key] = self._record(function, *inputs)
            function = self._recorded[key]
        return function(*inputs).tolist()

    def _prefill(self, pixel_values: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
        embeds = self._model.embed(pixel_values, ids)
        self._cache.positions, self._cache.first = self._slots[: embeds.shape[1]], True
        hidden = self._model.hidden(embeds, self._cache.positions, cache=self._cache)
        return self._choose(hidden[0, rows])

    def _step(self, ids: Tensor, positions: Tensor) -> Tensor:
        self._cache.positions, self._cache.first = positions, False
        # what a rejected guess or padding has left behind stands at later positions until it is written over
        mask = self._slots <= positions[:, None]
        embeds = self._model.language_model.model.embed_tokens(ids)
        return self._choose(self._model.hidden(embeds, positions, mask[None, None], self._cache)[0])

    def _choose(self, hidden: Tensor) -> Tensor:
        weight = self._model.language_model.lm_head.weight[self._first_id : self._end_id]
        return nn.functional.linear(hidden, weight).argmax(-1) + self._first_id


class _Cache:
    """Keys and values of every layer in memory of a fixed size; a token's place is its position."""

    def __init__(self, model: OpenVLAModel, slots: int) -> None:
        llama, weight = model.spec.llama, model.language_model.lm_head.weight
        width = llama.hidden_size // llama.num_attention_heads
        shape = (llama.num_hidden_layers, 1, llama.num_key_value_heads, slots, width)
        self._keys, self._values = (torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2))
        self.positions: Tensor  # of the tokens at hand
        self.first = True  # the tokens at hand are all there are

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        self._keys[layer].index_copy_(2, self.positions, keys)
        self._values[layer].index_copy_(2, self.positions, values)
        return (keys, values) if self.first else (self._keys[layer], self._values[layer])


def record_cuda_graph(function: Pass, *inputs: Tensor) -> Pass:
    """A function that does on the GPU what ``function`` does, at the cost of one launch, for inputs of these shapes."""
    held = [tensor.clone() for tensor in inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels and memory before the recording
            function(*held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(*held)

    def replay(*values: Tensor) -> Tensor:
        for place, value in zip(held, values, strict=True):
            place.copy_(value)
        graph.replay()
        return output.clone()

    return replay
