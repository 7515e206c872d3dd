#!/bin/sh
# Runs a command with ROS 2, and on the robot's machine with its drivers.
set -e
. /opt/ros/jazzy/setup.sh
if [ -r /rig/install/setup.sh ]; then . /rig/install/setup.sh; fi
exec "$@"
