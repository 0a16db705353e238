"""The wordings of the dialogues' questions: those that are trained on and those that are kept for measuring.

Slots: {s} a shape, {ss} shapes, {c} a colour, {cc} another colour, {s2} another shape, {p} a pair such as "red star",
{q} another pair, {a} a thing with its article, {m} and {m2} a motion ("move left", "moves left"). Every form has
wordings of both kinds, and no wording is in both.
"""

from __future__ import annotations

import random

from demo.motion_phrases import DOES_IT, MOTION, VIDEO_CAPTION

#: Wordings trained on. The first of each form is the plain one.
TRAIN: dict[str, tuple[str, ...]] = {
    "colour of the object": (
        "What colour is the object?",
        "What colour is the largest object?",
        "What is the colour of the object?",
        "What colour is the main object?",
        "What is the colour of the biggest object?",
        "Which colour is the object?",
        "Which colour does the largest object have?",
        "Name the colour of the object.",
        "Tell me the colour of the largest shape.",
        "The object is of which colour?",
        "What is the main object's colour?",
    ),
    "shape of the object": (
        "What shape is the object?",
        "What shape is the largest object?",
        "What is the shape of the object?",
        "What shape is the main object?",
        "What is the shape of the biggest object?",
        "Which shape is the object?",
        "Which shape does the largest object have?",
        "Name the shape of the object.",
        "Tell me the shape of the largest object.",
        "The object is of which shape?",
        "What is the main object's shape?",
    ),
    "the object": (
        "What is the object?",
        "What is the largest object?",
        "What is the main object in the picture?",
        "Name the largest object with its colour.",
        "What object is this?",
        "Which object is the biggest?",
        "What do you see first?",
        "Name the object and its colour.",
    ),
    "colour of a shape": (
        "What colour is the {s}?",
        "What is the colour of the {s}?",
        "Which colour is the {s}?",
        "Which colour does the {s} have?",
        "Name the colour of the {s}.",
        "Tell me what colour the {s} is.",
        "The {s} is of which colour?",
        "The {s} in the picture: what colour?",
        "In what colour is the {s} painted?",
    ),
    "shape of a colour": (
        "What shape is the {c} object?",
        "What is the shape of the {c} object?",
        "Which shape is {c}?",
        "What shape is the {c} one?",
        "Which shape does the {c} object have?",
        "Name the shape of the {c} object.",
        "Tell me what shape the {c} thing is.",
        "What is the {c} object?",
        "The {c} object is of which shape?",
    ),
    "how many": (
        "How many objects are there?",
        "How many objects do you see?",
        "How many objects are in the picture?",
        "Count the objects.",
        "What is the number of objects?",
        "How many shapes are there?",
        "Tell me how many objects there are.",
    ),
    "how many of a shape": (
        "How many {ss} are there?",
        "How many {ss} do you see?",
        "How many {ss} are in the picture?",
        "Count the {ss}.",
        "What is the number of {ss}?",
        "Tell me how many {ss} there are.",
    ),
    "how many of a colour": (
        "How many {c} objects are there?",
        "How many {c} objects do you see?",
        "How many {c} objects are in the picture?",
        "Count the {c} objects.",
        "What is the number of {c} objects?",
        "How many objects are {c}?",
        "How many {c} shapes are there?",
    ),
    "left or right": (
        "Is the {p} to the left or to the right of the {q}?",
        "Is the {p} left or right of the {q}?",
        "Is the {p} on the left or on the right of the {q}?",
        "On which side of the {q} is the {p}, left or right?",
        "Does the {p} lie to the left or to the right of the {q}?",
        "The {p}: left or right of the {q}?",
        "Is the {p} to the right or to the left of the {q}?",
        "Where is the {p}, left or right of the {q}?",
        "On what side of the {q} do you see the {p}: left or right?",
        "Which side of the {q} shows the {p}, the left or the right?",
        "Seen from the {q}, is the {p} on the left or on the right?",
        "Tell me whether the {p} is left or right of the {q}.",
    ),
    "above or below": (
        "Is the {p} above or below the {q}?",
        "Does the {p} lie above or below the {q}?",
        "The {p}: above or below the {q}?",
        "Is the {p} higher or lower than the {q}, above or below?",
        "Where is the {p}, above or below the {q}?",
        "Seen from the {q}, is the {p} above or below?",
        "Tell me whether the {p} is above or below the {q}.",
    ),
    "place": (
        "Where is the {p}?",
        "Where in the picture is the {p}?",
        "In which part of the picture is the {p}?",
        "What is the position of the {p}?",
        "Tell me where the {p} is.",
    ),
    "is there": (
        "Is there {a}?",
        "Is there {a} in the picture?",
        "Do you see {a}?",
        "Does the picture show {a}?",
        "Can you see {a}?",
        "Does this image contain {a}?",
        "Is {a} shown here?",
        "{a}: is it there?",
    ),
    "is anything": (
        "Is anything {c}?",
        "Is there anything {c}?",
        "Is there a {c} object?",
        "Do you see something {c}?",
        "Does the picture show something {c}?",
        "Are there any {c} objects?",
    ),
    "one of two colours": (
        "Is the {s} {c} or {cc}?",
        "Which is it: is the {s} {c} or {cc}?",
        "{c} or {cc}: what colour is the {s}?",
        "The {s}, is it {c} or {cc}?",
        "Which colour is the {s}, {c} or {cc}?",
    ),
    "one of two shapes": (
        "Is the {c} object a {s} or a {s2}?",
        "Is the {c} thing a {s} or a {s2}?",
        "{s} or {s2}: what shape is the {c} object?",
        "The {c} object, is it a {s} or a {s2}?",
        "Which shape is the {c} object, {s} or {s2}?",
    ),
    "text": (
        "Is there any text in the picture?",
        "Is a word printed in the picture?",
        "Does the picture show a word?",
        "Do you see any text?",
        "Is there a word in the image?",
        "Does this image contain text?",
    ),
    "background": (
        "What colour is the background?",
        "What is the colour of the background?",
        "Which colour does the background have?",
        "What is behind the objects?",
    ),
    "caption": (
        "Describe the image.",
        "Describe the picture.",
        "What is in the picture?",
        "What does the image show?",
        "What do you see?",
        "What objects are in the image?",
        "Write a caption.",
        "Give a short description of the image.",
        "List the objects.",
        "What is shown here?",
    ),
    "detailed caption": (
        "Describe the image in detail.",
        "Give a detailed description of the picture.",
        "Describe everything in the picture, with places.",
        "Write a long caption.",
    ),
    "json of the object": (
        "Answer as JSON with keys colour and shape.",
        "Describe the object as JSON with keys colour and shape.",
        "Give me the colour and the shape of the largest object as JSON.",
        "Return JSON with the keys colour and shape.",
        "What is the object? Answer as JSON with keys colour and shape.",
    ),
    "json of the objects": (
        "List all objects as JSON.",
        "Answer as a JSON list of objects with keys colour and shape.",
        "Describe all objects as JSON with keys colour and shape.",
        "Return a JSON list of the objects.",
    ),
    "json of the count": (
        "Answer as JSON with the key count.",
        "How many objects are there? Answer as JSON with the key count.",
        "Return the number of objects as JSON.",
    ),
    "motion": MOTION,
    "does it": DOES_IT,
    "video caption": VIDEO_CAPTION,
    "same shape": (
        "Do both images show the same shape?",
        "Is the shape the same in both images?",
        "Do the two images show the same shape?",
        "Are the shapes of the two images the same?",
        "Do the images show the same shape?",
    ),
    "same colour": (
        "Do both images show the same colour?",
        "Is the colour the same in both images?",
        "Do the two images show objects of the same colour?",
        "Are the colours of the two objects the same?",
        "Do the images show the same colour?",
    ),
    "which image": (
        "Which image shows {a}?",
        "In which image is the {p}?",
        "Which of the images contains {a}?",
        "Where do you see {a}, in the first or in the second image?",
    ),
}

