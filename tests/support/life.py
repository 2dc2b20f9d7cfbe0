"""A stage's life, command by command, and what each command needed of IAM."""

import io
import json
import re
import zipfile

from moto.core import DEFAULT_ACCOUNT_ID
from moto.sagemaker.models import sagemaker_backends

from deploy import __main__ as program
from deploy.logs import TRAINING_GROUP, TRANSFORM_GROUP
from tests.support import moto_ext
from tests.support.aws import REGION, Call, FakeClock, Recorder, SharedSession, client, context
from tests.support.docker_socket import Engine
from tests.support.duties import duty_of
from tests.support.fleet import Node, end_training
from tests.support.iam_calls import needs, of_registry
from tests.support.iam_need import Need
from tests.support.released import archive, push, upload, will_answer

AMI = "/machine-images/test"


class Needing(Recorder):
    """Asks what IAM would ask, when it would."""

    def __init__(self) -> None:
        super().__init__()
        self.needs, self.names = [], context().names

    def note(self, call: Call) -> None:
        self.needs += needs(call, self.names)


class Life:
    """Runs commands and remembers what each needed. `engine` is the Docker engine that DOCKER_HOST names."""

    def __init__(self, folder, engine: Engine) -> None:
        self.folder, self.engine, self.needs, self.names = folder, engine, {}, context().names
        self.seconds = 0.0

    def write(self, **tables) -> None:
        lines = ['[stage]\nregion = "eu-west-1"\nowner = "vision"\nprice_ceiling_per_month = 9000']
        for table, values in tables.items():
            lines += [f"[{table}]", *(f"{name} = {toml(value)}" for name, value in values.items())]
        (self.folder / "dev.toml").write_text("\n".join(lines))

    def run(self, *words, meanwhile=None) -> None:
        """`meanwhile`: what happens at each wait, after an interruption (Ctrl-C) at the first one."""
        SharedSession.recorder = recorder = Needing()
        words, clock = [*words, "--environments", str(self.folder), "--json"], FakeClock()
        clock.seconds = self.seconds = self.seconds + 60  # names hold the time
        clock.on_sleep = Node().report if meanwhile is None else lambda: interrupt(clock, meanwhile)
        assert program.main(words, session=SharedSession(), clock=clock) == 0, words
        SharedSession.recorder = None
        self.needs.setdefault(duty_of(words), []).extend([*recorder.needs, *self._of_registry()])

    def _of_registry(self) -> list[Need]:
        """What the engine asked of ECR with the login that it was given."""
        asked = [(kind, name.removeprefix(f"{self.names.registry}/")) for kind, name, login in self.engine.asked if login]
        self.engine.asked.clear()
        return [need for kind, name in asked for need in of_registry(kind, re.split("[:@]", name)[0], self.names)]


def toml(value) -> str:
    """A value as TOML writes it, inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def interrupt(clock, after) -> None:
    clock.on_sleep = after
    raise KeyboardInterrupt


def live(life, tmp_path) -> None:
    """A stage's life from the first plan to the last destroy, through every command; and one of each other kind of endpoint."""
    life.key = client("kms").create_key()["KeyMetadata"]["Arn"]
    key = {"kms_key_arn": life.key}
    on = {"url": True, "provisioned_maximum": 6, "reserved_concurrency": 30}
    life.write(function=on, security=key)
    for command in ("plan", "costs", "policies", "export-cfn", "apply"):
        life.run(command)
    images(life)
    photos = train(life, tmp_path)
    serve(life, photos)
    change(life, key, on)
    instances(life, key)
    end(life, key, photos)
    for kind in ("async", "serverless", "multi-model"):
        another(life, key, kind)


def images(life) -> None:
    """Built, tried and pushed; then there already, and pulled for its label, since it is not on this machine."""
    life.engine.missing = {f"{life.names.registry}/kennel/dev/{image}:v1" for image in ("train", "serve")}
    life.run("images", "--tag", "v1")
    assert life.engine.missing == set()
    life.engine.built = False
    life.run("images", "serve", "--tag", "v1")
    assert life.engine.built


def train(life, tmp_path):
    """The folder of photos. Jobs and searches: left alone, watched to their end, stopped; with a key for their disks."""
    push("train")
    photos = tmp_path / "dogs"
    for name in ("beagle", "poodle"):
        (photos / "train" / name).mkdir(parents=True)
        (photos / "train" / name / "1.jpg").write_bytes(b"photo")
    life.run("data", str(photos), "--name", "dogs")
    (photos / "train" / "beagle" / "1.jpg").rename(photos / "train" / "beagle" / "2.jpg")
    life.run("data", str(photos), "--name", "dogs", "--delete")
    client("logs").create_log_group(logGroupName=TRAINING_GROUP)
    log_line(TRAINING_GROUP, "kennel-dev-20261122-000000-dogs/algo-1")
    search = ("tune", "--data", "dogs", "--range", "learning_rate=1e-4:1e-2:log")
    for words in (("train", "--data", "dogs"), search):
        life.run(*words, "--detach", "--instance-type", "ml.m5.xlarge")
        life.run(*words)
        life.run(*words, "--on-interrupt", "stop", meanwhile=lambda: None)
    ami = client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    client("ssm").put_parameter(Name=AMI, Value=ami, Type="String")
    return photos


