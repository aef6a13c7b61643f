"""``lisa train``: train by a configuration file; its ``recipe`` names the training."""

from __future__ import annotations

import argparse
import logging
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lisa_ros.errors import ConfigError
from lisa_ros.plain_text import EscapingFormatter

RECIPES = {
    "lisa": "lisa_ros.training.finetune",
    "small": "lisa_small.training.stages",
    "extract": "lisa_ros.training.extract",
    "extract_small": "lisa_small.training.extract",
    "choose_small": "lisa_small.training.choose",
}
"""Recipe -> module with train(configuration) -> exit code."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model as a configuration file says. The same command continues a run that was stopped. "
        "For several GPUs: accelerate launch -m lisa_ros.cli train --config FILE"
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file, for example config/train_lisa_7b.yaml")


def main(args: argparse.Namespace) -> int:
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    # bitsandbytes recommends a package at every start, and httpx logs every request to the hub.
    for noisy in ("bitsandbytes", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    config = read_config(args.config)
    recipe = config.get("recipe")
    if recipe not in RECIPES:
        raise ConfigError(f"{args.config}: recipe '{recipe}' is not known; choose one of {', '.join(RECIPES)}")
    return import_module(RECIPES[recipe]).train(config)


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, which YAML 1.1 writes 1.0e-4."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_config(file: Path) -> dict[str, Any]:
    """Read a YAML file of named settings. Raises ConfigError where it is missing or something else."""
    try:
        content = _Loader(file.read_text("utf-8-sig")).get_single_data()
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no settings; write lines of the form name: value")
    return content
