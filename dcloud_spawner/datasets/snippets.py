"""How to read a version by S3 from a notebook: lines that work as they are in a server that has
the dataset. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dcloud_spawner.storage import keys


@dataclass(frozen=True)
class Snippet:
    """A few lines for one library."""

    name: str
    language: str
    """python or bash."""
    code: str


def snippets(bucket: str, dataset: str, version: str) -> tuple[Snippet, ...]:
    """For a version by its ids. What it prints first is its list of files."""
    prefix = keys.version_prefix(dataset, version)
    address = f"s3://{bucket}/{prefix}"
    return (
        Snippet(
            "boto3",
            "python",
            "import boto3\n\n"
            's3 = boto3.client("s3")\n'
            f'bucket, prefix = "{bucket}", "{prefix}"\n'
            "for page in s3.get_paginator("
            '"list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):\n'
            '    for item in page.get("Contents", []):\n'
            '        print(item["Key"].removeprefix(prefix), item["Size"])',
        ),
        Snippet(
            "aws",
            "bash",
            f'aws s3 ls --recursive "{address}"\naws s3 cp --recursive "{address}" ./data/',
        ),
        Snippet(
            "s3fs",
            "python",
            "import s3fs\n\n"
            "files = s3fs.S3FileSystem()\n"
            f'print(files.find("{address}"))\n'
            f'# pandas reads there too: pandas.read_csv("{address}FILE.csv")',
        ),
        Snippet(
            "minio-py",
            "python",
            "import dcloud_storage\n\n"
            "client = dcloud_storage.minio()\n"
            f'for item in client.list_objects("{bucket}", prefix="{prefix}", recursive=True):\n'
            "    print(item.object_name, item.size)",
        ),
    )
