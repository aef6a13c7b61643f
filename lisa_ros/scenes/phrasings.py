"""How people put a request into words: the phrasings of every intention, for training and, others, for tests.

``{x}`` is what is asked for: a name ("the hammer"), a use ("drive a nail with"), a need ("I am thirsty."), a property
("has a blade"). LISA's own question forms ("Can you segment ...") are among the names.
"""

from __future__ import annotations

NAME = {
    "train": (
        "the {x}",
        "the {x}",
        "{x}",
        "Where is the {x}?",
        "Find the {x}.",
        "Show me the {x}.",
        "I need the {x}.",
        "Give me the {x}.",
        "Pick up the {x}.",
        "Could you point at the {x}?",
        "Please bring me the {x}.",
        "Can you see the {x} on the table?",
        "I am looking for the {x}.",
        "Can you segment the {x} in this image?",
        "Please segment the {x} in this image.",
        "Could you segment the {x}?",
        "What is the {x} in this image? Please output segmentation mask.",
        "Please look at the table and tell me where the {x} is.",
        "Somebody put the {x} on this table, would you find it for me?",
    ),
    "test": (
        "Grab the {x}.",
        "Do you see the {x}?",
        "Hand me the {x}, please.",
        "I would like to have the {x}.",
        "Locate the {x} for me.",
        "Which of these things is the {x}?",
    ),
}
USE = {
    "train": (
        "something to {x}",
        "something to {x}",
        "something I can {x}",
        "the thing to {x}",
        "What can I {x}?",
        "There must be something to {x}.",
        "I need something to {x}.",
        "Give me something to {x}.",
        "Is there anything to {x}?",
        "Which thing would you {x}?",
        "Find me something I could {x}.",
        "What would one {x}?",
        "I am looking for something to {x}.",
        "Show me the thing that people {x}.",
        "Please bring me whatever I can {x}.",
        "What on this table can be used if I want something to {x}?",
    ),
    "test": (
        "I could use something to {x}.",
        "Do we have something to {x}?",
        "the object one would {x}",
        "Hand me a thing to {x}.",
        "What do you {x}?",
    ),
}
NEED = {
    "train": (
        "{x}",
        "{x}",
        "{x}",
        "{x} What would help?",
        "{x} What should I take?",
        "{x} What do I need?",
        "{x} Which thing helps me?",
        "{x} Please find what I need.",
        "{x} What can I use?",
        "{x} Can you help me?",
        "{x} Show me the right thing.",
        "{x} What on the table is useful now?",
        "{x} Give me what I need for that.",
        "{x} Is there anything here for that?",
        "Listen: {x}",
        "Well, {x}",
        "I have a problem. {x}",
    ),
    "test": (
        "{x} Which of these would you hand me?",
        "{x} What is the right thing for it?",
        "{x} Do you have something for me?",
        "You know what? {x}",
        "{x} Pick the thing that helps.",
    ),
}
PROPERTY = {
    "train": (
        "the thing that {x}",
        "the thing that {x}",
        "the one that {x}",
        "the object that {x}",
        "something that {x}",
        "Which one {x}?",
        "Which thing {x}?",
        "What here {x}?",
        "Find the thing that {x}.",
        "Show me what {x}.",
        "Point at the object that {x}.",
        "I am thinking of something that {x}.",
        "On the table there should be something that {x}.",
    ),
    "test": (
        "Which of these {x}?",
        "Look for the object that {x}.",
        "I want the one that {x}.",
        "It is the thing that {x}.",
    ),
}
# {x} is a phrase that stands for itself: "the cup left of the book", "the largest toy", "all the tools", "both cups".
WHOLE = {
    "train": (
        "{x}",
        "{x}",
        "{x}",
        "Find {x}.",
        "Show me {x}.",
        "I need {x}.",
        "Give me {x}.",
        "Point at {x}.",
        "I am looking for {x}.",
        "Please bring me {x}.",
        "Could you show me {x}?",
        "Can you segment {x} in this image?",
        "Please segment {x}.",
        "I would like {x}.",
        "Look at the table and find {x}.",
    ),
    "test": (
        "Hand me {x}.",
        "Locate {x}.",
        "Could you point out {x}, please?",
        "Take {x}.",
    ),
}
LEFT = {
    "train": ("left of", "to the left of", "on the left of", "on the left side of", "to the left side of"),
    "test": ("on the left hand side of",),
}
RIGHT = {
    "train": ("right of", "to the right of", "on the right of", "on the right side of", "to the right side of"),
    "test": ("on the right hand side of",),
}
FRONT = {
    "train": ("in front of", "before", "below", "on the near side of"),
    "test": ("directly in front of",),
}
BEHIND = {
    "train": ("behind", "in back of", "above", "on the far side of", "beyond"),
    "test": ("right behind",),
}
LEFTMOST = {
    "train": (
        "the leftmost {o}",
        "the {o} furthest to the left",
        "the {o} that is most to the left",
        "the first {o} from the left",
        "the {o} on the far left",
    ),
    "test": ("the {o} at the left end", "whatever is furthest left"),
}
RIGHTMOST = {
    "train": (
        "the rightmost {o}",
        "the {o} furthest to the right",
        "the {o} that is most to the right",
        "the first {o} from the right",
        "the {o} on the far right",
    ),
    "test": ("the {o} at the right end", "whatever is furthest right"),
}
NEAREST = {
    "train": (
        "the {o} closest to me",
        "the nearest {o}",
        "the {o} that is closest to the camera",
        "the {o} right in front of me",
        "the {o} nearest to us",
    ),
    "test": ("the {o} that I could reach first",),
}
FARTHEST = {
    "train": (
        "the {o} farthest away",
        "the {o} at the back",
        "the {o} that is farthest from the camera",
        "the most distant {o}",
        "the {o} farthest from me",
    ),
    "test": ("the {o} that is hardest to reach",),
}
LARGEST = {
    "train": (
        "the largest {o}",
        "the biggest {o}",
        "the {o} that takes most room",
        "the {o} that is larger than all the others",
        "the greatest {o} of all",
        "the {o} of the largest size",
    ),
    "test": ("the {o} that is the biggest of them all", "the most sizeable {o}"),
}
SMALLEST = {
    "train": (
        "the smallest {o}",
        "the {o} that takes least room",
        "the {o} that is smaller than all the others",
        "the tiniest {o}",
        "the littlest {o}",
        "the {o} of the smallest size",
    ),
    "test": ("the {o} that is the smallest of them all", "the most tiny {o}"),
}
BESIDE = {
    "train": (
        "the thing closest to the {b}",
        "the thing next to the {b}",
        "what lies beside the {b}",
        "the object nearest to the {b}",
        "the neighbour of the {b}",
        "whatever is closest to the {b}",
    ),
    "test": ("the thing right beside the {b}",),
}
THING_AT = {
    "train": (
        "the thing {r} the {b}",
        "what is {r} the {b}",
        "the object {r} the {b}",
        "whatever lies {r} the {b}",
        "the one {r} the {b}",
    ),
    "test": ("the item {r} the {b}",),
}
# Two of a class: {n} is the class.
LEFT_ONE = {
    "train": ("the left {n}", "the {n} on the left", "the {n} to the left", "the left one of the two {p}"),
    "test": ("the left one among the {p}",),
}
RIGHT_ONE = {
    "train": ("the right {n}", "the {n} on the right", "the {n} to the right", "the right one of the two {p}"),
    "test": ("the right one among the {p}",),
}
NEAR_ONE = {
    "train": ("the nearer {n}", "the {n} closer to me", "the {n} in front", "the nearer one of the two {p}"),
    "test": ("the closer one among the {p}",),
}
FAR_ONE = {
    "train": ("the {n} farther away", "the {n} at the back", "the {n} behind", "the farther one of the two {p}"),
    "test": ("the one of the {p} that is farther away",),
}
BOTH = {
    "train": (
        "both {p}",
        "the {p}",
        "all {p}",
        "the two {p}",
        "every {n}",
        "all the {p}",
        "each {n}",
        "all {p} on the table",
        "both of the {p}",
        "both {p} that you see",
        "all the {p} in the picture",
        "every {n} on the table",
    ),
    "test": ("the pair of {p}", "all {p} that there are", "each of the {p}"),
}
PAIR = {
    "train": (
        "the {a} and the {b}",
        "both the {a} and the {b}",
        "the {a} together with the {b}",
        "the {a} and also the {b}",
        "the {a} plus the {b}",
        "the {a} as well as the {b}",
    ),
    "test": ("the {a} along with the {b}", "two things: the {a} and the {b}"),
}
OTHER_NAME = {
    "train": (
        "And the {x}?",
        "And where is the {x}?",
        "Now the {x}.",
        "Then the {x}.",
        "And now show me the {x}.",
        "What about the {x}?",
        "Next the {x}, please.",
        "Good, and the {x}?",
        "I also need the {x}.",
        "After that the {x}.",
        "Thanks. Where is the {x}?",
        "Now give me the {x}.",
    ),
    "test": ("Fine, then find the {x} too.", "Okay, next is the {x}.", "How about the {x}?"),
}
GOES_WITH = {
    "train": (
        "And what goes with it?",
        "What goes well with it?",
        "What else do I need with it?",
        "Is there something that goes with it?",
        "And what do people use with it?",
        "And the thing that belongs to it?",
        "What fits with it?",
        "What would I use together with it?",
        "And what belongs with it?",
        "Show me what goes with it.",
        "Now its companion.",
        "What is used along with it?",
    ),
    "test": ("What else goes together with it?", "And which thing belongs with that?", "What is its partner?"),
}
OTHER_ONE = {
    "train": (
        "No, the other one.",
        "Not that one, the other.",
        "The other one, please.",
        "I mean the other one.",
        "Wrong one, the other.",
        "And the other one?",
        "No, I want the other one.",
        "Now the other one.",
        "Sorry, I meant the other one.",
        "Rather the other one.",
        "Take the other one.",
        "Show me the other one too.",
    ),
    "test": ("Hmm, no, its twin.", "That is not it, give me the other.", "Actually the other one."),
}
AROUND_IT = {
    "train": (
        "What is {r} it?",
        "And the thing {r} it?",
        "Now the object {r} it.",
        "And what lies {r} it?",
        "What do you see {r} it?",
        "Show me what is {r} it.",
        "Which thing is {r} it?",
        "And {r} it?",
        "Now what is {r} it.",
        "Give me the thing {r} it.",
        "What stands {r} it?",
        "And the one {r} it?",
    ),
    "test": ("And the item {r} it?", "Which object do you find {r} it?"),
}
INSTEAD = {
    "train": (
        "Then the {x} instead.",
        "Then take the {x}.",
        "What a pity. The {x} then?",
        "Okay, the {x} will do.",
        "In that case the {x}.",
        "Then give me the {x}.",
        "Too bad. Is there the {x}?",
        "All right, the {x} instead.",
        "Then I want the {x}.",
        "So show me the {x}.",
        "Never mind, the {x} then.",
        "Would the {x} be there instead?",
    ),
    "test": ("Pity. Let me have the {x} then.", "Then I settle for the {x}."),
}
AGAIN = {
    "train": (
        "Where is it again?",
        "Show it again.",
        "Once more, please.",
        "Again, please.",
        "Point at it once more.",
        "Can you show me that again?",
        "Where was it?",
        "I did not see it, once more.",
        "Show me that once more.",
        "Repeat that, please.",
        "Which one was it?",
        "Say it again.",
    ),
    "test": ("Sorry, which one?", "Please show that one more time.", "Where did you say it is?"),
}
# Around any command, seldom: politeness and small talk.
BEFORE = {
    "train": ("Please, ", "Hello, ", "Hey robot, ", "Excuse me, ", "Robot, ", "Okay, ", "Now, ", "Quick, "),
    "test": ("Dear robot, ", "Say, ", "Alright, "),
}
AFTER = {
    "train": (" Thank you.", " Please.", " Be quick.", " Take your time."),
    "test": (" Thanks a lot.", " I would be grateful."),
}
INTENTIONS = {
    name: value
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, dict) and "train" in value
}
