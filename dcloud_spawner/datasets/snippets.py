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
    """For a version by its ids. Its files are listed by its manifest, which every storage gives;
    ``PATH`` stands for one of them."""
    prefix = keys.version_prefix(dataset, version)
    manifest = keys.manifest_key(dataset, version)
    address = f"s3://{bucket}/{prefix}"
    return (
        Snippet(
            "boto3",
            "python",
            "import json\n\nimport boto3\n\n"
            's3 = boto3.client("s3")\n'
            f'bucket, prefix = "{bucket}", "{prefix}"\n'
            f'manifest = s3.get_object(Bucket=bucket, Key="{manifest}")["Body"]\n'
            "for line in manifest.iter_lines():\n"
            "    file = json.loads(line)\n"
            '    print(file["path"], file["size"])\n'
            's3.download_file(bucket, prefix + file["path"], "copy")',
        ),
        Snippet(
            "aws",
            "bash",
            f'aws s3 cp "s3://{bucket}/{manifest}" -\naws s3 cp "{address}PATH" .',
        ),
        Snippet(
            "s3fs",
            "python",
            "import pandas\nimport s3fs\n\n"
            f'table = pandas.read_csv("{address}PATH")\n'
            f'with s3fs.S3FileSystem().open("{address}PATH") as file:\n'
            "    head = file.read(100)",
        ),
        Snippet(
            "minio-py",
            "python",
            "import dcloud_storage\n\n"
            "client = dcloud_storage.minio()\n"
            f'client.fget_object("{bucket}", "{prefix}PATH", "copy")',
        ),
    )
