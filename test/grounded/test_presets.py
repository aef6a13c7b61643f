"""``lisa fetch`` of presets from a hub on loopback, ``lisa inspect`` of what it wrote, and merged LoRA weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file

from lisa_ros import load_engine
from lisa_ros.cli import main
from lisa_ros.engine.api import Ask
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.grounded.weights.adapter import merge_adapter
from lisa_ros.grounded.weights.fetch import fetch_engine
from lisa_ros.grounded.weights.inspect import inspect_engine
from lisa_ros.grounded.weights.presets import CUTTERS, LOCATORS, preset_named

FIRST, SECOND, THIRD = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub(tiny, tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """The repositories of some presets, with tiny models in them."""
    qwen = tmp_path_factory.mktemp("served") / "qwen"
    shutil.copytree(tiny("qwen3_vl"), qwen)
    (qwen / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    repositories = {
        "Qwen/Qwen3-VL-2B-Instruct": (qwen, FIRST),
        "Qwen/Qwen3-VL-8B-Instruct": (qwen, FIRST),
        "facebook/sam2.1-hiera-tiny": (tiny("sam2"), SECOND),
        "facebook/sam2.1-hiera-large": (tiny("sam2"), SECOND),
        "CIDAS/clipseg-rd64-refined": (tiny("clipseg"), THIRD),
        "sj9909/StAR-8B": (star(qwen.parent / "star"), THIRD),
    }
    with LoopbackHub(repositories) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served


QUERY = "model.language_model.layers.0.self_attn.q_proj"


def adapter(folder: Path, name: str = QUERY, **config: object) -> Path:
    """LoRA weights for the tiny Qwen3-VL, as peft writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    save_file(
        {
            f"base_model.model.{name}.lora_A.weight": torch.randn(4, 64),
            f"base_model.model.{name}.lora_B.weight": torch.randn(64, 4),
        },
        folder / "adapter_model.safetensors",
    )
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return folder


def star(folder: Path) -> Path:
    """The repository as its README and its scripts name it: the LoRA weights, beside the processor's files."""
    adapter(folder / "lora_adapter")
    (folder / "huggingface").mkdir()
    (folder / "huggingface" / "model.safetensors").write_bytes(b"not needed")
    return folder


def test_a_preset_becomes_a_folder_that_answers(hub: LoopbackHub, capsys: pytest.CaptureFixture[str], rgb) -> None:
    assert main(["fetch", "qwen3-vl-2b+sam2.1-tiny"]) == 0
    assert "ready: lisa check qwen3-vl-2b+sam2.1-tiny" in capsys.readouterr().out
    folder = Path("qwen3-vl-2b+sam2.1-tiny")
    assert json.loads((folder / "engine.json").read_text())["locator"] == {"model": "locator"}
    assert json.loads((folder / "locator" / "fetch.json").read_text())["revision"] == FIRST
    assert json.loads((folder / "cutter" / "fetch.json").read_text())["revision"] == SECOND
    engine = load_engine(folder, device="cpu")
    engine.ask(engine.encode(rgb), Ask("the cup", max_new_tokens=8))


def test_a_complete_preset_is_not_downloaded_again(hub: LoopbackHub) -> None:
    said: list[str] = []
    fetch_engine(preset_named("clipseg"))
    hub.downloads.clear()
    fetch_engine(preset_named("clipseg"), say=said.append)
    assert hub.downloads == []
    assert any("complete already" in line for line in said)


def test_an_interrupted_preset_goes_on(hub: LoopbackHub) -> None:
    hub.damaged.add("model.safetensors")
    with pytest.raises(CheckpointError, match="arrived damaged"):
        fetch_engine(preset_named("clipseg"))
    assert not Path("clipseg/engine.json").exists()
    hub.damaged.clear()
    assert (fetch_engine(preset_named("clipseg")) / "engine.json").is_file()


def test_a_server_needs_a_cutter_only(hub: LoopbackHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "endpoint+sam2.1-tiny", "--out", "box"]) == 0
    assert "--option endpoint=http://gpu-box:8000/v1" in capsys.readouterr().out
    assert sorted(path.name for path in Path("box").iterdir()) == ["cutter", "engine.json"]
    assert main(["inspect", "box"]) == 0
    assert "a server's" in capsys.readouterr().out


def test_another_engine_is_not_overwritten(hub: LoopbackHub) -> None:
    fetch_engine(preset_named("clipseg"), Path("box"))
    with pytest.raises(CheckpointError, match="holds another engine"):
        fetch_engine(preset_named("endpoint+sam2.1-tiny"), Path("box"))