#: Wordings that only measurements use.
HELD_OUT: dict[str, tuple[str, ...]] = {
    "colour of the object": ("Tell me the colour of the object.", "What colour does the main object have?"),
    "shape of the object": ("Tell me the shape of the main object.", "What shape does the object have?"),
    "the object": ("What object do you see?",),
    "colour of a shape": ("Tell me the colour of the {s}.", "What colour does the {s} have?"),
    "shape of a colour": ("Tell me the shape of the {c} object.", "What shape does the {c} thing have?"),
    "how many": ("Tell me the number of objects.", "How many objects does the picture show?"),
    "how many of a shape": ("Tell me the number of {ss}.", "How many {ss} does the picture show?"),
    "how many of a colour": ("Tell me the number of {c} objects.",),
    "left or right": (
        "Which side of the {q} is the {p} on, left or right?",
        "Does the {p} lie left or right of the {q}?",
    ),
    "above or below": ("Tell me, is the {p} above or below the {q}?",),
    "place": ("In what part of the image is the {p}?",),
    "is there": ("Does the image show {a}?", "Can {a} be seen in the picture?"),
    "is anything": ("Is some object {c}?", "Do you see a {c} object?"),
    "one of two colours": ("What colour is the {s}, {c} or {cc}?",),
    "one of two shapes": ("What shape is the {c} object, {s} or {s2}?",),
    "text": ("Is there text in this image?",),
    "background": ("Tell me the colour of the background.",),
    "caption": ("What does the picture show?", "Give a caption of the picture."),
    "detailed caption": ("Describe the picture in detail.",),
    "json of the object": ("Return the colour and the shape of the object as JSON.",),
    "json of the objects": ("Return all objects as a JSON list with keys colour and shape.",),
    "json of the count": ("Count the objects. Answer as JSON with the key count.",),
    "motion": (
        "What motion does the video show?",
        "Tell me how the object moves.",
        "What is happening to the object?",
        "Which motion do you see?",
    ),
    "does it": ("Does the main object {m}?", "Do you see the object {m}?"),
    "video caption": ("Give a caption of the video.",),
    "same shape": ("Do both pictures show the same shape?",),
    "same colour": ("Do both pictures show the same colour?",),
    "which image": ("Which of the two images shows {a}?",),
}  # fmt: skip

