"""Everything a stage consists of, in order of dependence. To add an AWS resource: its class, and one line here."""

from deploy import (
    alarms,
    autoscaling,
    concurrency,
    ec2_network,
    ec2_template,
    function,
    function_versions,
    iam,
    jobs,
    roles,
    scheduled_actions,
)
from deploy.context import Context
from deploy.endpoint import Endpoint
from deploy.engine import Engine, Removal, Resource
from deploy.function_scaling import ProvisionedScaling
from deploy.function_url import FunctionUrl
from deploy.log_groups import LOG_DAYS, LogGroup
from deploy.registry import Repository
from deploy.releases import OldReleases
from deploy.serving import EndpointConfig, Model, Release
from deploy.storage import Bucket


def engine(context: Context, release: Release | None, proof: Resource | None = None) -> Engine:
    """`release` None: everything but the endpoint, which needs one. With a `proof` only it says that the release has served."""
    return Engine(
        [
            *_foundation(context),
            Bucket(context),
            *_serving(context, release, proven=proof is None),
            *_function(context),
            *([proof] if proof else []),
            *_old_releases(context, release),  # last: what a failed proof goes back to is still there
        ]
    )


def removal(context: Context, *, delete_data: bool) -> Removal:
    """Everything that `destroy` looks for, whatever the file says now: an earlier file may have made it."""
    bucket = [Bucket(context)] if delete_data else []
    fn = function.Lambda(context)
    return Removal(
        [
            *_boundary(context),  # gone last: roles may still carry it
            *(resource for resource in _foundation(context) if not isinstance(resource, roles.Boundary)),
            *bucket,
            *(ec2_network.SecurityGroup(context, purpose) for purpose in ec2_network.PURPOSES),
            *(ec2_template.LaunchTemplate(context, purpose) for purpose in ec2_network.PURPOSES),
            ec2_network.Instances(context),
            *alarms.endpoint_alarms(context),
            OldReleases(context, None, None),
            Endpoint(context, None),
            *_wake_up(context, wanted=False),
            autoscaling.ScalableTarget(context),
            LogGroup(context, context.names.function_log_group, 0),
            function.Function(context, fn),
            ProvisionedScaling(context, fn),
            *alarms.function_alarms(context),
            jobs.RunningJobs(context),
        ]
    )


def _boundary(context: Context) -> list[Resource]:
    """Ours, whether it is wanted or was once; nothing where the organisation's own has its name."""
    given = context.config.security.boundary_arn
    return [] if given == context.names.boundary_arn else [roles.Boundary(context)]


def _foundation(context: Context) -> list[Resource]:
    security = context.config.security
    ours = security.boundary and not security.boundary_arn
    return [
        *(_boundary(context) if ours else []),
        *(roles.Role(context, principal) for principal in iam.PRINCIPALS),
        *([] if ours else [_only_if(False, boundary) for boundary in _boundary(context)]),  # once no role carries it
        *(roles.InstanceProfile(context, principal) for principal in iam.ON_INSTANCES),
        Repository(context, "train"),
        Repository(context, "serve"),
        LogGroup(context, context.names.ec2_log_group, LOG_DAYS),
        LogGroup(context, context.names.endpoint_log_group, LOG_DAYS),  # before SageMaker makes it, to keep everything for ever
    ]


def _serving(context: Context, release: Release | None, *, proven: bool) -> list[Resource]:
    if release is None:
        return []
    model, config, scaled = Model(context, release), EndpointConfig(context, release), scaling(context)
    return [
        *alarms.endpoint_alarms(context),
        model,
        config,
        Endpoint(context, config, proven=proven, scaling=scaled),
        *scaled,
    ]


def _old_releases(context: Context, release: Release | None) -> list[Resource]:
    if release is None:
        return []
    return [OldReleases(context, EndpointConfig(context, release).name, Model(context, release).name)]


def scaling(context: Context) -> list[Resource]:
    """Everything that `Endpoint` may take off when the instance type changes, to be put back after it."""
    scaled = context.config.scaling.profile != "none" and context.config.endpoint.kind != "serverless"
    return [
        _only_if(scaled, autoscaling.ScalableTarget(context)),
        *([autoscaling.TrackingPolicy(context)] if scaled else []),
        *_wake_up(context, wanted=scaled and context.config.endpoint.kind == "async"),
        *(scheduled_actions.resources(context) if scaled else []),
    ]


def _wake_up(context: Context, *, wanted: bool) -> list[Resource]:
    policy = autoscaling.WakeUp(context)
    alarm = alarms.WakeUpAlarm(context, policy)
    return [policy, alarm] if wanted else [_only_if(False, alarm)]


def _function(context: Context) -> list[Resource]:
    wanted, fn = context.config.function, function.Lambda(context)
    if not wanted.enabled:
        gone = [ProvisionedScaling(context, fn), function.Function(context, fn), *alarms.function_alarms(context)]
        return [_only_if(False, resource) for resource in gone]
    return [
        LogGroup(context, context.names.function_log_group, wanted.log_days),
        function.Function(context, fn),
        function_versions.Version(context, fn),
        *([concurrency.Provisioned(context, fn)] if wanted.provisioned_concurrency else []),
        function_versions.Alias(context, fn),
        concurrency.Cooled(context, fn),
        concurrency.Reserved(context, fn),
        _only_if(wanted.provisioned_maximum > 0, ProvisionedScaling(context, fn)),
        _only_if(wanted.url, FunctionUrl(context, fn)),
        function_versions.OldVersions(context, fn),
        *alarms.function_alarms(context),
    ]


def _only_if(wanted: bool, resource: Resource) -> Resource:
    """What the file turns off is taken away where it is found."""
    resource.wanted = wanted
    return resource
