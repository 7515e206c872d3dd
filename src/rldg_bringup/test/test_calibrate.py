"""``./rldg calibrate``: what it makes of readings, writes, and refuses."""

import io
import math
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from rldg_bringup import board, calibrate, readings
from rldg_bringup.board import BoardError, Intrinsics
from rldg_bringup.readings import Camera, Reading, Readings, at_rest
from rldg_core.calibration import CalibrationError, solve_hand_eye
from rldg_core.frames import (
    Pose,
    apply_body_delta,
    exp_rotation,
    quaternion_from_matrix,
    quaternion_multiply,
    rotation_angle,
)
from rldg_core.task import load_robot, load_task

DOWN = Pose.from_rpy([0.5, 0.0, 0.3], [math.pi, 0.0, 0.0])
TIP = np.array([0.002, -0.001, 0.04])
TCP_CAMERA = Pose(np.array([0.065, 0.0, -0.058]), np.array([0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)]))


def reading(pose: Pose, image: str | None = None) -> Reading:
    return Reading(tuple(pose.position.tolist()), tuple(pose.quaternion.tolist()), image)


def tip_readings(n: int = 8) -> Readings:
    rng = np.random.default_rng(0)
    turned = [quaternion_multiply(DOWN.quaternion, exp_rotation(rng.uniform(-0.5, 0.5, 3))) for _ in range(n)]
    return Readings(tuple(reading(Pose([0.5, 0.1, 0.05] - Pose(np.zeros(3), q).transform(TIP), q)) for q in turned))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_tip_becomes_the_tcp_of_a_robot_file_that_loads(capsys) -> None:
    readings.save(Path("rig/readings/tip"), tip_readings())
    assert calibrate.main(["tip"]) == 0
    robot = load_robot("rig/fr3.yaml")
    wanted = load_robot("fr3").flange_to_tcp.pose() @ Pose(TIP, Pose.identity().quaternion)
    assert np.allclose(robot.flange_to_tcp.pose().position, wanted.position, atol=2e-6)
    assert rotation_angle(robot.flange_to_tcp.pose(), wanted) < 1e-5
    assert "2.0 -1.0 40.0 mm" in capsys.readouterr().out
    assert sorted(path.name for path in Path("rig").iterdir()) == ["fr3.yaml", "readings"]


def test_what_was_calibrated_before_stays_in_the_file() -> None:
    readings.save(Path("rig/readings/tip"), tip_readings())
    calibrate.main(["tip"])
    text = Path("rig/fr3.yaml").read_text()
    Path("rig/fr3.yaml").write_text(text + "tcp_to_camera: {xyz_m: [0.1, 0.0, 0.0]}\n")
    assert calibrate.main(["tip"]) == 0
    camera = load_robot("rig/fr3.yaml").tcp_to_camera
    assert camera is not None
    assert camera.xyz_m == (0.1, 0.0, 0.0)


def test_a_file_of_the_rig_is_calibrated_again_in_its_place() -> None:
    readings.save(Path("rig/readings/tip"), tip_readings())
    assert calibrate.main(["tip"]) == 0
    once = load_robot("rig/fr3.yaml").flange_to_tcp.pose()
    assert calibrate.main(["tip", "--robot-file", "rig/fr3.yaml"]) == 0
    again = load_robot("rig/fr3.yaml")
    assert np.allclose(again.flange_to_tcp.pose().position, once.transform(TIP), atol=1e-5)
    assert again.joint_names == load_robot("fr3").joint_names


def test_a_fixture_becomes_a_task_file_with_its_workspace_moved_along() -> None:
    task = load_task("usb_insertion")
    fixture = Pose.from_rpy([0.42, 0.1, 0.05], [0.0, 0.0, 0.2])
    readings.save(Path("a"), Readings((reading(fixture @ task.success.goal.pose()),) * 3))
    assert calibrate.main(["fixture", "usb_insertion", "--readings", "a", "--out", "cell/usb_insertion.yaml"]) == 0
    moved = load_task("cell/usb_insertion.yaml")
    assert np.allclose(moved.fixture.pose.pose().position, fixture.position, atol=2e-6)
    assert rotation_angle(moved.fixture.pose.pose(), fixture) < 1e-5
    assert moved.fixture.randomize == task.fixture.randomize
    start = fixture @ moved.start.pose.pose()
    assert (np.array(moved.workspace.min_m) < start.position).all()
    assert (np.array(moved.workspace.max_m) > start.position).all()
    assert moved.workspace.yaw_rad == pytest.approx(0.2)
    assert moved.instruction == task.instruction


