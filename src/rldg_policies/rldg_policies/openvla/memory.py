"""What weights take, and what is free."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rldg_policies.openvla.config import CheckpointError


def weight_bytes(model: nn.Module) -> int:
    """Memory that weights take, on whatever device."""
    return sum(tensor.numel() * tensor.itemsize for tensor in model.state_dict().values())


def free_bytes(device: torch.device) -> int:
    """How much a process may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise CheckpointError("/proc/meminfo: has no MemAvailable; the free memory is not known")


def check_free(where: str, needed: int, device: torch.device) -> None:
    """Refuse before memory runs out.

    Raises:
        CheckpointError: there is less than needed.
    """
    free = free_bytes(device)
    if needed > free:
        raise CheckpointError(
            f"{where}: the weights need {needed / 1e9:.1f} GB on {device}, {free / 1e9:.1f} GB are free; "
            "end other programs, use a 16-bit dtype, a fast mode or another device"
        )
