"""Where packages keep their files: under the prefixes of AMENT_PREFIX_PATH, else in the source tree."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path


def find_share(package: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The share directory of a package.

    For a package imported from ``<workspace>/src/<package>/`` it is the workspace: the directories that rldg_bringup
    installs to its share (``launch``, ``config``) lie there. Raises LookupError.
    """
    for prefix in _prefixes(environment):
        share = prefix / "share" / package
        if share.is_dir():
            return share
    module = _source_package(package)
    if module is not None and module.parents[1].name == "src":
        return module.parents[2]
    raise LookupError(
        f"package {package!r} is neither in AMENT_PREFIX_PATH nor in a source tree; build the workspace or source it"
    )


def find_executable(package: str, executable: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The command that starts an executable of a package, without arguments.

    Where the package is not installed but can be imported, ``main()`` of its module ``<executable>`` is run. Raises
    LookupError.
    """
    for prefix in _prefixes(environment):
        path = prefix / "lib" / package / executable
        if os.access(path, os.X_OK) and path.is_file():
            return [str(path)]
    module = _source_package(package)
    if module is not None and (module / f"{executable}.py").is_file():
        return [sys.executable, "-c", f"from {package}.{executable} import main; raise SystemExit(main())"]
    raise LookupError(
        f"executable {executable!r} of package {package!r} is in no lib/{package}/ of AMENT_PREFIX_PATH; "
        "build the workspace or source it"
    )


def _prefixes(environment: Mapping[str, str]) -> list[Path]:
    return [Path(prefix) for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]


def _source_package(package: str) -> Path | None:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None
