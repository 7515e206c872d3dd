"""The table of verbs and its dispatch."""

from importlib import import_module

import pytest

from rldg_bringup import cli


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_each_verb_names_a_function_that_exists(verb) -> None:
    module, _, function = cli.VERBS[verb][0].partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_each_verb_explains_itself(verb, capsys) -> None:
    try:
        status = cli.main([verb, "--help"])
    except SystemExit as exit_:  # argparse
        status = exit_.code
    assert not status
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["demp"]])
def test_a_wrong_verb_is_answered_with_the_right_ones(argv, capsys) -> None:
    assert cli.main(argv) == 2
    message = capsys.readouterr().err
    assert all(verb in message for verb in cli.VERBS)


def test_arguments_and_exit_status_pass_through_the_dispatch(monkeypatch) -> None:
    monkeypatch.setitem(cli.VERBS, "echo", (f"{__name__}:fake_verb", ""))
    monkeypatch.setattr(cli, "import_module", lambda name: __import__("sys").modules[name])
    assert cli.main(["echo", "a", "--b"]) == 7


def fake_verb(argv: list[str]) -> int:
    assert argv == ["a", "--b"]
    return 7


def test_an_interrupt_ends_a_verb_without_a_traceback(monkeypatch, capsys) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("rldg_bringup.doctor.main", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == ""
