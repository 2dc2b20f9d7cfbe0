"""One example that hypothesis makes may take long on a busy machine: that says nothing about the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("kennel", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kennel")
