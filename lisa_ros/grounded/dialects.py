"""How each family of vision-language models writes boxes and points: data, no code for a single family.

Sources: Qwen3-VL's cookbook 2d_grounding and its README; Qwen2.5-VL (2502.13923); Seg-Zero (2503.06520) and
VisionReasoner (2505.12081); StAR (github.com/ysj9909/StAR); Molmo (2409.17146).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from lisa_ros.errors import ConfigError
from lisa_ros.grounded.finds import Size

LABEL_PATTERN = r"^[A-Za-z0-9 ,.'-]{1,60}$"
"""ASCII and short: a random byte would break llama.cpp's parser, a free string may never end."""

REASON_PATTERN = r"^[A-Za-z0-9 ,.;:'()-]{1,400}$"


@dataclass(frozen=True)
class Frame:
    """The coordinate frame of a model's numbers.

    Args:
        full: Number that means the whole width, and the whole height; 0 for pixels of the picture as sent.
        squash: Side of the square that the picture is squashed to; 0 keeps the aspect ratio.
        multiple: The sides of the picture as sent are multiples of this, so that the model does not resize it again.
        max_pixels: Most pixels of the picture as sent.
    """

    full: float = 0.0
    squash: int = 0
    multiple: int = 28
    max_pixels: int = 1280 * 28 * 28

    def sent_size(self, size: Size, max_side: int) -> Size:
        """(height, width) of the picture as sent for a camera image of ``size``."""
        if self.squash:
            return self.squash, self.squash
        height, width = size
        scale = min(1.0, max_side / max(size), math.sqrt(self.max_pixels / (height * width)))
        most = max_side // self.multiple

        def side(pixels: int) -> int:
            return self.multiple * min(max(round(scale * pixels / self.multiple), 2), max(most, 2))

        height, width = side(height), side(width)
        while height * width > self.max_pixels:  # rounding up
            if height >= width:
                height -= self.multiple
            else:
                width -= self.multiple
        return height, width

    def span(self, sent: Size) -> tuple[float, float]:
        """The numbers that mean the whole width and the whole height of a picture of size ``sent``."""
        return (self.full, self.full) if self.full else (float(sent[1]), float(sent[0]))


Form = Literal["json", "box_tokens", "points"]


@dataclass(frozen=True)
class Dialect:
    """How a family of models is asked, and how it answers.

    Args:
        name: For ``engine.json`` and the option ``dialect``.
        models: Regular expression that the names of its models match, without regard to case.
        frame: Of its coordinates.
        form: Of its answers: JSON objects, box tokens, or XML-like points.
        prompt: With ``{query}``, and ``{full}`` for the range of the coordinates.
        explain: Added to the prompt to get the reason, where the model does not think aloud anyway.
        thinks: Answers begin with ``<think>...</think>`` and have the objects in ``<answer>...</answer>``.
        schema: The answer may be constrained by :func:`schema`.
        multimask: Of SAM's three masks take the one with the best predicted IoU, as the family was trained with.
        plain_query: The query is lower-cased and loses its final punctuation, as in the family's training.
    """

    name: str
    models: str
    frame: Frame
    prompt: str
    form: Form = "json"
    explain: str = ""
    thinks: bool = False
    schema: bool = False
    multimask: bool = False
    plain_query: bool = False

    def question(self, query: str, sent: Size, explain: bool) -> str:
        """The text of a turn about a picture of size ``sent``."""
        if self.plain_query:
            query = query.lower().strip().rstrip(".?!")
        width, height = self.frame.span(sent)
        frame = f"0 to {width:g}" if self.frame.full else f"pixels, the picture has {width:g} x {height:g}"
        # Not str.format: a command may hold braces.
        text = self.prompt.replace("{frame}", frame).replace("{query}", " ".join(query.split()))
        return text + self.explain if explain else text


