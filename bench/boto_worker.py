"""What boto3 does in an environment of its own: one order a line on stdin, its seconds on stdout.

Run by :mod:`bench.boto_peer`; imports nothing of DCloud.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

CHUNK_BYTES = 1 << 20


def main() -> None:
    access = json.loads(sys.stdin.readline())
    bucket = access.pop("bucket")
    threads = access.pop("threads")
    client = boto3.client("s3", config=Config(max_pool_connections=threads), **access)
    client.list_buckets()

    def read(key: str) -> int:
        """As a program reads that goes through an object once."""
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        return sum(len(data) for data in iter(lambda: body.read(CHUNK_BYTES), b""))

    def read_many(keys: list[str]) -> int:
        with ThreadPoolExecutor(threads) as pool:
            one = lambda key: len(client.get_object(Bucket=bucket, Key=key)["Body"].read())  # noqa: E731
            return sum(pool.map(one, keys))

    def upload(path: str, key: str) -> int:
        client.upload_file(path, bucket, key)
        return os.path.getsize(path)

    acts = {"read": read, "read_many": read_many, "upload": upload}
    for line in sys.stdin:
        order = json.loads(line)
        began = time.perf_counter()
        size = acts[order.pop("act")](**order)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "bytes": size}), flush=True)


main()