def test_a_contradiction_is_named_and_may_be_left_out(capsys) -> None:
    whole = tip_readings()
    wrong = msgspec.structs.replace(whole.readings[3], position_m=(0.5, 0.2, 0.2))
    changed = (*whole.readings[:3], wrong, *whole.readings[4:])
    readings.save(Path("rig/readings/tip"), Readings(changed))
    assert calibrate.main(["tip"]) == 1
    assert "readings 3 contradict" in capsys.readouterr().err
    assert not Path("rig/fr3.yaml").exists()
    assert calibrate.main(["tip", "--leave-out", "3"]) == 0


@pytest.mark.parametrize("numbers", ["8", "-1", "x", "1;2"])
def test_numbers_that_are_none_of_a_reading_are_refused(numbers, capsys) -> None:
    readings.save(Path("rig/readings/tip"), tip_readings())
    assert calibrate.main(["tip", f"--leave-out={numbers}"]) == 1
    assert "from 0 to 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "readings: 3",
        "readings: [{position_m: [0, 0], quaternion: [0, 0, 0, 1]}]",
        "readings: [{position_m: [0.0, 0.0, .nan], quaternion: [0.0, 0.0, 0.0, 1.0]}]",
        "readings: [{position_m: [0.0, 0.0, 0.0], quaternion: [0.0, 0.0, 0.0, 0.0]}]",
        "readings: [{position_m: [0.0, 0.0, 500.0], quaternion: [0.0, 0.0, 0.0, 1.0]}]",
        "readings: [{position_m: [0.0, 0.0, 0.0], quaternion: [0.0, 0.0, 0.0, 1.0], image: ../../etc/passwd}]",
        "readings: [], unknown: 1",
        "a: &a [*a]",
        "\0",
    ],
)
def test_a_wrong_file_of_readings_is_refused_with_its_name(text, capsys) -> None:
    folder = Path("rig/readings/tip")
    folder.mkdir(parents=True)
    (folder / "readings.yaml").write_text(text)
    assert calibrate.main(["tip"]) == 1
    error = capsys.readouterr().err
    assert "readings.yaml: " in error
    assert len(error.splitlines()) == 1


def test_no_readings_say_how_to_take_some(capsys) -> None:
    assert calibrate.main(["tip"]) == 1
    assert "--take" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["extends: elsewhere.yaml\n", "- 1\n", "a: [", "name: fr3\n"])
def test_a_file_that_is_something_else_is_not_written_over(text, capsys) -> None:
    readings.save(Path("rig/readings/tip"), tip_readings())
    Path("rig/fr3.yaml").write_text(text)
    assert calibrate.main(["tip"]) == 1
    assert "rig/fr3.yaml" in capsys.readouterr().err
    assert Path("rig/fr3.yaml").read_text() == text


def test_a_result_that_the_loader_refuses_is_not_written(capsys) -> None:
    fixture = Pose.from_rpy([2.5, 0.0, 0.03], [0.0, 0.0, 0.0])
    readings.save(Path("a"), Readings((reading(fixture @ load_task("usb_insertion").success.goal.pose()),)))
    assert calibrate.main(["fixture", "usb_insertion", "--readings", "a"]) == 1
    assert "usb_insertion.yaml: workspace.min_m" in capsys.readouterr().err
    assert not Path("rig/usb_insertion.yaml").exists()
    assert list(Path("rig").iterdir()) == []


@pytest.mark.parametrize("words", [["fixture"], ["tip", "usb_insertion"], ["arm"], ["hand_eye", "--square-mm", "0"]])
def test_a_wrong_call_is_refused(words) -> None:
    with pytest.raises(SystemExit, match="2"):
        calibrate.main(words)


def test_the_arm_must_rest() -> None:
    still = [(0.01 * i, DOWN) for i in range(60)]
    assert isinstance(at_rest(still, 0.6), Pose)
    moving = [(0.01 * i, apply_body_delta(DOWN, [1e-5 * i, 0, 0, 0, 0, 0])) for i in range(100)]
    assert isinstance(at_rest(moving, 1.0), Pose)
    moving = [(0.01 * i, apply_body_delta(DOWN, [1e-4 * i, 0, 0, 0, 0, 0])) for i in range(100)]
    assert "the arm moves (4.9 mm" in str(at_rest(moving, 1.0)) or "the arm moves (5.0 mm" in str(at_rest(moving, 1.0))
    turning = [(0.01 * i, apply_body_delta(DOWN, [0, 0, 0, 0, 0, 1e-3 * i])) for i in range(100)]
    assert "mrad" in str(at_rest(turning, 1.0))
    assert "0 poses" in str(at_rest(still, 5.0))
    assert "less than" in str(at_rest(still[30:], 0.6))