_JSON_PROMPT = (
    'Find in the picture what this asks for: "{query}"\n'
    'Answer with JSON only, in this form: {"present": true, "objects": [{"label": "short name", "bbox_2d": '
    '[x1, y1, x2, y2], "point_2d": [x, y]}]}\n'
    "bbox_2d is the tight box around one object (left, top, right, bottom), point_2d a point on it; coordinates are "
    "{frame}. List every object that matches, once each. If nothing in the picture matches, do not guess: answer "
    '{"present": false, "objects": []}.'
)
_JSON_EXPLAIN = ' After the objects add "reason": one sentence that says why.'
_THINK_PROMPT = (
    'Please find "{query}" with bboxs and points. Compare the difference between object(s) and find the most closely '
    "matched object(s). Output the thinking process in <think> </think> and final answer in <answer> </answer> tags. "
    "Output the bbox(es) and point(s) inside the interested object(s) in JSON format, for example: <think> thinking "
    'process here </think> <answer>[{"bbox_2d": [10, 100, 200, 210], "point_2d": [30, 110]}]</answer>'
)
_STAR_PROMPT = _THINK_PROMPT.replace('[{"bbox_2d"', '[{"label": "name", "bbox_2d"') + (
    " If there is no matching object, output <answer>[]</answer>."
)

DIALECTS = (
    Dialect("star", r"\bstar[-_]?(8b|32b)", Frame(999, multiple=32), _STAR_PROMPT, thinks=True, multimask=True),
    Dialect("star-7b", r"\bstar[-_]?7b", Frame(squash=840), _STAR_PROMPT, thinks=True, multimask=True),
    Dialect(
        "seg-zero",
        r"seg-?zero|vision-?reasoner|sam-?r1|affordance-?r1",
        Frame(squash=840),
        _THINK_PROMPT,
        thinks=True,
        multimask=True,
        plain_query=True,
    ),
    Dialect(
        "qwen3-vl",
        r"qwen-?3(\.5)?-?vl|qwen-?3\.5",
        Frame(1000, multiple=32),
        _JSON_PROMPT,
        explain=_JSON_EXPLAIN,
        schema=True,
    ),
    Dialect("qwen2.5-vl", r"qwen-?2[.-]5-?vl", Frame(), _JSON_PROMPT, explain=_JSON_EXPLAIN, schema=True),
    Dialect(
        "qwen2-vl",
        r"qwen-?2-?vl|internvl",
        Frame(1000),
        'Detect "{query}" in the picture and give the bounding box of each. If there is none, say so.',
        form="box_tokens",
    ),
    Dialect(
        "molmo2",
        r"molmo-?2",
        Frame(1000),
        'Point to "{query}". If it is not in the picture, say that there are none.',
        form="points",
    ),
    Dialect(
        "molmo",
        r"molmo",
        Frame(100),
        'Point to "{query}". If it is not in the picture, say that there are none.',
        form="points",
    ),
)
"""The first whose ``models`` fits the name of a model serves it."""

NAMES = tuple(dialect.name for dialect in DIALECTS)


def dialect_named(name: str) -> Dialect:
    """The dialect of a name. Raises ConfigError for an unknown one."""
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    raise ConfigError(f"dialect is '{name}'; choose one of {', '.join(NAMES)}")


def dialect_of(model: str) -> Dialect:
    """The dialect of a model, by its name.

    A wrong frame would move boxes without a sign of it, so an unknown name is an error.

    Raises:
        ConfigError: No dialect fits.
    """
    for dialect in DIALECTS:
        if re.search(dialect.models, model, re.IGNORECASE):
            return dialect
    raise ConfigError(
        f"the model '{model}' is of no known family, so the coordinates that it writes cannot be read; set the option "
        f"dialect to one of {', '.join(NAMES)}"
    )


def schema(dialect: Dialect, sent: Size, max_objects: int, explain: bool, reason_first: bool = False) -> dict[str, Any]:
    """JSON schema of an answer.

    ``present`` comes first, so that the model decides before it draws.

    Args:
        dialect: Of the model.
        sent: Size of the picture as sent.
        max_objects: Most objects; bounds a model that repeats itself.
        explain: Ask for the reason.
        reason_first: The reason comes before the objects.
    """
    number = {"type": "integer", "minimum": 0, "maximum": int(max(dialect.frame.span(sent)))}
    objects = {
        "type": "array",
        "maxItems": max_objects,
        "items": _object(
            label={"type": "string", "pattern": LABEL_PATTERN},
            bbox_2d={"type": "array", "minItems": 4, "maxItems": 4, "items": number},
            point_2d={"type": "array", "minItems": 2, "maxItems": 2, "items": number},
        ),
    }
    reason = {"reason": {"type": "string", "pattern": REASON_PATTERN}} if explain else {}
    present = {"present": {"type": "boolean"}}
    if reason_first:
        return _object(**reason, **present, objects=objects)
    return _object(**present, objects=objects, **reason)


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
