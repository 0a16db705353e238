"""From a conversation to the text that a checkpoint was trained on.

A checkpoint's own chat template decides where it has one (`chat_template.jinja`, `chat_template.json`, or a field of
the processor's or tokenizer's configuration). Older uploads have none; for them, and for BLIP-2, which is no chat model
at all, this module holds the formats that their authors published.

What a client wrote stays text. A placeholder (`<image>`), a special token (`</s>`) or a turn marker (`[/INST]`,
`ASSISTANT:`) inside it gets a zero-width space after its first character: a reader sees no difference, a tokenizer no
longer sees the token. Cutting it out instead would change what the client asked about.

`render` is pure; `load_style` reads files. Neither needs torch, but transformers imports it, which takes seconds: it is
imported where it is used, so that a process that only deploys the model is spared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from deployments.generation.messages import ImagePart, Message, Text, VideoPart
from serve.errors import ConfigError, InvalidRequest, Unsupported

Family = Literal["llava", "llava_next", "blip2", "video_llava", "llava_next_video"]
_FAMILIES: Mapping[str, Family] = {
    "llava": "llava",
    "llava_next": "llava_next",
    "blip-2": "blip2",
    "video_llava": "video_llava",
    "llava_next_video": "llava_next_video",
}
# Families that read videos; all read images, but see `vllm_settings.media_limits`.
VIDEO_FAMILIES: frozenset[Family] = frozenset({"video_llava", "llava_next_video"})

_ZERO_WIDTH_SPACE = "\u200b"
# Turn markers that are ordinary text to a tokenizer, so that no list of special tokens has them. Each group guards a
# template in which its first member stands.
_TURN_MARKERS = (
    ("ASSISTANT:", "USER:"),
    ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
)

# haotian-liu/LLaVA, conversation `vicuna_v1`: SEP " ", SEP2 "</s>". Media before text, as both projects publish it.
_VICUNA = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content[0].text + ' ' }}"
    "{% elif message.role == 'user' %}{{ 'USER: ' }}"
    "{% for part in message.content if part.type != 'text' %}{{ '<' + part.type + '>\\n' }}{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text + ' ' }}{% endfor %}"
    "{% else %}{{ 'ASSISTANT: ' + message.content[0].text + '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# haotian-liu/LLaVA, conversation `mistral_instruct`: Llama 2's format, the system prompt inside the first user turn.
_MISTRAL = (
    "{% set ns = namespace(system='') %}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}"
    "{% set ns.system = (ns.system + '\\n' if ns.system else '') + message.content[0].text %}"
    "{% elif message.role == 'user' %}{{ '[INST] ' }}"
    "{% if ns.system %}{{ '<<SYS>>\\n' + ns.system + '\\n<</SYS>>\\n\\n' }}{% endif %}{% set ns.system = '' %}"
    "{% for part in message.content if part.type != 'text' %}{{ '<' + part.type + '>\\n' }}{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text + ' ' }}{% endfor %}{{ '[/INST]' }}"
    "{% else %}{{ ' ' + message.content[0].text + '</s>' }}{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How one checkpoint wants to be spoken to.

    Attributes:
        family: decides which media there may be.
        template: Jinja; empty for BLIP-2, which has none.
        variables: what the template may name: `bos_token`, `eos_token`, ...
        bos: what the tokenizer puts before every text by itself, so that the rendered text must not start with it.
        reserved: matches at each position where a text of a client must be broken.
    """

    family: Family
    template: str
    variables: Mapping[str, str]
    bos: str
    reserved: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt and its media.

    Attributes:
        text: what the tokenizer gets, with its special tokens added; one placeholder for each image and video, in
            order. BLIP-2 has no placeholder: its one image stands before the text.
        images: each with its place in the request, `messages[i].content[j]`.
        videos: likewise.
    """

    text: str
    images: tuple[tuple[str, ImagePart], ...]
    videos: tuple[tuple[str, VideoPart], ...]


def family_of(model_type: str) -> Family | None:
    """The family of a `model_type` in a checkpoint's config.json; None when we do not serve it."""
    return _FAMILIES.get(model_type)


