"""A server that speaks what is used of the Hugging Face hub's protocol, for tests: commits, large files ..."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Files = dict[str, bytes]


@dataclass
class Repository:
    """One model of the hub.

    Attributes:
        private: whether a token is needed to read it.
        commits: the files of each, by its hash.
        branches: the newest commit of each.
    """

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        """Add a commit that holds these files; returns its hash."""
        names = json.dumps([branch, len(self.commits), sorted(files)]).encode()
        oid = hashlib.sha1(names + b"".join(files.values())).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def files(self, revision: str) -> tuple[str, Files] | None:
        """The commit that a branch or a hash names, and its files."""
        oid = self.branches.get(revision, revision)
        return (oid, self.commits[oid]) if oid in self.commits else None


class Hub(ThreadingHTTPServer):
    """The server, and what tests set and look at.

    Attributes:
        repositories: by "owner/name".
        writers, readers: the tokens of those who may write, and of those who may read what is private.
        large: what was uploaded as large files, by its SHA-256.
        cut: the name of a file whose next download breaks off in the middle.
        log: "METHOD path" of each request, with the range that was asked for.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.writers, self.readers = {"hf_writer"}, {"hf_writer", "hf_reader"}
        self.large: dict[str, bytes] = {}
        self.cut = ""
        self.log: list[str] = []


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    do_GET = do_POST = do_PUT = do_HEAD

    def answer(self) -> None:
        self.path, _, _ = self.path.partition("?")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self.read_chunks()
        asked = self.headers.get("Range", "")
        self.server.log.append(f"{self.command} {self.path} {asked}".strip())
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, self.path)
            if match and self.command in method.split("|"):
                action(self, *match.groups())
                return
        self.send(404, {"error": f"no route {self.command} {self.path}"})

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, code: int, content: object = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, code: int, error: str) -> None:
        self.send(code, {"error": error}, X_Error_Code=error, X_Error_Message=error)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def readable(self, name: str) -> Repository | None:
        """The repository, if there is one and it may be read; else the answer that the hub gives is sent."""
        repository = self.server.repositories.get(name)
        if repository and (not repository.private or self.token in self.server.readers):
            return repository
        # As the hub: whether it is private or missing is not told to strangers.
        self.refuse(404 if self.token in self.server.readers else 401, "RepoNotFound")
        return None

    def writable(self) -> bool:
        if self.token in self.server.writers:
            return True
        self.refuse(403 if self.token else 401, "Forbidden")
        return False

    def root(self) -> None:
        self.send(200)

    def validate_card(self) -> None:
        self.send(200, {"errors": [], "warnings": []})

    def create(self) -> None:
        if not self.writable():
            return
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("private") is True or asked.get("visibility") == "private"
        is_new = name not in self.server.repositories
        if is_new:
            self.server.repositories[name] = Repository(private)
            self.server.repositories[name].commit("main", {".gitattributes": b""})
        self.send(200 if is_new else 409, {"url": f"{self.server.url}/{name}", "error": "exists"})

    def create_branch(self, name: str, branch: str) -> None:
        repository = self.server.repositories[name]
        if self.writable():
            is_new = branch not in repository.branches
            repository.branches.setdefault(branch, repository.branches["main"])
            self.send(200 if is_new else 409, {})

    def info(self, name: str, revision: str | None) -> None:
        if not (repository := self.readable(name)):
            return
        if not (found := repository.files(revision or "main")):
            return self.refuse(404, "RevisionNotFound")
        files = [{"rfilename": file} for file in found[1]]
        self.send(200, {"id": name, "sha": found[0], "siblings": files, "tags": [], "private": repository.private})

    def tree(self, name: str, revision: str) -> None:
        if (repository := self.readable(name)) and (found := repository.files(revision)):
            entries = [{"type": "file", "path": f, "size": len(d), "oid": _git(d)} for f, d in found[1].items()]
            self.send(200, entries)

    def preupload(self, name: str, revision: str) -> None:
        if self.writable():
            files = json.loads(self.body)["files"]
            modes = {f["path"]: "lfs" if f["path"].endswith(".safetensors") else "regular" for f in files}
            self.send(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})

    def batch(self, name: str) -> None:
        if self.writable():
            objects = json.loads(self.body)["objects"]
            for one in objects:
                if one["oid"] not in self.server.large:
                    one["actions"] = {"upload": {"href": f"{self.server.url}/upload/{one['oid']}", "header": {}}}
            self.send(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        fits = hashlib.sha256(self.body).hexdigest() == oid
        if fits:
            self.server.large[oid] = self.body
        self.send(200 if fits else 400)

    def commit(self, name: str, branch: str) -> None:
        if not self.writable():
            return
        repository = self.server.repositories[name]
        files = dict(repository.files(branch)[1])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
        oid = repository.commit(branch, files)
        self.send(200, {"commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}", "hookOutput": ""})

    def resolve(self, name: str, revision: str, file: str) -> None:
        if not (repository := self.readable(name)):
            return
        if not (found := repository.files(revision)):
            return self.refuse(404, "RevisionNotFound")
        oid, files = found
        if file not in files:
            return self.refuse(404, "EntryNotFound")
        data = files[file]
        is_large = file.endswith(".safetensors")
        etag = hashlib.sha256(data).hexdigest() if is_large else _git(data)
        headers = {"X_Repo_Commit": oid, "ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        if is_large:
            headers |= {"X_Linked_Etag": f'"{etag}"', "X_Linked_Size": str(len(data))}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if asked:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and self.server.cut == file:
            self.server.cut = ""
            return self.break_off(data, headers)
        self.send(206 if asked else 200, data[start:], **headers)

    def break_off(self, data: bytes, headers: dict[str, str]) -> None:
        """Promise all of a file, send half of it, and hang up."""
        self.send_response(200)
        for name, value in {**headers, "Content_Length": str(len(data))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True


def _git(data: bytes) -> str:
    """The name that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    ("GET|HEAD", "/?", _Handler.root),
    ("POST", "/api/validate-yaml", _Handler.validate_card),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", rf"/api/models/{_NAME}/branch/([\w.-]+)", _Handler.create_branch),
    ("GET", rf"/api/models/{_NAME}(?:/revision/([\w.-]+))?", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/tree/([\w.-]+)", _Handler.tree),
    ("POST", rf"/api/models/{_NAME}/preupload/([\w.-]+)", _Handler.preupload),
    ("POST", rf"/api/models/{_NAME}/commit/([\w.-]+)", _Handler.commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/upload/(\w+)", _Handler.upload),
    ("GET|HEAD", rf"/{_NAME}/resolve/([\w.-]+)/([\w.-]+)", _Handler.resolve),
)
