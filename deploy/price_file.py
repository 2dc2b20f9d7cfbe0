"""What AWS asks for, as a dated file says: `prices/<date>.json`, or a user's own."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from containers.core.errors import ConfigError

PRICES = Path(__file__).parent / "prices"


class Prices(BaseModel):
    """US dollars. `assumed` names the fields that no price list says, and those whose source was not seen.

    `spot_factor`: the share of the on-demand price that spot costs. `bucket_gb`: photos, models, checkpoints and what
    versioning keeps of them. `repositories_gb`: both repositories' images, as ECR stores them. `alarms_per_tracking_policy`:
    what Application Auto Scaling makes for each target-tracking policy, one to scale out and one to scale in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    region: str
    currency: str
    source: str
    assumed: tuple[str, ...]
    spot_factor: float
    bucket_gb: float
    repositories_gb: float
    alarms_per_tracking_policy: int
    sagemaker_per_hour: dict[str, float]
    ec2_per_hour: dict[str, float]
    lambda_provisioned_gb_second: float
    serverless_gb_second: float
    alarm_month: float
    alarm_high_resolution_month: float
    s3_gb_month: float
    ecr_gb_month: float
    ebs_gb_month: float
    ml_storage_gb_month: float

    @classmethod
    def read(cls, path: Path | None = None) -> "Prices":
        """The newest file in `prices/`, or `path`. Raises ConfigError."""
        path = path or max(PRICES.glob("*.json"))
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise ConfigError(f"price file {path} cannot be used: {error}") from None
