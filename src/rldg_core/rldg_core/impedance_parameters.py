"""A task's gains as parameters of the impedance controller and back, by the names of crisp_controllers.

Names as in its CartesianController (github.com/utiasDSL/crisp_controllers).
"""

from __future__ import annotations

import msgspec

from rldg_core.task import Gains, Impedance

CONTROLLER = "cartesian_impedance_controller"  # what the node is called that has these parameters, on every backend

# parameter name: field of Gains, axis
GAIN_PARAMETERS = {
    f"task.{prefix}{axis}": (field, i)
    for field, prefix, axes in (
        ("k_pos_n_m", "k_pos_", "xyz"),
        ("k_rot_nm_rad", "k_rot_", "xyz"),
        ("d_pos_ns_m", "d_pos_", "xyz"),
        ("d_rot_nms_rad", "d_rot_", "xyz"),
        ("clip_pos_m", "error_clip.", "xyz"),
        ("clip_rot_rad", "error_clip.r", "xyz"),
    )
    for i, axis in enumerate(axes)
}


def impedance_parameters(gains: Gains, impedance: Impedance) -> dict[str, float]:
    """Parameter name to value: stiffness (N/m, N m/rad), damping (N s/m, N m s/rad), error clips (m, rad), filters."""
    return {
        **fixed_parameters(impedance),
        **{name: getattr(gains, field)[axis] for name, (field, axis) in GAIN_PARAMETERS.items()},
    }


def fixed_parameters(impedance: Impedance) -> dict[str, float]:
    """Those that stay as the task file has them."""
    return {
        "filter.target_pose": impedance.target_filter,
        "max_delta_tau": impedance.max_torque_rate_nm_ms,
        "nullspace.stiffness": impedance.nullspace_stiffness_nm_rad,
    }


def changed_gains(gains: Gains, parameters: dict[str, float]) -> Gains:
    """``gains`` with those of ``parameters`` that are gains.

    Raises:
        ValueError: a value is out of range; the message is one line.
    """
    fields = {name: list(getattr(gains, name)) for name in gains.__struct_fields__}
    for name, value in parameters.items():
        if name in GAIN_PARAMETERS:
            field, axis = GAIN_PARAMETERS[name]
            fields[field][axis] = float(value)
    return msgspec.convert(fields, Gains)
