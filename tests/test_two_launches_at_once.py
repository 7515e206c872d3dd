"""Two cells on one machine do not hear each other."""

from pathlib import Path

from rldg_bringup.testing import running_cell


def test_two_cells_run_side_by_side_in_their_own_domains(tmp_path: Path) -> None:
    with (
        running_cell(tmp_path / "a", lockstep="true") as (_, first),
        running_cell(tmp_path / "b", task="vga_insertion", lockstep="true") as (_, second),
    ):
        publishers = [runner.node.count_publishers("target_pose") for runner in (first, second)]
        one = list(first.run_episodes(count=1, first_seed=1))
        two = list(second.run_episodes(count=1, first_seed=2))
        assert publishers == [1, 1]
        assert [report.seed for report in one + two] == [1, 2]
        assert one[0].episode_id.rpartition("/")[0] != two[0].episode_id.rpartition("/")[0]
