"""The folder of one reconstruction: everything that it needs to go on after its process was killed.

A stage writes its outputs under other names, moves them into place, and then writes its mark; a stage without its mark
is done again from what the stages before it left. Nothing here is ever half written.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployments.reconstruction.messages import STAGES, Spec, Stage, Status


class WorkFolder:
    """See the module's text.

    Args:
        root: the folder; made by `create`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def media(self) -> Path:
        """What was given, file by file."""
        return self.root / "media"

    @property
    def photos(self) -> Path:
        """Upright photos of bearable size, in one folder for each camera."""
        return self.root / "photos"

    @property
    def alignment(self) -> Path:
        """Features, matches and the model of structure from motion."""
        return self.root / "alignment"

    @property
    def views(self) -> Path:
        """Undistorted pictures, their cameras, and points."""
        return self.root / "views"

    @property
    def training(self) -> Path:
        """Checkpoints."""
        return self.root / "training"

    @property
    def preview(self) -> Path:
        """The newest preview, a JPEG."""
        return self.root / "preview.jpg"

    @property
    def scene(self) -> Path:
        """The finished scene's file."""
        return self.root / "scene.safetensors"

    @property
    def turntable(self) -> Path:
        """The finished film."""
        return self.root / "turntable.mp4"

    @property
    def log(self) -> Path:
        """What the worker and its libraries wrote."""
        return self.root / "worker.log"

    @staticmethod
    def create(root: Path, spec: Spec, media: Sequence[bytes | Path], names: Sequence[str] = ()) -> WorkFolder:
        """A new folder with its media, or the one that is there already. It appears whole or not at all.

        Args:
            media: files, as bytes or where they lie; order is kept.
            names: of them, as their owner knows them; numbered where there are none.
        """
        if not root.exists():
            root.parent.mkdir(parents=True, exist_ok=True)
            new = root.with_name(f".{root.name}.{secrets.token_hex(4)}")
            (new / "media").mkdir(parents=True)
            for position, item in enumerate(media):
                target = new / "media" / f"{position:06d}"
                if isinstance(item, bytes):
                    target.write_bytes(item)
                else:
                    shutil.copyfile(item, target)
            named = list(names) or [f"photo {position + 1}" for position in range(len(media))]
            write_json(new / "names.json", {"names": named})
            write_json(new / "spec.json", spec.to_json())
            write_json(new / "status.json", asdict(Status("queued")))
            try:
                new.rename(root)
            except OSError:  # somebody else was first
                shutil.rmtree(new, ignore_errors=True)
        return WorkFolder(root)

    @property
    def exists(self) -> bool:
        """Whether it was created."""
        return (self.root / "spec.json").exists()

    def spec(self) -> Spec:
        """What is to be done."""
        return Spec.from_json(read_json(self.root / "spec.json"))

    def names(self) -> list[str]:
        """Of the media, in order."""
        return [str(name) for name in read_json(self.root / "names.json")["names"]]

    def status(self) -> Status:
        """As it was last written."""
        return Status.from_json(read_json(self.root / "status.json"))

    def tell(self, status: Status) -> None:
        """Writes the status."""
        write_json(self.root / "status.json", asdict(status))

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage has finished."""
        return self._mark(stage).exists()

    def finished(self) -> list[Stage]:
        """Stages that have finished, in order."""
        return [stage for stage in STAGES if self.is_done(stage)]

    def mark(self, stage: Stage, report: dict[str, Any]) -> None:
        """A stage has finished.

        Args:
            report: what it has to say, for the report of the whole.
        """
        self._mark(stage).parent.mkdir(exist_ok=True)
        write_json(self._mark(stage), report)

    def report(self, stage: Stage) -> dict[str, Any]:
        """What a finished stage has to say."""
        return read_json(self._mark(stage))

    def _mark(self, stage: Stage) -> Path:
        return self.root / "done" / f"{stage}.json"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target`, whose file or folder takes its place at the end of the block, when that succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    _remove(new)
    try:
        yield new
    except BaseException:
        _remove(new)
        raise
    if new.is_dir():
        _remove(target)
    else:
        with new.open("rb") as file:
            os.fsync(file.fileno())
    new.replace(target)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file of JSON."""
    with replacing(path) as new:
        new.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A file of JSON."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