def test_inspect_sums_memory_and_names_licences(hub: LoopbackHub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fetch_engine(preset_named("qwen3-vl-2b+sam2.1-tiny"))
    report = inspect_engine(folder)
    tensors = {role: load_file(folder / role / "model.safetensors") for role in ("locator", "cutter")}
    counts = {role: sum(tensor.numel() for tensor in part.values()) for role, part in tensors.items()}
    assert report.parameters == counts
    assert report.memory["fp32"].weights == 4 * sum(counts.values())
    assert report.memory["bf16"].cache == 2 * 4 * 2 * 16 * 2048 * 2  # keys and values, layers, heads, width, tokens
    assert report.problems == []
    assert main(["inspect", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("licence Apache-2.0") == 2
    assert f"Qwen/Qwen3-VL-2B-Instruct at {FIRST}" in printed
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"]["bf16"]["total"] == report.memory["bf16"].total


def test_inspect_finds_nan(hub: LoopbackHub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fetch_engine(preset_named("clipseg"))
    file = folder / "locator" / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, file, {"format": "pt"})
    assert main(["inspect", str(folder)]) == 1
    assert "NaN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("qwen3-vl-3b+sam2.1-tiny", "'qwen3-vl-3b' is no locator; choose one of endpoint"),
        ("qwen3-vl-2b+sam4", "'sam4' is no cutter; choose one of sam2.1-tiny"),
        ("grounding-dino", "'grounding-dino' needs a cutter, as in grounding-dino"),
    ],
)
def test_an_unknown_preset_lists_the_known_ones(name: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", name]) == 1
    assert problem in capsys.readouterr().err


def test_the_list_has_every_part_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--list"]) == 0
    printed = capsys.readouterr().out
    for name, source in {**LOCATORS, **CUTTERS}.items():
        line = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        assert source.licence in line
        assert source.repository in line


def test_a_revision_and_no_source_are_errors() -> None:
    assert main(["fetch", "clipseg", "--revision", "main"]) == 1
    assert main(["fetch"]) == 1


# --- LoRA


def test_star_is_merged_once(hub: LoopbackHub) -> None:
    folder = fetch_engine(preset_named("star-8b+sam2.1-large"))
    assert sorted(path.name for path in folder.iterdir()) == ["cutter", "engine.json", "locator"]
    assert json.loads((folder / "engine.json").read_text())["locator"]["dialect"] == "star"
    fetched = [name for name, _ in hub.downloads if "/" in name]
    assert sorted(fetched) == ["lora_adapter/adapter_config.json", "lora_adapter/adapter_model.safetensors"]
    hub.downloads.clear()
    fetch_engine(preset_named("star-8b+sam2.1-large"))
    assert hub.downloads == []


def test_a_merged_matrix_is_that_of_peft(tiny, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import transformers

    merge_adapter(tiny("qwen3_vl"), adapter(tmp_path / "adapter"), tmp_path / "merged")
    base = transformers.Qwen3VLForConditionalGeneration.from_pretrained(tiny("qwen3_vl"))
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[QUERY])
    model = peft.get_peft_model(base, config)
    lora = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    module = model.base_model.model.get_submodule(QUERY)
    module.lora_A["default"].weight.data = lora[f"base_model.model.{QUERY}.lora_A.weight"]
    module.lora_B["default"].weight.data = lora[f"base_model.model.{QUERY}.lora_B.weight"]
    expected = model.merge_and_unload().state_dict()[f"{QUERY}.weight"]
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    torch.testing.assert_close(merged[f"{QUERY}.weight"], expected)
    before = load_file(tiny("qwen3_vl") / "model.safetensors")
    changed = [name for name in before if not torch.equal(before[name], merged[name])]
    assert changed == [f"{QUERY}.weight"]


@pytest.mark.parametrize(
    ("name", "config", "problem"),
    [
        ("model.layers.0.self_attn.w_proj", {}, "1 of 1 LoRA matrices fit nothing"),
        ("model.language_model.layers.0.mlp.up_proj", {}, r"its LoRA matrices are \(64, 4\)"),
        (QUERY, {"use_dora": True}, "uses use_dora"),
        (QUERY, {"peft_type": "IA3"}, "of type IA3"),
        (QUERY, {"r": None}, "cannot be read"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    name: str, config: dict[str, object], problem: str, tiny, tmp_path: Path
) -> None:
    made = adapter(tmp_path / "adapter", name, **config)
    with pytest.raises(CheckpointError, match=problem):
        merge_adapter(tiny("qwen3_vl"), made, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_by_the_names_of_an_older_transformers_fits(tiny, tmp_path: Path) -> None:
    made = adapter(tmp_path / "adapter", "model.layers.0.self_attn.q_proj")
    merge_adapter(tiny("qwen3_vl"), made, tmp_path / "merged")
    assert (tmp_path / "merged" / "config.json").is_file()


def test_half_an_adapter_is_refused(tiny, tmp_path: Path) -> None:
    made = adapter(tmp_path / "adapter")
    tensors = load_file(made / "adapter_model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "lora_A" in name}, made / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match="lacks one of two"):
        merge_adapter(tiny("qwen3_vl"), made, tmp_path / "merged")


def test_every_pair_of_the_table_is_a_preset() -> None:
    for locator, source in LOCATORS.items():
        if source.alone:
            assert preset_named(locator).cutter is None
        for cutter in CUTTERS:
            assert preset_named(f"{locator}+{cutter}").cutter is not None
    with pytest.raises(ConfigError, match="choose one of"):
        preset_named("+")
