"""How answers of language models break their format, and what is read all the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisa_ros.errors import ConfigError
from lisa_ros.grounded.answers import BLANKS, AnswerReader
from lisa_ros.grounded.dialects import DIALECTS, Dialect, dialect_named, dialect_of, schema
from lisa_ros.grounded.finds import Find

SIZE = (480, 640)
SENT = (480, 640)
CUP = (64.0, 48.0, 320.0, 240.0)  # of 100, 100, 500, 500 in 0..1000


def read(text: str, dialect: str = "qwen3-vl", pieces: int = 7, max_objects: int = 8) -> AnswerReader:
    """Read an answer in pieces, as it streams."""
    chosen = dialect_named(dialect)
    reader = AnswerReader(chosen, chosen.frame.sent_size(SIZE, 1024), SIZE, max_objects)
    for begin in range(0, len(text), pieces):
        reader.feed(text[begin : begin + pieces])
    reader.finish()
    return reader


def boxes(reader: AnswerReader) -> list[tuple[float, ...]]:
    return [tuple(round(number, 3) for number in find.box or ()) for find in reader.finds]


ONE = '{"label": "cup", "bbox_2d": [100, 100, 500, 500], "point_2d": [300, 300]}'
TWO = '{"label": "fork", "bbox_2d": [600, 600, 700, 700], "point_2d": [650, 650]}'
FORK = (384.0, 288.0, 448.0, 336.0)

# name -> the answer, and the boxes that it means
REPAIRED = {
    "as asked": (f'{{"present": true, "objects": [{ONE}, {TWO}]}}', [CUP, FORK]),
    "a fence": (f'```json\n{{"present": true, "objects": [{ONE}]}}\n```', [CUP]),
    "prose around it": (f"Sure! Here it is: [{ONE}] I hope that helps.", [CUP]),
    "one object, no list": (ONE, [CUP]),
    "a bare list": (f"[{ONE}, {TWO}]", [CUP, FORK]),
    "key bbox": ('[{"bbox": [100, 100, 500, 500]}]', [CUP]),
    "key box_2d": ('[{"box_2d": [100, 100, 500, 500], "label": "cup"}]', [CUP]),
    "repeated keys": (
        '[{"bbox_2d": [100, 100, 500, 500], "label": "cup", "bbox_2d": [600, 600, 700, 700], "label": "fork"}]',
        [CUP, FORK],
    ),
    "quoted numbers": ('[{"bbox_2d": ["100", "100", "500", "500"], "label": "cup"}]', [CUP]),
    "some quoted": ('[{"bbox_2d": [100, "100", 500, 500"], "label": "cup"}]', [CUP]),
    "a stray quote after the list": ('[{"bbox_2d": [100, 100, 500, 500]", "label": "cup"}]', [CUP]),
    "a brace for a bracket": ('[{"bbox_2d": [100, 100, 500, 500], "point_2d": [300, 300}, "label": "cup"}]', [CUP]),
    "a brace for the last bracket": (
        '[{"label": "cup", "bbox_2d": [100, 100, 500, 500], "point_2d": [300, 300}]',
        [CUP],
    ),
    "doubled braces": (f"[{ONE}}}, {TWO}}}]", [CUP, FORK]),
    "single quotes": ("[{'bbox_2d': [100, 100, 500, 500], 'label': 'cup'}]", [CUP]),
    "no quotes": ("[{bbox_2d: [100, 100, 500, 500], label: cup}]", [CUP]),
    "cut off": (f'{{"present": true, "objects": [{ONE}, {{"label": "fork", "bbox_2d": [600, 600', [CUP]),
    "cut off in a number": (f"[{ONE}, {TWO[:-4]}", [CUP]),
    "near duplicates": (f"[{ONE}, {ONE.replace('500, 500', '501, 499')}, {TWO}, {TWO}]", [CUP, FORK]),
    "three numbers": (f'[{{"bbox_2d": [100, 100, 500], "label": "cup"}}, {TWO}]', [FORK]),
    "five numbers": (f'[{{"bbox_2d": [100, 100, 500, 500, 7], "label": "cup"}}, {TWO}]', [FORK]),
    "nested lists": (f'[{{"bbox_2d": [[100, 100], [500, 500]], "label": "cup"}}, {TWO}]', [FORK]),
    "a list in a list": (f'[{{"bbox_2d": [[100, 100, 500, 500]], "label": "cup"}}, {TWO}]', [FORK]),
    "repeated digits": (f'[{{"bbox_2d": [100, 100, 500, {"9" * 60}], "label": "cup"}}, {TWO}]', [FORK]),
    "more digits than a float has": (f'[{{"bbox_2d": [100, 100, 500, {"9" * 600}]}}, {TWO}]', [FORK]),
    "an exponent": (f'[{{"bbox_2d": [1e2, 100, 5e2, 500]}}, {{"bbox_2d": [1e999, 1, 2, 3]}}, {TWO}]', [CUP, FORK]),
    "words for numbers": (f'[{{"bbox_2d": [left, top, right, bottom]}}, {TWO}]', [FORK]),
    "null": (f'[{{"bbox_2d": null, "label": "cup"}}, {TWO}]', [FORK]),
    "corners the other way round": ('[{"bbox_2d": [500, 500, 100, 100]}]', [CUP]),
    "out of the picture": ('[{"bbox_2d": [-50, 900, 500, 1200]}]', [(0.0, 432.0, 320.0, 480.0)]),
    "no area": ('[{"bbox_2d": [500, 500, 500, 500]}]', [(319.5, 239.5, 320.5, 240.5)]),
    "no area at the edge": ('[{"bbox_2d": [1000, 1000, 1000, 1000]}]', [(639.0, 479.0, 640.0, 480.0)]),
    "beyond the edge": ('[{"bbox_2d": [1500, 1500, 1600, 1600]}]', [(639.0, 479.0, 640.0, 480.0)]),
    "decimals": ('[{"bbox_2d": [100.0, 100.00, 500.0, 5E2]}]', [CUP]),
    "braces in a label": ('[{"label": "cup {red}", "bbox_2d": [100, 100, 500, 500]}]', [CUP]),
    "brackets in a label": ('[{"label": "cup [red", "bbox_2d": [100, 100, 500, 500]}]', [CUP]),
    "thoughts before it": (f"<think>Perhaps {TWO}? No.</think>[{ONE}]", [CUP]),
    "only thoughts": (f"<think>Perhaps {TWO}", []),
    "nothing": ("", []),
    "an empty list": ("[]", []),
    "an apology": ("I cannot see a cup in this picture.", []),
    "present, and nothing drawn": ('{"present": true, "objects": []}', []),
}


@pytest.mark.parametrize("name", REPAIRED)
@pytest.mark.parametrize("pieces", [1, 7, 10_000])
def test_what_a_broken_answer_means_is_read(name: str, pieces: int) -> None:
    text, expected = REPAIRED[name]
    assert boxes(read(text, pieces=pieces)) == expected


def test_labels_and_points_are_read_with_their_box() -> None:
    find = read(ONE).finds[0]
    assert (find.label, find.points, find.point_labels) == ("cup", ((192.0, 144.0),), (1,))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (r"caf\u00e9 cup", "café cup"),
        (r"a \"big\" cup", 'a "big" cup'),
        ("a\\qcup", "aqcup"),
        ("two\nlines", "two lines"),
        ("x" * 500, "x" * 80),
    ],
)
def test_a_label_is_one_short_line(label: str, expected: str) -> None:
    assert read(f'[{{"bbox_2d": [100, 100, 500, 500], "label": "{label}"}}]').finds[0].label == expected


def test_a_point_beside_its_box_is_left_out() -> None:
    assert read('[{"bbox_2d": [100, 100, 500, 500], "point_2d": [900, 900]}]').finds[0].points == ()


def test_an_object_is_a_find_as_soon_as_its_brace_closes() -> None:
    reader = AnswerReader(dialect_named("qwen3-vl"), SENT, SIZE)
    text = f'{{"present": true, "objects": [{ONE}'
    assert [len(reader.feed(character)) for character in text].index(1) == len(text) - 1


def test_a_model_that_repeats_itself_is_stopped() -> None:
    reader = read(f"[{', '.join([ONE] * 200)}", max_objects=4)
    assert len(reader.finds) == 1
    assert reader.complete
    assert reader.dropped == {"duplicate": 8}


def test_more_objects_than_wanted_are_not_read() -> None:
    many = ", ".join(f'{{"bbox_2d": [{n}, 0, {n + 9}, 9]}}' for n in range(0, 990, 10))
    assert len(read(f"[{many}]", max_objects=3).finds) == 3


def test_blanks_without_end_are_a_loop() -> None:
    reader = read('{"present": ' + " \n" * (BLANKS // 2))
    assert reader.loops
    assert not read('{"present": true}  ').loops


def test_what_is_absent_is_said_before_anything_is_drawn() -> None:
    assert read('{"present": false, "objects": []}').absent
    assert read(f'{{"present": false, "objects": [{ONE}]}}').absent
    assert not read(f'{{"present": true, "objects": [{ONE}]}}').absent
    assert not read(f'[{ONE}], "present": false').absent
    assert not read(f'<think>{{"present": false}} or not?</think>{{"present": true, "objects": [{ONE}]}}').absent
    assert read('<think>{"present": true}?</think>{"present": false, "objects": []}').absent


def test_the_probability_of_a_find_is_that_of_its_digits() -> None:
    reader = AnswerReader(dialect_named("qwen3-vl"), SENT, SIZE)
    tokens = [('[{"bbox_2d": [', -9.0), ("100", -0.5), (",", -9.0), ("100", -1.5), (",", -9.0), ("500", -0.5)]
    tokens += [(",", -9.0), ("500", -1.5), ("]", -9.0), ("}", -9.0), ("]", -9.0)]
    for text, logprob in tokens:
        reader.feed(text, logprob)
    # The token with the key holds a digit, too, and lies before the coordinates' list but inside the span.
    assert reader.finds[0].probability == pytest.approx(2.718281828 ** -((9.0 + 4.0) / 5), rel=1e-6)
    assert read(ONE).finds[0].probability == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"present": true, "objects": [], "reason": "It holds coffee."}', "It holds coffee."),
        ('{"present": true, "objects": [], "reason": "It holds cof', "It holds cof"),
        ("There is no cup in this picture.", "There is no cup in this picture."),
        (f"Here it is:\n```json\n[{ONE}]\n```", "Here it is:"),
        ("[]\nThere is none.", "There is none."),
        ('{"present": false, "objects": []}', ""),
    ],
)
def test_the_words_beside_the_objects(text: str, words: str) -> None:
    assert read(text).words == words


# --- other forms


def test_thoughts_are_the_reason_and_the_answer_comes_after_them() -> None:
    text = f"<think>A cup holds drinks. {TWO}</think> <answer>[{ONE}]</answer>"
    reader = read(text.replace("500, 500", "420, 420"), "seg-zero")
    assert boxes(reader) == [(76.19, 57.143, 320.0, 240.0)]  # 840 for the whole width and height
    assert reader.reason.startswith("A cup holds drinks.")
    assert boxes(read(f"<think>no end {ONE}", "seg-zero")) == []
    assert boxes(read(f"[{ONE}]", "seg-zero")) == [(76.19, 57.143, 380.952, 285.714)]


def test_box_tokens_with_and_without_the_special_tokens() -> None:
    text = "<|object_ref_start|>the cup<|object_ref_end|><|box_start|>(100,100),(500,500)<|box_end|>"
    assert (boxes(read(text, "qwen2-vl")), read(text, "qwen2-vl").finds[0].label) == ([CUP], "the cup")
    assert boxes(read("the cup(100,100),(500,500)", "qwen2-vl")) == [CUP]
    several = "<ref>cup</ref><box>[[100, 100, 500, 500], [600, 600, 700, 700]]</box>"
    assert boxes(read(several, "qwen2-vl", pieces=1))[0] == CUP
    assert read("There is none.", "qwen2-vl").words == "There is none."


def test_points_in_percent_and_per_mille() -> None:
    reader = read('<point x="10.0" y="50" alt="the cup">cup</point>', "molmo")
    assert [(find.label, find.points) for find in reader.finds] == [("cup", ((64.0, 240.0),))]
    several = read('<points x1="10.0" y1="50" x2="20" y2="50" alt="cups">cups</points>', "molmo")
    assert [find.points for find in several.finds] == [((64.0, 240.0),), ((128.0, 240.0),)]
    coords = read('<points coords="1 1 100 500 2 200 500">cups</points>', "molmo2")
    assert [find.points for find in coords.finds] == [((64.0, 240.0),), ((128.0, 240.0),)]
    assert read('<point x="ten" y="">cup</point>', "molmo").finds == []


# --- any text


def check(reader: AnswerReader) -> None:
    for find in reader.finds:
        check_find(find)
    assert len(reader.finds) <= reader.max_objects
    assert isinstance(reader.words, str)
    assert reader.absent in (True, False)


def check_find(find: Find) -> None:
    height, width = SIZE
    if find.box is not None:
        x1, y1, x2, y2 = find.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert min(x2 - x1, y2 - y1) >= 1 - 1e-9
    for x, y in find.points:
        assert 0 <= x <= width
        assert 0 <= y <= height
    assert find.box is not None or find.points
    assert 0 <= find.probability <= 1


WORDS = """ "bbox_2d" "point_2d" "label" "present" false [ ] { } , : " 1 -9 1e9 <think> </think> <answer> <|box_start|>
(1,2),(3,4) <points x="1" coords="1\u2007100\u2007200" > </points> cup \\ [1,2,3,4] é \u0000 \ud800 """
FRAGMENTS = st.sampled_from([*WORDS.split(), " ", "\n", ONE, TWO, "9" * 400])
DIALECT = st.sampled_from(DIALECTS)


@given(dialect=DIALECT, parts=st.lists(FRAGMENTS, max_size=40), pieces=st.integers(1, 50))
def test_any_fragments_are_read_without_an_error(dialect: Dialect, parts: list[str], pieces: int) -> None:
    check(read("".join(parts), dialect.name, pieces))


@given(dialect=DIALECT, text=st.text(max_size=300), pieces=st.integers(1, 50))
def test_any_text_is_read_without_an_error(dialect: Dialect, text: str, pieces: int) -> None:
    check(read(text, dialect.name, pieces))


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    st.floats(allow_nan=True),
    st.sampled_from([d for d in DIALECTS if d.form == "json"]),
)
def test_any_numbers_give_a_box_inside_the_picture_or_none(
    numbers: list[float], logprob: float, dialect: Dialect
) -> None:
    reader = AnswerReader(dialect, SENT, SIZE)
    reader.feed(json.dumps({"bbox_2d": numbers, "point_2d": numbers[:2]}), logprob)
    reader.finish()
    check(reader)


@given(text=st.text(alphabet='{}[]":,0123456789 box_2dlabel', max_size=200), cut=st.integers(0, 200))
def test_the_pieces_of_a_stream_do_not_matter(text: str, cut: int) -> None:
    whole, parts = read(text, pieces=10_000), read(text, pieces=max(1, cut))
    assert boxes(whole) == boxes(parts)


# --- frames


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (777, 333), (1, 4000), (2160, 3840), (1, 1)])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_box_comes_back_where_it_was_within_a_pixel(dialect: Dialect, size: tuple[int, int]) -> None:
    height, width = size
    sent = dialect.frame.sent_size(size, 1024)
    assert sent[0] % dialect.frame.multiple == sent[1] % dialect.frame.multiple == 0
    assert max(sent) <= 1024
    assert sent[0] * sent[1] <= dialect.frame.max_pixels
    full_x, full_y = dialect.frame.span(sent)
    box = (width * 0.25, height * 0.5, width * 0.75, height * 1.0)
    numbers = [box[0] / width * full_x, box[1] / height * full_y, box[2] / width * full_x, box[3] / height * full_y]
    reader = AnswerReader(dialect, sent, size)
    if dialect.form != "json":
        x, y = reader._camera_point(tuple(numbers[:2]), None) or (0.0, 0.0)
        assert abs(x - box[0]) < 1e-6
        assert abs(y - box[1]) < 1e-6
        return
    unit = max(width / full_x, height / full_y)  # what rounding to whole numbers costs
    reader.feed(json.dumps({"bbox_2d": [round(number) for number in numbers]}))
    reader.finish()
    found = reader.finds[0].box or ()
    assert all(abs(a - b) <= max(1.0, unit) for a, b in zip(found, box, strict=True))


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl"),
        ("qwen3-vl:8b", "qwen3-vl"),
        ("Qwen/Qwen3.5-9B", "qwen3-vl"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl"),
        ("qwen2.5vl:7b", "qwen2.5-vl"),
        ("Qwen/Qwen2-VL-7B", "qwen2-vl"),
        ("OpenGVLab/InternVL3-8B", "qwen2-vl"),
        ("Ricky06662/VisionReasoner-7B", "seg-zero"),
        ("sj9909/StAR-8B", "star"),
        ("StAR-7B", "star-7b"),
        ("allenai/Molmo2-8B", "molmo2"),
        ("allenai/Molmo-7B-D", "molmo"),
    ],
)
def test_the_name_of_a_model_gives_its_dialect(model: str, dialect: str) -> None:
    assert dialect_of(model).name == dialect


def test_an_unknown_model_has_no_dialect() -> None:
    with pytest.raises(ConfigError, match="set the option dialect to one of star"):
        dialect_of("gpt-4o")


def test_the_schema_decides_before_it_draws() -> None:
    made = schema(dialect_named("qwen3-vl"), SENT, 5, explain=True)
    assert list(made["properties"]) == ["present", "objects", "reason"]
    assert made["properties"]["objects"]["maxItems"] == 5
    first = schema(dialect_named("qwen2.5-vl"), (448, 672), 5, explain=True, reason_first=True)
    assert next(iter(first["properties"])) == "reason"
    assert first["properties"]["objects"]["items"]["properties"]["bbox_2d"]["items"]["maximum"] == 672


def test_braces_in_a_command_stay_as_they_are() -> None:
    question = dialect_named("qwen3-vl").question('the {query} "cup"', SENT, explain=False)
    assert 'the {query} "cup"' in question
