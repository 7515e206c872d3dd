"""Where the checkout lies, for the verbs that work on its sources."""

from pathlib import Path


def root() -> Path:
    """The root directory of the checkout that this package is run from.

    Raises:
        RuntimeError: the package was installed by copying (``colcon build`` without ``--symlink-install``).
    """
    directory = Path(__file__).resolve().parents[3]
    if not (directory / "rldg").is_file():
        raise RuntimeError(f"{directory} is not a checkout of RLDG; run this verb as ./rldg from the checkout")
    return directory