class Arm:
    """Publishes a pose and, if asked, an image, all the time, in a thread of its own."""

    def __init__(self, domain: int, *, with_camera: bool = False) -> None:
        import rclpy
        from geometry_msgs.msg import PoseStamped
        from sensor_msgs.msg import CameraInfo
        from sensor_msgs.msg import Image as ImageMsg

        from rldg_ros import qos

        self.moves, self._ended = threading.Event(), threading.Event()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("arm", context=self._context)
        self._poses = self._node.create_publisher(PoseStamped, "current_pose", qos.reliable(10))
        self._images = self._node.create_publisher(ImageMsg, "wrist/color/image_raw", qos.reliable())
        self._infos = self._node.create_publisher(CameraInfo, "wrist/color/camera_info", qos.reliable())
        self._image = ImageMsg(width=32, height=24, encoding="rgb8", step=96, data=bytes(24 * 96))
        self._info = CameraInfo(width=32, height=24, d=[0.0] * 5, k=[30.0, 0, 16, 0, 30, 12, 0, 0, 1])
        self._with_camera = with_camera
        self._thread = threading.Thread(target=self._publish)

    def _publish(self) -> None:
        from geometry_msgs.msg import PoseStamped

        from rldg_ros.conversions import pose_to_msg

        n = 0
        while not self._ended.wait(0.01):
            n += self.moves.is_set()
            pose = apply_body_delta(DOWN, [1e-3 * (n % 50), 0, 0, 0, 0, 0])
            self._poses.publish(PoseStamped(pose=pose_to_msg(pose)))
            if self._with_camera:
                self._images.publish(self._image)
                self._infos.publish(self._info)

    def __enter__(self) -> "Arm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._node.destroy_node()
        self._context.try_shutdown()


def test_readings_are_taken_while_the_arm_rests(ros_domain_id) -> None:
    from rldg_bringup.calibration_node import ReadingTaker

    with ReadingTaker(ros_domain_id) as taker:
        with pytest.raises(CalibrationError, match="does the cell run"):
            taker.take(timeout_s=0.1)
        with Arm(ros_domain_id) as arm:
            pose, image = taker.take(timeout_s=30.0)
            assert np.allclose(pose.position, DOWN.position)
            assert image is None
            arm.moves.set()
            with pytest.raises(CalibrationError, match="the arm moves"):
                taker.take(timeout_s=3.0)


def test_readings_with_a_camera_are_kept_as_they_were_taken(ros_domain_id, monkeypatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(ros_domain_id))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nq\n"))
    with Arm(ros_domain_id, with_camera=True):
        calibrate._take("hand_eye", Path("kept"))
    kept = readings.load(Path("kept"))
    assert kept.camera == Camera(32, 24, (30.0, 0.0, 16.0, 0.0, 30.0, 12.0, 0.0, 0.0, 1.0), (0.0,) * 5)
    assert np.allclose(kept.readings[0].pose().position, DOWN.position)
    assert readings.load_image(Path("kept"), "000.png", kept.camera).shape == (24, 32, 3)


def test_a_camera_that_is_silent_is_named(ros_domain_id) -> None:
    from rldg_bringup.calibration_node import ReadingTaker

    with (
        ReadingTaker(ros_domain_id, with_camera=True) as taker,
        Arm(ros_domain_id),
        pytest.raises(CalibrationError, match="camera_info"),
    ):
        taker.take(timeout_s=5.0)


# --- with OpenCV -----------------------------------------------------------------------------------------------------

CAMERA = Camera(640, 480, (600.0, 0.0, 320.0, 0.0, 600.0, 240.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0, 0.0))
SQUARE_M = 0.025
# the drawn board's frame is that of its first corner, x to the right and y down in the drawing; z into the paper
BASE_BOARD = Pose.from_rpy([0.478, 0.063, 0.02], [math.pi, 0.0, 0.0])


def test_without_opencv_the_error_names_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(BoardError, match="opencv-python-headless"):
        board.find(np.zeros((480, 640, 3), np.uint8), CAMERA.intrinsics(), SQUARE_M)


def photograph(camera_board: Pose, camera: Intrinsics) -> np.ndarray:
    """What the camera sees of a drawn board."""
    cv2 = pytest.importorskip("cv2")
    square_px = 100
    drawn = board.draw(square_px)
    # pixels of the drawing → metres on the board → the image
    scale = SQUARE_M / square_px
    to_metres = np.array([[scale, 0, scale / 2 - SQUARE_M / 2], [0, scale, scale / 2 - SQUARE_M / 2], [0, 0, 1]])
    matrix = camera_board.matrix()
    plane = camera.matrix @ np.column_stack([matrix[:, 0], matrix[:, 1], camera_board.position])
    # drawn four times as large, so that a pixel is the mean of what it covers
    larger = np.array([[4.0, 0.0, 1.5], [0.0, 4.0, 1.5], [0.0, 0.0, 1.0]])
    size = (4 * camera.width_px, 4 * camera.height_px)
    fine = cv2.warpPerspective(drawn, larger @ plane @ to_metres, size, borderValue=90)
    grey = cv2.resize(fine, (camera.width_px, camera.height_px), interpolation=cv2.INTER_AREA)
    return np.repeat(grey[:, :, None], 3, axis=2)


