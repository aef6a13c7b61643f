"""Makes the packaged object set from Debian's ``sweethome3d-furniture``.

Run once by a developer; users of ``lisa scenes`` need only its result, ``lisa_small/scenes/assets``::

    apt-get download sweethome3d-furniture
    python -m lisa_small.scenes.prepare_assets sweethome3d-furniture_1.8-1_all.deb

Needs ``dpkg-deb``, trimesh, scipy and fast-simplification. Every model is turned upright, scaled to a tabletop size,
decimated, its textures reduced, and written as one ``.npz``; ``models.json`` lists them with creator and licence, and
``CREDITS.md`` is the attribution that the CC-BY licences require.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fast_simplification
import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from lisa_small.scenes.assets import ModelEntry, PoseEntry

FOLDER = Path(__file__).parent
LICENCES = {
    "BlendSwap-CC-0": "CC0 1.0",
    "BlendSwap-CC-BY": "CC BY 3.0",
    "KatorLegaz": "CC BY 3.0 US",
    "Scopia": "CC BY 3.0",
}
FACES = 12500  # of a whole model; the shipped set stays under 12 MB
TEXTURE_SIDE = 192
# Pictures of real products and papers, reduced until no name can be read.
COARSE = {"reflex_camera": 40, "basic_camera": 40, "newspaper": 56, "red-wine-bottle-01": 32, "tv-remote-control": 64}
Y_UP_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])


@dataclass(frozen=True)
class Entry:
    """One model of a Sweet Home 3D catalogue."""

    library: str
    folder: str
    obj: str
    creator: str
    rotation: NDArray[np.float64]
    size_cm: NDArray[np.float64]


@dataclass(frozen=True)
class Wanted:
    """One line of selection.txt."""

    label: str
    folder: str
    library: str | None
    longest_m: float
    poses: str
    held_out: bool


@dataclass
class Part:
    """Triangles of one material. vertices (V, 3) m; faces (F, 3); uv (V, 2) or None; rgba in [0, 1]."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    uv: NDArray[np.float64] | None
    rgba: tuple[float, float, float, float]
    image: Image.Image | None


def read_selection(path: Path) -> list[Wanted]:
    wanted = []
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        label, folder, longest, poses, split = (cell.strip() for cell in line.split("|"))
        folder, _, library = folder.partition("@")
        wanted.append(Wanted(label, folder, library or None, float(longest) / 100, poses, split == "held"))
    return wanted


def read_catalogue(library: Path) -> list[Entry]:
    """Every model of one unpacked ``.sh3f``."""
    fields: dict[str, dict[str, str]] = {}
    text = (library / "PluginFurnitureCatalog.properties").read_text(encoding="latin-1")
    for name, number, value in re.findall(r"^\s*(\w+)#(\d+)\s*=\s*(.*?)\s*$", text, re.M):
        fields.setdefault(number, {})[name] = value
    entries = []
    for entry in fields.values():
        if not {"width", "depth", "height", "model"} <= entry.keys():
            continue
        rotation = np.array(entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split(), float).reshape(3, 3)
        size = np.array([float(entry[side]) for side in ("width", "depth", "height")])
        model = entry["model"].lstrip("/")
        creator = entry.get("creator", library.name)
        entries.append(Entry(library.name, model.split("/")[-2], model, creator, rotation, size))
    return entries


