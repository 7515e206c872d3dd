from pathlib import Path

from setuptools import find_packages, setup

name = "rldg_control"
# colcon build --symlink-install runs this file from the build directory, where only links to it lie
here = Path(__file__).resolve().parent
nodes = sorted(path.stem for path in (here / name).glob("*_node.py"))

setup(
    name=name,
    version="0.1.0",
    description="The robot-side nodes of RLDG: observer, arbiter, episode manager, camera, SpaceMouse and gamepad.",
    maintainer="RLDG maintainers",
    maintainer_email="rldg-maintainers@example.org",
    license="Apache-2.0",
    packages=find_packages(str(here), include=[name, f"{name}.*"]),
    package_data={name: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{name}"]),
        (f"share/{name}", ["package.xml"]),
    ],
    entry_points={"console_scripts": [f"{node} = {name}.{node}:main" for node in nodes]},
    extras_require={
        "fr3": ["franky-control>=2.0,<2.1"],
        "realsense": ["pyrealsense2>=2.59,<2.60"],
        "spacemouse": ["pyspacemouse>=2.1,<3"],
        "test": ["pytest"],
    },
    zip_safe=False,
)
