"""A hub on loopback: the few addresses that huggingface_hub asks for a model, served from folders."""

from __future__ import annotations

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class LoopbackHub:
    """Repositories by name, each a folder and its newest commit. Use as a context manager; ``url`` is for HF_ENDPOINT.

    cut: file name -> bytes after which the connection is dropped, once. damaged: names of files that arrive with a
    wrong byte. older: commits that are still served. downloads: (name, first byte) of every file sent.
    """

    def __init__(self, repositories: dict[str, tuple[Path, str]]):
        self.repositories = repositories
        self.cut: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.older: set[str] = set()
        self.downloads: list[tuple[str, int]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if match := re.fullmatch(r"/api/models/([^/?]+/[^/?]+)(?:/revision/([^/?]+))?(\?.*)?", self.path):
            self._model_info(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/?]+/[^/?]+)/tree/([^/?]+)(\?.*)?", self.path):
            self._tree(match[1], match[2])
        else:
            self._file(with_body=True)

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def _model_info(self, name: str, revision: str | None) -> None:
        if name not in self.hub.repositories:
            return self._error(404, "RepoNotFound")
        folder, commit = self.hub.repositories[name]
        if revision not in (None, "main", commit, *self.hub.older):
            return self._error(404, "RevisionNotFound")
        siblings = []
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            data = file.read_bytes()
            entry = {"rfilename": str(file.relative_to(folder)), "size": len(data), "blobId": "0" * 40}
            if file.suffix in (".bin", ".safetensors", ".model"):
                entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
            siblings.append(entry)
        commit = revision if revision in self.hub.older else commit
        content = {"_id": "0", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
        self._send(200, json.dumps({**content, "private": False, "downloads": 0}).encode(), {})

    def _tree(self, name: str, revision: str) -> None:
        if name not in self.hub.repositories:
            return self._error(404, "RepoNotFound")
        folder, commit = self.hub.repositories[name]
        if revision not in ("main", commit, *self.hub.older):
            return self._error(404, "RevisionNotFound")
        entries = []
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            data = file.read_bytes()
            entry = {"type": "file", "path": str(file.relative_to(folder)), "size": len(data), "oid": "0" * 40}
            if file.suffix in (".bin", ".safetensors", ".model"):
                entry["lfs"] = {"size": len(data), "oid": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
            entries.append(entry)
        self._send(200, json.dumps(entries).encode(), {})

    def _file(self, *, with_body: bool) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(\?.*)?", self.path)
        if match is None or match[1] not in self.hub.repositories:
            return self._error(404, "RepoNotFound")
        folder, commit = self.hub.repositories[match[1]]
        file = folder / match[3]
        if not file.is_file() or match[2] not in ("main", commit, *self.hub.older):
            return self._error(404, "EntryNotFound")
        commit = match[2] if match[2] in self.hub.older else commit
        data = file.read_bytes()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if not with_body:
            return self._send(200, data, headers, with_body=False)
        begin = int(re.match(r"bytes=(\d+)", self.headers.get("Range", "bytes=0"))[1])
        self.hub.downloads.append((match[3], begin))
        if match[3] in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self._send(206 if begin else 200, data[begin:], headers, cut=self.hub.cut.pop(match[3], None))

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def log_message(self, *_: object) -> None:
        pass
