"""ECR repositories of the two images: immutable tags, scan on push, a lifecycle that never takes a released image."""

import json
import urllib.request
from typing import Any

from deploy.context import Context
from deploy.engine import Changes, Resource, State, found
from deploy.errors import DeployError, explained
from deploy.storage import tag_list

RELEASED = "release-"  # tag prefix of images that a release uses
CUDA_LABEL = "org.kennel.cuda"  # the CUDA version inside an image, or "none"
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class Repository(Resource):
    """`image` is train or serve. Deleting it deletes its images."""

    def __init__(self, context: Context, image: str) -> None:
        super().__init__(context)
        self._ecr = context.client("ecr")
        self._name = self.names.repository(image)

    @property
    def key(self) -> str:
        return f"repository/{self._name}"

    def desired(self) -> State:
        return {
            "tags": "IMMUTABLE",
            "scan_on_push": True,
            "lifecycle": self._lifecycle(),
            "encryption": encryption(self.context.config.security.kms_key_arn),
        }

    def observe(self) -> State | None:
        answer = found(self._ecr.describe_repositories, repositoryNames=[self._name])
        if answer is None:
            return None
        repository = answer["repositories"][0]
        lifecycle = found(self._ecr.get_lifecycle_policy, repositoryName=self._name)
        return {
            "tags": repository["imageTagMutability"],
            "scan_on_push": repository.get("imageScanningConfiguration", {}).get("scanOnPush", False),
            "lifecycle": lifecycle and json.loads(lifecycle["lifecyclePolicyText"]),
            "encryption": self._encryption_seen(repository.get("encryptionConfiguration") or {}),
        }

    def create(self) -> None:
        self._ecr.create_repository(
            repositoryName=self._name,
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
            encryptionConfiguration=encryption(self.context.config.security.kms_key_arn),
            tags=tag_list(self.context.tags),
        )
        self._put_lifecycle()

    def update(self, changes: Changes) -> None:
        if "tags" in changes:
            self._ecr.put_image_tag_mutability(repositoryName=self._name, imageTagMutability="IMMUTABLE")
        if "scan_on_push" in changes:
            scan = {"scanOnPush": True}
            self._ecr.put_image_scanning_configuration(repositoryName=self._name, imageScanningConfiguration=scan)
        if "lifecycle" in changes:
            self._put_lifecycle()
        if "encryption" in changes:  # said each time; it is no reason to stop, and deleting takes the live release's image
            self.context.say(
                f"{self.key} stays encrypted as it was made: ECR cannot change it. To have it otherwise: `aws ecr "
                f"delete-repository --force --repository-name {self._name}` while no endpoint uses it, then `apply`, `images`"
            )

    def delete(self) -> None:
        self._ecr.delete_repository(repositoryName=self._name, force=True)

    def _put_lifecycle(self) -> None:
        self._ecr.put_lifecycle_policy(repositoryName=self._name, lifecyclePolicyText=json.dumps(self._lifecycle()))

    def _encryption_seen(self, seen: dict[str, str]) -> dict[str, str]:
        """A repository keeps the key that it was made with, so one of the stage's earlier keys is as it should be."""
        security = self.context.config.security
        if seen.get("kmsKey") in security.earlier_kms_key_arns:
            return encryption(security.kms_key_arn)
        return {"encryptionType": "AES256"} | seen

    def _lifecycle(self) -> State:
        """An image that matches a rule is out of reach of every later rule, so the first one shields released images."""
        return {
            "rules": [
                _rule(1, {"tagStatus": "tagged", "tagPrefixList": [RELEASED], **_more_than(1000)}, "released images stay"),
                _rule(
                    2,
                    {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 7},
                    "untagged images go after a week",
                ),
                _rule(3, {"tagStatus": "any", **_more_than(self.context.config.storage.keep_images)}, "the newest stay"),
            ]
        }


def encryption(key: str | None) -> dict[str, str]:
    """ECR's encryptionConfiguration."""
    return {"encryptionType": "KMS", "kmsKey": key} if key else {"encryptionType": "AES256"}


