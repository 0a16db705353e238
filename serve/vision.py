"""Florence-2's tasks over the data plane: requests checked, images admitted, the model called once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.florence2.messages import Answer, Box, SeenImage, VisionRequest, VisionTask
from deployments.florence2.tasks import TASKS, Task, find_task
from deployments.messages import EncodedImage, PixelValues, RawImage
from serve.calls import Calls
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.dataplane import VISION, DataPlane
from serve.errors import ArgusError, InvalidRequest, ModelFailed, NotFound, raise_if_all_failed
from serve.media.admit import MediaSource

Named = tuple[str, MediaSource]


@dataclass(frozen=True, slots=True)
class Asked:
    """A task as a client named it.

    Attributes:
        task: name or published token.
        where: what stands before `task`, `text` and `region` in the names of the request's fields, such as `tasks[0].`.
    """

    task: str
    text: str | None = None
    region: Sequence[float] | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Manner:
    """How answers are written; see `VisionRequest`."""

    beams: int
    max_tokens: int
    render: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry of `images` is the error that this image alone met; the same holds for the answers in it."""

    model: str
    tasks: tuple[Task, ...]
    images: tuple[SeenImage | ArgusError, ...]


class VisionService:
    """See the module's text."""

    def __init__(self, plane: DataPlane, calls: Calls) -> None:
        self._plane = plane
        self._calls = calls

    @property
    def limits(self) -> Limits:
        """Bounds at the edge."""
        return self._plane.limits

    async def see(
        self,
        images: Sequence[Named],
        asked: Sequence[Asked],
        manner: Manner,
        context: RequestContext,
        *,
        model: str | None = None,
    ) -> Seen:
        """Every task about every image.

        Args:
            images: each with the request field that it came from.

        Raises:
            ArgusError: what is wrong with the request as a whole, or the first error when nothing was answered.
        """
        card = self._plane.pick(model, VISION)
        checked = [self._task(one) for one in asked]
        self._check_counts(len(images), len(checked))
        admitted = await self._admit(images, context)
        good = tuple(image for image in admitted if not isinstance(image, ArgusError))
        results: Sequence[SeenImage | Exception] = ()
        if good:
            tasks = tuple(task for _, task in checked)
            request = VisionRequest(good, tasks, manner.beams, manner.max_tokens, manner.render)
            results = (await self._calls.task(card.name, request, context)).value.images
        seen = Seen(card.name, tuple(kind for kind, _ in checked), _merge(images, asked, admitted, results))
        raise_if_all_failed(
            [
                answer
                for image in seen.images
                for answer in (image.answers if isinstance(image, SeenImage) else (image,))
            ]
        )
        return seen

    def _task(self, asked: Asked) -> tuple[Task, VisionTask]:
        """The task with what it needs, and nothing else.

        Raises:
            NotFound: there is no such task.
            InvalidRequest: something is missing, or wrong, or not for this task.
        """
        task = find_task(asked.task)
        if task is None:
            known = ", ".join(TASKS)
            message = f"Task {asked.task[:80]!r} does not exist; there are {known}."
            raise NotFound(message, code="task_not_found", param=f"{asked.where}task")
        for field, given in (("text", asked.text), ("region", asked.region)):
            if given is None and task.needs == field:
                raise InvalidRequest(
                    f"Task {task.name!r} needs a {field}.", code="missing_field", param=f"{asked.where}{field}"
                )
            if given is not None and task.needs != field:
                raise InvalidRequest(
                    f"Task {task.name!r} takes no {field}.", code="invalid_field", param=f"{asked.where}{field}"
                )
        text = None if asked.text is None else self._text(asked.text, f"{asked.where}text")
        region = None if asked.region is None else _region(asked.region, f"{asked.where}region")
        return task, VisionTask(task.name, text, region)

    def _text(self, text: str, param: str) -> str:
        most = self.limits.max_text_chars
        if not text.strip():
            raise InvalidRequest("The text is empty.", code="empty_text", param=param)
        if len(text) > most:
            message = f"The text has {len(text)} characters; at most {most} are accepted."
            raise InvalidRequest(message, code="text_too_long", param=param)
        return text

    def _check_counts(self, images: int, tasks: int) -> None:
        if not images:
            raise InvalidRequest("Send at least one image.", code="missing_field", param="image")
        if not tasks:
            raise InvalidRequest("Ask at least one task.", code="missing_field", param="tasks")
        if images * tasks > self.limits.max_inputs:
            raise InvalidRequest(
                f"{images} images with {tasks} tasks each make {images * tasks} answers; at most "
                f"{self.limits.max_inputs} are given in one request.",
                code="too_many_inputs",
                param="images" if images > 1 else "tasks",
            )

    async def _admit(
        self, images: Sequence[Named], context: RequestContext
    ) -> list[EncodedImage | RawImage | ArgusError]:
        params = [param for param, _ in images]
        admitted = await self._plane.admit([source for _, source in images], context, params)
        return [
            InvalidRequest(
                "Florence-2 needs the picture as it is, not normalised pixel values.", code="invalid_field", param=param
            )
            if isinstance(image, PixelValues)
            else image
            for param, image in zip(params, admitted, strict=True)
        ]


def _region(region: Sequence[float], param: str) -> Box:
    if len(region) != 4:
        message = f"A region is 4 numbers, x1, y1, x2, y2 in pixels; got {len(region)}."
        raise InvalidRequest(message, code="invalid_field", param=param)
    left, top, right, bottom = map(float, region)
    # NaN fails every comparison.
    if not (0 <= left < right and 0 <= top < bottom):
        message = f"A region is x1 < x2 and y1 < y2 in pixels, none below 0; got {list(region)}."
        raise InvalidRequest(message, code="invalid_field", param=param)
    return left, top, right, bottom


def _merge(
    images: Sequence[Named],
    asked: Sequence[Asked],
    admitted: Sequence[object],
    results: Sequence[SeenImage | Exception],
) -> tuple[SeenImage | ArgusError, ...]:
    """Results put back among the images that were refused at the edge, every error with its field's name."""
    remaining = iter(results)
    merged: list[SeenImage | ArgusError] = []
    for (param, _), image in zip(images, admitted, strict=True):
        result = image if isinstance(image, ArgusError) else next(remaining)
        if isinstance(result, SeenImage):
            answers = tuple(
                _blamed(answer, one.where, param) for answer, one in zip(result.answers, asked, strict=True)
            )
            merged.append(SeenImage(result.width, result.height, answers))
        else:
            merged.append(_error(result, param))
    return tuple(merged)


def _blamed(answer: Answer | Exception, where: str, image: str) -> Answer | ArgusError:
    if isinstance(answer, Answer):
        return answer
    error = _error(answer, image)
    return error.at(f"{where}{error.param}") if error.param in ("text", "region") else error


def _error(error: object, param: str) -> ArgusError:
    if not isinstance(error, ArgusError):
        return ModelFailed(str(error), param=param)
    return error if error.param else error.at(param)
