"""What a release is not believed without: the golden photo's answer. A model that answers wrongly is taken back.

Only the endpoint's own answer judges the model: a function that is broken, or a session that has ended, says nothing of it.
"""

from typing import Any

from deploy import releases, rollback, smoke
from deploy.context import Context
from deploy.engine import Resource, State
from deploy.errors import DeployError, explained


class Proof(Resource):
    """Asked for at each release, so it is never there yet. The configuration `config` has served once the endpoint is right."""

    def __init__(self, context: Context, golden: smoke.Golden, config: str) -> None:
        super().__init__(context)
        self._golden, self._config = golden, config
        self._before = _way_back(context, config)
        self.rows: list[dict[str, Any]] = []
        """What `smoke.ask` returned, by way."""

    @property
    def key(self) -> str:
        return f"golden-photo/{self.names.endpoint}"

    def desired(self) -> State:
        return {}

    def observe(self) -> State | None:
        return None

    def create(self) -> None:
        endpoint, *others = smoke.ways(self.context)
        try:
            self.rows.append(smoke.ask(self.context, endpoint, self._golden))
        except smoke.WrongAnswer as error:
            self._require_still_there()
            raise self._taken_back(error) from error
        except DeployError as error:
            problem = f"{error.problem}; {self._config} serves, and whether rightly nobody knows"
            raise DeployError(error.where, problem, hint=error.hint, code=error.code) from error
        self._require_still_there()
        releases.serves(self.context, self._config)
        self.rows += [smoke.ask(self.context, way, self._golden) for way in others]

    def delete(self) -> None:
        """Nothing to take away."""

    def _require_still_there(self) -> None:
        """Raises DeployError where somebody has moved the endpoint meanwhile: the answer may have been another release's."""
        with explained(self.key):
            live = releases.live_config(self.context)
        if live != self._config:
            problem = f"somebody moved the endpoint to {live} meanwhile, so nothing is known of {self._config}"
            raise DeployError(self.key, problem, hint="agree on who releases; `status` shows what serves, then release again")

    def _taken_back(self, error: DeployError) -> DeployError:
        """The endpoint on what it served before; without a before, it stays for somebody to look at."""
        with explained(f"endpoint-config/{self._config}"):
            releases.mark(self.context, self._config, releases.WRONG)  # `rollback` does not come back to it by itself
        if self._before is None:
            return error
        self.context.say(f"the smoke test failed, going back to {self._before}")
        rollback.move(self.context, self._before)
        return DeployError(error.where, f"{error.problem}; the endpoint is back on {self._before}", hint=error.hint)


def _way_back(context: Context, wanted: str) -> str | None:
    """What has served before `wanted`: the live one, but when a release is run again that is `wanted` already."""
    served = [past.config for past in releases.past(context) if past.outcome == releases.SERVED and past.config != wanted]
    live = releases.live_config(context)
    return live if live in served else next(iter(served), None)
