"""Stands in for the single-user server: it answers, and leaves its own token where the test finds
it. The hub, its roles and that token are real."""

import http.server
import os
import pathlib
from urllib.parse import urlsplit

ADDRESS = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


name = f"{os.environ['JUPYTERHUB_USER']}.{os.environ.get('JUPYTERHUB_SERVER_NAME', '')}.token"
draft = pathlib.Path(os.environ["DCLOUD_TEST_TOKENS"]) / f".{name}"
draft.write_text(os.environ["JUPYTERHUB_API_TOKEN"])
draft.rename(draft.with_name(name))
http.server.ThreadingHTTPServer((ADDRESS.hostname, ADDRESS.port), Handler).serve_forever()
