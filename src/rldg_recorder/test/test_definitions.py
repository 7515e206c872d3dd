"""What a bag says about message types: full definitions and hashes."""

import json
from pathlib import Path

import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rldg_recorder.definitions import SEPARATOR, definition, type_hash

OBSERVATION = "rldg_interfaces/msg/Observation"


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prefix of its own, the only one; returns the folder of the messages of package ``a``."""
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    folder = tmp_path / "share" / "a" / "msg"
    folder.mkdir(parents=True)
    return folder


def test_a_definition_is_the_own_text_then_each_nested_type_once() -> None:
    own, *nested = definition(OBSERVATION).split(f"{SEPARATOR}\n")
    assert "float32 skew_s" in own
    names = [block.splitlines()[0] for block in nested]
    assert names[:2] == ["MSG: std_msgs/Header", "MSG: sensor_msgs/Image"]
    assert len(names) == len(set(names)) == 9


@pytest.mark.parametrize("name", [OBSERVATION, "rldg_interfaces/msg/Step", "sensor_msgs/msg/JointState"])
def test_the_hash_is_the_one_that_follows_from_the_definition(name: str) -> None:
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definition(name), name))
    assert store.hash_rihs01(name) == type_hash(name)


def test_fields_may_name_types_of_their_own_package_and_be_arrays(prefix: Path) -> None:
    (prefix / "Top.msg").write_text("# a comment\nint32 LIMIT=3\nPart[<=3] parts\nstring<=5 name\na/Other[2] others\n")
    (prefix / "Part.msg").write_text("uint8[] data # Nothing\n")
    (prefix / "Other.msg").write_text("Part part\n")
    text = definition("a/msg/Top")
    assert [line for line in text.splitlines() if line.startswith("MSG")] == ["MSG: a/Part", "MSG: a/Other"]


def test_a_type_that_is_not_installed_is_named_with_the_remedy(prefix: Path) -> None:
    with pytest.raises(LookupError, match=r"message type a/msg/Missing: no share/a/msg/Missing\.msg in .*source"):
        definition("a/msg/Missing")


def test_a_nested_type_that_is_not_installed_is_named(prefix: Path) -> None:
    (prefix / "Top.msg").write_text("b/Missing field\n")
    with pytest.raises(LookupError, match="b/msg/Missing"):
        definition("a/msg/Top")


@pytest.mark.parametrize("name", ["Top", "a/Top", "a/srv/Top", "../a/msg/Top", "a/msg/../Top", ""])
def test_what_is_no_name_of_a_message_type_is_refused(name: str, prefix: Path) -> None:
    with pytest.raises(LookupError, match="package/msg/Name"):
        definition(name)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"type_hashes": [{"type_name": "b/msg/Top"}]})])
def test_a_description_without_the_hash_is_refused(text: str, prefix: Path) -> None:
    (prefix / "Top.json").write_text(text)
    with pytest.raises(LookupError, match=r"Top\.json: holds no hash of a/msg/Top"):
        type_hash("a/msg/Top")
