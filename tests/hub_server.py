"""A Hub on this machine: the upload routes of the Hub's API over a git repository, and olah, which serves the same repository for downloads.

olah reads a local mirror as the Hub answers it. What it does not have stands here: making a repository, asking how files are uploaded, LFS
objects, commits and tags, and errors of the form that the Hub's client knows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

TOKEN = "hf_writes_here"
IDENTITY = {
    f"GIT_{who}_{what}": f"tester{'@example.org' if what == 'EMAIL' else ''}"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
LARGE = 1_000_000


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, env={**os.environ, **IDENTITY}
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


NAME = r"([\w.-]+/[\w.-]+)"


class LocalHub:
    """Both servers over ``folder``; ``endpoint`` is what HF_ENDPOINT must be.

    Attributes:
        requests: method and path of every request.
        cut: bytes of a body after which the connection breaks; None sends all of it.
        spoil: name of a file whose last byte arrives changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests, self.cut, self.spoil = folder, [], None, None
        self.private: dict[str, bool] = {}
        self.objects = folder / "objects"
        self.objects.mkdir(parents=True)
        olah_port = free_port()
        self.olah = f"http://127.0.0.1:{olah_port}"
        (folder / "olah.toml").write_text(
            f'[basic]\nhost = "127.0.0.1"\nport = {olah_port}\nrepos-path = "{folder}/cache"\nmirrors-path = ["{folder}/mirrors"]\n'
            "[accessibility]\noffline = true\n"
        )
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "olah-cli"), "-c", str(folder / "olah.toml"), "--log-path", str(folder / "logs")],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(150):
            try:
                socket.create_connection(("127.0.0.1", olah_port), 0.2).close()
                break
            except OSError:
                time.sleep(0.2)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Routes", (Routes,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def repository(self, name: str) -> Path:
        return self.folder / "mirrors" / "models" / name

    def stop(self) -> None:
        self.server.shutdown()
        self.process.terminate()
        self.process.wait(20)


