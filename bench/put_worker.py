"""What ``dcloud data put`` does in a process of its own, as boto3 has one: one order a line on
stdin, its seconds on stdout. Run by :mod:`bench.dataset_upload`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from hub_services.data_client.platform import Access, Platform
from hub_services.data_client.progress import Progress
from hub_services.data_client.putting import Put, local_files


def main() -> None:
    access = json.loads(sys.stdin.readline())
    platform = Platform(Access(access["api"], access["token"]))
    for line in sys.stdin:
        order = json.loads(line)
        began = time.perf_counter()
        files = local_files([Path(order["path"])], order["into"])
        size = sum(file.size_bytes for file in files)
        put = Put(platform, order["dataset"], Progress("", len(files), size, quiet=True), 10)
        put.run(files)
        seconds = time.perf_counter() - began
        assert not put.failed, put.failed
        print(json.dumps({"seconds": seconds}), flush=True)


main()
