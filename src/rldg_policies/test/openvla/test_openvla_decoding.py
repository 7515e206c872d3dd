"""Decoding chooses the most likely tokens, in as few passes as the draft allows, and the same ones whatever it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from rldg_policies.openvla.decoding import Decoder, Draft
from rldg_policies.openvla.lora import add_adapter
from rldg_policies.openvla.model import OpenVLAModel, make_random_model
from rldg_policies.openvla.presets import preset

PROMPT = [1, 326, 299, 501, 331, 668, 301, 260, 325, 299, 259]
DIMS = 7
ACTIONS = range(704, 960)


def _frames(model: OpenVLAModel, count: int) -> torch.Tensor:
    side = model.spec.image_px
    return torch.randn(count, 1, 6, side, side, generator=torch.Generator().manual_seed(0))


def _naive(model: OpenVLAModel, frame: torch.Tensor, low: int, high: int) -> list[int]:
    """Everything again for every token."""
    ids = list(PROMPT)
    with torch.no_grad():
        for _ in range(DIMS):
            ids.append(low + int(model(frame, torch.tensor([ids])).logits[0, -1, low:high].argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("actions_only", [True, False])
def test_plain_decoding_chooses_the_most_likely_tokens_one_by_one(
    varied_model: OpenVLAModel, actions_only: bool
) -> None:
    decoder = Decoder(varied_model, len(PROMPT), DIMS, actions_only=actions_only)
    low, high = (704, 960) if actions_only else (0, 1024)
    for frame in _frames(varied_model, 10):
        decoded = decoder.decode(frame, PROMPT)
        assert decoded.ids == _naive(varied_model, frame, low, high)
        assert decoded.passes == DIMS
        assert not actions_only or all(i in ACTIONS for i in decoded.ids)


def test_a_restricted_head_changes_nothing_where_the_most_likely_token_is_an_action(varied_model: OpenVLAModel) -> None:
    model = make_random_model(varied_model.spec, 0)
    model.load_state_dict(varied_model.state_dict())
    with torch.no_grad():
        model.language_model.lm_head.weight[704:960] *= 3.0  # what training does
    free, bound = (Decoder(model, len(PROMPT), DIMS, actions_only=flag) for flag in (False, True))
    same = [(free.decode(frame, PROMPT).ids, bound.decode(frame, PROMPT).ids) for frame in _frames(model, 20)]
    legal = [pair for pair in same if all(i in ACTIONS for i in pair[0])]
    assert len(legal) > 10 and all(a == b for a, b in legal)


def _noisy(truth: Sequence[int], hit_rate: float, seed: int) -> Draft:
    """Guesses the right token of a dimension with that probability."""
    rng = np.random.default_rng(seed)
    hit = rng.random(len(truth)) < hit_rate
    wrong = rng.integers(704, 960, len(truth))
    guesses = [int(t if h else w) for t, h, w in zip(truth, hit, wrong, strict=True)]
    return lambda decided: guesses[len(decided) :]


def _passes_with_drafts(model: OpenVLAModel, frames: int) -> float:
    decoder = Decoder(model, len(PROMPT), DIMS)
    total, distinct = 0, set()
    for seed, frame in enumerate(_frames(model, frames)):
        plain = decoder.decode(frame, PROMPT)
        drafted = decoder.decode(frame, PROMPT, _noisy(plain.ids, 0.7, seed))
        assert drafted.ids == plain.ids, f"frame {seed}"
        distinct.add(tuple(plain.ids))
        total += drafted.passes
    assert len(distinct) > 0.7 * frames  # the frames did ask for different tokens
    return total / frames


def test_a_draft_that_is_right_in_7_of_10_dimensions_halves_the_passes_and_changes_nothing(
    varied_model: OpenVLAModel,
) -> None:
    assert DIMS / _passes_with_drafts(varied_model, 60) >= 2.0


@pytest.mark.long
def test_the_same_on_500_frames(varied_model: OpenVLAModel) -> None:
    assert DIMS / _passes_with_drafts(varied_model, 500) >= 2.0


@pytest.mark.parametrize(
    ("draft", "passes"),
    [
        (lambda truth, decided: truth[len(decided) :], 1),
        (lambda truth, decided: truth[len(decided) :] + [5] * 20, 1),
        (lambda truth, decided: truth[len(decided) : len(decided) + 1], 4),
        (lambda truth, decided: [], 7),
        (lambda truth, decided: [704 + (i - 703) % 256 for i in truth[len(decided) :]], 7),
        (lambda truth, decided: truth[:3] if not decided else truth[len(decided) :], 2),
    ],
    ids=["perfect", "too long", "one at a time", "none", "always wrong", "better later"],
)
def test_passes_follow_from_the_draft_and_tokens_do_not(
    varied_model: OpenVLAModel, draft: Callable[[list[int], Sequence[int]], list[int]], passes: int
) -> None:
    decoder, frame = Decoder(varied_model, len(PROMPT), DIMS), _frames(varied_model, 1)[0]
    plain = decoder.decode(frame, PROMPT).ids
    drafted = decoder.decode(frame, PROMPT, lambda decided: draft(plain, decided))
    assert (drafted.ids, drafted.passes) == (plain, passes)


@pytest.mark.parametrize("guess", [-1, 1024])
def test_a_guess_that_is_no_id_is_refused(varied_model: OpenVLAModel, guess: int) -> None:
    with pytest.raises(ValueError, match=rf"draft: \[{guess}\] must be ids, 0 to 1023"):
        Decoder(varied_model, len(PROMPT), DIMS).decode(_frames(varied_model, 1)[0], PROMPT, lambda decided: [guess])


class Recorder:
    """Stands for CUDA graphs: refuses inputs of other shapes than those that it has recorded."""

    def __init__(self) -> None:
        self.recorded: list[list[torch.Size]] = []

    def __call__(self, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Callable[..., torch.Tensor]:
        shapes = [tensor.shape for tensor in inputs]
        self.recorded.append(shapes)

        def replay(*values: torch.Tensor) -> torch.Tensor:
            assert [value.shape for value in values] == shapes
            return function(*values)

        return replay


def test_recorded_passes_have_three_shapes_and_choose_the_same_tokens(varied_model: OpenVLAModel) -> None:
    recorder = Recorder()
    decoder, static = Decoder(varied_model, 32, DIMS), Decoder(varied_model, 32, DIMS, record=recorder)
    static.warm_up(_frames(varied_model, 1)[0], PROMPT)
    assert len(recorder.recorded) == 3
    for seed, frame in enumerate(_frames(varied_model, 10)):
        prompt = PROMPT[: 5 + seed % 7]
        plain = decoder.decode(frame, prompt)
        assert static.decode(frame, prompt) == plain
        draft = _noisy(plain.ids, 0.6, seed)
        assert static.decode(frame, prompt, draft) == decoder.decode(frame, prompt, draft)
    assert len(recorder.recorded) == 3


def test_a_prompt_longer_than_promised_is_refused(varied_model: OpenVLAModel) -> None:
    decoder = Decoder(varied_model, 10, DIMS)
    for prompt in (PROMPT, []):
        with pytest.raises(ValueError, match=rf"prompt: {len(prompt)} tokens, must be 1 to 10"):
            decoder.decode(_frames(varied_model, 1)[0], prompt)


def test_a_decoder_longer_than_the_model_is_refused(varied_model: OpenVLAModel) -> None:
    with pytest.raises(ValueError, match="decoder: 513 tokens are more than the model's 512"):
        Decoder(varied_model, 512 - varied_model.spec.patches - DIMS + 1, DIMS)


def test_an_adapter_must_be_merged_first() -> None:
    model = make_random_model(preset("openvla-test"), 0)
    add_adapter(model, rank=2)
    with pytest.raises(ValueError, match="merge the adapter before decoding"):
        Decoder(model, 10, DIMS)


def test_half_precision_decodes_too(varied_model: OpenVLAModel) -> None:
    model = make_random_model(varied_model.spec, 0).to(torch.bfloat16)
    decoded = Decoder(model, len(PROMPT), DIMS).decode(_frames(model, 1)[0], PROMPT)
    assert all(i in ACTIONS for i in decoded.ids)
