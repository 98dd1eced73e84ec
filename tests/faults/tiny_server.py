"""Stands in for the single-user server where a test starts hundreds: it answers at once, says
which workload it is, and needs 10 MB. The container around it, its GPUs and limits are real."""

import http.server
import os

VERSION = os.environ.get("DCLOUD_TINY_VERSION", "6.1.1")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ.get("DCLOUD_WORKLOAD", "").encode()
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", VERSION)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", 8888), Handler).serve_forever()
