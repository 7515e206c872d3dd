from pathlib import Path

from setuptools import find_packages, setup

name = "rldg_experiments"
# colcon build --symlink-install runs this file from the build directory, where only links to it lie
here = Path(__file__).resolve().parent

setup(
    name=name,
    version="0.1.0",
    description="Experiments of RLDG: stages whose products feed each other, run, kept and drawn.",
    maintainer="RLDG maintainers",
    maintainer_email="rldg-maintainers@example.org",
    license="Apache-2.0",
    packages=find_packages(str(here), include=[name, f"{name}.*"]),
    package_data={name: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{name}"]),
        (f"share/{name}", ["package.xml"]),
    ],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
)
