"""All stages on a few drawn scenes: a checkpoint comes out that the segmenter loads and the evaluation scores."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from training_data import write_scenes

from lisa_ros import cli
from lisa_ros.errors import ConfigError, TrainingDiverged
from lisa_ros.evaluation.examples import read_pictures
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_small.training import language, stages, warm_start
from lisa_small.training.language import Library, seg_truth
from lisa_small.training.practice import Practice
from lisa_small.training.precision import half_precision
from lisa_small.training.stages import STAGES, WEIGHTS, Run, read_recipe, train
from lisa_small.training.vision import train_vision
from lisa_small.training.warm_start import load_finished

pytestmark = pytest.mark.skipif(
    find_spec("accelerate") is None, reason="needs what training needs: pip install 'lisa_ros[train]'"
)

CONFIGS = Path(stages.__file__).parent / "configs"

RECIPE = """
name: tiny
conversations: training_data:conversations_for
sentences: training_data:sentences
vocabulary: 320
validation: 2
sizes:
  {image_size: 64, channels: 16, decoder_mlp: 16, grid: 4, mm_hidden: 16,
   hidden: 32, intermediate: 48, layers: 2, heads: 4}
vision: {phases: [{size: 64, batch: 2, steps: 4, lr: 1.0e-3, lr_end: 0.0}], prompts: 3, warmup: 2}
speech: [{steps: 3, pictures: 2, conversations: 2, warmup: 2}]
sight:
  - {steps: 3, pictures: 2, conversations: 2, drawn: 1, warmup: 2}
  - {steps: 2, pictures: 2, conversations: 2, drawn: 1, warmup: 2, empty_cells: 16}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "data", 10)


@pytest.fixture
def recipe():
    return read_recipe(yaml.safe_load(RECIPE))


def test_train_then_evaluate_as_a_newcomer_would(data, tmp_path, capsys):
    out = tmp_path / "run"
    config = _written(tmp_path / "tiny.yaml", f"recipe: small\ndata: {data}\nout: {out}\n{RECIPE}")
    assert cli.main(["train", "--config", str(config)]) == 0
    report = tmp_path / "report.json"
    page = tmp_path / "report.html"
    arguments = ["evaluate", "--data", str(data), "--model", str(out / "model"), "--json", str(report)]
    assert cli.main([*arguments, "--html", str(page), "--limit", "4"]) == 0
    numbers = json.loads(report.read_text())
    for key in ("gIoU", "cIoU", "n", "by_kind", "absent", "present", "teacher_forced", "time_to_mask_s", "baselines"):
        assert key in numbers
    assert numbers["baselines"]["empty"]["gIoU"] == 0
    assert 0 < numbers["baselines"]["all objects"]["gIoU"] < 1
    assert "teacher-forced" in capsys.readouterr().out
    assert "<figure>" in page.read_text()


