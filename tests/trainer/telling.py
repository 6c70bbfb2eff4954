"""A tracker that writes what it is told into the file that NOTES names: for processes of their own, and killed ones."""

from __future__ import annotations

NOTES = """
import json, os
from hftrain.plugin_api.tracker import Tracker

class Plugin(Tracker):
    api, requires, extra = 1, (), ""

    def _note(self, *row):
        with open(os.environ["NOTES"], "a") as file:
            file.write(json.dumps(row) + "\\\\n")

    def start(self, run):
        self._note("start", run.remote_id, run.resumed_step, run.run_id, repr(run))
        return run.remote_id or "remote-" + run.run_id

    def log(self, metrics, step):
        self._note("log", step, dict(metrics))

    def finish(self, status, error):
        self._note("finish", status, error)
""".replace("\\\\", "\\")
