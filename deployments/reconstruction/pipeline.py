"""The stages of a reconstruction, in order, each from what the one before it left in the folder."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from deployments.reconstruction import alignment, capture, intake
from deployments.reconstruction.folder import WorkFolder, replacing, write_json
from deployments.reconstruction.messages import STAGES, Plan, Stage
from deployments.reconstruction.views import UP, View, Views, load_views, make_views
from serve.errors import ArgusError, InvalidMedia

if TYPE_CHECKING:
    from deployments.reconstruction.trainers import Trainer

UInt8 = npt.NDArray[np.uint8]
Tell = Callable[[int, int], None]

# Parts of training after which a checkpoint is written and a preview drawn; and seconds between statuses at least.
_CHECKPOINTS: Final = 20
_TELL_S: Final = 0.5
_PREVIEW_QUALITY: Final = 85


class Pipeline:
    """One run over a folder, from the first stage that has not finished.

    Args:
        clock: in seconds.
    """

    def __init__(self, folder: WorkFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._spec = folder.spec()
        before = folder.status()
        self._worked_s, self._began = before.elapsed_s, clock()
        self._status = replace(before, state="running", starts=before.starts + 1, failure=None)
        self._told = -_TELL_S
        self._stages: dict[Stage, Callable[[Tell], dict[str, Any]]] = {
            "intake": lambda tell: intake.take_in(folder, self._spec, tell),
            "features": lambda tell: alignment.find_features(folder, self._spec, self._photos, tell),
            "matching": self._match,
            "mapping": lambda tell: alignment.align(folder, self._spec, self._names, tell),
            "views": lambda tell: make_views(folder, self._spec, self._names),
            "training": self._train,
            "evaluation": self._evaluate,
            "export": self._export,
        }

    def run(self) -> None:
        """Runs what is left.

        Raises:
            ArgusError: a stage failed.
        """
        for stage, work in self._stages.items():
            if self._folder.is_done(stage):
                continue
            started = self._clock()
            self._tell(stage, 0, 0, at_once=True)

            def tell(done: int, total: int, stage: Stage = stage) -> None:
                self._tell(stage, done, total)

            try:
                report = work(tell)
            except InvalidMedia as error:
                raise self._with_suspects(error) from error
            self._folder.mark(stage, {**report, "seconds": round(self._clock() - started, 2)})
            self._status = replace(self._status, advice=self._advice())
        self._status = replace(self._status, state="succeeded", fraction=1.0, eta_s=0.0)
        self._write()

    @property
    def _photos(self) -> int:
        return int(self._folder.report("intake")["used"])

    @property
    def _names(self) -> dict[str, str]:
        """Of the photos, by their files."""
        names: dict[str, str] = self._folder.report("intake")["photos"]
        return names

    def _advice(self) -> tuple[str, ...]:
        advice = list(self._folder.report("intake")["advice"])
        if self._folder.is_done("mapping") and (lost := self._folder.report("mapping")["not_aligned"]):
            advice.append(f"{len(lost)} photos could not be aligned and are not used: {capture.named(lost)}.")
        return tuple(advice)

    def _with_suspects(self, error: InvalidMedia) -> ArgusError:
        """The same with the photos that may be why."""
        if not self._folder.is_done("intake"):
            return error
        message = f"{error.message} {capture.suspects(self._folder.report('intake'))}".rstrip()
        return type(error)(message, code=error.code, param=error.param)

    def _tell(self, stage: Stage, done: int, total: int, *, at_once: bool = False) -> None:
        now = self._clock()
        if not at_once and now - self._told < _TELL_S:
            return
        self._told = now
        fraction = fraction_of(stage, done, total)
        elapsed = self._worked_s + now - self._began
        eta = elapsed * (1 - fraction) / fraction if fraction > 0.05 else None
        self._status = replace(self._status, stage=stage, done=done, total=total, fraction=fraction, eta_s=eta)
        self._write()

    def _write(self) -> None:
        self._status = replace(self._status, elapsed_s=round(self._worked_s + self._clock() - self._began, 2))
        self._folder.tell(self._status)

    def _match(self, tell: Tell) -> dict[str, Any]:
        from_video = self._folder.report("intake")["kind"] == "video"
        return alignment.match(self._folder, self._spec, self._photos, from_video=from_video, tell=tell)

    def _train(self, tell: Tell) -> dict[str, Any]:
        views, plan = load_views(self._folder), self._plan()
        trainer = self._trainer(views)
        shown = (views.held_out or views.training)[0].camera_at(plan.side)
        pause = max(1, plan.steps // _CHECKPOINTS)
        now = trainer.train(trainer.step)
        while now.step < plan.steps:
            until = min(now.step // pause * pause + pause, plan.steps)
            while now.step < until:
                now = trainer.train(min(now.step + 10, until))
                tell(now.step, plan.steps)
            trainer.save()
            self._show(trainer.picture(shown))
        return {
            "method": self._spec.method,
            "steps": plan.steps,
            "side": plan.side,
            "gaussians": now.count,
            "loss": round(now.loss, 5),
        }

    def _evaluate(self, tell: Tell) -> dict[str, Any]:
        """On views that were not trained on, as is usual; on those that were when there are too few to hold any out."""
        views, plan = load_views(self._folder), self._plan()
        trainer = self._trainer(views)
        looked_at = views.held_out or views.training
        scores = []
        for number, view in enumerate(looked_at):
            tell(number, len(looked_at))
            scores.append(_scores(view, trainer.picture(view.camera_at(plan.side)), plan.side))
        return {
            "held_out": bool(views.held_out),
            "psnr": round(float(np.mean([score["psnr"] for score in scores])), 3),
            "ssim": round(float(np.mean([score["ssim"] for score in scores])), 4),
            "lpips": None,
            "views": scores,
            "notes": ["LPIPS needs weights of another network and is not measured."],
        }

    def _export(self, tell: Tell) -> dict[str, Any]:
        from deployments.reconstruction.film import turntable

        views, plan = load_views(self._folder), self._plan()
        trainer = self._trainer(views)
        scene, film = trainer.scene(), turntable(views, plan.side, trainer.picture, tell)
        for path, content in ((self._folder.scene, scene), (self._folder.turntable, film)):
            with replacing(path) as new:
                new.write_bytes(content)
        report: dict[str, Any] = {stage: self._folder.report(stage) for stage in STAGES if stage != "export"}
        report["scene"] = {
            "kind": "nerf" if self._spec.method == "nerf" else "gaussians",
            "up": list(UP),
            "scene_bytes": len(scene),
            "turntable_bytes": len(film),
        }
        report["spec"] = self._spec.to_json()
        write_json(self._folder.root / "report.json", report)
        return {"scene_bytes": len(scene), "turntable_bytes": len(film)}

    def _trainer(self, views: Views) -> Trainer:
        # Not at the module's head: torch comes when training does.
        from deployments.reconstruction.trainers import make_trainer

        self._folder.training.mkdir(exist_ok=True)
        return make_trainer(views, self._spec, self._plan(), self._folder.training / "checkpoint.safetensors")

    def _plan(self) -> Plan:
        from deployments.reconstruction.trainers import device_of

        return self._spec.plan(cuda=device_of(self._spec).type == "cuda")

    def _show(self, pixels: UInt8) -> None:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=_PREVIEW_QUALITY)
        with replacing(self._folder.preview) as new:
            new.write_bytes(buffer.getvalue())
        self._status = replace(self._status, preview=self._status.preview + 1)


def fraction_of(stage: Stage, done: int, total: int) -> float:
    """Of the whole, from 0 to 1, when so much of a stage is done."""
    before = 0.0
    for name, weight in STAGES.items():
        if name == stage:
            return before + weight * (done / total if total else 0.0)
        before += weight
    raise AssertionError("every stage has a weight")


def _scores(view: View, drawn: UInt8, side: int) -> dict[str, Any]:
    from skimage import metrics

    measure: Any = metrics
    photo = view.pixels(side)
    return {
        "photo": view.name,
        "psnr": round(float(measure.peak_signal_noise_ratio(photo, drawn, data_range=255)), 3),
        "ssim": round(float(measure.structural_similarity(photo, drawn, channel_axis=2, data_range=255)), 4),
    }