def test_a_stopped_vision_stage_goes_on_to_equal_weights(data, recipe, tmp_path, monkeypatch):
    whole = Run(recipe, data, tmp_path / "whole")
    whole.vision()
    stopped = Run(recipe, data, tmp_path / "stopped")
    calls = iter(range(100))

    def fail_at_third(*arguments, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return make(*arguments, **options)

    from lisa_small.training import vision

    make = vision.make_batch
    monkeypatch.setattr(vision, "make_batch", fail_at_third)
    monkeypatch.setattr(vision, "SAVE_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        stopped.vision()
    Run(recipe, data, tmp_path / "stopped").vision()
    one, other = (
        torch.load(tmp_path / name / "vision.pt", weights_only=True)["model"] for name in ("whole", "stopped")
    )
    assert not [key for key in one if not torch.equal(one[key], other[key])]


@pytest.mark.parametrize("stage", ["speech", "sight"])
def test_a_stopped_language_stage_goes_on_to_equal_weights(data, recipe, tmp_path, monkeypatch, stage):
    recipe = _in_half_precision(recipe)
    recipe = replace(recipe, speech=tuple(replace(round, known=0.01) for round in recipe.speech))
    # So small a model is always wrong: let it know one of the two classes, which is asked less from then on.
    note = Practice.note
    monkeypatch.setattr(Practice, "MEMORY", 0.0)
    monkeypatch.setattr(Practice, "note", lambda self, name, there, wrong: note(self, name, there, name == "ball"))
    whole = Run(recipe, data, tmp_path / "whole")
    for earlier in ("vision", "speech", "sight")[: ("speech", "sight").index(stage) + 1]:
        getattr(whole, earlier)()
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    getattr(whole, stage)()
    calls, draw = iter(range(100)), Library.draw

    def fail_at_third(*arguments, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    monkeypatch.setattr(language, "SAVE_EVERY", 1)
    monkeypatch.setattr(Library, "draw", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        getattr(Run(whole.recipe, data, tmp_path / "stopped"), stage)()
    assert (tmp_path / "stopped" / "state" / f"{stage}-0").is_dir()
    getattr(Run(whole.recipe, data, tmp_path / "stopped"), stage)()
    one, other = (
        torch.load(tmp_path / name / f"{stage}.pt", weights_only=True)["lisa"] for name in ("whole", "stopped")
    )
    assert not [key for key in one if not torch.equal(one[key], other[key])]


@pytest.mark.parametrize("stage", ["vision", "speech"])
def test_a_stage_that_diverges_stops_and_leaves_no_model(data, recipe, tmp_path, stage):
    exploding = replace(recipe, speech=tuple(replace(round, lr=1e30, lr_end=1e30) for round in recipe.speech))
    if stage == "vision":
        phases = tuple(replace(phase, lr=1e30, lr_end=1e30) for phase in recipe.vision.phases)
        exploding = replace(recipe, vision=replace(recipe.vision, phases=phases))
    else:
        Run(recipe, data, tmp_path / "run").vision()
    with pytest.raises(TrainingDiverged, match=r"step \d: .*(nan|inf|finite).*lower the learning rate"):
        getattr(Run(exploding, data, tmp_path / "run"), stage)()
    assert not (tmp_path / "run" / f"{stage}.pt").exists()


def _change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def _in_half_precision(recipe):
    """The recipe with bf16 everywhere, on repainted tables."""
    vision = replace(recipe.vision, precision="bf16", repaint=1.0)
    speech, sight = (
        tuple(replace(round, precision="bf16") for round in rounds) for rounds in (recipe.speech, recipe.sight)
    )
    return replace(recipe, vision=vision, speech=speech, sight=sight)


def test_sight_may_look_at_scenes_that_vision_never_saw(data, recipe, tmp_path, monkeypatch):
    fresh = write_scenes(tmp_path / "fresh", 8, seed=1)
    run = Run(replace(recipe, sight_data=str(fresh)), data, tmp_path / "run")
    seen, embeddings = [], Run.embeddings
    monkeypatch.setattr(Run, "embeddings", lambda run, *told: seen.append(told[1]) or embeddings(run, *told))
    for stage in ("vision", "speech", "sight"):
        getattr(run, stage)()
    train, kept = seen
    assert len(train) == 6 and len(kept) == 2
    own = [scene.rgb.tobytes() for scene in run.scenes]
    assert not [scene for scene in (*train, *kept) if scene.rgb.tobytes() in own]


def test_sights_own_scenes_are_checked_before_training(data, recipe, tmp_path):
    fresh = write_scenes(tmp_path / "fresh", 8, seed=1)
    run = Run(replace(recipe, sight_data=str(fresh)), data, tmp_path / "run")
    lines = (fresh / "scenes.jsonl").read_text()
    (fresh / "scenes.jsonl").write_text(lines.replace('"ball"', '"cone"'))
    for look in (run.sight_split, lambda: run.check(STAGES)):
        with pytest.raises(ConfigError, match=r"fresh shows classes that .* does not know: cone"):
            look()
    run.check(("vision", "speech"))
    (fresh / "scenes.jsonl").write_text("".join(lines.splitlines(True)[:2]))
    with pytest.raises(ConfigError, match=r"fresh has 2 usable scenes; more than 2 are needed"):
        run.check(STAGES)
    (fresh / "scenes.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"fresh.* does not exist"):
        run.check(STAGES)


def test_frozen_prompts_stay_while_the_rest_is_trained(data, recipe, tmp_path):
    run = Run(replace(recipe, vision=replace(recipe.vision, frozen_prompts=True)), data, tmp_path / "run")
    model = run.vision_model(False)
    prompts, neck = model.class_prompts.weight.clone(), model.encoder.from_8.weight.clone()
    train_vision(model, *run.split, run.recipe.vision, run.folder)
    assert torch.equal(model.class_prompts.weight, prompts)
    assert not torch.equal(model.encoder.from_8.weight, neck)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of all stages: a checkpoint is in its folder "model"."""
    run = Run(read_recipe(yaml.safe_load(RECIPE)), data, tmp_path_factory.mktemp("finished"))
    for stage in ("vision", "speech", "sight", "export"):
        getattr(run, stage)()
    return run.folder / "model"


def test_a_finished_model_is_where_the_next_run_begins(data, recipe, finished, tmp_path):
    run = Run(replace(recipe, start=str(finished)), data, tmp_path / "next")
    began = run.started()
    checkpoint = load_file(finished / "model.safetensors")
    mine, theirs = began["lisa"]["llama.norm.weight"], checkpoint["model.norm.weight"]
    assert torch.equal(mine, theirs.float())
    head = began["vision"]["sam.mask_decoder.iou_token.weight"]
    assert torch.equal(head, checkpoint["model.visual_model.mask_decoder.iou_token.weight"].float())
    assert run.tokenizer().encode("Find the ball.") == Tokenizer.from_folder(finished).encode("Find the ball.")
    for stage in ("vision", "speech", "sight", "export"):
        getattr(run, stage)()
    assert (tmp_path / "next" / "model" / "model.safetensors").is_file()


def test_a_run_does_not_go_on_from_another_model_than_it_began_with(data, recipe, finished, tmp_path):
    shutil.copytree(finished, other := tmp_path / "other")
    Run(replace(recipe, start=str(other)), data, tmp_path / "next").started()
    save_file({k: 2 * v for k, v in load_file(finished / WEIGHTS).items()}, other / WEIGHTS, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"began with other weights than .*other has now; take another 'out'"):
        Run(replace(recipe, start=str(other)), data, tmp_path / "next").started()


def test_without_phases_vision_stays_as_it_began(data, recipe, finished, tmp_path):
    run = Run(replace(recipe, start=str(finished), vision=replace(recipe.vision, phases=())), data, tmp_path / "next")
    run.vision()
    began, now = run.started()["vision"], run.vision_model(True).state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in began.items())


def test_what_is_exported_may_be_mixed_with_the_start(data, recipe, finished, tmp_path):
    run = Run(replace(recipe, start=str(finished)), data, tmp_path / "next")
    for stage in ("vision", "speech", "sight", "export"):
        getattr(run, stage)()
    half = Run(replace(recipe, start=str(finished), mix={str(finished): 0.5}), data, tmp_path / "next")
    theirs, mine, mixed = (
        load_file(folder / "model.safetensors")
        for folder in (finished, tmp_path / "next" / "model", half.export(tmp_path / "half"))
    )
    moved = [name for name in mine if not torch.equal(theirs[name], mine[name])]
    assert {name.split(".")[1] for name in moved} >= {"visual_model", "layers", "vision_tower"}
    for name, tensor in mixed.items():
        assert torch.allclose(tensor.float(), (theirs[name].float() + mine[name].float()) / 2, atol=2e-3), name


@pytest.mark.parametrize("stage", ["speech", "sight"])
def test_a_stage_without_rounds_is_named_before_training(data, recipe, tmp_path, stage):
    run = Run(replace(recipe, **{stage: ()}), data, tmp_path / "run")
    run.check([other for other in STAGES if other != stage])
    with pytest.raises(ConfigError, match=f"{stage} has no rounds"):
        run.check(STAGES)


@pytest.mark.parametrize(("settings", "lacks"), [({"kinds": {"name": 1.0}}, "kinds"), ({"known": 0.5}, "weight")])
def test_a_supply_that_cannot_do_what_a_round_asks_is_named_before_training(data, recipe, tmp_path, settings, lacks):
    round_ = replace(recipe.speech[0], **settings)
    plain = "training_data:plain_conversations"
    Run(replace(recipe, conversations=plain), data, tmp_path / "run").check(("speech",))
    run = Run(replace(recipe, conversations=plain, speech=(round_,)), data, tmp_path / "run")
    with pytest.raises(ConfigError, match=f"plain_conversations .*'{lacks}', which a round of speech needs"):
        run.check(("speech",))
    run.check(("vision",))


@pytest.mark.parametrize("name", ["training_data", "training_data:nobody", "nowhere:at_all", "training_data:CLASSES"])
def test_what_is_no_supply_is_named_before_training(data, recipe, tmp_path, name):
    with pytest.raises(ConfigError, match=f"'{name}' in the recipe is"):
        Run(replace(recipe, conversations=name), data, tmp_path / "run").check(("vision",))


@pytest.mark.parametrize("shares", [{"one": 0.0}, {"one": 0.5, "other": 0.5}])
def test_a_mix_that_leaves_nothing_is_named(recipe, shares):
    with pytest.raises(ConfigError, match="leave something to this run"):
        replace(recipe, mix=shares)


def test_a_mix_without_names_is_told_how(recipe):
    with pytest.raises(ConfigError, match=r"mix is 0\.25; name the other models .* \{lisa-small: 0\.25\}"):
        replace(recipe, mix=0.25)


def test_partners_of_a_mix_have_their_own_shares(data, recipe, finished, tmp_path):
    shutil.copytree(finished, double := tmp_path / "double")
    save_file({k: 2 * v for k, v in load_file(finished / WEIGHTS).items()}, double / WEIGHTS, {"format": "pt"})
    run = Run(replace(recipe, mix={str(finished): 0.5, str(double): 0.2}), data, tmp_path / "run")
    one = run.lisa(run._untrained_vision(), len(run.tokenizer()))
    load_finished(finished, one)
    mine = {name: torch.full_like(tensor, 10.0) for name, tensor in one.state_dict().items()}
    for name, tensor in run._mixed(mine).items():
        assert torch.allclose(tensor, 3.0 + 0.9 * one.state_dict()[name], atol=1e-3), name


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "classes.json").unlink(), "is no finished small model"),
        (lambda folder: (folder / WEIGHTS).unlink(), "is no finished small model: it has no model.safetensors"),
        (lambda folder: (folder / "classes.json").write_text('["cone"]'), "names other classes than this run"),
        (lambda folder: (folder / "added_tokens.json").write_text("{}"), "has another tokenizer than this run"),
        (lambda folder: _change_config(folder, num_hidden_layers=3), "has 3 layers of 32, this run 2 of 32"),
    ],
)
def test_what_cannot_be_mixed_is_named_before_training(data, recipe, finished, tmp_path, spoil, complaint):
    shutil.copytree(finished, other := tmp_path / "other")
    spoil(other)
    run = Run(replace(recipe, start=str(finished), mix={str(other): 0.5}), data, tmp_path / "run")
    run.check(("vision", "speech", "sight"))
    for look in (lambda: run.check(STAGES), lambda: run._mixed({})):
        with pytest.raises(ConfigError, match=complaint):
            look()


def test_a_finished_model_may_see_larger_pictures_from_now_on(data, recipe, finished, tmp_path):
    sizes = replace(recipe.sizes, image_size=96)
    kernel = Run(replace(recipe, start=str(finished), sizes=sizes), data, tmp_path / "next").started()["lisa"]
    before = load_file(finished / "model.safetensors")["model.vision_tower.merge.weight"].float()
    after = kernel["vision_tower.merge.weight"]
    assert after.shape[-1] == 3 and before.shape[-1] == 2
    assert torch.allclose(after.sum((2, 3)), before.sum((2, 3)), atol=1e-5)  # of an even patch it says the same


def test_classes_that_the_start_does_not_know_are_named(data, recipe, finished, tmp_path):
    folder = tmp_path / "start"
    shutil.copytree(finished, folder)
    (folder / "classes.json").write_text('["ball"]')
    with pytest.raises(ConfigError, match=r"shows classes that .* does not know: box"):
        Run(replace(recipe, start=str(folder)), data, tmp_path / "run")
    (folder / "classes.json").unlink()
    with pytest.raises(ConfigError, match="is no finished small model"):
        Run(replace(recipe, start=str(folder)), data, tmp_path / "other")


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_recipe_in_the_package_can_be_read(name):
    told = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    settings = {key: value for key, value in told.items() if key not in ("recipe", "data", "out", "stages")}
    recipe = read_recipe(settings)
    assert told["recipe"] == "small"
    assert recipe.sight or "sight" not in told.get("stages", STAGES)


@pytest.mark.timeout(300)
def test_the_quick_recipe_goes_on_from_the_packaged_model_and_forgets_nothing(opengl, tmp_path, monkeypatch):
    """The short run of docs/demo_model.md, in seconds: fewer scenes, a step of each stage."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", "40"), ("test", "8")):
        assert cli.main(["scenes", "--out", f"scenes/{split}", "--count", count, "--seed", "1", "--split", split]) == 0
    settings = yaml.safe_load((CONFIGS / "quick.yaml").read_text())
    settings |= {"data": "scenes/train", "validation": 8, "threads": 1}
    for round in (*settings["vision"]["phases"], *settings["speech"], *settings["sight"]):
        round["steps"] = 1
    config = _written(tmp_path / "quick.yaml", yaml.safe_dump(settings))
    assert cli.main(["train", "--config", str(config)]) == 0
    arguments = ["evaluate", "--data", "scenes/test", "--model", "runs/quick/model", "--json", "report.json"]
    assert cli.main(arguments) == 0
    assert json.loads((tmp_path / "report.json").read_text())["gIoU"] > 0.35


def test_a_finished_run_is_not_exported_with_other_layers(data, recipe, finished, tmp_path):
    shutil.copytree(finished.parent, tmp_path / "run")
    sizes = replace(recipe.sizes, layers=recipe.sizes.layers + 1)
    with pytest.raises(ConfigError, match="of other sizes than the recipe"):
        Run(replace(recipe, sizes=sizes), data, tmp_path / "run").export()


def test_a_model_of_other_sizes_is_no_start(data, recipe, finished, tmp_path):
    sizes = replace(recipe.sizes, hidden=48, heads=4)
    with pytest.raises(ConfigError, match="of other sizes than the recipe"):
        Run(replace(recipe, start=str(finished), sizes=sizes), data, tmp_path / "next").started()


def test_a_start_with_wider_mlps_answers_as_before_and_learns_with_them(data, recipe, finished, tmp_path):
    sizes = replace(recipe.sizes, intermediate=80)
    run = Run(replace(recipe, start=str(finished), sizes=sizes), data, tmp_path / "next")
    wide, narrow = run.started()["lisa"], load_file(finished / WEIGHTS)
    for name in ("gate", "up", "down"):
        key = f"layers.1.mlp.{name}_proj.weight"
        more, before = wide[f"llama.{key}"], narrow[f"model.{key}"].float()
        if name == "down":
            more, before = more.T, before.T
        assert more.shape[0] == 80 and torch.equal(more[:48], before)
        assert bool(more[48:].any()) == (name != "down")
    run.vision()
    run.speech()
    learned = torch.load(tmp_path / "next" / "speech.pt", weights_only=True)["lisa"]
    assert learned["llama.layers.1.mlp.down_proj.weight"][:, 48:].any()


def test_a_start_with_narrower_mlps_is_named(data, recipe, finished, tmp_path):
    recipe = replace(recipe, start=str(finished), sizes=replace(recipe.sizes, intermediate=32))
    with pytest.raises(ConfigError, match="has MLPs of 48 units, the recipe's have 32; say 48 or more there"):
        Run(recipe, data, tmp_path / "narrower").started()


def test_a_narrow_model_is_mixed_into_a_wide_one_and_a_wider_is_named(data, recipe, finished, tmp_path):
    wide = Run(replace(recipe, start=str(finished), sizes=replace(recipe.sizes, intermediate=80)), data, tmp_path / "w")
    for stage in ("vision", "speech", "sight", "export"):
        getattr(wide, stage)()
    mixed = replace(wide, recipe=replace(wide.recipe, mix={str(finished): 0.5}))
    key = "model.layers.0.mlp.down_proj.weight"
    alone, half = (load_file(folder / WEIGHTS)[key] for folder in (wide.folder / "model", mixed.export(tmp_path / "m")))
    assert torch.allclose(half[:, 48:].float(), alone[:, 48:].float() / 2, atol=1e-4)
    narrow = Run(replace(recipe, mix={str(wide.folder / "model"): 0.5}), data, tmp_path / "n")
    with pytest.raises(ConfigError, match="has MLPs of 80 units, this run of 48"):
        narrow.check(STAGES)


def test_a_start_with_another_mask_decoder_is_named(data, recipe, finished, tmp_path):
    recipe = replace(recipe, start=str(finished), sizes=replace(recipe.sizes, decoder_mlp=32))
    with pytest.raises(ConfigError, match="of other sizes than the recipe"):
        Run(recipe, data, tmp_path / "run").started()


def test_what_cannot_be_mixed_for_its_mask_decoder_is_named_before_training(data, recipe, finished, tmp_path):
    recipe = replace(recipe, mix={str(finished): 0.5}, sizes=replace(recipe.sizes, decoder_mlp=32))
    run = Run(recipe, data, tmp_path / "run")
    shutil.copy(finished / "tokenizer.model", run.folder)
    shutil.copy(finished / "added_tokens.json", run.folder)
    with pytest.raises(ConfigError, match="of other sizes than the recipe"):
        run.check(STAGES)


def test_prompts_are_got_back_from_what_the_model_says(data, recipe, finished, tmp_path, monkeypatch):
    """A model that says class and place without a fault is taken apart into the prompts it was taught."""
    run = Run(replace(recipe, start=str(finished)), data, tmp_path / "next")
    taught, vision = run._untrained_vision(), run._untrained_vision()
    vision.sam.shared_image_embedding.load_state_dict(taught.sam.shared_image_embedding.state_dict())
    lisa = run.lisa(vision, len(run.tokenizer()))
    lisa.seg_projector = torch.nn.Identity()
    asked = []

    def noted(*arguments):
        asked.append(seg_truth(*arguments))
        return asked[-1]

    monkeypatch.setattr(warm_start, "seg_truth", noted)
    monkeypatch.setattr(warm_start, "states_at", lambda *_: taught.prompts(*(part[None] for part in asked[-1]))[0])
    error = warm_start.recover_prompts(lisa, run.library(run.scenes), vision, steps=4)
    assert error < 1e-4
    assert torch.allclose(vision.class_prompts.weight, taught.class_prompts.weight, atol=0.05)


def test_a_precision_that_training_does_not_know_is_named():
    with pytest.raises(ConfigError, match="'fp8' of the recipe is not fp32 or bf16"):
        half_precision("fp8")


def test_bf16_leaves_the_first_block_of_the_trunk_whole(data, recipe, tmp_path):
    """Its folded normalisation cancels large numbers: in bf16 the rest would be trained behind a wrong picture."""
    config = replace(recipe.vision, precision="bf16")
    run = Run(replace(recipe, vision=config), data, tmp_path / "run")
    seen = {}
    model = run.vision_model(False)
    watched = {"stem": model.encoder.stem, "first": model.encoder.blocks[0], "second": model.encoder.blocks[1]}

    def note(name, output):
        seen.setdefault(name, output.dtype)  # the first pass trains, the last one validates

    for name, module in watched.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
    train_vision(model, *run.split, config, run.folder)
    assert seen == {"stem": torch.float32, "first": torch.float32, "second": torch.bfloat16}


def test_a_broken_scene_is_named_and_skipped(tmp_path, recipe, caplog):
    data = write_scenes(tmp_path / "data", 8)
    (data / "images" / "000003.png").write_bytes(b"no picture")
    for number, change in {
        "000004": lambda ids: ids[:10],
        "000005": lambda ids: np.stack([ids] * 3, axis=-1),
        "000006": lambda ids: ids.astype(np.uint16),
    }.items():
        path = str(data / "ids" / f"{number}.png")
        cv2.imwrite(path, change(cv2.imread(path, cv2.IMREAD_UNCHANGED)))
    run = Run(recipe, data, tmp_path / "run")
    assert len(run.scenes) == 4
    for number in ("000003", "000004", "000005", "000006"):
        assert number in caplog.text
    assert len(list(read_pictures(data))) == 4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda told: told.update(vison=told.pop("vision")), "'vison' is not a setting; did you mean 'vision'"),
        (
            lambda told: told["speech"][0].update(warmpu=1),
            r"'speech\[0\].warmpu' is not a setting; did you mean 'warmup'",
        ),
        (
            lambda told: told["vision"]["phases"][0].update(lr="abc"),
            r"vision\.phases\[0\]\.lr is 'abc'; it must be a number",
        ),
        (
            lambda told: told["vision"]["phases"][0].update(batch=0),
            r"vision\.phases\[0\]: batch is 0; it must be above 0",
        ),
        (lambda told: told["sight"][1].update(steps=-1), r"sight\[1\]: steps is -1; it must be above 0"),
        (lambda told: told["sight"][0].update(absent=5), r"sight\[0\]: absent is 5\.0; a share is from 0 to 1"),
        (
            lambda told: told["sight"][0].update(kinds={"name": "much"}),
            r"sight\[0\]\.kinds\.name is 'much'; it must be a number",
        ),
        (lambda told: told.update(speech=3), "speech is 3; it must be a list"),
        (lambda told: told.update(mix=0.5), r"mix is 0\.5; it needs a value behind each name"),
        (lambda told: told["sight"][0].update(kinds={"name": 0}), r"sight\[0\]: kinds is .*; weights are 0 or more"),
        (lambda told: told["sight"][0].update(empty_cells=-1), r"empty_cells -1; none may be below 0"),
        (lambda told: told["vision"].update(phases=[]), "vision has no phases and the recipe no start"),
        (lambda told: told["vision"]["phases"][0].update(lr=float("inf")), r"lr is inf; it must be a number"),
    ],
)
def test_what_a_recipe_says_wrong_is_named(change, complaint):
    told = yaml.safe_load(RECIPE)
    change(told)
    with pytest.raises(ConfigError, match=complaint):
        read_recipe(told)


def test_a_recipe_that_cannot_work_says_so(tmp_path, data, recipe):
    with pytest.raises(ConfigError, match=r"the settings .*'vision'.* are missing"):
        read_recipe({"name": "x"})
    with pytest.raises(ConfigError, match="the settings 'data', 'out' are missing"):
        train({"recipe": "small"})
    with pytest.raises(ConfigError, match="'stage' is not a setting; did you mean 'stages'"):
        train({"recipe": "small", "data": str(data), "out": str(tmp_path / "run"), "stage": ["export"]})
    with pytest.raises(ConfigError, match="stages is 'vision'; it must be a list"):
        train({"recipe": "small", "data": str(data), "out": str(tmp_path / "run"), "stages": "vision"})
    with pytest.raises(ConfigError, match="does not exist; run the stage 'vision' first"):
        Run(recipe, data, tmp_path / "run").vision_model(True)
    with pytest.raises(ConfigError, match="lisa scenes"):
        Run(recipe, tmp_path, tmp_path / "run")


def test_a_folder_without_examples_says_what_it_needs(tmp_path):
    with pytest.raises(ConfigError, match=r"scenes\.jsonl"):
        read_pictures(tmp_path)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
