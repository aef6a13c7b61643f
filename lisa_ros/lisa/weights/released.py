"""Checkpoints that the authors of LISA's relatives released: names, sizes and licences, as they state them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """One released checkpoint.

    Args:
        name: Repository of the hub, or the name of a file.
        family: Of the model.
        gigabytes: Of the weights; None: not stated.
        licence: Of the weights, as their page has it; empty: not stated.
        place: Where to get a file that is not on the hub; empty: the hub.
    """

    name: str
    family: str
    gigabytes: float | None = None
    licence: str = ""
    place: str = ""

    def describe(self) -> str:
        """One line: size, licence and family."""
        size = "size not stated" if self.gigabytes is None else f"{self.gigabytes:.1f} GB"
        licence = f"licence {self.licence}" if self.licence else "licence not stated"
        return f"{self.name}: {self.family}, {size}, {licence}"


_BESIDES = "MIT (the terms of LLaMA apply besides)"
_GSVA = "OneDrive or Tsinghua Cloud; the links are in the README of github.com/LeapLabTHU/GSVA"

RELEASES: dict[str, Release] = {
    release.name: release
    for release in (
        Release("tsunghanwu/SESAME", "sesame", 16.16, _BESIDES),
        Release("tsunghanwu/SESAME_minus", "sesame", 16.16, _BESIDES),
        *(
            Release(f"rui-qian/{name}", "read")
            for name in (
                *("READ-LLaVA-v1.5-7B-for-ReasonSeg-valset", "READ-LLaVA-v1.5-7B-for-ReasonSeg-valset-ft"),
                *("READ-LLaVA-v1.5-7B-for-ReasonSeg-testset", "deprecated-READ-LLaVA-v1.5-7B-for-ReasonSeg-testset"),
                "READ-LLaVA-v1.5-7B-for-fprefcoco",
            )
        ),
        Release("rui-qian/READ-LLaVA-v1.5-13B-for-ReasonSeg-testset", "read", licence="MIT"),
        Release("weic22/LaSagnA-7B", "lasagna", 16.12, _BESIDES),
        *(Release(f"gsva-7b-{name}.bin", "gsva", place=_GSVA) for name in ("pt", "ft-gres", "ft-res")),
    )
}
"""Each release by its name."""
