"""Service Quotas: moto knows those of one service (vpc) only, and no applied ones."""

import json
import zlib

from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.responses import ServiceQuotasResponse as Response

APPLIED: dict[str, float] = {}
"""Name of a SageMaker quota, or code of an EC2 quota → its value in this account."""
DEFAULT: dict[str, float] = {}
"""Likewise, what AWS gives everybody."""
NAMES = {
    "L-DB2E81BA": "Running On-Demand G and VT instances",
    "L-3819A6DF": "All G and VT Spot Instance Requests",
    "L-1216C47A": "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
}


def install() -> None:
    Response.list_service_quotas = lambda self: listed(APPLIED)
    Response.list_aws_default_service_quotas = lambda self: listed(DEFAULT)
    Response.get_service_quota = lambda self: one(self, APPLIED)
    Response.get_aws_default_service_quota = lambda self: one(self, DEFAULT)


def listed(values) -> str:
    return json.dumps({"Quotas": [row(name, value) for name, value in values.items()]})


def one(self, values) -> str:
    code = json.loads(self.body)["QuotaCode"]
    if code not in values:
        raise NoSuchResource
    return json.dumps({"Quota": row(code, values[code])})


def row(name, value) -> dict:
    code = name if name.startswith("L-") else f"L-{zlib.crc32(name.encode()):08X}"
    return {"QuotaName": NAMES.get(name, name), "QuotaCode": code, "Value": value}
