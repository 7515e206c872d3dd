"""Tests run in ROS domains of their own."""

import os

import pytest

from rldg_bringup.domain import DomainError, lease_domain


def test_a_test_has_a_domain_that_nobody_else_can_lease(ros_domain_id) -> None:
    assert os.environ["ROS_DOMAIN_ID"] == str(ros_domain_id)
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    with pytest.raises(DomainError, match=f"ROS_DOMAIN_ID={ros_domain_id} is in use"):
        lease_domain("another launch")
