"""`python -m deploy …` in this process, against the fake account, as a person at a terminal would see it.

Each command is held to the documents of its duties (`duties.held_to`): a call that they refuse fails the test that made it.
"""

import json

from deploy import __main__ as program
from tests.support.aws import FakeClock, Recorder, SharedSession, client
from tests.support.duties import held_to
from tests.support.fleet import Node
from tests.support.released import push, upload, will_answer

MACHINE_IMAGE = "/machine-images/test"
STAGE = '[stage]\nregion = "eu-west-1"\nprice_ceiling_per_month = 5000\n'


class CommandLine:
    """Call it with a command's words: (exit code, its JSON or None, stderr as one line). `stage` is the stage's file."""

    def __init__(self, folder, capsys) -> None:
        self.stage, self.on_sleep, self._capsys = folder / "dev.toml", lambda: None, capsys
        self.stage.write_text(STAGE)

    def __call__(self, *words: str, recorder: Recorder | None = None):
        clock = FakeClock()
        clock.on_sleep = self.on_sleep
        words = [*words, "--environments", str(self.stage.parent), "--json"]
        with held_to(words, self.stage, recorder):
            code = program.main(words, session=SharedSession(), clock=clock)
        captured = self._capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, " ".join(captured.err.split())


class Released(CommandLine):
    """A stage with one release: `first` is its configuration, `image` what it serves."""

    def __init__(self, folder, capsys) -> None:
        super().__init__(folder, capsys)
        self.stage.write_text(f"{STAGE}[function]\nurl = true\n")
        assert self("apply")[0] == 0
        self.image, artifact = push(), upload()
        will_answer()
        code, document, err = self("release", "--model-data", artifact, "--image", self.image)
        assert code == 0, err
        self.first = document["config"]


class OnEc2(CommandLine):
    """A stage without a Lambda, and what `release --on ec2` needs. `node` reports as every instance that serves would."""

    def __init__(self, folder, capsys) -> None:
        super().__init__(folder, capsys)
        self.node = Node()
        self.on_sleep = self.node.report
        self.write()
        assert self("apply")[0] == 0
        ami = client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        client("ssm").put_parameter(Name=MACHINE_IMAGE, Value=ami, Type="String")

    def write(self, **serving) -> None:
        """The stage's file with these settings of [ec2_serving]."""
        table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in serving.items())
        machines = f'[ec2]\nami_parameter = "{MACHINE_IMAGE}"\n[ec2_serving]\n{table}'
        self.stage.write_text(f"{STAGE}[function]\nenabled = false\n{machines}")


class Serving(OnEc2):
    """One instance that serves: `image`, `artifact`, and what its release said, `first`."""

    def __init__(self, folder, capsys) -> None:
        super().__init__(folder, capsys)
        self.image, self.artifact = push(), upload()
        code, self.first, err = self("release", "--on", "ec2", "--model-data", self.artifact, "--image", self.image)
        assert code == 0, err
