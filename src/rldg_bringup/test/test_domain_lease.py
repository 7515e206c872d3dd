"""Two launches on one machine get different domains, and nobody takes a domain that another launch holds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from rldg_bringup import domain
from rldg_bringup.domain import DomainError, lease_domain


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


def hold(environment: dict[str, str], pipe: Connection) -> None:
    lease = lease_domain("usb_insertion", environment)
    assert lease is not None
    pipe.send(lease.domain)
    pipe.recv()


def test_launches_at_once_get_different_domains(environment: dict[str, str]) -> None:
    first, second = lease_domain("a", environment), lease_domain("b", environment)
    assert first is not None and second is not None
    with first, second:
        assert first.domain != second.domain
        assert {first.domain, second.domain} <= set(domain.FREE_DOMAINS)


def test_a_domain_is_free_again_when_its_holder_is_killed(environment: dict[str, str]) -> None:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    holder = spawn.Process(target=hold, args=(environment, there))
    holder.start()
    assert here.poll(30.0)
    taken = str(here.recv())
    wanted = {**environment, "ROS_DOMAIN_ID": taken}
    with pytest.raises(
        DomainError, match=rf"ROS_DOMAIN_ID={taken} is in use on this machine by usb_insertion \(pid {holder.pid}\)"
    ):
        lease_domain("b", wanted)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(30.0)
    lease = lease_domain("b", wanted)
    assert lease is not None
    with lease:
        assert str(lease.domain) == taken


def test_a_held_domain_can_be_shared_on_request(environment: dict[str, str]) -> None:
    wanted = {**environment, "ROS_DOMAIN_ID": "5"}
    lease = lease_domain("a", wanted)
    assert lease is not None
    with lease:
        with pytest.raises(DomainError, match="unset it to get a free domain, or say --share-domain"):
            lease_domain("b", wanted)
        assert lease_domain("b", wanted, share=True) is None


@pytest.mark.parametrize("wanted", ["233", "-1", "two"])
def test_what_is_no_domain_is_refused(environment: dict[str, str], wanted: str) -> None:
    with pytest.raises(DomainError, match=f"ROS_DOMAIN_ID={wanted} is not a domain; allowed: 0 to 232"):
        lease_domain("a", {**environment, "ROS_DOMAIN_ID": wanted})


def test_a_domain_whose_ports_are_in_use_is_passed_over(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # participants of other programs listen on the ports of their domain (DDSI-RTPS: 7400 + 250 domain + 10)
    monkeypatch.setattr(domain, "FREE_DOMAINS", range(97, 102))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 7400 + 250 * 97 + 10))
        lease = lease_domain("a", environment)
        assert lease is not None
        with lease:
            assert lease.domain > 97


def test_running_out_of_domains_is_told(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "FREE_DOMAINS", range(101, 102))
    lease = lease_domain("a", environment)
    assert lease is not None
    with (
        lease,
        pytest.raises(DomainError, match="every ROS domain from 101 to 101 is in use; set ROS_DOMAIN_ID yourself"),
    ):
        lease_domain("b", environment)


def test_the_lease_outlives_exec_only_where_asked_to(environment: dict[str, str]) -> None:
    lease = lease_domain("a", environment)
    assert lease is not None
    with lease:
        assert not os.get_inheritable(lease._descriptor)
        lease.keep_over_exec()
        assert os.get_inheritable(lease._descriptor)
