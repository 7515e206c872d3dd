"""A ROS domain for each launch on this machine, so that two launches never hear each other."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping
from pathlib import Path

from rldg_bringup.shared_memory import remove_abandoned

# docs.ros.org, "The ROS_DOMAIN_ID": 0 to 101 keep clear of Linux's ephemeral ports; 0 is everyone's default
FREE_DOMAINS = range(1, 102)
_ALL_DOMAINS = range(0, 233)
# DDSI-RTPS 2.x, 9.6.1.1: domain d uses the UDP ports from 7400 + 250 d
_PORT_BASE, _PORTS_PER_DOMAIN = 7400, 250


class DomainError(ValueError):
    """The domain is not free or not a domain; the message is one line."""


class DomainLease:
    """The right to a domain: a locked file, free again when this object is closed or the process ends in any way."""

    def __init__(self, domain: int, descriptor: int) -> None:
        self.domain = domain
        self._descriptor = descriptor

    def keep_over_exec(self) -> None:
        """Let a program that replaces this process keep the lease."""
        os.set_inheritable(self._descriptor, True)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> DomainLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lease_domain(purpose: str, environment: Mapping[str, str] = os.environ, share: bool = False) -> DomainLease | None:
    """Take the domain that ROS_DOMAIN_ID names, or else a free one.

    ``purpose`` is told to whoever asks for the same domain. With ``share``, a domain that another launch holds is used
    beside it, and None is returned. What killed launches have left in shared memory is removed. Raises DomainError.
    """
    remove_abandoned()
    directory = _lock_directory(environment)
    wanted = environment.get("ROS_DOMAIN_ID", "")
    if wanted:
        if not wanted.isdecimal() or int(wanted) not in _ALL_DOMAINS:
            raise DomainError(f"ROS_DOMAIN_ID={wanted} is not a domain; allowed: 0 to {_ALL_DOMAINS[-1]}")
        taken = _take(directory, int(wanted), purpose)
        if isinstance(taken, DomainLease):
            return taken
        if share:
            return None
        raise DomainError(
            f"ROS_DOMAIN_ID={wanted} is in use on this machine by {taken}; unset it to get a free domain, "
            "or say --share-domain to join that launch"
        )
    busy = _domains_in_use()
    for domain in FREE_DOMAINS:
        if domain not in busy:
            taken = _take(directory, domain, purpose)
            if isinstance(taken, DomainLease):
                return taken
    raise DomainError(
        f"every ROS domain from {FREE_DOMAINS[0]} to {FREE_DOMAINS[-1]} is in use; set ROS_DOMAIN_ID yourself"
    )


def leased_domains(environment: Mapping[str, str] = os.environ) -> dict[int, str]:
    """The domains that launches on this machine hold, and who holds each; those of the ROS_DOMAIN_ID alone, if set."""
    wanted = environment.get("ROS_DOMAIN_ID", "")
    found = {}
    for file in _lock_directory(environment).glob("domain-*.lock"):
        domain = file.stem.removeprefix("domain-")
        taken = _take_file(file, "") if not wanted or domain == wanted else None
        if isinstance(taken, str):
            found[int(domain)] = taken
        elif taken is not None:
            os.close(taken)
    return found


def cell_domain(environment: Mapping[str, str] = os.environ) -> int:
    """The domain of the cell that is meant: that of ROS_DOMAIN_ID, else of the only launch on this machine.

    Raises:
        LookupError: there is none, or more than one.
    """
    wanted = environment.get("ROS_DOMAIN_ID", "")
    if wanted:
        if not wanted.isdecimal() or int(wanted) not in _ALL_DOMAINS:
            raise LookupError(f"ROS_DOMAIN_ID={wanted} is not a domain; allowed: 0 to {_ALL_DOMAINS[-1]}")
        return int(wanted)
    found = leased_domains(environment)
    if not found:
        raise LookupError("no cell runs on this machine; launch one with ./rldg up <task>, or set ROS_DOMAIN_ID")
    if len(found) > 1:
        listed = ", ".join(f"{domain}: {holder}" for domain, holder in sorted(found.items()))
        raise LookupError(f"several launches run on this machine; set ROS_DOMAIN_ID to one of {listed}")
    return next(iter(found))


def hold_policy(domain: int, policy_id: str, environment: Mapping[str, str] = os.environ) -> str:
    """Say for the life of this process that it keeps this policy; returns who does already, "" if nobody did."""
    taken = _take_file(_policy_file(domain, policy_id, environment), f"policy {policy_id}")
    return taken if isinstance(taken, str) else ""


def keeper_of(domain: int, policy_id: str, environment: Mapping[str, str] = os.environ) -> int | None:
    """The process that keeps a policy, None if no process of this machine said so."""
    taken = _take_file(_policy_file(domain, policy_id, environment), "")
    if not isinstance(taken, str):
        os.close(taken)
        return None
    pid = re.search(r"\(pid (\d+)\)", taken)
    return int(pid[1]) if pid else None


def _policy_file(domain: int, policy_id: str, environment: Mapping[str, str]) -> Path:
    return _lock_directory(environment) / f"policy-{domain}-{policy_id.replace('/', '%')}.lock"


def _lock_directory(environment: Mapping[str, str]) -> Path:
    runtime = environment.get("XDG_RUNTIME_DIR")
    directory = Path(runtime) / "rldg" if runtime else Path("/tmp") / f"rldg-{os.getuid()}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise DomainError(f"{directory} belongs to another user; set XDG_RUNTIME_DIR to a directory of yours")
    return directory


def _take(directory: Path, domain: int, purpose: str) -> DomainLease | str:
    """The lease, or who has it."""
    taken = _take_file(directory / f"domain-{domain}.lock", purpose)
    return taken if isinstance(taken, str) else DomainLease(domain, taken)


def _take_file(file: Path, purpose: str) -> int | str:
    """The descriptor of the file, locked for as long as it is open and telling the purpose, or who has it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        return holder or "another launch"
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{purpose} (pid {os.getpid()})\n".encode())
    return descriptor


def _domains_in_use() -> set[int]:
    """Domains in whose port range something on this machine listens, started by the project or not."""
    domains = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            port = int(row.split()[1].rpartition(":")[2], 16)
            if port >= _PORT_BASE:
                domains.add((port - _PORT_BASE) // _PORTS_PER_DOMAIN)
    return domains
