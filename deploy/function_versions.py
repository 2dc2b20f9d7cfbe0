"""What is published of the function: the wanted version, the alias `live`, and what is left of older versions."""

from deploy.context import Context
from deploy.engine import Changes, Resource, State
from deploy.function import Lambda
from deploy.names import ALIAS

_KEPT_VERSIONS = 3


class Version(Resource):
    """The wanted code and configuration, frozen under a number. Goes with the function.

    It is published at once, but Lambda optimizes and caches it first: until it is active it answers no call.
    """

    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function

    @property
    def key(self) -> str:
        return f"function-version/{self._function.name}"

    def desired(self) -> State:
        return {"state": "ready"}

    def observe(self) -> State | None:
        version = self._function.wanted_version()
        return {"state": self._function.state(version)} if version else None

    def create(self) -> None:
        self._function.client.publish_version(FunctionName=self._function.name, CodeSha256=self._function.digest)

    def update(self, changes: Changes) -> None:
        """An earlier run has published it: `settle` waits."""

    def settle(self) -> None:
        self._function.wait_until_usable("becomes active", self._function.wanted_version())

    def delete(self) -> None:
        """The function takes its versions with it."""


class Alias(Resource):
    """`live`: what callers name. Flipping it is the release, and the way back."""

    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function

    @property
    def key(self) -> str:
        return f"function-alias/{self._function.name}:{ALIAS}"

    def desired(self) -> State:
        return {"version": self._function.wanted_version()}

    def observe(self) -> State | None:
        version = self._function.live_version()
        return {"version": version} if version else None

    def create(self) -> None:
        self._function.client.create_alias(
            FunctionName=self._function.name, Name=ALIAS, FunctionVersion=self._function.wanted_version()
        )

    def update(self, changes: Changes) -> None:
        version = changes["version"].wanted
        self._function.client.update_alias(FunctionName=self._function.name, Name=ALIAS, FunctionVersion=version)

    def delete(self) -> None:
        self._function.client.delete_alias(FunctionName=self._function.name, Name=ALIAS)


class OldVersions(Resource):
    """The last few stay as a way back."""

    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function

    @property
    def key(self) -> str:
        return f"function-versions/{self._function.name}"

    def desired(self) -> State:
        return {"too_old": []}

    def observe(self) -> State | None:
        kept = {self._function.live_version(), self._function.wanted_version()}
        old = [version["Version"] for version in self._function.versions() if version["Version"] not in kept]
        return {"too_old": old[_KEPT_VERSIONS - 1 :]}

    def create(self) -> None:
        """Nothing to make: an absence."""

    def update(self, changes: Changes) -> None:
        for version in changes["too_old"].seen:
            self._function.client.delete_function(FunctionName=self._function.name, Qualifier=version)

    def delete(self) -> None:
        """Nothing to take away."""
