"""What new code and new settings change of a function that stands."""

from contextlib import suppress

import pytest
from moto.awslambda_simple.models import lambda_simple_backends

from deploy import stack
from deploy.errors import DeployError
from deploy.function import Lambda
from lambda_settings import Settings
from tests.support import moto_ext, moto_lambda
from tests.support.applied import FULL, apply, interrupt, writes_of
from tests.support.aws import ACCOUNT, REGION, Killed, Recorder, client, context, release, stage


def test_new_code_is_a_new_version(aws, tmp_path):
    apply()
    (tmp_path / "invoke_endpoint.py").write_text("handler = None\n")
    ctx = context()
    engine = stack.engine(ctx, release())
    for resource in engine.resources:
        if hasattr(resource, "_function"):
            resource._function.source = tmp_path
    list(engine.apply())
    assert client("lambda").get_alias(FunctionName="kennel-dev-invoke", Name="live")["FunctionVersion"] == "2"


def test_the_new_version_is_warm_before_the_alias_flips_and_the_old_one_cools_after(aws):
    config = stage(function={"provisioned_maximum": 5})
    apply(config)
    written = writes_of(apply, stage(function={"provisioned_maximum": 5, "memory_mb": 1024}))
    assert [name for name in written if not name.startswith("monitoring")] == [
        "lambda:UpdateFunctionConfiguration",
        "lambda:PublishVersion",
        "lambda:PutProvisionedConcurrencyConfig",
        "lambda:UpdateAlias",
        "application-autoscaling:DeregisterScalableTarget",
        "lambda:DeleteProvisionedConcurrencyConfig",
        "application-autoscaling:RegisterScalableTarget",
        "application-autoscaling:PutScalingPolicy",
    ]
    functions = client("lambda")
    assert functions.get_alias(FunctionName="kennel-dev-invoke", Name="live")["FunctionVersion"] == "2"
    warm = functions.get_provisioned_concurrency_config(FunctionName="kennel-dev-invoke", Qualifier="2")
    assert (warm["Status"], warm["RequestedProvisionedConcurrentExecutions"]) == ("READY", 3)


MORE_MEMORY = {"function": {"memory_mb": 1024}}


class States(Recorder):
    """What each call that uses a version finds it to be."""

    def __init__(self) -> None:
        super().__init__()
        self.found = []

    def __call__(self, params, model, **more) -> None:
        super().__call__(params, model, **more)
        if version := params.get("FunctionVersion") or (model.name.startswith("PutProvisioned") and params["Qualifier"]):
            published = lambda_simple_backends[ACCOUNT][REGION].get_function("kennel-dev-invoke", version)
            self.found.append((model.name, version, published.state))


def test_a_new_version_is_active_before_it_is_warmed_and_before_the_alias_flips(aws, monkeypatch):
    monkeypatch.setattr(moto_lambda, "POLLS", 5)
    recorder = States()
    apply(recorder=recorder)
    apply(stage(**MORE_MEMORY), recorder=recorder)
    assert recorder.found == [
        ("PutProvisionedConcurrencyConfig", "1", "Active"),
        ("CreateAlias", "1", "Active"),
        ("PutProvisionedConcurrencyConfig", "2", "Active"),
        ("UpdateAlias", "2", "Active"),
    ]


def test_a_version_that_an_interrupted_run_has_published_is_waited_for(aws, monkeypatch):
    apply()
    monkeypatch.setattr(moto_lambda, "POLLS", 5)
    ctx = context(stage(**MORE_MEMORY))
    ctx.clock.on_sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        list(stack.engine(ctx, release()).apply())
    recorder = States()
    apply(stage(**MORE_MEMORY), recorder=recorder)
    assert "lambda:PublishVersion" not in recorder.writes
    assert recorder.found == [("PutProvisionedConcurrencyConfig", "2", "Active"), ("UpdateAlias", "2", "Active")]


def test_a_version_that_fails_never_goes_live(aws):
    apply()
    moto_ext.BROKEN.append("its code is too large")
    with pytest.raises(DeployError, match=r"(?s)kennel-dev-invoke:2 becomes active.*ended as Failed"):
        apply(stage(**MORE_MEMORY))
    assert client("lambda").get_alias(FunctionName="kennel-dev-invoke", Name="live")["FunctionVersion"] == "1"


def share_and_warm():
    """The function's share of the account, and what of it is warm by version."""
    functions, name = client("lambda"), {"FunctionName": "kennel-dev-invoke"}
    warm = {}
    for version in {row["Version"] for row in functions.list_versions_by_function(**name)["Versions"]} - {"$LATEST"}:
        with suppress(functions.exceptions.ProvisionedConcurrencyConfigNotFoundException):
            seen = functions.get_provisioned_concurrency_config(**name, Qualifier=version)
            warm[version] = seen["RequestedProvisionedConcurrentExecutions"]
    return functions.get_function_concurrency(**name).get("ReservedConcurrentExecutions"), warm


