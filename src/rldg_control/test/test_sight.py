"""Finding the loader of classifiers."""

import pytest

from rldg_control import sight
from rldg_core.testing import make_task


class Point:
    def __init__(self, name: str) -> None:
        self.name = name

    def load(self):
        return lambda folder, task: (self.name, folder, task.name)


def test_the_installed_loader_is_given_folder_and_task(monkeypatch) -> None:
    monkeypatch.setattr(sight, "entry_points", lambda group: [Point("image")] if group == sight.GROUP else [])
    assert sight.load_sight("classifiers/usb", make_task()) == ("image", "classifiers/usb", "peg")


@pytest.mark.parametrize(("names", "said"), [([], "has none"), (["b", "a"], "has a, b")])
def test_without_one_loader_the_remedy_is_told(monkeypatch, names, said) -> None:
    monkeypatch.setattr(sight, "entry_points", lambda group: [Point(name) for name in names])
    with pytest.raises(ValueError, match=f"{said}; install rldg_rl"):
        sight.load_sight("classifiers/usb", make_task())