def ear_clip(points: NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Triangles (indices) of one flat polygon (N, 3) that may be concave."""
    normal = np.cross(points - points[0], np.roll(points, -1, axis=0) - points[0]).sum(0)
    drop = int(np.argmax(np.abs(normal)))
    flat = np.delete(points, drop, axis=1) * [1, 1 if normal[drop] * (-1) ** drop > 0 else -1]

    def cross(a: int, b: int, c: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = flat[a], flat[b], flat[c]
        return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    ring, triangles = list(range(len(points))), []
    while len(ring) > 3:
        for k in range(len(ring)):
            a, b, c = ring[k - 1], ring[k], ring[(k + 1) % len(ring)]
            if cross(a, b, c) <= 0:
                continue
            others = (p for p in ring if p not in (a, b, c))
            if not any(cross(a, b, p) > 0 and cross(b, c, p) > 0 and cross(c, a, p) > 0 for p in others):
                break
        else:
            k = 0  # degenerate: cut any corner
        triangles.append((ring[k - 1], ring[k], ring[(k + 1) % len(ring)]))
        del ring[k]
    a, b, c = ring
    return [*triangles, (a, b, c)]


def triangulate(path: Path) -> None:
    """Rewrite an OBJ file with its large polygons cut by ears: trimesh cuts fans, which fill concave outlines."""
    points, lines = [], []
    for line in path.read_text(encoding="latin-1").splitlines():
        words = line.split()
        if words and words[0] == "v":
            points.append([float(word) for word in words[1:4]])
        if words and words[0] == "f" and len(words) > 5:
            corners = words[1:]
            indices = [int(corner.split("/")[0]) for corner in corners]
            indices = [index - 1 if index > 0 else len(points) + index for index in indices]
            ears = ear_clip(np.array([points[index] for index in indices]))
            lines += [f"f {corners[a]} {corners[b]} {corners[c]}" for a, b, c in ears]
        else:
            lines.append(line)
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")


def load_parts(entry: Entry, library: Path, longest_m: float) -> list[Part]:
    """The model upright (z up), centred on its footprint, standing on z = 0, longest side ``longest_m``."""
    triangulate(library / entry.obj)
    scene = trimesh.load(library / entry.obj, force="scene", process=False)
    meshes = [mesh for mesh in scene.dump() if len(mesh.faces)]
    points = np.concatenate([mesh.vertices for mesh in meshes]) @ entry.rotation.T @ Y_UP_TO_Z_UP.T
    low, high = points.min(0), points.max(0)
    scale = entry.size_cm / np.maximum(high - low, 1e-9)
    scale *= longest_m / entry.size_cm.max()
    origin = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    parts = []
    for mesh in meshes:
        vertices = (np.asarray(mesh.vertices) @ entry.rotation.T @ Y_UP_TO_Z_UP.T - origin) * scale
        faces = np.asarray(mesh.faces)
        if np.linalg.det(entry.rotation) < 0:
            faces = faces[:, ::-1]
        material = getattr(mesh.visual, "material", None)
        rgba = (0.7, 0.7, 0.7, 1.0)
        image, uv = None, None
        if material is not None:
            red, green, blue, alpha = (float(c) / 255 for c in np.asarray(material.main_color)[:4])
            rgba = (red, green, blue, alpha)
            image = getattr(material, "image", None)
            uv = getattr(mesh.visual, "uv", None)
        if image is not None and uv is not None and len(uv) == len(vertices):
            image = image.convert("RGB")
            rgba = (1.0, 1.0, 1.0, rgba[3])
        else:
            image, uv = None, None
        parts.append(Part(vertices, faces, None if uv is None else np.asarray(uv), rgba, image))
    return merge_equal_materials(parts)


def merge_equal_materials(parts: list[Part]) -> list[Part]:
    groups: dict[object, list[Part]] = {}
    for part in parts:
        key = tuple(np.round(part.rgba, 2)) if part.image is None else hash(part.image.tobytes())
        groups.setdefault(key, []).append(part)
    merged = []
    for group in groups.values():
        offsets = np.cumsum([0] + [len(part.vertices) for part in group])
        faces = np.concatenate([part.faces + offset for part, offset in zip(group, offsets, strict=False)])
        uv = None if group[0].uv is None else np.concatenate([part.uv for part in group])
        vertices = np.concatenate([part.vertices for part in group])
        merged.append(Part(vertices, faces, uv, group[0].rgba, group[0].image))
    return merged


def weld(part: Part) -> Part:
    """Join vertices that agree in position (0.01 mm) and texture coordinate, drop unused ones and empty faces."""
    key = np.round(part.vertices * 1e5)
    if part.uv is not None:
        key = np.concatenate([key, np.round(part.uv * 2048)], axis=1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1)[part.faces]
    keep = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    faces = faces[keep]
    used, compact = np.unique(faces, return_inverse=True)
    vertices = part.vertices[first][used]
    uv = None if part.uv is None else part.uv[first][used]
    return Part(vertices, compact.reshape(-1, 3), uv, part.rgba, part.image)


def decimate(part: Part, target: int) -> Part:
    """Quadric decimation; a vertex that stays keeps the texture coordinate of the nearest original it stands for."""
    if len(part.faces) <= target:
        return part
    points, faces, collapses = fast_simplification.simplify(
        part.vertices.astype(np.float32), part.faces.astype(np.int32), target_count=target, agg=5, return_collapses=True
    )
    points, faces, mapping = fast_simplification.replay_simplification(
        part.vertices.astype(np.float32), part.faces.astype(np.int32), collapses
    )
    uv = None
    if part.uv is not None:
        distance = np.linalg.norm(part.vertices - points[mapping], axis=1)
        order = np.argsort(-distance)  # the nearest original is written last
        uv = np.zeros((len(points), 2))
        uv[mapping[order]] = part.uv[order]
    return weld(Part(points.astype(np.float64), faces.astype(np.int64), uv, part.rgba, part.image))


def stable_poses(vertices: NDArray[np.float64], mode: str) -> list[PoseEntry]:
    """Rotations (w, x, y, z) in which the hull rests on the table, with their probability."""
    if mode == "up":
        return [{"quat": [1.0, 0.0, 0.0, 0.0], "p": 1.0}]
    hull = trimesh.Trimesh(vertices).convex_hull
    transforms, probabilities = trimesh.poses.compute_stable_poses(hull, threshold=0.04)
    poses: list[PoseEntry] = [{"quat": [1.0, 0.0, 0.0, 0.0], "p": 0.5}]  # most things on a table stand upright
    total = float(probabilities.sum()) or 1.0
    for transform, probability in zip(transforms[:12], probabilities[:12], strict=True):
        if transform[2, 2] > 0.99:
            continue
        quat = trimesh.transformations.quaternion_from_matrix(transform)
        poses.append({"quat": [round(float(q), 5) for q in quat], "p": round(0.5 * float(probability) / total, 4)})
    return poses


def jpeg(image: Image.Image, side: int) -> bytes:
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()


def write_model(path: Path, parts: list[Part], texture_side: int) -> None:
    """Positions as uint16 within the model's box, faces as uint16, texture coordinates as float16, textures as JPEG."""
    points = np.concatenate([part.vertices for part in parts])
    low, extent = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-6)
    hull = trimesh.Trimesh(points).convex_hull
    arrays: dict[str, Any] = {
        "low": low.astype(np.float32),
        "extent": extent.astype(np.float32),
        "rgba": np.array([part.rgba for part in parts], np.float32),
    }
    corners = np.asarray(hull.vertices)
    if len(corners) > 120:  # far more than a collision hull needs: thin it by decimating the hull itself
        thin, _ = fast_simplification.simplify(
            corners.astype(np.float32), np.asarray(hull.faces, np.int32), target_count=160
        )
        corners = thin
    arrays["hull"] = np.asarray(corners, np.float32)
    for number, part in enumerate(parts):
        arrays[f"vertices{number}"] = np.round((part.vertices - low) / extent * 65535).astype(np.uint16)
        arrays[f"faces{number}"] = part.faces.astype(np.uint16)
        if part.image is not None and part.uv is not None:
            arrays[f"uv{number}"] = np.clip(part.uv, -60, 60).astype(np.float16)
            arrays[f"texture{number}"] = np.frombuffer(jpeg(part.image, texture_side), np.uint8)
    np.savez_compressed(path, **arrays)


