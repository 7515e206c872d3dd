"""YAML of unknown origin: plain values, or one line that says what is wrong; never the end of the process."""

import pytest

from rldg_core.yaml_text import decode_yaml

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


def test_plain_values_come_out() -> None:
    assert decode_yaml("a: &a {b: 1}\nc: *a\n") == {"a": {"b": 1}, "c": {"b": 1}}
    assert decode_yaml("a: 1\nb: [x, 2.5]\n") == {"a": 1, "b": ["x", 2.5]}
    assert decode_yaml(b"") is None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 1000,
        "a: " * 1000,
        "a: [",
        "\x00",
        "&a [*a]",
        LAUGHS,
        "!!python/object:os.system x",
        b"\xff",
    ],
)
def test_anything_else_is_one_line(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        decode_yaml(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
