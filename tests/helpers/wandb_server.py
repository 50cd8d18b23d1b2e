"""A small stand-in for W&B's API on this machine: what the real client needs to upload runs,
tables and a report, and the troubles a network has. It holds what it was sent, for tests to read.

It answers what wandb 0.31 asks (GraphQL, file stream, uploads); of W&B's rules it keeps two: a run
of the same id is the same run, whose file stream is written over from the offset that a client
names; a view of the same id is the same report.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "someone"
#: What requests that meet with trouble are answered.
STATUS = {"refuse": 401, "broken": 500, "no files": 403}
#: A key that has the form of W&B's and opens nothing.
KEY = "planted0key0" + "0123456789" * 3


class WandbServer:
    """W&B's API at `url` until `stop`; `trouble` is met with by each request.

    trouble: None, "refuse" (401), "broken" (500), "slow" (answers after `delay_s`), "drop" (the
    connection is closed) or "no files" (403 for these alone). `trouble_after`: requests that are
    still answered well.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        #: Bodies and paths of all requests, and the values of their headers but `Authorization`.
        self.received: list[bytes] = []
        self.trouble: str | None = None
        self.trouble_after = 0
        self.delay_s = 1.0
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def summary(self, run: str) -> dict[str, Any]:
        """Last summary that a run sent, without the client's own keys."""
        lines = self.runs[run]["stream"].get("wandb-summary.json", {})
        found = json.loads(lines[max(lines)]) if lines else {}
        return {key: value for key, value in found.items() if not key.startswith("_")}

    def history(self, run: str) -> list[dict[str, Any]]:
        """Rows of a run's history."""
        lines = self.runs[run]["stream"].get("wandb-history.jsonl", {})
        return [json.loads(lines[key]) for key in sorted(lines)]

    def config(self, run: str) -> dict[str, Any]:
        """Config of a run."""
        found = json.loads(self.runs[run]["config"] or "{}")
        return {key: value["value"] for key, value in found.items() if key != "_wandb"}

    def answer(self, name: str, variables: dict[str, Any], query: str) -> dict[str, Any]:
        """What a GraphQL operation of this name is answered."""
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "UpsertBucket": self._upsert_run,
            "RunResumeStatus": self._resume_status,
            "CreateRunFiles": self._run_files,
            "CreateArtifact": self._artifact,
            "CreateArtifactManifest": self._manifest,
            "CreateArtifactFiles": self._artifact_files,
            "CommitArtifact": self._commit,
            "upsertView": self._upsert_report,
        }
        if name in answers:
            return answers[name](variables)
        viewer = {"id": "user", "entity": ENTITY, "username": ENTITY, "flags": "{}"}
        viewer |= {"teams": {"edges": []}, "email": "", "name": ENTITY, "admin": False}
        project = {"id": "project", "internalId": "1", "name": variables.get("projectName")}
        projects = [
            {"__typename": "Project", "id": name, "name": name, "entityName": ENTITY}
            | {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}
            for name in {run["project"] for run in self.runs.values()}
        ]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        edges = [{"node": node} for node in projects]
        plain: dict[str, dict[str, Any]] = {
            "Viewer": {"viewer": viewer},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "ProjectInternalId": {"project": project},
            "GetDefaultEntity": {"viewer": viewer},
            "GetProjects": {"models": {"pageInfo": page, "edges": edges}},
            "ArtifactType": {"project": None},
            "UseArtifact": {"useArtifact": {"artifact": {"id": "artifact"}}},
        }
        return plain.get(name, {})

    def _upsert_run(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        new = name not in self.runs
        run = self.runs.setdefault(name, {"stream": {}, "complete": False})
        run |= {key: value for key, value in variables.items() if value is not None}
        run.setdefault("config", None)
        entity = {"id": "entity", "name": run.get("entity") or ENTITY}
        project = {"id": "project", "name": run["project"], "entity": entity}
        shown = {"displayName": run.get("displayName"), "description": "", "sweepName": None}
        bucket = {"id": name, "name": name, "config": run["config"], "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket | shown | {"project": project}, "inserted": new}}

    def _resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "entity", "name": ENTITY}
        return {"model": {"id": "1", "name": "vtexp", "entity": entity, "bucket": None}}

    def _run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [self._upload_to(f"{variables['run']}/{name}", name) for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def _upload_to(self, path: str, name: str) -> dict[str, Any]:
        return {"name": name, "uploadUrl": f"{self.url}/upload/{path}", "uploadHeaders": []}

    def _artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        row = variables["input"]
        name = f"{row['artifactCollectionName']}-{row['digest']}"
        row |= {"state": "PENDING"}
        kept = self.artifacts.setdefault(name, row)
        sequence = {"latestArtifact": None}
        made = {"id": name, "state": kept["state"], "artifactSequence": sequence}
        return {"createArtifact": {"artifact": made}}

    def _manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = variables["artifactID"]
        file = {"id": artifact, **self._upload_to(f"manifests/{artifact}", artifact)}
        return {"createArtifactManifest": {"artifactManifest": {"id": artifact, "file": file}}}

    def _artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for wanted in variables["input"]["artifactFiles"]:
            artifact, name = wanted["artifactID"], wanted["name"]
            node = self._upload_to(f"artifacts/{artifact}/{name}", name)
            node |= {"storagePath": name, "uploadMultipartUrls": None}
            nodes.append({"node": node | {"artifact": {"id": artifact}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _commit(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[variables["artifactID"]]
        artifact["state"] = "COMMITTED"
        made = {"id": variables["artifactID"], "digest": artifact["digest"]}
        return {"commitArtifact": {"artifact": made}}

    def _upsert_report(self, variables: dict[str, Any]) -> dict[str, Any]:
        new = variables["id"] is None
        name = f"report{len(self.reports)}" if new else variables["id"]
        project = {"id": "1", "name": variables["projectName"], "entityName": ENTITY}
        keys = ("name", "displayName", "description", "spec", "type")
        view = {"id": name, "project": project, "updatedAt": None}
        view |= {key: variables[key] for key in keys}
        self.reports[name] = view
        return {"upsertView": {"view": view, "inserted": new}}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        """Take lines of a run's file stream."""
        row = self.runs[run]
        for name, part in sent.get("files", {}).items():
            lines = row["stream"].setdefault(name, {})
            for number, line in enumerate(part["content"], part["offset"]):
                lines[number] = line
        row["complete"] |= bool(sent.get("complete"))


class _Server(ThreadingHTTPServer):
    def handle_error(self, *arguments: Any) -> None:
        """A client that was killed closes its connections; so do tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WandbServer

    def do_POST(self) -> None:
        body = self._take()
        if self._in_trouble():
            return
        if self.path == "/graphql":
            sent = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
            name = sent.get("operationName") or (found[1] if found else "")
            with self.state.lock:
                self.state.asked[name] += 1
                data = self.state.answer(name, sent.get("variables") or {}, sent["query"])
            self._reply({"data": data})
        elif self.path.endswith("/file_stream"):  # /files/ENTITY/PROJECT/RUN/file_stream
            with self.state.lock:
                self.state.asked["file_stream"] += 1
                self.state.stream(self.path.split("/")[-2], json.loads(body))
            self._reply({})
        else:  # whether it knows other ways to authenticate
            self._reply({}, 404)

    def do_PUT(self) -> None:
        body = self._take()
        if self._in_trouble():
            return
        with self.state.lock:
            self.state.asked["upload"] += 1
            self.state.uploads[self.path.removeprefix("/upload/")] = body
        self._reply({})

    def do_GET(self) -> None:
        self._take()
        if not self._in_trouble():
            self._reply({})

    def _take(self) -> bytes:
        body = self._body()
        values = [v for key, v in self.headers.items() if key.lower() != "authorization"]
        with self.state.lock:
            self.state.received += [self.path.encode(), body, *(v.encode() for v in values)]
        return body

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _in_trouble(self) -> bool:
        """Whether the request met with trouble, and needs no other answer."""
        state = self.state
        with state.lock:
            state.trouble_after -= 1
            trouble = state.trouble if state.trouble_after < 0 else None
        if trouble == "slow":
            time.sleep(state.delay_s)
        elif trouble == "drop":
            self.close_connection = True
            return True
        elif trouble in STATUS and (trouble != "no files" or self.command == "PUT"):
            status = STATUS[trouble]
            self._reply({"errors": [{"message": trouble}]}, status)
            return True
        return False

    def _reply(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass
