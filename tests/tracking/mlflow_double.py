"""A double of MLflow's server, over HTTP: keeps runs in memory, and fails as it is told to."""

import base64
import json
import threading
import time
import urllib.parse
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"


class RefusedError(Exception):
    """An answer other than 200: status, MLflow's error code, message."""


class MlflowDouble:
    """What a server holds, the requests that reached it, and the trouble it makes.

    ``trouble(name, body)`` is asked before each request: None to serve it, an HTTP status to
    answer with that, "hang" to keep it waiting, "lost" to serve it and close the line, "late" to
    serve it after its sender has given up.
    """

    def __init__(self, login=None):
        self.login = login
        self.experiments = {}
        self.runs = {}
        self.deleted = set()
        self.artifacts = {}
        self.requests = []
        self.trouble = lambda name, body: None
        self._lock = threading.Lock()
        self._going_on = threading.Event()

    def free(self):
        """Let go of what hangs."""
        self._going_on.set()

    def serve(self, name, body):
        with self._lock:
            handler = getattr(self, "_" + name.replace("/", "_").replace("-", "_"), None)
            if handler is None:
                raise RefusedError(404, "ENDPOINT_NOT_FOUND", name)
            return handler(body) or {}

    # What a study is, for comparisons: ids that differ between servers left out.

    def snapshot(self, *, probes=False):
        """Every run by its trial's id (the study's under ""), all of it but its id and URI."""
        found = {}
        for run_id, run in self.runs.items():
            if run_id in self.deleted:
                continue
            tags = dict(run["tags"])
            above = self.runs.get(tags.get("mlflow.parentRunId"))
            if above is not None:
                tags["mlflow.parentRunId"] = above["tags"].get("esam_tune.trial_id", "")
            if not probes:
                tags.pop("esam_tune.last_trouble", None)
            tags = {key: value.replace(run_id, "ID") for key, value in tags.items()}
            key = tags.get("esam_tune.trial_id", "")
            assert key not in found, f"{key!r} twice"
            found[key] = {
                "name": run["name"],
                "status": run["status"],
                "tags": tags,
                "params": run["params"],
                "metrics": sorted(run["metrics"]),
                "inputs": run["inputs"],
                "artifacts": sorted(
                    path.rpartition("/")[2] for path in self.artifacts if run_id in path
                ),
            }
        return found

    def _experiments_get_by_name(self, body):
        if body["experiment_name"] not in self.experiments:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", "no such experiment")
        return {"experiment": self.experiments[body["experiment_name"]]}

    def _experiments_create(self, body):
        made = {
            "experiment_id": "1",
            "name": body["name"],
            "artifact_location": "mlflow-artifacts:/1",
            "lifecycle_stage": "active",
        }
        self.experiments[body["name"]] = made
        return {"experiment_id": "1"}

    def _runs_create(self, body):
        # MLflow's client remembers by a run's id where its artifacts go.
        run_id = uuid.uuid4().hex
        self.runs[run_id] = {
            "name": body["run_name"],
            "status": "RUNNING",
            "start": body["start_time"],
            "end": None,
            "tags": {tag["key"]: tag["value"] for tag in body.get("tags", [])},
            "params": {},
            "metrics": set(),
            "inputs": [],
        }
        return {"run": self._document(run_id)}

    def _runs_get(self, body):
        return {"run": self._document(self._known(body))}

    def _runs_update(self, body):
        run = self.runs[self._active(body)]
        run["status"] = body.get("status", run["status"])
        run["end"] = body.get("end_time", run["end"])
        return {"run_info": self._document(body["run_id"])["info"]}

    def _runs_delete(self, body):
        self.deleted.add(self._known(body))

    def _runs_set_tag(self, body):
        self.runs[self._active(body)]["tags"][body["key"]] = body["value"]

    def _runs_delete_tag(self, body):
        if self.runs[self._active(body)]["tags"].pop(body["key"], None) is None:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", "no such tag")

    def _runs_log_batch(self, body):
        run = self.runs[self._active(body)]
        for metric in body.get("metrics", []):
            run["metrics"].add(
                (metric["key"], int(metric["step"]), metric["value"], int(metric["timestamp"]))
            )
        for param in body.get("params", []):
            if run["params"].setdefault(param["key"], param["value"]) != param["value"]:
                raise RefusedError(400, "INVALID_PARAMETER_VALUE", f"{param['key']} changed")
        run["tags"] |= {tag["key"]: tag["value"] for tag in body.get("tags", [])}

    def _runs_log_inputs(self, body):
        run = self.runs[self._active(body)]
        run["inputs"] += [item for item in body["datasets"] if item not in run["inputs"]]

    def _runs_search(self, body):
        _, _, wanted = body["filter"].partition(" = ")
        found = [
            self._document(run_id)
            for run_id, run in self.runs.items()
            if wanted.strip("'") == run["tags"].get("esam_tune.study_id")
            and run_id not in self.deleted
        ]
        return {"runs": found}

    def _known(self, body):
        run_id = body.get("run_id") or body.get("run_uuid")
        if run_id not in self.runs:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST", f"no run {run_id}")
        return run_id

    def _active(self, body):
        run_id = self._known(body)
        if run_id in self.deleted:
            raise RefusedError(
                400, "INVALID_PARAMETER_VALUE", "The run must be in the 'active' state."
            )
        return run_id

    def _document(self, run_id):
        run = self.runs[run_id]
        return {
            "info": {
                "run_id": run_id,
                "run_uuid": run_id,
                "experiment_id": "1",
                "run_name": run["name"],
                "status": run["status"],
                "start_time": run["start"],
                "artifact_uri": f"mlflow-artifacts:/1/{run_id}/artifacts",
                "lifecycle_stage": "deleted" if run_id in self.deleted else "active",
            },
            "data": {"tags": [{"key": k, "value": v} for k, v in run["tags"].items()]},
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self._serve()

    def do_POST(self):
        self._serve()

    def do_PUT(self):
        self._serve()

    def _serve(self):
        double = self.server.double
        parts = urllib.parse.urlsplit(self.path)
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if double.login is not None:
            wanted = "Basic " + base64.b64encode(double.login.encode()).decode()
            if self.headers.get("Authorization") != wanted and parts.path != "/health":
                return self._answer(401, {"error_code": "UNAUTHENTICATED", "message": "who?"})
        if parts.path == "/health":
            return self._answer(200, {})
        if parts.path.startswith(ARTIFACTS):
            name, body = "artifact", {"path": parts.path.removeprefix(ARTIFACTS)}
        elif parts.path.startswith(API):
            name = parts.path.removeprefix(API)
            body = json.loads(sent) if sent else dict(urllib.parse.parse_qsl(parts.query))
        else:
            return self._answer(404, {"error_code": "ENDPOINT_NOT_FOUND", "message": parts.path})
        trouble = double.trouble(name, body)
        if isinstance(trouble, int):
            code = "INTERNAL_ERROR" if trouble >= 500 else "INVALID_PARAMETER_VALUE"
            return self._answer(trouble, {"error_code": code, "message": "made trouble"})
        if trouble in ("hang", "late"):
            double._going_on.wait(30)
            if trouble == "hang":
                self.close_connection = True
                return None
        double.requests.append(name)
        try:
            if name == "artifact":
                double.artifacts[body["path"]] = sent
                made = {}
            else:
                made = double.serve(name, body)
        except RefusedError as error:
            status, code, message = error.args
            return self._answer(status, {"error_code": code, "message": message})
        if trouble in ("lost", "late"):
            self.close_connection = True
            return None
        return self._answer(200, made)

    def _answer(self, status, document):
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A sender that has given up is no error here."""


@contextmanager
def serving(double, port=0):
    """Serve on the loopback; the address, with the login that it asks for."""
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.double = double
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        login = "" if double.login is None else f"{double.login}@"
        try:
            yield f"http://{login}127.0.0.1:{server.server_port}"
        finally:
            double.free()
            server.shutdown()
            thread.join()


def wait_until(true, seconds=120.0):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