def load_style(checkpoint: str, revision: str | None = None) -> PromptStyle:
    """Reads a checkpoint's template and special tokens.

    Raises:
        ConfigError: an architecture that is not served here.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.processing_utils import ProcessorMixin

    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    config: Any = AutoConfig.from_pretrained(checkpoint, **options)
    family = family_of(config.model_type)
    if family is None:
        raise ConfigError(
            f"{checkpoint} is a {config.model_type!r} checkpoint; served are {', '.join(_FAMILIES)}.",
        )
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, **options)
    template = ""
    if family != "blip2":
        processor, _ = ProcessorMixin.get_processor_dict(checkpoint, revision=revision)
        template = _default_template(processor.get("chat_template") or tokenizer.chat_template) or (
            _MISTRAL if config.text_config.model_type == "mistral" else _VICUNA
        )
    specials = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    bos = tokenizer.bos_token or ""
    adds_bos = bool(bos) and tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    return make_style(
        family,
        template,
        specials=specials,
        variables=dict(tokenizer.special_tokens_map),
        bos=bos if adds_bos else "",
    )


def make_style(
    family: Family,
    template: str | None = None,
    *,
    specials: Iterable[str] = ("<s>", "</s>", "<image>", "<video>"),
    variables: Mapping[str, str] | None = None,
    bos: str = "<s>",
) -> PromptStyle:
    """A style from its parts; without a template, the published format of the family."""
    if template is None:
        template = {"llava_next": _MISTRAL, "blip2": ""}.get(family, _VICUNA)
    reserved = {"<image>", "<video>", *specials}
    for group in _TURN_MARKERS:
        if group[0] in template:
            reserved.update(group)
    if family == "blip2":
        reserved.update(("Question:", "Answer:"))
    # A single character cannot be broken; white space tokens stand for themselves.
    breakable = sorted(token for token in reserved if len(token) > 1 and token.strip())
    pattern = re.compile(f"(?={'|'.join(map(re.escape, breakable))})")
    return PromptStyle(family, template, variables or {"bos_token": "<s>", "eos_token": "</s>"}, bos, pattern)


def render(messages: Sequence[Message], style: PromptStyle, *, max_images: int = 4, max_videos: int = 1) -> Rendered:
    """Renders a conversation that wants its next assistant turn.

    Args:
        messages: ends with a user's.
        style: the checkpoint's.
        max_images: most images in the conversation; BLIP-2 reads one whatever is said here.
        max_videos: most videos.

    Raises:
        InvalidRequest: `too_many_images`, `too_many_videos`, `unsupported_content` (media that the model does not
            read, or not in this role), `unsupported_role`, `image_required` (BLIP-2 without one), `invalid_messages`
            (no message, an empty one, an order that the template refuses); `param` names the place.
        Unsupported: the checkpoint's template leaves media out.
    """
    if not messages or messages[-1].role != "user":
        raise InvalidRequest(
            "The conversation must end with a message of the user.", code="invalid_messages", param="messages"
        )
    images, videos = _media(messages, style.family, max_images, max_videos)
    if style.family == "blip2":
        return Rendered(_blip2(messages, style), images, videos)
    text = _templated(messages, style)
    for token, wanted in (("<image>", len(images)), ("<video>", len(videos))):
        if text.count(token) != wanted:
            raise Unsupported(f"The checkpoint's chat template places {text.count(token)} of {wanted} {token}.")
    return Rendered(text, images, videos)


def guard(texts: Sequence[str], style: PromptStyle) -> list[str]:
    """A client's texts, every reserved string in them broken by a zero-width space (U+200B).

    Strings that begin in one text and end in the next are found too: some templates put a message's texts together.
    """
    starts = {match.start() for match in style.reserved.finditer("".join(texts))}
    guarded, at = [], 0
    for text in texts:
        guarded.append("".join(c + _ZERO_WIDTH_SPACE if at + i in starts else c for i, c in enumerate(text)))
        at += len(text)
    return guarded


def _media(
    messages: Sequence[Message], family: Family, max_images: int, max_videos: int
) -> tuple[tuple[tuple[str, ImagePart], ...], tuple[tuple[str, VideoPart], ...]]:
    """All media in order, each with its place, counted and checked against what the family reads."""
    images: list[tuple[str, ImagePart]] = []
    videos: list[tuple[str, VideoPart]] = []
    for i, message in enumerate(messages):
        if not message.parts:
            raise InvalidRequest("The message is empty.", code="invalid_messages", param=f"messages[{i}].content")
        for j, part in enumerate(message.parts):
            where = f"messages[{i}].content[{j}]"
            if isinstance(part, Text):
                continue
            if message.role != "user":
                raise _unsupported(f"A message of role {message.role!r} may hold text only.", where)
            if isinstance(part, ImagePart):
                images.append((where, part))
                _check_count("image", len(images), 1 if family == "blip2" else max_images, where)
            elif family not in VIDEO_FAMILIES:
                raise _unsupported("This model does not read videos.", where)
            else:
                videos.append((where, part))
                _check_count("video", len(videos), max_videos, where)
    return tuple(images), tuple(videos)


def _unsupported(message: str, where: str) -> InvalidRequest:
    return InvalidRequest(message, code="unsupported_content", param=where)


def _check_count(noun: str, count: int, limit: int, where: str) -> None:
    if count > limit:
        raise InvalidRequest(
            f"The conversation holds more than {limit} {noun}{'' if limit == 1 else 's'}, this model's limit.",
            code=f"too_many_{noun}s",
            param=where,
        )


def _templated(messages: Sequence[Message], style: PromptStyle) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation = [{"role": message.role, "content": _content(message, style)} for message in messages]
    variables: dict[str, Any] = dict(style.variables)
    try:
        rendered: Any = render_jinja_template(
            [conversation], chat_template=style.template, add_generation_prompt=True, **variables
        )
    except TemplateError as error:
        raise InvalidRequest(
            f"The model's chat template refuses this conversation: {error}", code="invalid_messages", param="messages"
        ) from error
    return str(rendered[0][0]).removeprefix(style.bos)


def _content(message: Message, style: PromptStyle) -> list[dict[str, str]]:
    """The template's view of a message. Neighbouring texts become one: templates read only the first of a turn."""
    content: list[dict[str, str]] = []
    for part in message.parts:
        if not isinstance(part, Text):
            content.append({"type": "image" if isinstance(part, ImagePart) else "video"})
            continue
        # An answer begins with the space that templates put before it themselves.
        text = part.text.strip() if message.role == "assistant" else part.text
        if content and content[-1]["type"] == "text":
            content[-1]["text"] += "\n" + text
        else:
            content.append({"type": "text", "text": text})
    texts = [piece for piece in content if piece["type"] == "text"]
    for piece, text in zip(texts, guard([piece["text"] for piece in texts], style), strict=True):
        piece["text"] = text
    return content


