"""SAM 2 for videos as a tracker (``Sam2VideoModel`` of transformers), one frame after another.

It needs torch, so it does not run in the node's process: ``lisa_ros.runtime.tracker_process`` runs it in its own.

SAM 2 keeps a memory of each target: the frame of the mask that it was given, and the frames after it. Here it keeps
what its attention can reach and no more, so memory does not grow with the length of the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from lisa_ros.engine.api import MaskCrop, crop_mask
from lisa_ros.errors import CheckpointError
from lisa_ros.grounded.cutters.sam import input_of
from lisa_ros.grounded.recipe import RECIPE, Part, read_recipe
from lisa_ros.grounded.weights.load import Place, load_model
from lisa_ros.json_file import read_json_object
from lisa_ros.perception.tracking import DETECT_AFTER_S, NOWHERE, Presence, State, Tracked, renew

KIND = "sam2_video"


class Sam2VideoTracker:
    """A tracker by SAM 2's memory of a video. See :class:`lisa_ros.perception.tracking.Tracker`.

    Args:
        model: Folder of a SAM 2 or 2.1, or of an engine whose cutter is one.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, bf16, fp16 or fp32.

    Raises:
        CheckpointError: The folder has no SAM 2 for videos, or it is damaged.
        ConfigError: The precision is not known.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """

    def __init__(self, model: str, device: str = "auto", precision: str = "auto") -> None:
        part = part_of(Path(model).expanduser())
        self._model = load_model(transformers.Sam2VideoModel, part, Place.pick(device, precision))
        self._targets: list[_Target] = []
        self._next_id = 1

    def start(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        """See :meth:`Tracker.start`."""
        self.clear()
        self._follow(rgb, crops, time_s)

    def redetect(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        """See :meth:`Tracker.redetect`."""
        named, kept = renew([target.tracked for target in self._targets], crops, self._next_id)
        self._targets = [target for target in self._targets if target.id in kept]
        self._follow(rgb, named, time_s)

    def update(self, rgb: NDArray[np.uint8], time_s: float) -> list[Tracked]:
        """See :meth:`Tracker.update`."""
        if not self._targets:
            return []
        frame = _Frame(self._model, rgb)
        return [target.follow(frame, time_s) for target in self._targets]

    def clear(self) -> None:
        """See :meth:`Tracker.clear`."""
        self._targets, self._next_id = [], 1

    @property
    def wants_detection(self) -> bool:
        """See :attr:`Tracker.wants_detection`."""
        return any(target.presence.in_doubt_s > DETECT_AFTER_S for target in self._targets)

    def _follow(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        visible = [crop for crop in crops if crop.area]
        if visible:
            frame = _Frame(self._model, rgb)
            self._targets += [_Target(frame, crop, time_s) for crop in visible]
        self._targets.sort(key=lambda target: target.id)
        self._next_id = max([self._next_id, *(target.id + 1 for target in self._targets)])


class _Frame:
    """A frame that SAM's image encoder has processed once, for all targets.

    Args:
        model: A ``Sam2VideoModel``.
        rgb: uint8 (H, W, 3).
    """

    @torch.inference_mode()
    def __init__(self, model: Any, rgb: NDArray[np.uint8]) -> None:
        self.model = model
        self.size = (rgb.shape[0], rgb.shape[1])
        pixels = torch.from_numpy(input_of(model).pixels(rgb))
        self.pixels = pixels.to(model.device, model.dtype)  # (3, side, side)
        encoded = model.get_image_features(self.pixels[None], return_dict=True)
        self.features = {
            "vision_feats": encoded.fpn_hidden_states,
            "vision_pos_embeds": encoded.fpn_position_encoding,
        }


class _Target:
    """One target with its memory: a session of transformers.

    A session each, since one for several targets cannot drop one of them.
    """

    def __init__(self, frame: _Frame, crop: MaskCrop, time_s: float) -> None:
        self.id = crop.label
        self.tracked = Tracked(crop, 1.0, State.TRACKING)
        self.presence = Presence(time_s)
        device = frame.model.device
        height, width = frame.size
        self._session = Sam2VideoInferenceSession(None, height, width, device, device, device, frame.model.dtype)
        self._index = 0  # of the newest frame
        self._session.add_mask_inputs(self._session.obj_id_to_idx(self.id), 0, _input_mask(frame, crop))
        self._session.obj_with_new_inputs = [self.id]
        self._pass_through(frame)

    def follow(self, frame: _Frame, time_s: float) -> Tracked:
        """Find it in the next frame."""
        self.presence.pass_time(time_s)
        self._index += 1
        low_res, object_probability = self._pass_through(frame)
        logits = F.interpolate(low_res[None, None], frame.size, mode="bilinear", align_corners=False)[0, 0]
        mask = logits > 0  # (H, W)
        surely = float(torch.sigmoid(logits[mask]).mean()) if mask.any() else 0.0
        confidence = object_probability * surely
        found = self.presence.see(confidence)
        crop = crop_mask(mask.cpu().numpy(), self.id, confidence) if found else replace(NOWHERE, label=self.id)
        self.tracked = Tracked(crop, confidence, self.presence.state)
        return self.tracked

    @torch.inference_mode()
    def _pass_through(self, frame: _Frame) -> tuple[Tensor, float]:
        """Logits (h, w) of its mask in a frame, and the probability that it is there; the frame becomes memory."""
        session, index = self._session, self._index
        session.cache.cache_vision_features(index, frame.features)
        output = frame.model(session, frame=frame.pixels, frame_idx=index)
        self._forget(index - max(frame.model.config.num_maskmem, frame.model.config.max_object_pointers_in_encoder))
        return output.pred_masks[0, 0].float(), float(torch.sigmoid(output.object_score_logits[0].float()))

    def _forget(self, oldest: int) -> None:
        """Drop pixels and features of all frames, and memory up to the frame ``oldest``; the first frame's stays."""
        session = self._session
        session.processed_frames = {}
        session.cache.clear_all()
        for by_frame in (
            *(outputs["non_cond_frame_outputs"] for outputs in session.output_dict_per_obj.values()),
            *session.frames_tracked_per_obj.values(),
        ):
            for index in [index for index in by_frame if index <= oldest]:
                del by_frame[index]
        for outputs in session.output_dict_per_obj.values():
            for memory in (*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()):
                memory.pop("high_res_masks", None)  # of the input's size; what was made of it is kept
        for masks in session.mask_inputs_per_obj.values():
            masks.clear()


