"""The stated subset of the launch format means what it means in ROS 2, and everything else is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldg_bringup.launch_runner import (
    LaunchFileError,
    Process,
    declared_arguments,
    describe_arguments,
    resolve,
    substitution,
)


def find_share(package: str) -> Path:
    if package == "known":
        return Path("/share/known")
    raise LookupError(f"package {package!r} is nowhere")


def processes(
    directory: Path, body: str, arguments: dict[str, str] | None = None, **environment: str
) -> tuple[Process, ...]:
    file = directory / "a.launch.xml"
    file.write_text(f"<launch>\n{body}\n</launch>")
    return resolve(file, arguments or {}, environment, find_share)


def parameter(directory: Path, attributes: str) -> str:
    (process,) = processes(directory, f'<node pkg="p" exec="e"><param name="x" {attributes}/></node>')
    return process.arguments[-1].removeprefix("x:=")


def evaluated(directory: Path, text: str, **variables: str) -> str:
    scope = substitution.Scope(variables, {"USER": "ann"}, directory, find_share)
    return substitution.evaluate(substitution.parse(text), scope)


def test_a_node_becomes_a_command_line(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("{}")
    (process,) = processes(
        tmp_path,
        f"""<node pkg="p" exec="e" name="n" namespace="ns" output="screen" respawn="true" respawn_delay="0.5"
             args="--a 'b c' $(env W)" ros_args="--log-level debug">
          <param name="k" value="3"/> <param from="{tmp_path}/p.yaml"/> <remap from="x" to="y"/>
          <env name="E" value="1"/>
        </node>""",
        W="two words",
    )
    assert process == Process(
        name="n",
        package="p",
        executable="e",
        arguments=(
            *("--a", "b c", "two words", "--ros-args", "--log-level", "debug", "-r", "__node:=n", "-r", "__ns:=/ns"),
            *("-p", "k:=3", "--params-file", f"{tmp_path}/p.yaml", "-r", "x:=y"),
        ),
        environment={"W": "two words", "E": "1"},
        output="screen",
        respawn=True,
        respawn_delay_s=0.5,
    )


@pytest.mark.parametrize(
    ("attributes", "yaml"),
    [
        ('value="true"', "true"),
        ('value="3"', "3"),
        ('value="3.0"', "3.0"),
        ('value="usb"', '"usb"'),
        ('value=""', '""'),
        ('value="3" type="str"', '"3"'),
        ('value="3" type="float"', "3.0"),
        ('value="1" type="bool"', "true"),
        ("value=\"[a, '']\"", '["a", ""]'),
        ('value="[1.5, 2.0]"', "[1.5, 2.0]"),
    ],
)
def test_parameters_are_typed_as_launch_types_them(tmp_path: Path, attributes: str, yaml: str) -> None:
    assert parameter(tmp_path, attributes) == yaml


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain $ text 'as is'", "plain $ text 'as is'"),
        ("$(var a)-$(var b none)", "1-none"),
        ("$(env USER)$(env NOBODY '')", "ann"),
        ("$(find-pkg-share known)/x", "/share/known/x"),
        ("$(equals $(var a) 1.0)", "true"),
        ("$(equals true 1)", "true"),
        ("$(not-equals $(var a) two)", "true"),
        ("$(and true $(not false))", "true"),
        ("$(or false 0)", "false"),
        ("$(eval \"'$(var a)' == '1' and not ('x' != 'x')\")", "True"),
        (r"\$(var a)", "$(var a)"),
    ],
)
def test_substitutions_are_replaced(tmp_path: Path, text: str, result: str) -> None:
    assert evaluated(tmp_path, text, a="1") == result


@given(st.text(alphabet=st.characters(exclude_characters="\\$", exclude_categories=["Cs"])))
def test_text_without_substitutions_stays_as_it_is(text: str) -> None:
    assert substitution.evaluate(substitution.parse(text), substitution.Scope({}, {}, Path("/"), find_share)) == text


def test_eval_cannot_call_anything(tmp_path: Path) -> None:
    with pytest.raises(substitution.SubstitutionError, match=r"\$\(eval\) .* supported: literals"):
        evaluated(tmp_path, "$(eval \"__import__('os').getpid() == 1\")")


def test_the_directory_is_that_of_the_file_it_is_written_in(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "b.launch.xml").write_text('<launch><node pkg="p" exec="e" name="b" args="$(dirname)"/></launch>')
    body = f'<include file="{inner}/b.launch.xml"/><node pkg="p" exec="e" name="a" args="$(dirname)"/>'
    assert [process.arguments[0] for process in processes(tmp_path, body)] == [str(inner), str(tmp_path)]


def test_included_arguments_stay_set_unless_a_group_ends_them(tmp_path: Path) -> None:
    (tmp_path / "b.launch.xml").write_text('<launch><arg name="x" default="own"/></launch>')
    include = '<include file="$(dirname)/b.launch.xml"><arg name="x" value="given"/></include>'
    node = '<node pkg="p" exec="e" args="$(var x outer)"/>'
    (grouped,) = processes(tmp_path, f"<group>{include}</group>{node}")
    (plain,) = processes(tmp_path, include + node)
    assert (grouped.arguments[0], plain.arguments[0]) == ("outer", "given")


def test_groups_end_variables_environment_and_namespace(tmp_path: Path) -> None:
    body = """<let name="v" value="0"/>
      <group><let name="v" value="1"/><set_env name="E" value="1"/><push-ros-namespace namespace="n"/>
        <group><push-ros-namespace namespace="m"/><node pkg="p" exec="e" args="$(var v)"/></group>
        <group><push-ros-namespace namespace="/abs"/><unset_env name="E"/><node pkg="p" exec="e"/></group></group>
      <group scoped="false"><let name="v" value="2"/></group>
      <node pkg="p" exec="e" args="$(var v)"/>"""
    first, absolute, last = processes(tmp_path, body)
    assert (first.arguments[0], first.environment, first.arguments[-1]) == ("1", {"E": "1"}, "__ns:=/n/m")
    assert (absolute.environment, absolute.arguments[-1]) == ({}, "__ns:=/abs")
    assert (last.arguments, last.environment) == (("2", "--ros-args"), {})


def test_conditions_choose(tmp_path: Path) -> None:
    body = """<arg name="on" default="true"/>
      <node pkg="p" exec="a" if="$(var on)"/><node pkg="p" exec="b" unless="$(var on)"/>
      <group if="0"><node pkg="p" exec="c"/></group>"""
    assert [process.name for process in processes(tmp_path, body)] == ["a"]
    assert [process.name for process in processes(tmp_path, body, {"on": "False"})] == ["b"]


def test_arguments_are_shown_with_description_default_and_choices(tmp_path: Path) -> None:
    (tmp_path / "b.launch.xml").write_text(
        '<launch><arg name="set"/><arg name="deep" default="d" description="D."/></launch>'
    )
    file = tmp_path / "a.launch.xml"
    file.write_text(
        """<launch><arg name="x" description="The x."><choice value="1"/><choice value="2"/></arg>
        <group if="false"><include file="$(dirname)/b.launch.xml"><arg name="set" value="s"/></include></group>
        </launch>"""
    )
    arguments = declared_arguments(file, {}, find_share)
    assert [argument.name for argument in arguments] == ["x", "deep"]
    text = describe_arguments(arguments)
    assert "x  (required; one of: 1, 2)\n        The x." in text
    assert "deep  (default: d)\n        D." in text


NODE = '<node pkg="p" exec="e" {}/>'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<node pkg='p'", "not well-formed XML"),
        ("<timer period='1'/>", "2: <timer> is not supported inside <launch>; supported: arg, let, include"),
        ("text", "holds text 'text'"),
        ("<node pkg='p'/>", "<node> lacks the attribute 'exec'"),
        (NODE.format("launch-prefix='gdb'"), "has no attribute 'launch-prefix' here; supported: pkg, exec, name"),
        (NODE.format("output='own_log'"), "output 'own_log' is not supported; supported: screen, log, both"),
        (NODE.format("respawn_delay='soon'"), "respawn_delay 'soon' is not a number of seconds"),
        (NODE.format("on_exit='restart'"), "on_exit: only 'shutdown' is supported"),
        (NODE.format("if='maybe'"), "if: 'maybe' is neither true nor false"),
        (NODE.format("if='1' unless='1'"), "has both 'if' and 'unless'"),
        (NODE.format('args="\'open"'), "No closing quotation"),
        (NODE.format("name='$(var who)'"), "there is no argument or variable 'who' and no default"),
        (NODE.format("name='$(env WHO)'"), "there is no environment variable 'WHO'"),
        (NODE.format("name='$(anon n)'"), r"substitution \$\(anon\) is not supported; supported: var, env"),
        (NODE.format("name='$(var a'"), "is not closed"),
        (NODE.format("name='$(var a b c)'"), r"\$\(var\) takes 1 or 2 argument\(s\), got 3"),
        (NODE.format("name='$(var  a)'"), "separate arguments by one space"),
        (NODE.format("name='$(find-pkg-share nope)'"), "package 'nope' is nowhere"),
        (NODE.format("name='$(not maybe)'"), "'maybe' is neither true nor false"),
        (NODE.format("name='$(eval 1+)'"), "is not an expression"),
        (
            "<node pkg='p' exec='e'><param name='a'><param name='b' value='1'/></param></node>",
            "lacks the attribute 'value'",
        ),
        ("<node pkg='p' exec='e'><param name='a' value='{b: 1}'/></node>", "value '{b: 1}' of parameter 'a'"),
        ("<node pkg='p' exec='e'><param name='a' value='[1, b]'/></node>", "a list of one of them"),
        ("<node pkg='p' exec='e'><param name='a' value='[1'/></node>", "value '.1' of parameter 'a'"),
        (
            "<node pkg='p' exec='e'><param name='a' value='x' type='int'/></node>",
            "value 'x' of parameter 'a': invalid literal",
        ),
        (
            "<node pkg='p' exec='e'><param name='a' value='1' type='list_of_int'/></node>",
            "supported: bool, int, float, str",
        ),
        ("<node pkg='p' exec='e'><param from='/nowhere.yaml'/></node>", "there is no parameter file /nowhere.yaml"),
        ("<arg name='a'/>", "argument 'a' has no default; give a:=<value>"),
        ("<arg name='a' default='3'><choice value='1'/></arg>", "a:=3 is not allowed; choices: 1"),
        ("<include file='b.launch.xml'/>", "file 'b.launch.xml' is not absolute"),
        ("<include file='/nowhere/b.launch.xml'/>", "there is no file /nowhere/b.launch.xml"),
        ("<include file='$(dirname)/a.launch.xml'/>", "a.launch.xml includes itself"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_file_and_line(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(LaunchFileError, match=message) as raised:
        processes(tmp_path, body)
    assert str(raised.value).startswith("a.launch.xml:")
    assert "\n" not in str(raised.value)


def test_unknown_arguments_are_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(LaunchFileError, match=r"no argument 'sed'; did you mean 'seed'\? \(declared: seed\)"):
        processes(tmp_path, '<arg name="seed" default="0"/>', {"sed": "1"})


def test_an_include_cannot_set_what_the_file_does_not_declare(tmp_path: Path) -> None:
    (tmp_path / "b.launch.xml").write_text('<launch><arg name="x" default="1"/></launch>')
    with pytest.raises(LaunchFileError, match=r"a.launch.xml:2: <arg> b.launch.xml: there is no argument 'y'"):
        processes(tmp_path, '<include file="$(dirname)/b.launch.xml"><arg name="y" value="1"/></include>')


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchFileError, match=r"nothing.launch.xml: cannot read this launch file"):
        resolve(tmp_path / "nothing.launch.xml", {}, {}, find_share)


def test_another_root_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text("<robot/>")
    with pytest.raises(LaunchFileError, match=r"a.xml:1: <robot> cannot be the root"):
        resolve(file, {}, {}, find_share)