@pytest.mark.parametrize("more", [{}, {"memory_mb": 1024}], ids=["the same version", "a new version"])
def test_share_and_warm_environments_shrink_and_grow_together(aws, more):
    """Lambda refuses a share below what is warm, and warm environments above the share."""
    large = {"provisioned_concurrency": 10, "reserved_concurrency": 20}
    small = {"provisioned_concurrency": 3, "reserved_concurrency": 6} | more
    apply(stage(function=large))
    apply(stage(function=small))
    version = "2" if more else "1"
    assert share_and_warm() == (6, {version: 3})
    assert writes_of(apply, stage(function=small)) == []
    apply(stage(function=large | more))
    assert share_and_warm() == (20, {version: 10})
    for share in (2, None):
        apply(stage(function=more | {"provisioned_concurrency": 0, "reserved_concurrency": share}))
        assert share_and_warm() == (share, {})
    apply(stage(function=small))
    apply(stage(function=more | {"provisioned_concurrency": 10}))
    assert share_and_warm() == (None, {version: 10}), "no share, no limit"
    apply(stage(function=small))
    assert share_and_warm() == (6, {version: 3})


def live_and_warm(version):
    """What `live` points to, and how warm `version` is."""
    functions = client("lambda")
    warm = functions.get_provisioned_concurrency_config(FunctionName="kennel-dev-invoke", Qualifier=version)
    return functions.get_alias(FunctionName="kennel-dev-invoke", Name="live")["FunctionVersion"], warm["Status"]


def test_the_alias_never_flips_to_a_version_that_could_not_be_warmed(aws):
    apply()
    moto_ext.COLD.extend(["the handler does not start"] * 2)
    for _ in range(2):  # the second run finds the failed one, and asks again
        with pytest.raises(DeployError, match=r"(?s)ended as FAILED.*AWS said: the handler does not start"):
            apply(stage(**MORE_MEMORY))
        assert live_and_warm("2") == ("1", "FAILED")
    written = writes_of(apply, stage(**MORE_MEMORY))
    assert written[:2] == ["lambda:PutProvisionedConcurrencyConfig", "lambda:UpdateAlias"]
    assert live_and_warm("2") == ("2", "READY")
    assert writes_of(apply, stage(**MORE_MEMORY)) == []


def test_a_version_that_still_warms_up_is_only_waited_for(aws, monkeypatch):
    apply()
    monkeypatch.setattr(moto_lambda, "POLLS", 20)
    recorder = Recorder()
    ctx = context(stage(**MORE_MEMORY), recorder)

    def killed():
        if "lambda:PutProvisionedConcurrencyConfig" in recorder.writes:
            raise Killed

    ctx.clock.on_sleep = killed
    with pytest.raises(Killed):
        list(stack.engine(ctx, release()).apply())
    assert live_and_warm("2") == ("1", "IN_PROGRESS")
    assert writes_of(apply, stage(**MORE_MEMORY)) == ["lambda:UpdateAlias", "lambda:DeleteProvisionedConcurrencyConfig"]
    assert live_and_warm("2") == ("2", "READY")


def test_the_function_is_told_whether_its_endpoint_has_many_models(aws):
    many = {"kind": "multi-model", "instance_type": "ml.m5.xlarge"}
    for tables, wanted in (
        ({}, (False, "")),
        ({"endpoint": many}, (True, "")),
        ({"endpoint": many, "function": {"target_model": "pug.tar.gz"}}, (True, "pug.tar.gz")),
    ):
        variables = Lambda(context(stage(**tables))).settings["Environment"]["Variables"]
        settings = Settings.from_environment(variables)
        assert (settings.many_models, settings.target_model) == wanted


def test_origins_that_the_file_no_longer_names_are_shut_out(aws):
    def open_to(*origins):
        return stage(function={"url": True, "cors_origins": origins})

    def cors():
        where = {"FunctionName": "kennel-dev-invoke", "Qualifier": "live"}
        return client("lambda").get_function_url_config(**where).get("Cors") or {}

    apply(open_to("https://dogs.example"))
    assert cors()["AllowOrigins"] == ["https://dogs.example"]
    assert writes_of(apply, open_to("https://dogs.example")) == []
    assert "lambda:UpdateFunctionUrlConfig" in writes_of(apply, open_to())
    assert not cors().get("AllowOrigins")
    assert writes_of(apply, open_to()) == []


def test_an_address_that_comes_back_finds_its_permissions(aws):
    """Lambda keeps them when an address is deleted, and refuses a second statement of the same name."""
    apply(stage(**FULL))
    apply(stage())
    written = writes_of(apply, stage(**FULL))
    assert "lambda:CreateFunctionUrlConfig" in written
    assert "lambda:AddPermission" not in written
