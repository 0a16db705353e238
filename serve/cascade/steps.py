"""One step's call: the request that its task makes of what was asked, and the answer in what comes back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import orjson

from deployments.generation.messages import ChatRequest, ChatResult, Constraint, ImagePart, Message, Sampling, Text
from deployments.messages import ClassifyRequest
from deployments.templates import resolve
from serve.calls import Called, Questions
from serve.cascade import parse, rules
from serve.cascade.pixels import shrunk
from serve.cascade.types import Asked, StepAnswer
from serve.config.cascades import Cascade, CascadeStep, Gear, Task
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidOutput, ModelFailed
from serve.escalation import confidence
from serve.media.image import ImageLimits

_PROMPTS: dict[Task, str] = {
    "choose": "Which of these does the image show: {labels}? Answer with one of them and nothing else.",
    "caption": "Describe the image.",
    "extract": "Describe the image as JSON that fits the schema {schema}",
}


@dataclass(frozen=True, slots=True)
class Taken:
    """A step's answer, and what it took to get it."""

    answer: StepAnswer
    called: Called[object]


class StepCaller:
    """Asks the steps of one cascade.

    Args:
        limits: of images, for those that a gear shrinks.
    """

    def __init__(self, cluster: ClusterFile, cascade: Cascade, calls: Questions, limits: ImageLimits) -> None:
        self._cascade = cascade
        self._calls = calls
        self._limits = limits
        self._templates = resolve(cascade.templates) if cascade.answer == "label" else ()
        self._ours = frozenset(cluster.models)
        # BLIP-2 captions an image that comes alone; the others are asked for it in words.
        self._captioners = frozenset(
            name for name, m in cluster.models.items() if isinstance(m, GenerativeModel) and m.kind == "blip2"
        )
        self._schema = None if cascade.json_schema is None else orjson.dumps(cascade.json_schema).decode()

    async def ask(
        self, step: CascadeStep, use: str, asked: Asked, context: RequestContext, gear: Gear | None, *, fallback: bool
    ) -> Taken:
        """Asks one model or provider.

        Args:
            context: with the step's own deadline.
            fallback: there is another way to go when this call fails.

        Raises:
            ArgusError: the call's, or `InvalidOutput` for an answer that is not what the task asks for.
        """
        if step.task == "classify":
            return await self._classify(step, use, asked, context, fallback)
        request = await self._request(step, use, asked, gear)
        called = await self._calls.chat(use, request, context, fallback=fallback)
        return Taken(self._read(step, called.value), called)  # type: ignore[arg-type]

    def temperature(self, step: CascadeStep) -> float:
        """The step's calibrated temperature, else 1."""
        evidence = self._cascade.evidence
        found = None if evidence is None else evidence.steps.get(step.name)
        return 1.0 if found is None else found.temperature

    async def _classify(
        self, step: CascadeStep, use: str, asked: Asked, context: RequestContext, fallback: bool
    ) -> Taken:
        request = ClassifyRequest(asked.images[-1:], self._cascade.labels, self._templates)
        called = await self._calls.classify(use, request, context, fallback=fallback)
        scores = called.value.images[0]
        if isinstance(scores, ArgusError):
            raise scores if scores.param else scores.at("image")
        if isinstance(scores, Exception):
            raise ModelFailed(str(scores))
        return Taken(rules.scored(self._cascade.labels, scores.logits, self.temperature(step)), called)  # type: ignore[arg-type]

    async def _request(self, step: CascadeStep, use: str, asked: Asked, gear: Gear | None) -> ChatRequest:
        messages = self._messages(step, use, asked)
        if gear is not None and gear.max_image_side is not None:
            messages = await asyncio.to_thread(_shrunk, messages, gear.max_image_side, self._limits)
        return ChatRequest(messages, self._sampling(step, use, asked, gear))

    def _messages(self, step: CascadeStep, use: str, asked: Asked) -> tuple[Message, ...]:
        """An `answer` is the conversation's next turn; every other task asks about its images alone."""
        if step.task == "answer":
            if step.prompt is None:
                return asked.messages
            last = asked.messages[-1]
            shown = tuple(part for part in last.parts if not isinstance(part, Text))
            return (*asked.messages[:-1], Message(last.role, (*shown, Text(self._prompt(step, asked)))))
        images = tuple(part for message in asked.messages for part in message.parts if isinstance(part, ImagePart))
        if step.task == "caption" and step.prompt is None and use in self._captioners:
            return (Message("user", images),)
        return (Message("user", (*images, Text(self._prompt(step, asked)))),)

    def _prompt(self, step: CascadeStep, asked: Asked) -> str:
        """Filled in piece by piece: what a client wrote is never looked at for fields."""
        template = step.prompt if step.prompt is not None else _PROMPTS[step.task]
        head, mark, tail = template.replace("{labels}", ", ".join(self._cascade.labels)).partition("{question}")
        if step.task == "extract" and step.prompt is None:
            head = head.replace("{schema}", self._schema or "{}")
        return f"{head}{asked.question}{tail}" if mark else head

    def _sampling(self, step: CascadeStep, use: str, asked: Asked, gear: Gear | None) -> Sampling:
        wished = asked.sampling if step.task == "answer" else None
        limits = (step.max_tokens, None if gear is None else gear.max_tokens, wished.max_tokens if wished else None)
        constraint = None
        if step.task == "extract":
            constraint = Constraint(self._schema)
        elif step.parse == "json":
            constraint = Constraint(parse.label_schema(self._cascade.labels))
        # Ours give probabilities at no cost; some providers refuse to, so they are asked only where a rule needs them.
        sure = use in self._ours or step.accept.rule in ("confidence", "python")
        return replace(
            wished or Sampling(temperature=0.0),
            max_tokens=min(limit for limit in limits if limit is not None),
            n=1,
            logprobs=0 if sure else None,
            constraint=constraint,
        )

    def _read(self, step: CascadeStep, result: ChatResult) -> StepAnswer:
        answer = result.answers[0]
        text = answer.text.strip()
        if step.task == "choose":
            read = parse.label_from_json if step.parse == "json" else parse.label_from_text
            sure = rules.tempered(parse.joint(answer.logprobs), self.temperature(step))
            return StepAnswer(read(text, self._cascade.labels), sure)
        sure = rules.tempered(confidence(answer.logprobs), self.temperature(step))
        if step.task == "extract":
            value = parse.json_value(text)
            return StepAnswer(value, sure, problem=parse.schema_problem(value, self._cascade.json_schema))
        if not text:
            raise InvalidOutput("The model answered with nothing.")
        return StepAnswer(text, sure)


def _shrunk(messages: tuple[Message, ...], side: int, limits: ImageLimits) -> tuple[Message, ...]:
    return tuple(
        replace(
            message,
            parts=tuple(
                replace(part, image=shrunk(part.image, side, limits)) if isinstance(part, ImagePart) else part
                for part in message.parts
            ),
        )
        for message in messages
    )
