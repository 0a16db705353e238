"""Structure from motion with COLMAP (Schönberger and Frahm 2016; Pan et al. 2024 for the global mapper): where each
photo was taken, and points in space.

COLMAP may end its process (`abort()`), so this runs in the worker process only. Each step keeps what it has in one
SQLite database, and goes on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pycolmap

from deployments.reconstruction.capture import named
from deployments.reconstruction.folder import WorkFolder, replacing
from deployments.reconstruction.given import LEAST_PHOTOS
from deployments.reconstruction.messages import Matching, Spec
from serve.errors import InvalidMedia

Tell = Callable[[int, int], None]

# Up to so many photos every pair is compared; beyond, or of a video, each with its neighbours.
_EXHAUSTIVE: Final = 80
_NEIGHBOURS: Final = 10
_FEATURES: Final = {"preview": 3000, "standard": 6000, "high": 8192}
# Seconds between looks at how far COLMAP is.
_LOOK_S: Final = 0.5
# Share of the photos that must be aligned; below it the scene would be a fragment.
_LEAST_SHARE: Final = 0.3
# Attempts at a first pair of photos, from what COLMAP asks for to what a small or far subject can give.
_STARTS: Final[tuple[dict[str, float], ...]] = (
    {},
    {"init_min_num_inliers": 50, "init_min_tri_angle": 6.0, "abs_pose_min_num_inliers": 20},
    {
        "init_min_num_inliers": 25,
        "init_min_tri_angle": 2.0,
        "abs_pose_min_num_inliers": 12,
        "filter_min_tri_angle": 0.7,
    },
)


def find_features(folder: WorkFolder, spec: Spec, photos: int, tell: Tell) -> dict[str, Any]:
    """SIFT features of every photo (Lowe 2004)."""
    database = _database(folder)
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = spec.threads
    options.use_gpu = False
    options.max_image_size = spec.max_side
    options.sift.max_num_features = _FEATURES[spec.quality]
    with _watched(database, lambda opened: int(opened.num_images()), photos, tell):
        pycolmap.extract_features(
            database,
            folder.photos,
            camera_mode=pycolmap.CameraMode.PER_FOLDER,
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )
    with _opened(database) as opened:
        found = [int(opened.num_keypoints_for_image(image.image_id)) for image in opened.read_all_images()]
    return {"features_mean": round(sum(found) / max(1, len(found)), 1), "features_least": min(found, default=0)}


def match(folder: WorkFolder, spec: Spec, photos: int, *, from_video: bool, tell: Tell) -> dict[str, Any]:
    """Which features are the same point, between pairs of photos, checked by the geometry of two views.

    Raises:
        InvalidMedia: `photos_do_not_overlap`: no two photos show the same thing.
    """
    database = _database(folder)
    how = chosen_matching(spec.matching, photos, from_video=from_video)
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = spec.threads
    matching.use_gpu = False
    geometry = pycolmap.TwoViewGeometryOptions()
    geometry.ransac.random_seed = spec.seed
    pairs = photos * (photos - 1) // 2 if how == "exhaustive" else min(photos - 1, _NEIGHBOURS) * photos
    with _watched(database, lambda opened: int(opened.num_matched_image_pairs()), pairs, tell):
        if how == "exhaustive":
            pycolmap.match_exhaustive(database, matching, verification_options=geometry, device=pycolmap.Device.cpu)
        else:
            neighbours = pycolmap.SequentialPairingOptions()
            neighbours.overlap = _NEIGHBOURS
            neighbours.quadratic_overlap = True
            neighbours.num_threads = spec.threads
            pycolmap.match_sequential(
                database, matching, neighbours, verification_options=geometry, device=pycolmap.Device.cpu
            )
    verified = _verified(database)
    if not verified:
        raise InvalidMedia(
            "No two photos show the same thing from two places. Take photos while walking around one subject, with two "
            "thirds of each photo in the next; turning on the spot is not enough.",
            code="photos_do_not_overlap",
            param="photos",
        )
    return {"matching": how, "pairs": len(verified), "matches_mean": round(sum(verified) / len(verified), 1)}


def chosen_matching(asked: Matching, photos: int, *, from_video: bool) -> Matching:
    """`exhaustive` or `sequential`."""
    if asked != "auto":
        return asked
    return "sequential" if from_video or photos > _EXHAUSTIVE else "exhaustive"


def align(folder: WorkFolder, spec: Spec, names: Mapping[str, str], tell: Tell) -> dict[str, Any]:
    """Cameras and points, as a model of COLMAP's in `folder.alignment / "model"`.

    Args:
        names: of the photos, by their files.

    Raises:
        InvalidMedia: `photos_not_aligned`, in words that a photographer can act on.
    """
    best: Any = None
    photos = len(names)
    with replacing(folder.alignment / "attempts") as scratch:
        scratch.mkdir()
        for number, settings in enumerate(_STARTS if spec.mapper == "incremental" else _STARTS[:1]):
            output = scratch / str(number)
            output.mkdir()
            for model in _mapped(folder, output, spec, settings, photos, tell):
                if best is None or model.num_reg_images() > best.num_reg_images():
                    best = model
            if best is not None and best.num_reg_images() >= max(LEAST_PHOTOS, 0.8 * photos):
                break
    aligned = 0 if best is None else best.num_reg_images()
    posed = set() if best is None else {image.name for image in best.images.values() if image.has_pose}
    lost = [name for file, name in names.items() if file not in posed]
    if aligned < max(LEAST_PHOTOS, _LEAST_SHARE * photos):
        raise InvalidMedia(_why_not(lost, photos, folder), code="photos_not_aligned", param="photos")
    with replacing(folder.alignment / "model") as new:
        new.mkdir()
        best.write(new)
    return {
        "mapper": spec.mapper,
        "aligned": aligned,
        "points": best.num_points3D(),
        "reprojection_error_px": round(best.compute_mean_reprojection_error(), 3),
        "track_length": round(best.compute_mean_track_length(), 2),
        "not_aligned": lost,
    }


def _mapped(
    folder: WorkFolder, output: Path, spec: Spec, settings: dict[str, float], photos: int, tell: Tell
) -> list[Any]:
    """Every model that the mapper finds."""
    if spec.mapper == "global":
        # It takes focal lengths as they are given, and few photos say theirs: from the pairs' geometry they come close.
        pycolmap.calibrate_view_graph(_database(folder))
        at_once = pycolmap.GlobalPipelineOptions()
        at_once.num_threads = spec.threads
        at_once.random_seed = spec.seed
        at_once.mapper.global_positioning.use_gpu = False
        at_once.mapper.bundle_adjustment.ceres.use_gpu = False
        return list(pycolmap.global_mapping(_database(folder), folder.photos, output, at_once).values())
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = LEAST_PHOTOS
    options.num_threads = spec.threads
    options.random_seed = spec.seed
    options.ba_refine_principal_point = False
    for name, value in settings.items():
        setattr(options.mapper, name, value)
    done = 0

    def next_image() -> None:
        nonlocal done
        done += 1
        tell(min(done, photos), photos)

    models = pycolmap.incremental_mapping(
        _database(folder), folder.photos, output, options, next_image_callback=next_image
    )
    return list(models.values())


def _why_not(lost: Sequence[str], photos: int, folder: WorkFolder) -> str:
    pairs = len(_verified(_database(folder)))
    aligned = photos - len(lost)
    found = "none" if aligned == 0 else f"only {aligned}"
    if pairs < photos - 1:
        why = "neighbouring photos share too little. Take smaller steps, so that two thirds of each are in the next"
    elif aligned == 0:
        why = (
            "the camera hardly moved sideways, or the subject is plain, shiny or moving. Walk around it, and put "
            "something with a pattern beside it"
        )
    else:
        why = "the photos fall into groups that do not connect. Add photos in between, without gaps"
    if aligned:
        why += f". Not aligned: {named(lost)}"
    return f"{found.capitalize()} of {photos} photos could be aligned: {why}."


def _database(folder: WorkFolder) -> Path:
    folder.alignment.mkdir(exist_ok=True)
    return folder.alignment / "database.db"


@contextmanager
def _opened(database: Path) -> Iterator[Any]:
    """The database, by COLMAP's own SQLite: Python's, in one process with it, would drop its locks."""
    opened = pycolmap.Database.open(database)
    try:
        yield opened
    finally:
        opened.close()


def _verified(database: Path) -> list[int]:
    """Matches of each pair of photos that shows the same thing."""
    with _opened(database) as opened:
        _, geometries = opened.read_two_view_geometries()
    return [len(geometry.inlier_matches) for geometry in geometries if len(geometry.inlier_matches)]


@contextmanager
def _watched(database: Path, count: Callable[[Any], int], total: int, tell: Tell) -> Iterator[None]:
    """Tells how far COLMAP is while it works in the block: by what it has written.

    Args:
        count: of what the open database holds.
    """
    over = threading.Event()
    # Opened once, before COLMAP does: opening writes (the schema's version), and COLMAP ends the process when it finds
    # the database locked. Reading is in nobody's way.
    with _opened(database) as opened:

        def look() -> None:
            while not over.wait(_LOOK_S):
                with suppress(RuntimeError):
                    tell(min(count(opened), total), total)

        thread = threading.Thread(target=look, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
