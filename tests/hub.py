"""A dataset hub on this machine: the few calls that its library makes to publish and to fetch.

As the library speaks them: a repository is made, its card's front matter is checked, it is asked
how each file is to be sent, large ones (here: all but text) go to the storage of Git LFS, one
commit holds all; then a listing, and files by revision. What is stored lies in memory.

    python -m tests.hub        # until Ctrl-C; it says how to use it
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from sdw_core.licenses import HUB

TOKEN = "hf_of_a_test"
TEXT = (".md", ".json", ".py", ".csv")


@dataclass
class Hub:
    """What it holds, and how it misbehaves.

    Attributes:
        address: to be named in HF_ENDPOINT.
        files: `user/name` -> path -> content.
        stored: contents of large files by their SHA-256.
        asked: method and path of every call.
        failing: a call whose path this finds is answered with this status.
        spoils: the path of a file that is given back with another last byte.
    """

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    failing: tuple[str, int] | None = None
    spoils: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process uses this hub, as somebody whom it knows."""
        return {"HF_ENDPOINT": self.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}

    def sha(self, repository: str) -> str:
        """The one commit of a repository."""
        return hashlib.sha1(repr(sorted(self.files[repository].items())).encode()).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, as long as it is needed."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *said: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answered()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answered(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        call = f"{self.command} {path}"
        self.hub.asked.append(call)
        if self.hub.failing and re.search(self.hub.failing[0], call):
            return self._say(self.hub.failing[1], {"error": "as it was told to"})
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.command in ("POST", "DELETE") and path != "/api/validate-yaml" and not allowed:
            return self._say(401, {"error": "Invalid username or password."})
        for pattern, method in ROUTES.items():
            if found := re.fullmatch(pattern, call):
                return getattr(self, method)(body, *found.groups())
        return self._say(404, {"error": "Not Found"})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repository = f"{asked['organization']}/{asked['name']}"
        if repository in self.hub.files:
            return self._say(409, {"error": "You already created this dataset repo"})
        assert asked["type"] == "dataset"
        self.hub.files[repository] = {}
        return self._say(200, {"url": f"{self.hub.address}/datasets/{repository}"})

    def delete(self, body: bytes) -> None:
        asked = json.loads(body)
        del self.hub.files[f"{asked['organization']}/{asked['name']}"]
        self._say(200, {})

    def validate(self, body: bytes) -> None:
        front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        known = front["license"] in HUB or (front["license"] == "other" and front["license_name"])
        errors = [] if known else [{"message": '"license" must be one of ...'}]
        if not all(re.fullmatch(r"n<1K|\d+K<n<\d+K", each) for each in front["size_categories"]):
            errors.append({"message": '"size_categories[0]" must be one of ...'})
        self._say(400 if errors else 200, {"errors": errors, "warnings": []})

    def modes(self, body: bytes, repository: str) -> None:
        files = [
            {
                "path": each["path"],
                "uploadMode": "regular" if each["path"].endswith(TEXT) else "lfs",
                "shouldIgnore": False,
            }
            for each in json.loads(body)["files"]
        ]
        self._say(200, {"files": files})

    def batch(self, body: bytes, repository: str) -> None:
        upload = f"{self.hub.address}/storage/"
        objects = [
            each | {"actions": {"upload": {"href": upload + each["oid"]}}}
            for each in json.loads(body)["objects"]
        ]
        self._say(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.stored[oid] = body
        self._say(200, {})

    def commit(self, body: bytes, repository: str) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[repository][value["path"]] = self.hub.stored[value["oid"]]
        self.hub.files[repository][".gitattributes"] = b"* text=auto\n"  # a hub's own
        sha = self.hub.sha(repository)
        url = f"{self.hub.address}/datasets/{repository}/commit/{sha}"
        self._say(200, {"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""})

    def info(self, body: bytes, repository: str, revision: str | None = None) -> None:
        if not self._has(repository, revision):
            return
        files = self.hub.files[repository]
        siblings = [{"rfilename": name, "size": len(each)} for name, each in files.items()]
        self._say(200, {"id": repository, "sha": self.hub.sha(repository), "siblings": siblings})

    def tree(self, body: bytes, repository: str, revision: str) -> None:
        if not self._has(repository, revision):
            return
        listed = []
        for name, content in self.hub.files[repository].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            listed.append({"type": "file", "path": name, "size": len(content), "oid": blob})
        self._say(200, listed)

    def resolve(self, body: bytes, repository: str, revision: str, name: str) -> None:
        if not self._has(repository, revision):
            return
        content = self.hub.files[repository][name]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        if name == self.hub.spoils:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._say(200, content, {"X-Repo-Commit": self.hub.sha(repository), "ETag": etag})

    def _has(self, repository: str, revision: str | None) -> bool:
        if repository not in self.hub.files:
            self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return False
        if revision not in (None, "main", self.hub.sha(repository)):
            self._say(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return False
        return True

    def _say(self, status: int, said: Any, headers: dict[str, str] | None = None) -> None:
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def main() -> None:
    with serving() as hub, suppress(KeyboardInterrupt):
        print("export", *(f"{name}={value}" for name, value in hub.environment.items()), flush=True)
        Event().wait()


_NAME = r"([^/]+/[^/]+)"
ROUTES = {
    "POST /api/repos/create": "create",
    "DELETE /api/repos/delete": "delete",
    "POST /api/validate-yaml": "validate",
    f"POST /api/datasets/{_NAME}/preupload/main": "modes",
    rf"POST /datasets/{_NAME}\.git/info/lfs/objects/batch": "batch",
    "PUT /storage/(.+)": "store",
    f"POST /api/datasets/{_NAME}/commit/main": "commit",
    f"GET /api/datasets/{_NAME}": "info",
    f"GET /api/datasets/{_NAME}/revision/(.+)": "info",
    f"GET /api/datasets/{_NAME}/tree/([^/]+)": "tree",
    f"(?:GET|HEAD) /datasets/{_NAME}/resolve/([^/]+)/(.+)": "resolve",
}

if __name__ == "__main__":
    main()