def _more_than(count: int) -> dict[str, Any]:
    return {"countType": "imageCountMoreThan", "countNumber": count}


def _rule(priority: int, selection: dict[str, Any], description: str) -> dict[str, Any]:
    return {"rulePriority": priority, "description": description, "selection": selection, "action": {"type": "expire"}}


def parse(uri: str) -> tuple[str, str, str]:
    """(registry, repository, digest) of `registry/repository@sha256:…`. Raises DeployError where the digest is missing."""
    name, at, digest = uri.partition("@")
    registry, _, repository = name.partition("/")
    if not at or not digest.startswith("sha256:") or not repository:
        hint = "`python -m deploy images` prints the digest of what it pushed"
        raise DeployError(f"image {uri}", "must be given by digest: registry/repository@sha256:…", hint=hint)
    return registry, repository, digest


def labels(context: Context, uri: str) -> dict[str, str]:
    """The labels of an image in this stage's registry, read from its configuration without pulling it."""
    registry, repository, digest = parse(uri)
    if registry != context.names.registry:
        hint = f"push it to {context.names.registry} with `python -m deploy images`"
        raise DeployError(f"image {uri}", "is not in this stage's registry", hint=hint)
    ecr = context.client("ecr")
    manifest = _manifest(ecr, repository, digest, f"image {uri}")["imageManifest"]
    try:
        blob = json.loads(manifest)["config"]["digest"]
        url = ecr.get_download_url_for_layer(repositoryName=repository, layerDigest=blob)["downloadUrl"]
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - the address comes from AWS
            return dict(json.load(response).get("config", {}).get("Labels") or {})
    except OSError as error:
        hint = "run the same command again; the network or a proxy keeps S3, where ECR keeps layers, from this machine"
        raise DeployError(f"image {uri}", f"its configuration cannot be fetched: {error}", hint=hint) from error
    except (ValueError, LookupError, TypeError) as error:
        hint = "push a plain image of one platform: `python -m deploy images` does"
        raise DeployError(f"image {uri}", "has no configuration that can be read", hint=hint) from error


def _manifest(ecr: Any, repository: str, digest: str, where: str) -> dict[str, str]:
    """As it was pushed, `imageManifest`, with its type. Raises DeployError where there is no such image."""
    answer = ecr.batch_get_image(
        repositoryName=repository, imageIds=[{"imageDigest": digest}], acceptedMediaTypes=list(_MANIFESTS)
    )
    if not answer["images"]:
        raise DeployError(where, "does not exist", hint="`python -m deploy images` builds and pushes it")
    kept = ("imageManifest", "imageManifestMediaType")
    return {name: str(value) for name, value in answer["images"][0].items() if name in kept}


def newest(context: Context, image: str) -> str:
    """The image pushed last, by digest. Raises DeployError where there is none."""
    repository = context.names.repository(image)
    with explained(f"repository/{repository}"):
        pages = context.client("ecr").get_paginator("describe_images").paginate(repositoryName=repository)
        rows = [row for page in pages for row in page["imageDetails"] if row.get("imageTags")]
    if not rows:
        raise DeployError(f"repository/{repository}", "holds no image", hint="`python -m deploy images` builds and pushes it")
    last = max(rows, key=lambda row: row["imagePushedAt"])
    return f"{context.names.registry}/{repository}@{last['imageDigest']}"


def keep(context: Context, uri: str) -> None:
    """Tag a released image, so that the repository's lifecycle never takes what an endpoint may have to start again."""
    registry, repository, digest = parse(uri)
    if registry != context.names.registry:
        return
    ecr, tag = context.client("ecr"), f"{RELEASED}{digest.removeprefix('sha256:')[:16]}"
    with explained(f"image {uri}"):
        there = ecr.describe_images(repositoryName=repository, imageIds=[{"imageDigest": digest}])["imageDetails"]
        if any(tag in row.get("imageTags", []) for row in there):
            return
        manifest = _manifest(ecr, repository, digest, f"image {uri}")  # of which OCI's need not say its own type, and ECR asks
        ecr.put_image(repositoryName=repository, **manifest, imageTag=tag, imageDigest=digest)
