# syntax=docker/dockerfile:1
# The machine at the arm: ROS 2 Jazzy, ros2_control, cameras and input devices; no GPU. Build from the root of the checkout:
#   docker compose --file docker/compose.yaml --profile robot build
FROM ros:jazzy-ros-base

# What ./rldg needs to set itself up on a distribution, what it renders with, and what the devices need.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        gcc g++ cmake git python3-dev python3-venv python3-colcon-common-extensions python3-rosdep python3-vcstool \
        libegl1 libgl1-mesa-dri libhidapi-hidraw0 libusb-1.0-0 iputils-ping \
        ros-jazzy-realsense2-camera ros-jazzy-spacenav ros-jazzy-joy \
        ros-jazzy-ros2-control ros-jazzy-ros2-controllers \
    && rm -rf /var/lib/apt/lists/*

# The drivers that have no packages: franka_ros2, libfranka, crisp_controllers, at the versions of docker/rig.repos.
COPY docker/rig.repos /rig/rig.repos
RUN mkdir -p /rig/src && vcs import --input /rig/rig.repos /rig/src \
    && apt-get update && rosdep update --rosdistro jazzy \
    && . /opt/ros/jazzy/setup.sh && cd /rig \
    && wanted="--packages-up-to franka_bringup franka_gripper franka_msgs crisp_controllers" \
    && rosdep install --from-paths $(colcon list $wanted --paths-only) --ignore-src --rosdistro jazzy --default-yes \
    && colcon build --merge-install $wanted --cmake-args -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
    && rm -rf /rig/build /rig/log /var/lib/apt/lists/*

# The project, by its own set-up and its own locks. A layer that only source changes make anew.
COPY . /rldg
WORKDIR /rldg
RUN . /rig/install/setup.sh && ./rldg up robot:=fr3_direct --help >/dev/null

COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["./rldg", "doctor", "--rig"]
