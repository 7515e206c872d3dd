"""What all tests of the workspace share: the option ``--long``, and a ROS domain of its own for each test module."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from rldg_bringup.domain import lease_domain
from rldg_bringup.shared_memory import remove_abandoned

# how long an example takes says something about the machine, not about the code
settings.register_profile("rldg", deadline=None)
settings.load_profile("rldg")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked `long`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_sessionfinish() -> None:
    remove_abandoned()  # what nodes that tests have killed leave in shared memory


@pytest.fixture(scope="module", autouse=True)
def ros_domain_id(request: pytest.FixtureRequest) -> Iterator[int]:
    """The ROS domain of this test module, which no other process of this machine uses; also in ROS_DOMAIN_ID."""
    free = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    lease = lease_domain(f"the tests of {request.node.name}", free)
    assert lease is not None
    with lease, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(lease.domain))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield lease.domain
