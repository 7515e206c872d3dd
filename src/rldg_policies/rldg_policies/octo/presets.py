"""Models by name: two sizes that are released, and two for a CPU."""

from __future__ import annotations

from rldg_policies.octo.config import SIZES_PX, T5, Diffusion, Embedding, ImageSlot, OctoConfig, OctoError
from rldg_policies.patch_stem import PatchStem

_RELEASED = tuple(ImageSlot(name=name, size_px=SIZES_PX[name]) for name in ("primary", "wrist"))

PRESETS = {
    # 92.8 M parameters and T5-base
    "octo-base": OctoConfig(slots=_RELEASED, language=T5(), width=768, layers=12, heads=12, mlp=3072, window=2),
    # 27.0 M parameters and T5-base
    "octo-small": OctoConfig(slots=_RELEASED, language=T5(), width=384, layers=12, heads=6, mlp=1536, window=2),
    # trains and acts on a CPU
    "octo-nano": OctoConfig(
        slots=(ImageSlot(name="wrist", size_px=128),),
        language=Embedding(),
        width=128,
        layers=3,
        heads=4,
        mlp=256,
        diffusion=Diffusion(hidden=128, draws=8, clip_denoised=True),
        stem=PatchStem(),
    ),
    # for tests
    "octo-test": OctoConfig(
        slots=(ImageSlot(name="wrist", size_px=32),),
        language=Embedding(),
        width=32,
        layers=1,
        heads=2,
        mlp=64,
        window=2,
        diffusion=Diffusion(steps=5, hidden=32, blocks=1, draws=4, clip_denoised=True),
    ),
}


def preset(name: str) -> OctoConfig:
    """The config called ``name``.

    Raises:
        OctoError: there is none.
    """
    if name not in PRESETS:
        raise OctoError(f"preset {name!r}: not known; there are {', '.join(PRESETS)}")
    return PRESETS[name]
