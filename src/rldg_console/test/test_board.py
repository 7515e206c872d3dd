"""A viewer gets the newest of each sheet, as fast as it can show it and no faster."""

import io

import numpy as np
from PIL import Image

from rldg_console.board import IN_FLIGHT, LOST_S, MAX_SIDE_PX, Board, Pace, encode_jpeg


def grey(value: int, side_px: int = 16) -> np.ndarray:
    return np.full((side_px, side_px, 3), value, np.uint8)


def numbers(messages) -> list[int]:
    return [int.from_bytes(message[1:5], "big") for message in messages]


def test_a_new_viewer_gets_what_is_there_and_nothing_twice() -> None:
    board, pace = Board(), Pace()
    board.put_text("state", "1")
    board.put_image("scene", grey(1), 0.0)
    assert len(list(pace.take(board, 0.0))) == 2
    assert list(pace.take(board, 0.0)) == []


def test_only_the_newest_picture_is_sent() -> None:
    board, pace = Board(), Pace()
    for n in range(10):
        board.put_image("scene", grey(n), n)
    assert numbers(pace.take(board, 10.0)) == [10]


def test_a_browser_that_shows_nothing_gets_no_more_than_a_few() -> None:
    board, pace, sent = Board(), Pace(), 0
    for n in range(50):
        board.put_image("wrist", grey(n), n)
        sent += len(list(pace.take(board, 0.1)))
    assert sent == IN_FLIGHT


def test_a_slow_browser_gets_the_newest_each_time_and_skips_the_rest() -> None:
    board, pace, got = Board(), Pace(), []
    for n in range(1, 61):
        board.put_image("wrist", grey(n), n)
        got += numbers(pace.take(board, 0.0))
        if n % 10 == 0:
            pace.on_shown("wrist", got[-1])
    assert got == [1, 2, 11, 21, 31, 41, 51]


def test_a_picture_that_was_lost_does_not_stop_the_stream_for_ever() -> None:
    board, pace = Board(), Pace()
    for n in range(IN_FLIGHT + 1):
        board.put_image("wrist", grey(n), n)
        list(pace.take(board, 0.0))
    assert list(pace.take(board, LOST_S)) == []
    assert len(list(pace.take(board, LOST_S + 0.1))) == 1


def test_saying_shown_of_what_was_never_sent_gains_nothing() -> None:
    board, pace = Board(), Pace()
    for n in range(IN_FLIGHT):
        board.put_image("wrist", grey(n), n)
        list(pace.take(board, 0.0))
    assert not pace.on_shown("wrist", 99) and not pace.on_shown("scene", 1)
    board.put_image("wrist", grey(9), 9.0)
    assert list(pace.take(board, 0.0)) == []


def test_one_viewer_does_not_slow_another() -> None:
    board, slow, quick = Board(), Pace(), Pace()
    for n in range(20):
        board.put_image("scene", grey(n), n)
        list(slow.take(board, 0.0))
        (number,) = numbers(quick.take(board, 0.0))
        assert quick.on_shown("scene", number)
    assert number == 20


def test_pictures_that_come_faster_than_anyone_can_look_are_left_out() -> None:
    board, changes = Board(), []
    board.changed = lambda: changes.append(1)
    for n in range(100):
        board.put_image("wrist", grey(n), n * 0.01)
    assert 12 <= len(changes) <= 19


def test_pictures_are_jpeg_and_large_ones_shrunk() -> None:
    with Image.open(io.BytesIO(encode_jpeg(np.full((800, 1600, 3), 200, np.uint8)[:, ::-1]))) as image:
        assert image.format == "JPEG" and max(image.size) == MAX_SIDE_PX and image.size[0] == 2 * image.size[1]
        assert abs(int(np.asarray(image)[10, 10, 0]) - 200) < 3
