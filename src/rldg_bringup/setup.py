from pathlib import Path

from setuptools import find_packages, setup

name = "rldg_bringup"
# colcon build --symlink-install runs this file from the build directory, where only links to it lie
here = Path(__file__).resolve().parent
nodes = sorted(path.stem for path in (here / name).glob("*_node.py"))

# config, launch and pretrained are symbolic links to the directories of the checkout.
shared = [
    path
    for folder in ("config", "launch", "pretrained")
    for path in sorted((here / folder).rglob("*"))
    if path.is_file()
]

setup(
    name=name,
    version="0.1.0",
    description="Starts RLDG: launch files, configuration, launch runner, lifecycle manager and command line.",
    maintainer="RLDG maintainers",
    maintainer_email="rldg-maintainers@example.org",
    license="Apache-2.0",
    packages=find_packages(str(here), include=[name, f"{name}.*"]),
    package_data={name: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{name}"]),
        (f"share/{name}", ["package.xml"]),
        *((f"share/{name}/{path.relative_to(here).parent}", [str(path.relative_to(here))]) for path in shared),
    ],
    entry_points={"console_scripts": [f"{node} = {name}.{node}:main" for node in nodes]},
    extras_require={"calibration": ["opencv-python-headless>=4.7,<5"], "test": ["pytest"]},
    zip_safe=False,
)