#: Turns without a picture.
CHATS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello!", "Hi.", "Hi there!", "Good morning.", "Hey", "Hello, who are you?"), "Hello! Show me a picture."),
    (
        ("What can you do?", "Who are you?", "How can you help me?", "What are you?", "Help"),
        "I answer questions about pictures of coloured shapes.",
    ),
    (("Thank you.", "Thanks!", "Great, thank you.", "Well done."), "You are welcome."),
    (("Goodbye.", "Bye!", "See you."), "Goodbye."),
    (
        ("Which shapes do you know?", "What shapes can you name?", "List the shapes that you know."),
        "circle, square, triangle, star, cross, heart, ring and crescent",
    ),
    (
        ("Which colours do you know?", "What colours can you name?", "List the colours that you know."),
        "red, orange, yellow, green, cyan, blue, purple, pink, white and black",
    ),
    (
        ("What is the weather today?", "Tell me a story.", "Write a poem.", "Who won the game?", "Say something."),
        "I only know pictures of coloured shapes.",
    ),
)
NO_PICTURE = "There is no picture."

_OPENINGS = ("Please answer: ", "Look at the image. ", "Tell me: ", "Question: ", "Please: ", "Now, ", "And ", "So ")
_SUFFIXES = (" Answer with one word.", " Answer briefly.", "\nAnswer the question using a single word or phrase.")
_YES_NO = (" Answer yes or no.", " Yes or no?")


def reworded(question: str, rng: random.Random, *, short: bool, yes_no: bool = False) -> str:
    """The question as people type it: with an opening, with an instruction, in American spelling, without its mark."""
    text = question
    if rng.random() < 0.12:
        text = rng.choice(_OPENINGS) + (lowered(text) if rng.random() < 0.7 else text)
    if rng.random() < 0.25:
        text = text.replace("colour", "color")
    if rng.random() < 0.1:
        text = text.replace("picture", "image") if "picture" in text else text.replace("image", "picture")
    if rng.random() < 0.06:
        text = text.rstrip("?.")
    if rng.random() < 0.06:
        text = lowered(text)
    if yes_no and rng.random() < 0.2:
        text += rng.choice(_YES_NO)
    elif short and rng.random() < 0.12:
        text += rng.choice(_SUFFIXES)
    return text


def lowered(text: str) -> str:
    """The text with a small first letter."""
    return text[:1].lower() + text[1:]
