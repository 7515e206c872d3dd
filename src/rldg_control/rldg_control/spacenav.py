"""The stock ``spacenav`` driver (ros-drivers/joystick_drivers) as a device of the contract: its quirks, taken out.

What the driver does otherwise than its topics suggest:

- Its full scale is 512, where a device reaches about 350; what goes beyond is not clipped.
- ``buttons`` is empty until the first press and grows with the highest button that was ever pressed.
- After the first event it says ``joy`` up to 1000 times a second; it is a level, not an event.
- A device at rest is said again every 31 ms or so. So silence means that the driver, or its way to spacenavd, is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rldg_core.frames import Array

DRIVER_FULL_SCALE = 512.0
DEVICE_FULL_SCALE = 350.0
SILENT_S = 0.2


def deflection(twist: npt.ArrayLike) -> Array:
    """From the driver's twist, shape (6,), to full deflections of about 1.

    Raises:
        ValueError: it is not six finite numbers.
    """
    raw = np.asarray(twist, dtype=np.float64)
    if raw.shape != (6,) or not np.isfinite(raw).all():
        raise ValueError(f"spacenav twist: {raw.tolist()}, must be 6 finite numbers")
    return np.clip(raw * (DRIVER_FULL_SCALE / DEVICE_FULL_SCALE), -1.0, 1.0)


def pressed(buttons: Sequence[int], index: int) -> bool:
    """Whether a button is pressed, in a list that may not know it yet."""
    return index < len(buttons) and buttons[index] != 0