def prepare(wanted: Wanted, entry: Entry, library: Path, name: str, out: Path) -> ModelEntry:
    parts = [weld(part) for part in load_parts(entry, library, wanted.longest_m)]
    parts = [part for part in parts if len(part.faces)]
    total = sum(len(part.faces) for part in parts)
    if total > FACES:
        parts = [decimate(part, max(24, int(len(part.faces) * FACES / total))) for part in parts]
    parts = [part for part in parts if len(part.faces) >= 2]
    points = np.concatenate([part.vertices for part in parts])
    write_model(out / f"{name}.npz", parts, COARSE.get(entry.folder, TEXTURE_SIDE))
    return {
        "name": name,
        "class": wanted.label,
        "held_out": wanted.held_out,
        "size": [round(float(side), 4) for side in np.ptp(points, axis=0)],
        "poses": stable_poses(points, wanted.poses),
        "source": f"{entry.library}/{entry.folder}",
        "creator": entry.creator,
        "licence": LICENCES[entry.library],
    }


def credits(models: list[ModelEntry]) -> str:
    lines = [
        "# Credits of the objects",
        "",
        "From Debian's `sweethome3d-furniture` 1.8 (collected and converted to OBJ by Emmanuel Puybaret / eTeks),",
        "then scaled, decimated and with reduced textures by `lisa_small/scenes/prepare_assets.py`.",
        "CC0 1.0: https://creativecommons.org/publicdomain/zero/1.0/ ·",
        "CC BY 3.0: https://creativecommons.org/licenses/by/3.0/ ·",
        "CC BY 3.0 US: https://creativecommons.org/licenses/by/3.0/us/",
        "",
        "Table, floor and wall textures are drawn by this package (`lisa_small/scenes/textures.py`).",
        "",
        "| model | source | creator | licence |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {m['name']} | {m['source']} | {m['creator']} | {m['licence']} |" for m in models]
    return "\n".join(lines) + "\n"


def unpack(package: Path, folder: Path) -> dict[str, Path]:
    """Unpack the Debian package; returns library name -> folder."""
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "deb")], check=True)
    libraries = {}
    for archive in sorted((folder / "deb").rglob("*.sh3f")):
        libraries[archive.stem] = folder / archive.stem
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(libraries[archive.stem])
    return libraries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="sweethome3d-furniture_1.8-1_all.deb")
    parser.add_argument("--out", type=Path, default=FOLDER / "assets")
    parser.add_argument("--only", default="", help="names of classes, comma separated: prepare these alone")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    only = {name.strip() for name in arguments.only.split(",") if name.strip()}
    models: list[ModelEntry] = []
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        libraries = unpack(arguments.package, Path(temporary))
        entries = [entry for name in LICENCES for entry in read_catalogue(libraries[name])]
        for wanted in read_selection(FOLDER / "selection.txt"):
            counts[wanted.label] = counts.get(wanted.label, 0) + 1
            name = f"{wanted.label.replace(' ', '_')}_{'abcdef'[counts[wanted.label] - 1]}"
            if only and wanted.label not in only:
                continue
            matches = [e for e in entries if e.folder == wanted.folder and wanted.library in (None, e.library)]
            if len(matches) != 1:
                raise SystemExit(f"{wanted.folder}: {len(matches)} models match; write FOLDER@LIBRARY in selection.txt")
            models.append(prepare(wanted, matches[0], libraries[matches[0].library], name, arguments.out))
            print(name, flush=True)
    (arguments.out / "models.json").write_text(json.dumps(models, indent=1) + "\n")
    (arguments.out / "CREDITS.md").write_text(credits(models))


if __name__ == "__main__":
    main()