class Routes(BaseHTTPRequestHandler):
    """What the Hub's client calls when it uploads; everything else is olah's to answer."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    def _route(self, method: str) -> None:
        path, self.sent = self.path.split("?")[0], b""
        self.hub.requests.append((method, path))
        if method in ("POST", "PUT"):
            self.sent = self._body()
        for verb, pattern, answer in ROUTES:
            if verb == method and (found := re.fullmatch(pattern, path)):
                if method != "PUT" and method != "GET" and self.headers.get("authorization") != f"Bearer {TOKEN}":
                    return self._json(401, {"error": "Invalid credentials in Authorization header"})
                return answer(self, *found.groups())
        if asked := re.fullmatch(rf"/{NAME}/resolve/([^/]+)/(.*)", path):
            name, revision, file = asked.groups()
            if self.hub.repository(name).is_dir():  # of another one olah says itself that it is not there
                if not self._commit_of(name, revision):
                    return self._json(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
                if file not in git(self.hub.repository(name), "ls-tree", "-r", "--name-only", revision).splitlines():
                    return self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        return self._from_olah(method)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _json(self, status: int, value, headers: dict | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, one in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, one)
        if status >= 400:
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _from_olah(self, method: str) -> None:
        request = urllib.request.Request(self.hub.olah + self.path, method=method)
        for key in ("Range", "User-Agent"):
            if key in self.headers:
                request.add_header(key, self.headers[key])
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        body = b"" if method == "HEAD" else answer.read()
        if self.hub.spoil and self.path.endswith(self.hub.spoil) and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status, total = answer.status, len(body)
        if wanted and method == "GET" and status == 200:  # olah streams a local mirror whole; the Hub answers ranges
            status, body = 206, body[int(wanted[1]) :]
        self.send_response(status)
        for key, one in answer.headers.items():
            if key.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(key, one)
        if status == 206 and wanted:
            self.send_header("Content-Range", f"bytes {wanted[1]}-{total - 1}/{total}")
        length = answer.headers.get("content-length", "0") if method == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if method == "HEAD":
            return
        if self.hub.cut is not None and len(body) > self.hub.cut:
            self.wfile.write(body[: self.hub.cut])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(body)

    def _commit_of(self, name: str, revision: str) -> str | None:
        try:
            return git(self.hub.repository(name), "rev-parse", "--verify", f"{revision}^{{commit}}")
        except RuntimeError:
            return None

    def validate_yaml(self) -> None:
        try:
            front = yaml.safe_load(json.loads(self.sent)["content"].split("---")[1])
            problems = [] if front["license"] in ("apache-2.0", "mit", "cc-by-4.0") else ["license must be a known identifier"]
            problems += [
                f"{key} must be a list" for key in ("tags", "datasets", "metrics") if not isinstance(front.get(key, []), list)
            ]
            for model in front.get("model-index", []):
                problems += [
                    f"{key} is missing"
                    for result in model["results"]
                    for key in ("task", "dataset", "metrics")
                    if key not in result
                ]
        except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
            problems = [str(error)]
        self._json(
            400 if problems else 200, {"errors": [{"message": m} for m in problems], "warnings": [], "error": "; ".join(problems)}
        )

    def create(self) -> None:
        asked = json.loads(self.sent)
        name = f"{asked['organization']}/{asked['name']}"
        folder = self.hub.repository(name)
        if folder.exists():
            return self._json(409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{name}"})
        folder.mkdir(parents=True)
        git(folder, "init", "-q", "-b", "main")
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        git(folder, "add", "-A")
        git(folder, "-c", "filter.lfs.required=false", "commit", "-qm", "initial commit")
        self.hub.private[name] = asked.get("private", asked.get("visibility") == "private")
        self._json(200, {"url": f"{self.hub.endpoint}/{name}"})

    def model(self, name: str) -> None:
        if not self.hub.repository(name).is_dir():
            return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        commit = self._commit_of(name, "main")
        self._json(
            200,
            {"id": name, "modelId": name, "sha": commit, "private": self.hub.private.get(name, False), "siblings": [], "tags": []},
        )

    def preupload(self, name: str, revision: str) -> None:
        def told(file: dict) -> dict:
            mode, here = "lfs" if file["size"] > LARGE else "regular", self.hub.repository(name) / file["path"]
            oid = None  # of what is there already, so that the client leaves it out of the commit
            if here.is_file():
                content = here.read_bytes()
                oid = (
                    hashlib.sha256(content).hexdigest()
                    if mode == "lfs"
                    else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                )
            return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        self._json(200, {"files": [told(file) for file in json.loads(self.sent)["files"]]})

    def batch(self, name: str) -> None:
        found = []
        for one in json.loads(self.sent)["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if not (self.hub.objects / one["oid"]).is_file():
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.endpoint}/put/{one['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/verify"},
                }
            found.append(entry)
        self._json(200, {"transfer": "basic", "objects": found})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.sent).hexdigest() != oid:
            return self._json(400, {"error": "the content is not the object's"})
        (self.hub.objects / oid).write_bytes(self.sent)
        self._json(200, {})

    def verified(self) -> None:
        asked = json.loads(self.sent)
        path = self.hub.objects / asked["oid"]
        good = path.is_file() and path.stat().st_size == asked["size"]
        self._json(200 if good else 404, {"error": "no such object"})

    def commit(self, name: str, revision: str) -> None:
        folder, summary = self.hub.repository(name), ""
        for line in filter(None, self.sent.split(b"\n")):
            step = json.loads(line)
            key, value = step["key"], step["value"]
            if key == "header":
                summary = value["summary"]
                continue
            path = folder / value["path"]
            if key == "deletedFile":
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if key == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            else:
                shutil.copyfile(self.hub.objects / value["oid"], path)
        git(folder, "add", "-A", "--force")
        git(folder, "commit", "-qm", summary)
        self._json(
            200,
            {"success": True, "commitOid": self._commit_of(name, "main"), "commitUrl": f"{self.hub.endpoint}/{name}/commit/main"},
        )

    def tag(self, name: str, revision: str) -> None:
        tag = json.loads(self.sent)["tag"]
        if self._commit_of(name, f"refs/tags/{tag}"):
            return self._json(409, {"error": "Tag already exists"})
        git(self.hub.repository(name), "tag", tag, revision)
        self._json(201, {})

    def untag(self, name: str, tag: str) -> None:
        git(self.hub.repository(name), "tag", "-d", tag)
        self._json(200, {})


ROUTES = [
    ("POST", "/api/validate-yaml", Routes.validate_yaml),
    ("POST", "/api/repos/create", Routes.create),
    ("GET", f"/api/models/{NAME}", Routes.model),
    ("POST", f"/api/models/{NAME}/preupload/([^/]+)", Routes.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Routes.batch),
    ("PUT", "/put/([0-9a-f]{64})", Routes.put),
    ("POST", "/verify", Routes.verified),
    ("POST", f"/api/models/{NAME}/commit/([^/]+)", Routes.commit),
    ("POST", f"/api/models/{NAME}/tag/([^/]+)", Routes.tag),
    ("DELETE", f"/api/models/{NAME}/tag/([^/]+)", Routes.untag),
]
