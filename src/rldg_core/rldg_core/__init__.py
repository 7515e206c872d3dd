"""What every part of RLDG shares: task files, types, frames, the control law, the door and its safety rules.

Nothing here imports rclpy, mujoco, torch or jax.
"""
