"""A stage's life, command by command, and what each command needed of IAM."""

import io
import json
import zipfile

from deploy import __main__ as program
from tests.support import moto_ext
from tests.support.aws import FakeClock, Recorder, SharedSession, client, context
from tests.support.fleet import Node
from tests.support.iam_calls import needs
from tests.support.released import archive, push, upload, will_answer

AMI = "/machine-images/test"


class Needing(Recorder):
    """Asks what IAM would ask, when it would."""

    def __init__(self) -> None:
        super().__init__()
        self.needs, self.names = [], context().names

    def __call__(self, **event) -> None:
        super().__call__(**event)
        self.needs += needs(self.calls[-1], self.names)


class Life:
    """Runs commands and remembers what each needed."""

    def __init__(self, folder) -> None:
        self.folder, self.needs, self.names = folder, {}, context().names

    def write(self, **tables) -> None:
        lines = ['[stage]\nregion = "eu-west-1"\nowner = "vision"\nprice_ceiling_per_month = 9000']
        for table, values in tables.items():
            lines += [f"[{table}]", *(f"{name} = {toml(value)}" for name, value in values.items())]
        (self.folder / "dev.toml").write_text("\n".join(lines))

    def run(self, *words, duty=None, interrupted=False) -> None:
        """`interrupted`: Ctrl-C at the first wait."""
        SharedSession.recorder = recorder = Needing()
        words, clock = [*words, "--environments", str(self.folder), "--json"], FakeClock()
        clock.on_sleep = Node().report
        if interrupted:
            clock.on_sleep = lambda: interrupt(clock)
        assert program.main(words, session=SharedSession(), clock=clock) == 0, words
        SharedSession.recorder = None
        self.needs.setdefault(duty or words[0], []).extend(recorder.needs)


def toml(value) -> str:
    """A value as TOML writes it, inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def interrupt(clock) -> None:
    clock.on_sleep = lambda: None
    raise KeyboardInterrupt


def live(life, tmp_path) -> None:
    """A stage's life from the first plan to the last destroy, through every command that needs no Docker."""
    life.key = client("kms").create_key()["KeyMetadata"]["Arn"]
    key = {"kms_key_arn": life.key}
    on = {"url": True, "provisioned_maximum": 6, "reserved_concurrency": 30}
    life.write(function=on, security=key)
    for command in ("plan", "costs", "policies", "export-cfn", "apply"):
        life.run(command)
    photos = train(life, tmp_path)
    serve(life, photos)
    rush = {"name": "rush", "schedule": "cron(0 7 ? * MON-FRI *)", "minimum": 2, "maximum": 6}
    for scaling in ({"scheduled": [rush]}, {}):
        life.write(function=on, security=key, scaling=scaling)
        life.run("apply")
    drift()
    smaller = {"provisioned_concurrency": 2, "memory_mb": 256, "url": True}
    larger = {"instance_type": "ml.g4dn.2xlarge", "keep_releases": 1}
    for most in (4, 3):
        life.write(function=smaller, security=key, endpoint=larger, scaling={"maximum": most})
        life.run("apply")
    life.write(function={"provisioned_concurrency": 0}, scaling={"profile": "none"}, security=key)
    life.run("apply")
    life.write(ec2={"ami_parameter": AMI}, security=key)
    life.run("train", "--on", "ec2", "--data", "dogs", "--detach", duty="train-ec2")
    moto_ext.QUOTAS["L-DB2E81BA"] = 96
    for port, kind in ((8080, "g4dn.xlarge"), (8081, "g4dn.2xlarge")):
        life.write(ec2={"ami_parameter": AMI}, ec2_serving={"port": port, "instance_type": kind}, security=key)
        life.run("release", "--on", "ec2", "--model-data", upload(), duty="release-ec2")
    life.run("status")
    life.write(security=key | {"boundary": False})
    life.run("apply")
    life.run("destroy", "--yes", "--delete-data")


def train(life, tmp_path):
    """The folder of photos. Three jobs: one left alone, one stopped, one that searches."""
    push("train")
    photos = tmp_path / "dogs"
    for name in ("beagle", "poodle"):
        (photos / "train" / name).mkdir(parents=True)
        (photos / "train" / name / "1.jpg").write_bytes(b"photo")
    life.run("data", str(photos), "--name", "dogs")
    (photos / "train" / "beagle" / "1.jpg").rename(photos / "train" / "beagle" / "2.jpg")
    life.run("data", str(photos), "--name", "dogs", "--delete")
    life.run("train", "--data", "dogs", "--detach")
    life.run("train", "--data", "dogs", "--on-interrupt", "stop", interrupted=True)
    life.run("tune", "--data", "dogs", "--detach", "--range", "learning_rate=1e-4:1e-2:log")
    ami = client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    client("ssm").put_parameter(Name=AMI, Value=ami, Type="String")
    return photos


def serve(life, photos) -> None:
    image, artifact = push(), upload()
    for words in (["--image", image, "--model-data", artifact], ["--image", push(content="b")]):
        will_answer()
        life.run("release", *words)
    log_line(f"/aws/lambda/{life.names.function}")
    for command in (["smoke"], ["rollback"], ["status"], ["transform", str(photos / "train")], ["logs", "lambda"]):
        will_answer()
        life.run(*command)
    life.run("simulate", "--capacity-rps", "20")
    jobs = client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    job = next(row["TrainingJobName"] for row in jobs if row["TrainingJobStatus"] != "Stopped")
    while (done := client("sagemaker").describe_training_job(TrainingJobName=job))["TrainingJobStatus"] == "InProgress":
        pass
    bucket, _, key = done["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    client("s3").put_object(Bucket=bucket, Key=key, Body=archive())
    will_answer()
    life.run("release", "--job", job)


def log_line(group: str) -> None:
    stream = {"logGroupName": group, "logStreamName": "one"}
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