def serve(life, photos) -> None:
    image, artifact = push(), upload()
    for words in (["--image", image, "--model-data", artifact], ["--image", push(content="b")]):
        will_answer()
        life.run("release", *words)
    log_line(f"/aws/lambda/{life.names.function}")
    log_line(f"/aws/sagemaker/Endpoints/{life.names.endpoint}")
    client("logs").create_log_group(logGroupName=TRANSFORM_GROUP)
    log_line(TRANSFORM_GROUP, "kennel-dev-20261122-000000/i-1")
    photo = str(photos / "train" / "poodle" / "1.jpg")
    commands = (
        ["smoke"], ["rollback"], ["status"], ["transform", str(photos / "train")], ["logs", "lambda"], ["logs", "endpoint"],
        ["logs", "transform", "kennel-dev-20261122-000000"],
        ["loadtest", "--photo", photo, "--seconds", "0.1", "--p95-ms", "60000"],
    )  # fmt: skip
    for command in commands:
        will_answer()
        life.run(*command)
    life.run("simulate", "--capacity-rps", "20")
    jobs = client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    job = next(row["TrainingJobName"] for row in jobs if row["TrainingJobStatus"] != "Stopped")
    while (done := client("sagemaker").describe_training_job(TrainingJobName=job))["TrainingJobStatus"] == "InProgress":
        pass
    bucket, _, name = done["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    client("s3").put_object(Bucket=bucket, Key=name, Body=archive())
    life.run("logs", job)
    will_answer()
    life.run("release", "--job", job)


def change(life, key, on) -> None:
    """Settings that come and go, and what somebody changed by hand."""
    rush = {"name": "rush", "schedule": "cron(0 7 ? * MON-FRI *)", "minimum": 2, "maximum": 6}
    for scaling in ({"scheduled": [rush]}, {}):
        life.write(function=on, security=key, scaling=scaling)
        life.run("apply")
    drift()
    smaller = {"provisioned_concurrency": 2, "memory_mb": 256, "url": True}
    larger = {"instance_type": "ml.m5.xlarge", "keep_releases": 1}
    for most in (4, 3):
        life.write(function=smaller, security=key, endpoint=larger, scaling={"maximum": most})
        life.run("apply")
    life.write(function={"provisioned_concurrency": 0}, scaling={"profile": "none"}, security=key)
    life.run("apply")


def instances(life, key) -> None:
    spot = {"ami_parameter": AMI, "spot": True}
    life.write(ec2=spot, security=key)
    run = ("train", "--on", "ec2", "--data", "dogs")
    life.run(*run, "--on-interrupt", "stop", meanwhile=lambda: end_training("asked to stop"))
    life.run(*run, "--detach")
    moto_ext.QUOTAS["L-DB2E81BA"] = 96
    for port, kind in ((8080, "g4dn.xlarge"), (8081, "g4dn.2xlarge")):
        life.write(ec2=spot, ec2_serving={"port": port, "instance_type": kind}, security=key)
        life.run("release", "--on", "ec2", "--model-data", upload())
    life.run("logs", "ec2", "r1")
    life.run("status")


def end(life, key, photos) -> None:
    """While jobs of each kind still run."""
    life.write(security=key | {"boundary": False})
    life.run("apply")
    for words in (["train", "--data", "dogs"], ["tune", "--data", "dogs", "--range", "weight_decay=0:0.1"]):
        life.run(*words, "--detach")
    life.run("transform", str(photos / "train"), "--detach")
    for job in sagemaker_backends[DEFAULT_ACCOUNT_ID][REGION].transform_jobs.values():
        job.transform_job_status = "InProgress"
    life.run("destroy", "--yes", "--delete-data")


def another(life, key, kind) -> None:
    """A stage with another kind of endpoint."""
    tables = {"endpoint": {"kind": kind, "instance_type": "ml.m5.xlarge"}, "function": {"enabled": kind != "async"}}
    life.write(**tables, **({"scaling": {"minimum": 0}} if kind == "async" else {}), security=key)
    life.run("apply")
    for content, artifact in (("a", upload()), ("b", upload("b"))):
        will_answer()
        name = ("--as", f"dogs-{content}") if kind == "multi-model" else ()
        life.run("release", "--image", push(content=content), "--model-data", artifact, *name)
    life.run("destroy", "--yes", "--delete-data")


def log_line(group: str, stream: str = "one") -> None:
    stream = {"logGroupName": group, "logStreamName": stream}
    client("logs").create_log_stream(**stream)
    client("logs").put_log_events(**stream, logEvents=[{"timestamp": 1_795_305_600_000, "message": "hello"}])


def drift() -> None:
    """What somebody changed by hand, of kinds that a change of the stage's file does not touch."""
    client("ecr").put_image_tag_mutability(repositoryName="kennel/dev/serve", imageTagMutability="MUTABLE")
    scan = {"scanOnPush": False}
    client("ecr").put_image_scanning_configuration(repositoryName="kennel/dev/serve", imageScanningConfiguration=scan)
    roles, functions = client("iam"), client("lambda")
    roles.delete_role_permissions_boundary(RoleName="kennel-dev-train")
    everything = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
    given = roles.create_policy(PolicyName="by-hand", PolicyDocument=everything)["Policy"]["Arn"]
    roles.attach_role_policy(RoleName="kennel-dev-train", PolicyArn=given)
    nobody = {"Effect": "Deny", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [nobody]})
    roles.update_assume_role_policy(RoleName="kennel-dev-ec2", PolicyDocument=trust)
    wide = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
    arn = "arn:aws:iam::123456789012:policy/kennel-dev-boundary"
    roles.create_policy_version(PolicyArn=arn, PolicyDocument=wide, SetAsDefault=True)
    functions.update_function_url_config(FunctionName="kennel-dev-invoke", Qualifier="live", AuthType="NONE")
    functions.update_function_code(FunctionName="kennel-dev-invoke", ZipFile=zipped("handler = None"))


def zipped(source: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive_file:
        archive_file.writestr("invoke_endpoint.py", source)
    return buffer.getvalue()
