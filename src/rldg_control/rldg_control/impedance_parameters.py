"""A task's gains as parameters of the impedance controller, by the names of crisp_controllers."""

from __future__ import annotations

from rldg_core.task import Gains, Impedance

_AXES = ("x", "y", "z")


def impedance_parameters(gains: Gains, impedance: Impedance) -> dict[str, float]:
    """Parameter name to value: stiffness (N/m, N m/rad), damping (N s/m, N m s/rad), error clips (m, rad), filters.

    Names as in crisp_controllers' CartesianController (github.com/utiasDSL/crisp_controllers).
    """
    parameters: dict[str, float] = {
        "filter.target_pose": impedance.target_filter,
        "max_delta_tau": impedance.max_torque_rate_nm_ms,
        "nullspace.stiffness": impedance.nullspace_stiffness_nm_rad,
    }
    for i, axis in enumerate(_AXES):
        parameters[f"task.k_pos_{axis}"] = gains.k_pos_n_m[i]
        parameters[f"task.d_pos_{axis}"] = gains.d_pos_ns_m[i]
        parameters[f"task.k_rot_{axis}"] = gains.k_rot_nm_rad[i]
        parameters[f"task.d_rot_{axis}"] = gains.d_rot_nms_rad[i]
        parameters[f"task.error_clip.{axis}"] = gains.clip_pos_m[i]
        parameters[f"task.error_clip.r{axis}"] = gains.clip_rot_rad[i]
    return parameters
