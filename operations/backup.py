"""Backups of Prometheus' data: the latest copy as one object in S3, and back."""

import hashlib
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backports.zstd import ZstdFile
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from operations import aws
from operations.snapshots import Failed, Say, is_older, lay_down, new_name, newest

PREFIX = "prometheus/"
OLDEST_H = 26
"""A daily backup of a copy that is older would say that all is well when no copies are taken."""
PART_BYTES = 64 * 1024 * 1024
_SUFFIX = ".tar.zst"
_REFUSED = (BotoCoreError, ClientError, Boto3Error)
_PARTS = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=2)


def back_up(copies: Path, bucket: str, say: Say) -> str:
    """Put the latest copy into the bucket; its key. It is there whole, with the bytes that were sent, or Failed is raised."""
    copy = newest(copies)
    if copy is None or is_older(copy, OLDEST_H):
        raise Failed(f"there is no copy of the last {OLDEST_H} hours in {copies}; the latest: {copy.name if copy else 'none'}")
    key = f"{PREFIX}{copy.name}{_SUFFIX}"
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "packed")
        try:
            with (
                ZstdFile(packed, "wb", level=1) as squeezed,
                tarfile.open(fileobj=squeezed, mode="w|") as tar,
            ):  # chunks are squeezed already
                tar.add(copy, arcname=".")
        except (OSError, tarfile.TarError) as error:
            raise Failed(f"{copy.name} could not be packed: {error}") from error
        size, checksum = packed.stat().st_size, checksum_of(packed)
        say(f"packed {copy.name}: {size / 1e6:.1f} MB")
        try:
            client = aws.client("s3")
            client.upload_file(str(packed), bucket, key, ExtraArgs={"ChecksumAlgorithm": "SHA256"}, Config=_PARTS)
            head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except _REFUSED as error:
            raise Failed(f"s3://{bucket}/{key}: {error}") from error
    if (head["ContentLength"], head.get("ChecksumSHA256", "").partition("-")[0]) != (size, checksum):
        raise Failed(
            f"s3://{bucket}/{key} is not what was sent: {head['ContentLength']} bytes, SHA-256 {head.get('ChecksumSHA256')}"
        )
    say(f"s3://{bucket}/{key} is there")
    return key


def fetch(copies: Path, bucket: str, key: str | None, say: Say) -> Path:
    """Make a copy of the latest backup, or of that with this key; Prometheus' next task restores it. Raises Failed."""
    try:
        client = aws.client("s3")
        key = key or max((one["Key"] for page in _pages(client, bucket) for one in page), default=None)
        if key is None:
            raise Failed(f"there is no backup in s3://{bucket}/{PREFIX}")
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder, "packed")
            client.download_file(bucket, key, str(packed), Config=_PARTS)
            say(f"fetched s3://{bucket}/{key}: {packed.stat().st_size / 1e6:.1f} MB")
            made = lay_down(copies, new_name(), lambda half: _unpack(packed, half))  # the latest: what is restored next
    except _REFUSED as error:
        raise Failed(f"s3://{bucket}/{key or PREFIX}: {error}") from error
    say(f"unpacked as {made.name}")
    return made


def _pages(client: Any, bucket: str) -> Iterator[list[dict[str, Any]]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=PREFIX):
        yield [one for one in page.get("Contents", []) if one["Key"].endswith(_SUFFIX)]


def _unpack(packed: Path, folder: Path) -> None:
    try:
        with ZstdFile(packed) as squeezed, tarfile.open(fileobj=squeezed, mode="r|") as tar:
            tar.extractall(folder, filter="data")
    except (EOFError, tarfile.TarError) as error:
        raise OSError(f"not a whole backup: {error}") from error


def checksum_of(packed: Path) -> str:
    """As S3 reckons it: SHA-256; of an upload in parts, that of the parts' SHA-256s ("Checking object integrity", composite)."""
    with packed.open("rb") as file:
        parts = [hashlib.sha256(part).digest() for part in iter(lambda: file.read(PART_BYTES), b"")]
    whole = parts[0] if packed.stat().st_size < PART_BYTES else hashlib.sha256(b"".join(parts)).digest()
    return b64encode(whole).decode()
