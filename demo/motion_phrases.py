"""The training wordings of questions about a clip, put together from parts.

A small model that meets a dozen wordings learns these by heart and is lost at the next one. So openings, names for
what moves, names for the clip and verbs are combined freely. Some combinations are left out, so that measurements can
ask with them: "tell me how .. moves", "what is happening to ..", and "motion" with some of the verbs of seeing.
"""

from __future__ import annotations

_THINGS = ("the object", "the largest object", "the main object", "the biggest object", "the largest shape", "it")
_CLIPS = ("video", "clip", "film", "recording")
_MOTIONS = ("motion", "movement")

#: Combined with each thing; {o} is its place.
_OF_THINGS = (
    "How does {o} move?",
    "How is {o} moving?",
    "Say how {o} moves.",
    "Describe how {o} moves.",
    "Explain how {o} is moving.",
    "Which way does {o} move?",
    "Which way is {o} moving?",
    "Tell me which way {o} moves.",
    "Tell me which way {o} is going.",
    "In which direction does {o} move?",
    "In what direction is {o} moving?",
    "Tell me the direction in which {o} moves.",
    "What does {o} do?",
    "What is {o} doing?",
    "Tell me what {o} does.",
    "Tell me what {o} is doing.",
    "Say what {o} does.",
    "Describe what {o} does.",
    "What happens to {o}?",
    "Tell me what happens to {o}.",
    "Say what happens to {o}.",
    "How does {o} change?",
    "Tell me how {o} changes.",
    "Does {o} move, and how?",
)
#: Combined with each word for a motion and each thing.
_OF_MOTIONS_OF_THINGS = (
    "What is the {n} of {o}?",
    "Describe the {n} of {o}.",
    "Name the {n} of {o}.",
    "Tell me the {n} of {o}.",
    "Which {n} does {o} make?",
    "What kind of {n} does {o} make?",
    "What {n} does {o} show?",
)
#: Combined with each clip; {v} is its place.
_OF_CLIPS = (
    "What happens in the {v}?",
    "What is happening in the {v}?",
    "Tell me what happens in the {v}.",
    "What moves in the {v}, and how?",
    "How does the object move in the {v}?",
    "What does the object do in the {v}?",
    "What does the largest object do in the {v}?",
    "In the {v}, what does the object do?",
    "Watch the {v}: how does the object move?",
    "Which way does the object move in this {v}?",
)
#: Combined with each word for a motion and each clip.
_OF_MOTIONS_IN_CLIPS = (
    "Which {n} does the {v} show?",
    "Which {n} is shown in the {v}?",
    "What {n} is there in the {v}?",
    "What {n} do you see in the {v}?",
    "What kind of {n} does the {v} show?",
    "Which kind of {n} do you see in the {v}?",
    "Name the {n} in the {v}.",
    "Describe the {n} in the {v}.",
    "The {n} in the {v}?",
)
_OTHERS = (
    "What kind of motion is this?",
    "What motion is this?",
    "Which motion is it?",
    "Which motion is this?",
    "Name the motion.",
    "Name the movement.",
    "The motion?",
    "What motion do you see?",
    "Which motion can you see?",
    "What movement can you see?",
    "Tell me which motion you see.",
    "What happens?",
    "What is happening?",
    "Which way does it go?",
    "Where does the object go?",
    "How does that move?",
)


def _combined() -> tuple[str, ...]:
    """All wordings for the motion, the plain one first."""
    found = [form.replace("{o}", thing) for form in _OF_THINGS for thing in _THINGS]
    found += [
        form.replace("{n}", noun).replace("{o}", thing)
        for form in _OF_MOTIONS_OF_THINGS
        for noun in _MOTIONS
        for thing in _THINGS[:-1]
    ]
    found += [form.replace("{v}", clip) for form in _OF_CLIPS for clip in _CLIPS]
    found += [
        form.replace("{n}", noun).replace("{v}", clip)
        for form in _OF_MOTIONS_IN_CLIPS
        for noun in _MOTIONS
        for clip in _CLIPS
    ]
    return tuple(dict.fromkeys([*found, *_OTHERS]))


MOTION: tuple[str, ...] = _combined()
DOES_IT: tuple[str, ...] = (
    "Does the object {m}?",
    "Does it {m}?",
    "Does the largest object {m}?",
    "Does the biggest object {m}?",
    "Does the largest shape {m}?",
    "Does the object {m} in the video?",
    "Can you see the object {m}?",
    "Do you see it {m}?",
    "Do you see the main object {m}?",
    "Can the main object be seen to {m}?",
    "Is it true that the object {m2}?",
    "Is it true that the main object {m2}?",
    "Is it right that it {m2}?",
    "Would you say that the object {m2}?",
    "The object {m2}: is that so?",
    "In the video, does the object {m}?",
)
VIDEO_CAPTION: tuple[str, ...] = (
    "Describe the video.",
    "Describe the clip.",
    "What does the video show?",
    "What does the clip show?",
    "What do you see in the video?",
    "What do you see in the clip?",
    "Write a caption for the video.",
    "Write a caption of the clip.",
    "Give a caption for the clip.",
    "Give a short description of the video.",
    "Give a description of the clip.",
    "Caption the video.",
    "What is going on?",
    "What is to be seen in the video?",
)
