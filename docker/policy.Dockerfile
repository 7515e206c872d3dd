# syntax=docker/dockerfile:1
# A machine with a GPU that serves and trains policies: CUDA, ROS 2 Jazzy, torch, JAX. Build from the root of the checkout:
#   docker compose --file docker/compose.yaml --profile policy build
# CUDA's version is the one that torch of setup/setup.sh is built for; its libraries come with torch.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

ARG ROS_APT_SOURCE=1.1.0
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates curl \
    && curl --fail --silent --show-error --location --output /tmp/ros.deb \
        "https://github.com/ros-infrastructure/ros-apt-source/releases/download/${ROS_APT_SOURCE}/ros2-apt-source_${ROS_APT_SOURCE}.noble_all.deb" \
    && dpkg --install /tmp/ros.deb && rm /tmp/ros.deb \
    && apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        gcc g++ cmake git python3-dev python3-venv python3-colcon-common-extensions \
        libegl1 libgl1-mesa-dri ros-jazzy-ros-base \
    && rm -rf /var/lib/apt/lists/*

# The project, by its own set-up and its own locks, with what the generalists need.
COPY . /rldg
WORKDIR /rldg
RUN . /opt/ros/jazzy/setup.sh && ./rldg finetune --help >/dev/null

# JAX with CUDA: the plugin of the locked JAX, on the CUDA libraries that torch brought, whose versions torch wants exactly.
RUN version=$(sed -n 's/^jax==\([^ ]*\).*/\1/p' setup/distro.lock) \
    && .venv/bin/python -m pip install --no-deps "jax-cuda13-plugin==$version" "jax-cuda13-pjrt==$version" nvidia-cuda-nvcc

COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["./rldg", "doctor", "--rig", "policy"]
