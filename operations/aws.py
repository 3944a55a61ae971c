"""Clients of AWS: with the credentials and the region of the task, and patience with limits."""

import os
from typing import Any

import boto3
from botocore.config import Config

_PATIENCE = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 5})


def client(name: str) -> Any:
    """Of a service. ECS gives the region as AWS_REGION, which boto3 does not look at."""
    return boto3.client(name, region_name=os.environ.get("AWS_REGION"), config=_PATIENCE)


def keep(name: str, value: str) -> None:
    """In Secrets Manager, as the secret of this name, which is made if it is not there."""
    manager = client("secretsmanager")
    try:
        manager.create_secret(Name=name, SecretString=value)
    except manager.exceptions.ResourceExistsException:
        manager.put_secret_value(SecretId=name, SecretString=value)
