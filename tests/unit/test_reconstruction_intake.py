"""Photos as they come in: archives of strangers, odd files, repeats, videos; and what is said of a capture."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deployments.reconstruction import archive, capture, given
from deployments.reconstruction.folder import WorkFolder
from deployments.reconstruction.intake import take_in
from deployments.reconstruction.messages import Spec
from serve.errors import InvalidMedia, InvalidRequest, PayloadTooLarge, UnsupportedMedia

Pixels = NDArray[np.uint8]


def picture(seed: int, width: int = 160, height: int = 120) -> Pixels:
    """Something with corners."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def turned(view: int, wall: int) -> Pixels:
    """A drum with a mottled side, a fifteenth of the picture, 10 degrees on with each view."""
    coarse = np.random.default_rng(7).integers(0, 256, (6, 24, 3), np.uint8)
    side = np.asarray(cv2.resize(coarse, (360, 72), interpolation=cv2.INTER_CUBIC))
    shown = np.degrees(np.arcsin(np.linspace(-0.98, 0.98, 72))) + 10 * view
    pixels = np.full((240, 320, 3), wall, np.uint8)
    pixels[84:156, 124:196] = side[:, shown.astype(int) % 360]
    return pixels


def jpeg(pixels: Pixels, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def film(frames: Sequence[Pixels]) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def taken(
    tmp_path: Path, media: Sequence[bytes], spec: Spec | None = None, names: Sequence[str] = ()
) -> dict[str, object]:
    folder = WorkFolder.create(tmp_path / "job", spec or Spec(max_side=200), media, names)
    return take_in(folder, folder.spec(), lambda done, total: None)


class TestArchive:
    def test_photos_come_in_natural_order_without_leftovers(self) -> None:
        photo = jpeg(picture(1))
        names = ["b/photo10.jpg", "b/photo9.jpg", "__MACOSX/photo1.jpg", "b/.photo2.jpg", "notes.txt", "b/Photo11.PNG"]
        found = archive.photo_names(zipped(dict.fromkeys(names, photo)))
        assert found == ["b/photo9.jpg", "b/photo10.jpg", "b/Photo11.PNG"]

    def test_names_lead_nowhere(self, tmp_path: Path) -> None:
        """A name that climbs out of the folder is a label, and nothing is written under it."""
        files = {f"../../../{i}.jpg": jpeg(picture(i)) for i in range(3)}
        report = taken(tmp_path, [zipped(files)])
        assert report["used"] == 3
        photos = sorted((tmp_path / "job" / "photos").rglob("*.jpg"))
        assert [path.name for path in photos] == ["00000.jpg", "00001.jpg", "00002.jpg"]
        assert {path.name for path in tmp_path.iterdir()} == {"job"}

    @pytest.mark.parametrize("data", [b"PK\3\4" + bytes(100), b"PK\5\6", zipped({"a.jpg": b"x"})[:-30]])
    def test_damaged(self, data: bytes) -> None:
        with pytest.raises(InvalidMedia) as error:
            archive.photo_names(data)
        assert error.value.code == "invalid_archive"

    def test_without_photos(self) -> None:
        with pytest.raises(InvalidMedia, match="no photos"):
            archive.photo_names(zipped({"readme.txt": b"hello"}))

    def test_encrypted(self) -> None:
        data = bytearray(zipped({"a.jpg": b"x"}))
        data[data.rfind(b"PK\1\2") + 8] |= 1
        with pytest.raises(InvalidMedia, match="encrypted"):
            archive.photo_names(bytes(data))

    def test_a_bomb_is_told_by_its_directory(self) -> None:
        data = zipped({"a.jpg": bytes(65 * 1024 * 1024)})
        assert len(data) < 100_000
        with pytest.raises(PayloadTooLarge) as error:
            archive.photo_names(data)
        assert error.value.code == "archive_too_large"

    def test_a_bomb_that_lies_is_stopped_while_it_unpacks(self) -> None:
        data = bytearray(zipped({"a.jpg": bytes(65 * 1024 * 1024)}))
        struct.pack_into("<I", data, data.rfind(b"PK\1\2") + 24, 1000)  # uncompressed size, in the directory
        assert archive.photo_names(bytes(data)) == ["a.jpg"]
        with pytest.raises((PayloadTooLarge, InvalidMedia)):
            list(archive.photos(bytes(data)))

    def test_too_many_entries_are_not_listed(self) -> None:
        data = bytearray(zipped({"a.jpg": b"x"}))
        struct.pack_into("<H", data, data.rfind(b"PK\5\6") + 10, 20_000)
        with pytest.raises(PayloadTooLarge):
            archive.photo_names(bytes(data))


class TestKinds:
    def test_each(self) -> None:
        photo, clip = jpeg(picture(1)), film([picture(1)] * 3)
        assert given.kind_of([photo[:1024]] * 2) == "photos"
        assert given.kind_of([zipped({"a.jpg": photo})]) == "archive"
        assert given.kind_of([clip[:1024]]) == "video"

    @pytest.mark.parametrize("kinds", [["photo", "video"], ["video", "video"], ["photo", "archive"]])
    def test_mixed(self, kinds: list[str]) -> None:
        one = {"photo": jpeg(picture(1)), "video": film([picture(1)] * 3), "archive": zipped({"a.jpg": b"x"})}
        with pytest.raises(InvalidRequest) as error:
            given.kind_of([one[kind] for kind in kinds])
        assert error.value.code == "mixed_media"

    def test_none_and_too_few(self) -> None:
        with pytest.raises(InvalidRequest) as error:
            given.kind_of([])
        assert (error.value.code, error.value.param) == ("no_photos", "photos")
        with pytest.raises(InvalidRequest, match="at least 3"):
            given.check_count(2)

    def test_heic_is_named(self) -> None:
        with pytest.raises(UnsupportedMedia, match="HEIC"):
            given.kind_of([b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100)])


