"""`python -m tests.faults.impatient`: `python -m deploy` that gives each answer seconds instead of a minute, so that one that
stalls costs a test little. AWS is where AWS_ENDPOINT_URL says.
"""

import os
import sys
from typing import Any

import boto3
from botocore.config import Config

from deploy import __main__ as deploy


class Impatient:
    """What deploy needs of a boto3 session; every service is at `url`."""

    def __init__(self, url: str) -> None:
        self._url, self._session = url, boto3.Session("test", "test", region_name="eu-west-1")

    def client(self, service: str, region_name: str, config: Config) -> Any:
        patience = Config(connect_timeout=4, read_timeout=4, retries={"mode": "standard", "total_max_attempts": 3})
        return self._session.client(service, region_name=region_name, config=config.merge(patience), endpoint_url=self._url)


if __name__ == "__main__":
    sys.exit(deploy.main(sys.argv[1:], session=Impatient(os.environ["AWS_ENDPOINT_URL"])))