def _input_mask(frame: _Frame, crop: MaskCrop) -> Tensor:
    """(1, 1, side, side) float, 0 or 1: a mask of the frame, as ``Sam2VideoProcessor`` resizes it."""
    height, width = frame.size
    whole = np.zeros((height, width), np.float32)
    whole[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
    small = F.interpolate(
        torch.from_numpy(whole)[None, None],
        frame.pixels.shape[1:],
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    mask = small >= 0.5
    if not mask.any():  # it is smaller than a pixel of the input
        mask = small >= small.max()
    return mask.float()


def part_of(folder: Path) -> Part:
    """The SAM 2 in a folder: its own, or the cutter of an engine. Raises CheckpointError."""
    if (folder / RECIPE).is_file():
        cutter = read_recipe(folder).cutter
        part = cutter if cutter is not None else Part(folder, "")
    elif (folder / "config.json").is_file():
        part = Part(folder, str(read_json_object(folder / "config.json", CheckpointError).get("model_type")))
    else:
        raise CheckpointError(
            f"{folder} holds no model; give the folder of a SAM 2.1, or of a preset such as "
            "'lisa fetch grounding-dino+sam2.1-tiny'"
        )
    if part.kind != KIND:
        raise CheckpointError(
            f"{part.folder} holds a model of type '{part.kind}', which does not track; give a SAM 2.1 of type '{KIND}'"
        )
    return part