class TestIntake:
    def test_photos_are_turned_upright_and_made_smaller(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        media = [jpeg(picture(i, 400, 300), exif=exif) for i in range(3)]
        taken(tmp_path, media)
        with Image.open(tmp_path / "job/photos/camera0/00000.jpg") as photo:
            assert photo.size == (150, 200)
            assert photo.getexif().get(0x0112, 1) == 1
            expected = np.rot90(np.asarray(Image.open(io.BytesIO(media[0])).resize((200, 150))), -1)
            assert np.abs(np.asarray(photo).astype(int) - expected).mean() < 6

    def test_the_focal_length_stays_with_the_photo(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = 28
        taken(tmp_path, [jpeg(picture(i), exif=exif) for i in range(3)])
        with Image.open(tmp_path / "job/photos/camera0/00000.jpg") as photo:
            assert photo.getexif().get_ifd(0x8769)[0xA405] == 28

    def test_each_camera_has_a_folder(self, tmp_path: Path) -> None:
        media = [jpeg(picture(1)), jpeg(picture(2)), jpeg(picture(3, 120, 160))]
        assert taken(tmp_path, media)["cameras"] == 2

    def test_a_bad_photo_is_left_out_and_named(self, tmp_path: Path) -> None:
        good = [jpeg(picture(i)) for i in range(3)]
        report = taken(tmp_path, [*good, jpeg(picture(9))[:900]], names=["a", "b", "c", "broken.jpg"])
        assert report["used"] == 3
        assert [one["photo"] for one in report["skipped"]] == ["broken.jpg"]  # type: ignore[attr-defined]

    def test_names_are_shown_without_what_controls_a_screen(self, tmp_path: Path) -> None:
        names = ["IMG_1.jpg", "a\x1b[2J\nb.jpg", f"{'long' * 40}.jpg"]
        report = taken(tmp_path, [jpeg(picture(i)) for i in range(3)], names=names)
        photos = report["photos"]
        assert isinstance(photos, dict)
        assert list(photos.values()) == ["IMG_1.jpg", "a[2Jb.jpg", f"{'long' * 19}.jpg"]

    def test_repeats_do_not_count(self, tmp_path: Path) -> None:
        media = [jpeg(picture(1)), jpeg(picture(1)), jpeg(picture(2)), jpeg(picture(3))]
        assert taken(tmp_path, media)["used"] == 3

    @pytest.mark.parametrize("wall", [0, 255])
    def test_a_small_thing_that_turns_before_a_plain_wall_is_no_repeat(self, tmp_path: Path, wall: int) -> None:
        media = [jpeg(turned(view, wall)) for view in range(12)]
        assert taken(tmp_path, media)["used"] == 12

    @pytest.mark.parametrize("wall", [0, 255])
    def test_the_same_photo_encoded_again_is_a_repeat(self, tmp_path: Path, wall: int) -> None:
        """At other qualities, another size, or a hundredth brighter; of a small thing and of one that fills it."""
        for number, one in enumerate((turned(0, wall), cv2.GaussianBlur(picture(5, 320, 240), (0, 0), 1.5))):
            again = [jpeg(np.asarray(one), quality=quality) for quality in (60, 75, 85)]
            smaller = jpeg(np.asarray(cv2.resize(one, (304, 228), interpolation=cv2.INTER_AREA)))
            brighter = jpeg(np.asarray(np.clip(one * 1.01, 0, 255), np.uint8))
            others = [jpeg(picture(seed, 320, 240)) for seed in (1, 2)]
            names = ["one", "q60", "q75", "q85", "smaller", "brighter", "b", "c"]
            folder = tmp_path / str(number)
            report = taken(folder, [jpeg(np.asarray(one)), *again, smaller, brighter, *others], names=names)
            assert list(report["photos"].values()) == ["one", "b", "c"]  # type: ignore[attr-defined]

    def test_too_few_after_all(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest) as error:
            taken(tmp_path, [jpeg(picture(1)), jpeg(picture(1)), jpeg(picture(2))])
        assert error.value.code == "too_few_photos"
        assert not (tmp_path / "job" / "photos").exists()

    def test_no_more_than_asked_the_sharpest_of_each_stretch(self, tmp_path: Path) -> None:
        media = []
        for i in range(8):
            pixels = picture(i)
            media.append(jpeg(pixels if i % 2 else np.asarray(cv2.GaussianBlur(pixels, (0, 0), 4))))
        names = [str(i) for i in range(8)]
        report = taken(tmp_path, media, Spec(max_side=200, max_photos=4), names)
        assert list(report["photos"].values()) == ["1", "3", "5", "7"]  # type: ignore[attr-defined]


class TestVideo:
    def test_the_sharpest_frame_of_each_stretch(self, tmp_path: Path) -> None:
        wide = picture(1, 640, 120)
        frames = []
        for i in range(24):
            frame = wide[:, 10 * i : 10 * i + 160]
            # In each half second, one frame is sharp.
            frames.append(frame if i % 4 == 2 else np.asarray(cv2.GaussianBlur(frame, (0, 0), 3)))
        report = taken(
            tmp_path, [film([np.ascontiguousarray(frame) for frame in frames])], Spec(max_side=160, max_photos=6)
        )
        assert report["kind"] == "video"
        times = [float(name.removesuffix(" s")) for name in report["photos"].values()]  # type: ignore[attr-defined]
        assert times == [0.2, 0.6, 1.0, 1.4, 1.8, 2.2]

    def test_a_camera_that_stands_still_gives_too_little(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="frames of the video"):
            taken(tmp_path, [film([picture(1)] * 20)])


class TestCapture:
    def good(self, count: int = 24) -> list[Pixels]:
        coarse = np.random.default_rng(1).integers(0, 256, (15, 20 + 3 * count, 3), np.uint8)
        wide = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
        return [np.ascontiguousarray(wide[:, 20 * i : 20 * i + 160]) for i in range(count)]

    def said(self, photos: Sequence[Pixels], *, from_video: bool = False) -> dict[str, object]:
        return capture.assess(
            [str(i) for i in range(len(photos))], [capture.measure(p) for p in photos], from_video=from_video
        )

    def test_a_good_walk_needs_no_advice(self) -> None:
        report = self.said(self.good())
        assert report["advice"] == []
        assert report["overlap"] == 1.0
        assert capture.suspects(report) == ""

    def test_shaken_photos_are_named(self) -> None:
        photos = self.good()
        photos[5] = np.asarray(cv2.blur(photos[5], (9, 9)))
        report = self.said(photos)
        assert report["blurred"] == ["5"]
        assert "1 photos are shaken or out of focus: 5." in str(report["advice"])
        assert capture.suspects(report) == "Photos to take again or to leave out, shaken or out of focus: 5."

    def test_the_worst_few_are_named_first(self) -> None:
        photos = self.good()
        for number in range(8):
            photos[number] = np.asarray(cv2.blur(photos[number], (9 + 4 * number, 9 + 4 * number)))
        report = self.said(photos)
        blurred = report["blurred"]
        assert isinstance(blurred, list) and blurred[0] == "7" and set(blurred) == {str(i) for i in range(8)}
        assert f"out of focus: {', '.join(blurred[:5])} and 3 more." in str(report["advice"])

    def test_a_photo_that_shares_nothing_with_its_neighbours_is_named(self) -> None:
        photos = self.good()
        other = np.random.default_rng(9).integers(0, 256, (15, 20, 3), np.uint8)
        photos[12] = np.repeat(np.repeat(other, 8, axis=0), 8, axis=1)
        report = self.said(photos)
        assert report["lonely"] == ["12"]
        assert "share nothing with their neighbours: 12." in str(report["advice"])
        assert "sharing nothing with their neighbours: 12." in capture.suspects(report)

    def test_strangers_do_not_overlap(self) -> None:
        rng = np.random.default_rng(3)
        photos = [np.asarray(cv2.resize(rng.integers(0, 256, (40, 50, 3), np.uint8), (160, 120))) for _ in range(20)]
        report = self.said(photos)
        assert report["overlap"] < 0.5  # type: ignore[operator]
        assert "smaller steps" in str(report["advice"])
        # That is no matter of single photos.
        assert "neighbours" not in capture.suspects(report)

    def test_light(self) -> None:
        photos = self.good()
        dark = [np.asarray(p // 12, np.uint8) for p in photos]
        assert "too dark" in str(self.said(dark)["advice"])
        one = [dark[0], *photos[1:]]
        assert "1 photos are too dark: 0." in str(self.said(one)["advice"])
        assert "too dark: 0" in capture.suspects(self.said(one))
        changing = [np.asarray(p // (1 + 3 * (i % 2)), np.uint8) for i, p in enumerate(photos)]
        assert "Lock exposure" in str(self.said(changing)["advice"])

    def test_few(self) -> None:
        assert "only 6 photos" in str(self.said(self.good(6))["advice"])
        assert "only 6 photos" not in str(self.said(self.good(6), from_video=True)["advice"])
