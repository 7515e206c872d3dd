"""Builds: the same bytes always, whole sets or none, and no work done twice."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import made_sets
import msgspec
import numpy as np
import pytest
from made_sets import calls, contents, made, made_but_second_fails, made_but_second_kills, make_plan

from rldg_recorder import partial
from rldg_recorder.build import build
from rldg_recorder.plan import DatasetError, Plan
from rldg_recorder.rlds_writer import Rlds, export_rlds, format_of
from rldg_recorder.training_set import TrainingSet


def build_here(plan: Plan, out: Path, **options: object) -> Path:
    return build(plan, out, jobs=1, executor="serial", **{"materialize": made, **options})  # type: ignore[arg-type]


def kill_at_third(plan_file: str, out: str) -> None:
    """In a process of its own: a build that is killed while it works on its third episode."""

    def third_kills(planned: object, plan: Plan) -> object:
        if planned.segments[0].bag.endswith("0002"):  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        return made(planned, plan)  # type: ignore[arg-type]

    plan = msgspec.json.decode(Path(plan_file).read_bytes(), type=Plan)
    build_here(plan, Path(out), materialize=third_kills)


def interrupt(plan: Plan, root: Path) -> None:
    """Leave what a killed build leaves."""
    plan_file = root / "plan.json"
    plan_file.write_bytes(msgspec.json.encode(plan))
    code = f"import test_builds; test_builds.kill_at_third({str(plan_file)!r}, {str(root)!r})"
    here = str(Path(made_sets.__file__).parent)
    path = os.pathsep.join([here, *sys.path])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert done.returncode == -signal.SIGKILL


# x264 chose another block type for one frame in 2 of some 50,000 videos that were to be the same; nobody knows why.
_OF_VIDEO = pytest.mark.flaky(reruns=1)


@pytest.mark.parametrize("video", [False, pytest.param(True, marks=_OF_VIDEO)])
def test_the_bytes_do_not_depend_on_the_executor(tmp_path: Path, video: bool) -> None:
    plan = make_plan(tmp_path, video=video)
    here = build_here(plan, tmp_path / "a")
    apart = build(plan, tmp_path / "b", jobs=2, executor="processes", materialize=made)
    assert contents(here) == contents(apart)


def test_an_interrupted_build_leaves_no_set_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (5, 4, 3, 2))
    interrupt(plan, tmp_path)
    assert not (tmp_path / "set").exists() and calls(tmp_path) == ["0000", "0001"]
    folder = build_here(plan, tmp_path)
    assert calls(tmp_path) == ["0000", "0001", "0002", "0003"]
    assert contents(folder) == contents(build_here(plan, tmp_path / "uninterrupted"))
    assert not (tmp_path / ".set.partial").exists()


@pytest.mark.parametrize(("suffix", "video"), [(".npz", False), (".images", False), (".mp4", True)])
def test_half_a_shard_is_not_used(tmp_path: Path, suffix: str, video: bool) -> None:
    plan = make_plan(tmp_path, (5, 4, 3), video=video)
    interrupt(plan, tmp_path)
    shards = sorted((tmp_path / ".set.partial" / "shards").glob(f"*{suffix}"))
    assert len(shards) == 2
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    build_here(plan, tmp_path)
    assert calls(tmp_path) == ["0000", "0001", "0000", "0001", "0002"]


def test_a_bag_that_has_changed_is_read_again(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (5, 4, 3))
    interrupt(plan, tmp_path)
    os.utime(Path(plan.episodes[1].segments[0].bag) / "episode.yaml")
    build_here(plan, tmp_path)
    assert calls(tmp_path) == ["0000", "0001", "0001", "0002"]


@pytest.mark.parametrize("change", [{"image_size_px": 16}, {"relabel_parameters": {"checkpoint": "b"}}])
def test_other_options_make_other_shards(tmp_path: Path, change: dict[str, object]) -> None:
    plan = make_plan(tmp_path, (5, 4, 3))
    interrupt(plan, tmp_path)
    build_here(msgspec.structs.replace(plan, **change), tmp_path)  # type: ignore[arg-type]
    assert calls(tmp_path) == ["0000", "0001", "0000", "0001", "0002"]


def test_another_choice_of_episodes_uses_the_shards_it_can(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (5, 4, 3))
    interrupt(plan, tmp_path)
    build_here(msgspec.structs.replace(plan, episodes=plan.episodes[1:], recipe="other"), tmp_path)
    assert calls(tmp_path) == ["0000", "0001", "0002"]


def test_an_episode_may_be_in_the_set_twice(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (5, 4))
    twice = msgspec.structs.replace(plan, episodes=(plan.episodes[0], plan.episodes[0]))
    training_set = TrainingSet(build(twice, tmp_path, jobs=2, executor="processes", materialize=made))
    np.testing.assert_array_equal(training_set.episode(0).action, training_set.episode(1).action)


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_an_episode_that_fails_is_named_and_no_set_appears(tmp_path: Path, executor: str) -> None:
    plan = make_plan(tmp_path)
    with pytest.raises(DatasetError, match=r"^episode 1 of set \(.*/0001\): step 3 is missing$"):
        build(plan, tmp_path, jobs=2, executor=executor, materialize=made_but_second_fails)
    assert not (tmp_path / "set").exists()
    assert not list(tmp_path.glob(".set.partial/set/meta/info.json"))


def test_an_episode_whose_process_dies_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"^episode 1 of set \(.*/0001\): .*killed by signal 9"):
        build(make_plan(tmp_path), tmp_path, jobs=2, executor="processes", materialize=made_but_second_kills)
    assert not (tmp_path / "set").exists()


def test_an_existing_set_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    folder = build_here(make_plan(tmp_path), tmp_path)
    shorter = make_plan(tmp_path, (5, 4))
    with pytest.raises(DatasetError, match=r"set: exists already.*overwrite"):
        build_here(shorter, tmp_path)
    assert len(TrainingSet(folder)) == 3
    assert len(TrainingSet(build_here(shorter, tmp_path, overwrite=True))) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["bags", "set"]


def test_two_builds_of_one_set_do_not_meet(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)

    def build_again(planned: object, options: object) -> object:
        return build_here(plan, tmp_path)

    with pytest.raises(DatasetError, match="another build of this set is running"):
        build_here(plan, tmp_path, materialize=build_again)


def test_a_set_that_another_build_has_just_made_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = partial._lock

    def ends_meanwhile(folder: Path) -> int:
        (tmp_path / "set").mkdir()
        return lock(folder)

    monkeypatch.setattr(partial, "_lock", ends_meanwhile)
    with pytest.raises(DatasetError, match="set: exists already"):
        build_here(make_plan(tmp_path), tmp_path)
    assert calls(tmp_path) == []


def test_a_folder_that_another_build_took_away_while_it_was_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, taken = fcntl.flock, []

    def taken_away(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(shutil.rmtree(tmp_path / ".set.partial"))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", taken_away)
    assert len(TrainingSet(build_here(make_plan(tmp_path), tmp_path))) == 3


def test_a_link_that_leads_nowhere_stands_where_the_set_will_lie(tmp_path: Path) -> None:
    (tmp_path / "set").symlink_to(tmp_path / "gone")
    with pytest.raises(DatasetError, match="set: exists already"):
        build_here(make_plan(tmp_path), tmp_path)
    assert len(TrainingSet(build_here(make_plan(tmp_path), tmp_path, overwrite=True))) == 3


def test_progress_counts_episodes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_here(make_plan(tmp_path), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", ["", "../set", "a/b", ".hidden", "a b", "x" * 101])
def test_names_that_are_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"name .* of the set: must be"):
        build_here(make_plan(tmp_path, name=name), tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"episodes": ()}, "the plan has no episode"),
        ({"rate_hz": 0.0}, "rate_hz is 0.0"),
        ({"rate_hz": float("nan")}, "rate"),
    ],
)
def test_plans_that_make_no_set_are_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    with pytest.raises(DatasetError, match=text):
        build_here(msgspec.structs.replace(make_plan(tmp_path), **change), tmp_path)  # type: ignore[arg-type]


def test_a_bag_that_is_not_there_is_named(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    folder = Path(plan.episodes[2].segments[0].bag)
    (folder / "episode.yaml").unlink()
    folder.rmdir()
    with pytest.raises(DatasetError, match=r"0002: the bag cannot be read"):
        build_here(plan, tmp_path)


def test_an_episode_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"episode 1 of set.*no frame"):
        build_here(make_plan(tmp_path, (3, 0)), tmp_path)


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_rlds_of_one_pass_has_the_bytes_of_an_export(tmp_path: Path, image_format: str) -> None:
    plan = make_plan(tmp_path)
    rlds = Rlds(tmp_path / "rlds", "set", image_format=image_format)
    both = build(plan, tmp_path / "both", jobs=2, executor="processes", materialize=made, rlds=rlds)
    assert contents(both) == contents(build_here(plan, tmp_path / "alone"))
    later = Rlds(tmp_path / "exported", "set", image_format=image_format)
    exported = export_rlds(TrainingSet(both), later, executor="serial")
    assert contents(tmp_path / "rlds" / "set" / "1.0.0") == contents(exported)


def test_a_set_of_jpeg_images_is_small_close_to_the_bags_and_shares_its_images_with_rlds(tmp_path: Path) -> None:
    plan, rlds = make_plan(tmp_path, jpeg=True), Rlds(tmp_path / "rlds", "set", image_format="jpeg")
    jpeg = TrainingSet(build_here(plan, tmp_path / "jpeg", rlds=rlds))
    png = TrainingSet(build_here(make_plan(tmp_path), tmp_path / "png"))
    for number in range(len(png)):
        for small, exact in zip(jpeg.images(number), png.images(number), strict=True):
            assert 0 < np.abs(small.astype(int) - exact).mean() < 5.0
    (record,) = (tmp_path / "rlds" / "set" / "1.0.0").glob("set-train.tfrecord*")
    encoded = jpeg.encoded_images(0)
    assert encoded is not None and format_of(jpeg) == "jpeg" and format_of(png) == "png"
    assert all(image in record.read_bytes() for image in encoded)
    assert sum(map(len, encoded)) < sum(map(len, png.encoded_images(0) or [])) / 2


def test_an_interrupted_build_that_is_to_write_rlds_too_goes_on(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, (5, 4, 3, 2))
    interrupt(plan, tmp_path)
    rlds = Rlds(tmp_path / "rlds", "set")
    with pytest.raises(DatasetError, match=r"episode 1 of set \(.*/0001\)"):
        build_here(plan, tmp_path, rlds=rlds, materialize=made_but_second_fails)
    assert not (tmp_path / "rlds" / "set" / "1.0.0").exists()
    build_here(plan, tmp_path, rlds=rlds)
    assert calls(tmp_path) == ["0000", "0001", "0000", "0001", "0002", "0003"]
    build_here(plan, tmp_path / "again", rlds=Rlds(tmp_path / "again" / "rlds", "set"))
    assert contents(tmp_path / "rlds") == contents(tmp_path / "again" / "rlds")


def test_rlds_is_refused_where_the_set_itself_will_lie(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"RLDS .*set/1\.0\.0: lies in the set"):
        build_here(make_plan(tmp_path), tmp_path, rlds=Rlds(tmp_path, "set"))
    assert not (tmp_path / "set").exists()


def test_an_existing_rlds_set_is_refused_before_any_work(tmp_path: Path) -> None:
    plan, rlds = make_plan(tmp_path), Rlds(tmp_path / "rlds", "set")
    build_here(plan, tmp_path / "a", rlds=rlds)
    with pytest.raises(DatasetError, match=r"1\.0\.0: exists already"):
        build_here(plan, tmp_path / "b", rlds=rlds)
    assert len(calls(tmp_path)) == 3
    build_here(plan, tmp_path / "b", rlds=rlds, overwrite=True)