def _blip2(messages: Sequence[Message], style: PromptStyle) -> str:
    """Li et al. 2023 (BLIP-2), section 4.4 and the LAVIS examples: no text asks for a caption; a question is asked as
    `Question: ... Answer:`, after the turns before it.

    A text already in that form is taken as the question it holds: BLIP-2's documentation tells users to write it so.
    """
    if not any(isinstance(part, ImagePart) for message in messages for part in message.parts):
        raise InvalidRequest("This model answers about an image; send one.", code="image_required", param="messages")
    said: list[str] = []
    for i, message in enumerate(messages):
        if message.role == "system":
            raise InvalidRequest(
                "This model knows no system message.", code="unsupported_role", param=f"messages[{i}].role"
            )
        text = " ".join(part.text for part in message.parts if isinstance(part, Text)).strip()
        if message.role == "user" and (asked := re.fullmatch(r"Question:\s*(.*?)\s*Answer:", text, re.DOTALL)):
            text = asked[1]
        (text,) = guard([text], style)
        if message.role == "assistant":
            said.append(f"{text.removesuffix('.')}.")
        elif text:
            said.append(f"Question: {text} Answer:")
    return " ".join(said)


def _default_template(template: str | Mapping[str, str] | None) -> str | None:
    """Of a checkpoint with several templates, the one that transformers takes."""
    return template if template is None or isinstance(template, str) else template.get("default")
