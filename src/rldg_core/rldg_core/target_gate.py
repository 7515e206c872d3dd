"""What an arm obeys of ``target_pose``, and when it stops waiting for more: the same for every backend."""

from __future__ import annotations

TARGET_TIMEOUT_S = 0.3


class TargetGate:
    """Admits targets of one publisher, in the base frame, stamped now; tells when the arm is to hold instead.

    Targets that are refused count as silence.

    Args:
        base_frame: the only frame that targets may be in.
    """

    def __init__(self, base_frame: str) -> None:
        self._base_frame = base_frame
        self._heard_s = float("-inf")
        self._rivals = self._silent = False

    def open(self, now_s: float) -> None:
        """The arm holds and begins to listen; the first target may take as long as any other."""
        self._heard_s, self._silent = now_s, False

    def admit(self, frame_id: str, now_s: float, age_s: float = 0.0) -> bool:
        """Whether a target is to be obeyed.

        Args:
            now_s: monotonic time.
            age_s: of the target's stamp, on the clock that stamped it.

        Raises:
            ValueError: it is wrong; one line says why.
        """
        if frame_id != self._base_frame:
            raise ValueError(f"frame {frame_id!r}, must be {self._base_frame!r}")
        if not abs(age_s) <= TARGET_TIMEOUT_S:
            raise ValueError(
                f"stamp is {age_s:.3g} s old, must be within {TARGET_TIMEOUT_S} s of now; do the clocks agree?"
            )
        if self._rivals:
            return False
        self._heard_s = now_s
        return True

    def watch(self, now_s: float) -> bool:
        """Whether targets have just fallen silent: the arm is to hold its measured pose."""
        before, self._silent = self._silent, now_s - self._heard_s > TARGET_TIMEOUT_S
        return self._silent and not before

    def count(self, publishers: int) -> bool:
        """The number of publishers of ``target_pose``; whether it has just become too large: the arm is to hold."""
        before, self._rivals = self._rivals, publishers > 1
        return self._rivals and not before

    @property
    def rivals(self) -> bool:
        """More than one publisher."""
        return self._rivals

    @property
    def trouble(self) -> str:
        """Why the arm holds, "" while it is told where to go."""
        if self._rivals:
            return "more than one publisher on target_pose: all are ignored, holding"
        if self._silent:
            return f"silent for more than {TARGET_TIMEOUT_S} s: holding the measured pose"
        return ""