def test_a_drawn_board_is_found_where_it_is() -> None:
    camera = CAMERA.intrinsics()
    wanted = Pose.from_rpy([-0.08, -0.06, 0.3], [0.2, -0.15, 0.1])
    found = board.find(photograph(wanted, camera), camera, SQUARE_M)
    assert np.linalg.norm(found.position - wanted.position) < 1e-3
    assert rotation_angle(found, wanted) < math.radians(0.5)


def test_an_image_without_the_board_is_refused() -> None:
    pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    with pytest.raises(BoardError, match="0 corners"):
        board.find(noise, CAMERA.intrinsics(), SQUARE_M)


def test_the_board_to_print_says_how_large_it_is() -> None:
    pytest.importorskip("cv2")
    assert calibrate.main(["board", "--square-mm", "20"]) == 0
    with Image.open("board.png") as image:
        assert image.info["dpi"][0] == pytest.approx(200 / 20 * 25.4, rel=1e-3)


def test_a_camera_is_found_from_photographs_of_the_board(capsys) -> None:
    pytest.importorskip("cv2")
    rng = np.random.default_rng(2)
    folder = Path("rig/readings/hand_eye")
    folder.mkdir(parents=True)
    taken = []
    for n in range(9):
        pose = apply_body_delta(DOWN, [*rng.uniform(-0.02, 0.02, 3), *rng.uniform(-0.25, 0.25, 3)])
        view = (pose @ TCP_CAMERA).inverse() @ BASE_BOARD
        Image.fromarray(photograph(view, CAMERA.intrinsics())).save(folder / f"{n}.png")
        taken.append(reading(pose, f"{n}.png"))
    Image.new("RGB", (640, 480)).save(folder / "8.png")  # one without the board
    readings.save(folder, Readings(tuple(taken), CAMERA))
    assert calibrate.main(["hand_eye", "--square-mm", "25"]) == 0
    output = capsys.readouterr().out
    assert "not used: 8.png" in output
    spec = load_robot("rig/fr3.yaml").tcp_to_camera
    assert spec is not None
    assert np.linalg.norm(spec.pose().position - TCP_CAMERA.position) < 2e-3
    assert rotation_angle(spec.pose(), TCP_CAMERA) < math.radians(0.5)


def test_noisy_readings_give_what_opencv_makes_of_them() -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "calibrateHandEye"):
        pytest.skip("OpenCV 5 has no calibrateHandEye")
    rng = np.random.default_rng(4)
    poses = [apply_body_delta(DOWN, [*rng.uniform(-0.05, 0.05, 3), *rng.uniform(-0.5, 0.5, 3)]) for _ in range(12)]
    noise = [apply_body_delta(Pose.identity(), rng.normal(0.0, 1e-3, 6)) for _ in poses]
    views = [(pose @ TCP_CAMERA).inverse() @ BASE_BOARD @ error for pose, error in zip(poses, noise, strict=True)]
    found = solve_hand_eye(poses, views).tcp_camera
    rotation, position = cv2.calibrateHandEye(
        [pose.matrix() for pose in poses],
        [pose.position for pose in poses],
        [view.matrix() for view in views],
        [view.position for view in views],
        method=cv2.CALIB_HAND_EYE_PARK,
    )
    theirs = Pose(position.reshape(3), quaternion_from_matrix(rotation))
    assert np.linalg.norm(found.position - theirs.position) < 5e-4
    assert rotation_angle(found, theirs) < 1e-3


@pytest.mark.parametrize(("image", "error"), [(None, "no image"), ("gone.png", "cannot be read")])
def test_a_reading_without_its_image_is_refused(image, error, capsys) -> None:
    readings.save(Path("rig/readings/hand_eye"), Readings((reading(DOWN, image),) * 6, CAMERA))
    assert calibrate.main(["hand_eye"]) == 1
    assert error in capsys.readouterr().err


def test_an_image_of_another_size_than_the_cameras_is_refused(capsys) -> None:
    readings.save(Path("rig/readings/hand_eye"), Readings((reading(DOWN, "a.png"),) * 6, CAMERA))
    Image.new("RGB", (32, 32)).save("rig/readings/hand_eye/a.png")
    assert calibrate.main(["hand_eye"]) == 1
    assert "32 x 32 px" in capsys.readouterr().err
