"""Makes ``lisa_sim/assets/ur5e`` from the UR5e of the PyPI package ocbench 1.0.2, which has 32 MB of meshes.

    pip download --no-deps ocbench==1.0.2
    pip install fast-simplification==0.2.0
    python -m lisa_sim.prepare_ur5e ocbench-1.0.2-py3-none-any.whl

The meshes are simplified and written as binary STL; light and floor go. The licence (BSD 3-clause) is kept beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "assets" / "ur5e"
SOURCE = "ocbench/descriptions/universal_robots_ur5e"
SHA256 = "76e8a8f1da98f633180cda0ec4dd825f4d19e27f0dd492b973907401ea16085d"
TRIANGLES = 18_000  # of all meshes together
FEWEST = 120  # of one mesh


def read_obj(text: str) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices (V, 3) and triangles (F, 3) of a Wavefront OBJ file; equal vertices are merged, polygons split."""
    vertices, faces = [], []
    for line in io.StringIO(text):
        word, _, rest = line.partition(" ")
        if word == "v":
            vertices.append([float(number) for number in rest.split()[:3]])
        elif word == "f":
            corners = [int(corner.split("/")[0]) - 1 for corner in rest.split()]
            faces += [[corners[0], a, b] for a, b in itertools.pairwise(corners[1:])]
    points, own = np.unique(np.array(vertices, np.float32), axis=0, return_inverse=True)
    return points, own.reshape(-1)[np.array(faces)].astype(np.int32)


def stl(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> bytes:
    """A binary STL file."""
    corners = vertices[faces]  # (F, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    record = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    record["normal"], record["corners"] = normals, corners
    return bytes(80) + np.uint32(len(faces)).tobytes() + record.tobytes()


def description(text: str) -> bytes:
    """The model without its light, with STL meshes in its own folder."""
    root = ElementTree.fromstring(text)
    compiler = root.find("compiler")
    assert compiler is not None
    compiler.attrib.pop("meshdir")
    for mesh in root.iter("mesh"):
        mesh.set("file", Path(mesh.attrib["file"]).with_suffix(".stl").name)
    for parent in root.iter():
        for light in parent.findall("light"):
            parent.remove(light)
    for keys in root.findall("keyframe"):
        root.remove(keys)
    return ElementTree.tostring(root)


def main() -> int:
    import fast_simplification

    parser = argparse.ArgumentParser(description="Simplify the UR5e's meshes.")
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        print(f"{wheel} is not the wheel of ocbench 1.0.2", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{SOURCE}/ur5e.xml").decode()
        (FOLDER / "ur5e.xml").write_bytes(description(text))
        (FOLDER / "LICENSE").write_bytes(archive.read(f"{SOURCE}/LICENSE"))
        names = [mesh.attrib["file"] for mesh in ElementTree.fromstring(text).iter("mesh")]
        meshes = {name: read_obj(archive.read(f"{SOURCE}/assets/{name}").decode()) for name in names}
        share = TRIANGLES / sum(len(faces) for _, faces in meshes.values())
        for name, (vertices, faces) in meshes.items():
            count = min(max(round(share * len(faces)), FEWEST), len(faces))
            small = fast_simplification.simplify(vertices, faces, target_count=count)
            (FOLDER / name).with_suffix(".stl").write_bytes(stl(small[0], small[1]))
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    print(f"{FOLDER}: {len(names)} meshes, {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
