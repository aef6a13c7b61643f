"""The parts that ``lisa fetch`` composes into an engine: one table, with sizes and licences.

``LOCATOR+CUTTER`` names any pair, such as ``qwen3-vl-4b+sam2.1-small``; a locator that cuts masks itself stands alone.
Sizes are computed from the shapes of the tensors: 16 bits for language models and 32 bits for the others, as released.
"""

from __future__ import annotations

from dataclasses import dataclass

from lisa_ros.errors import ConfigError

APACHE = "Apache-2.0"


@dataclass(frozen=True)
class Source:
    """One part.

    Args:
        repository: Of the Hugging Face hub; empty for a server's model.
        gigabytes: To download.
        licence: Of the weights.
        dialect: Of a language model, if its type does not say; else empty.
        alone: It locates and cuts, and needs no cutter.
        adapter: Repository (and folder in it) of LoRA weights that are merged into it; else empty.
        note: What a user must know; may be empty.
    """

    repository: str
    gigabytes: float
    licence: str = APACHE
    dialect: str = ""
    alone: bool = False
    adapter: str = ""
    note: str = ""


SAM_LICENCE = "SAM License"
_SAM3_NOTE = "gated: accept its terms first; no military use"

LOCATORS = {
    "endpoint": Source("", 0.0, "the server's", note="set the option endpoint"),
    "qwen3-vl-2b": Source("Qwen/Qwen3-VL-2B-Instruct", 4.3),
    "qwen3-vl-4b": Source("Qwen/Qwen3-VL-4B-Instruct", 8.9),
    "qwen3-vl-8b": Source("Qwen/Qwen3-VL-8B-Instruct", 17.5),
    "star-8b": Source(
        "Qwen/Qwen3-VL-8B-Instruct",
        18.2,
        dialect="star",
        adapter="sj9909/StAR-8B/lora_adapter",
        note="LoRA merged once; trained for ReasonSeg",
    ),
    "qwen2.5-vl-7b": Source("Qwen/Qwen2.5-VL-7B-Instruct", 16.6),
    "grounding-dino": Source("IDEA-Research/grounding-dino-tiny", 0.7, note="noun phrases only"),
    "mm-grounding-dino": Source(
        "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det", 0.7, note="noun phrases only"
    ),
    "clipseg": Source("CIDAS/clipseg-rd64-refined", 0.6, alone=True, note="noun phrases only, no instances"),
    "sam3": Source("facebook/sam3", 3.4, SAM_LICENCE, alone=True, note=f"noun phrases only; {_SAM3_NOTE}"),
}

CUTTERS = {
    "sam2.1-tiny": Source("facebook/sam2.1-hiera-tiny", 0.2),
    "sam2.1-small": Source("facebook/sam2.1-hiera-small", 0.2),
    "sam2.1-base-plus": Source("facebook/sam2.1-hiera-base-plus", 0.3),
    "sam2.1-large": Source("facebook/sam2.1-hiera-large", 0.9),
    "sam-base": Source("facebook/sam-vit-base", 0.4),
    "sam3-tracker": Source("facebook/sam3", 3.4, SAM_LICENCE, note=_SAM3_NOTE),
}


@dataclass(frozen=True)
class Preset:
    """An engine of a locator and a cutter; None where the locator cuts itself."""

    name: str
    locator: Source
    cutter: Source | None


def is_preset(source: str) -> bool:
    """Whether a source of ``lisa fetch`` has the form of a preset, valid or not."""
    return source in LOCATORS or ("+" in source and "/" not in source)


def preset_named(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ConfigError: A part is unknown, missing or not needed.
    """
    locator, _, cutter = name.partition("+")
    if locator not in LOCATORS:
        raise ConfigError(f"'{locator}' is no locator; choose one of {', '.join(LOCATORS)} ('lisa fetch --list')")
    found = LOCATORS[locator]
    if found.alone and not cutter:
        return Preset(name, found, None)
    if cutter not in CUTTERS:
        what = f"'{cutter}' is no cutter" if cutter else f"'{locator}' needs a cutter, as in {locator}+sam2.1-small"
        raise ConfigError(f"{what}; choose one of {', '.join(CUTTERS)} ('lisa fetch --list')")
    return Preset(name, found, CUTTERS[cutter])


def listing() -> str:
    """The table for the terminal."""
    lines = ["lisa fetch LOCATOR+CUTTER, such as qwen3-vl-4b+sam2.1-small", ""]
    width = max(len(source.repository) for source in (*LOCATORS.values(), *CUTTERS.values())) + 2
    for title, table in (("locator", LOCATORS), ("cutter", CUTTERS)):
        lines.append(f"{title:20}{'download':>9}  {'licence':14}{'repository':{width}}note")
        for name, source in table.items():
            size = f"{source.gigabytes:.1f} GB" if source.gigabytes else "-"
            note = "; ".join(part for part in ("no cutter needed" if source.alone else "", source.note) if part)
            lines.append(f"{name:20}{size:>9}  {source.licence:14}{source.repository:{width}}{note}".rstrip())
        lines.append("")
    return "\n".join(lines).rstrip()
