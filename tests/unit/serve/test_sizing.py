import pytest

from containers.core.errors import ConfigError
from containers.serve import sizing
from containers.serve.config import ServeConfig, from_environment


def test_a_cpu_gets_one_model_process_per_core_with_one_thread_each():
    sizes = sizing.derive(ServeConfig(), cores=4, gpus=0)
    assert (sizes.devices, sizes.threads_per_process, sizes.fronts) == (("cpu",) * 4, 1, 4)


def test_one_model_process_gets_all_the_cores():
    sizes = sizing.derive(ServeConfig(model_processes=1), cores=4, gpus=0)
    assert (sizes.devices, sizes.threads_per_process) == (("cpu",), 4)


def test_every_gpu_gets_a_model_process_unless_the_cpu_was_asked_for():
    assert sizing.derive(ServeConfig(), cores=8, gpus=2).devices == ("cuda:0", "cuda:1")
    assert sizing.derive(ServeConfig(model_processes=3), cores=8, gpus=2).devices == ("cuda:0", "cuda:1", "cuda:0")
    assert set(sizing.derive(ServeConfig(device="cpu"), cores=8, gpus=2).devices) == {"cpu"}


def test_slots_are_shared_out_evenly_and_every_slot_has_a_request_thread():
    sizes = sizing.derive(ServeConfig(slots=10, fronts=4), cores=1, gpus=0)
    assert (sizes.slots_per_front, sizes.slots) == (3, 12)
    assert sizes.request_threads > sizes.slots_per_front


def test_fewer_slots_than_cores_are_not_more_than_asked_for():
    assert [sizing.derive(ServeConfig(slots=slots), cores=4, gpus=0).slots for slots in (1, 3, 4)] == [1, 3, 4]


def test_a_multi_model_front_has_threads_for_pings_whatever_loads_and_waits():
    sizes = sizing.derive(ServeConfig(multi_model=True, slots=10), cores=4, gpus=0)
    assert (sizes.fronts, sizes.slots_per_front, sizes.devices) == (1, 10, ())
    assert sizes.invocations == 20
    assert sizes.request_threads >= sizes.invocations + sizing.LOADS + sizing.UNLOADS + 8


def test_sagemaker_s_own_variables_are_read():
    config = from_environment({"SAGEMAKER_BIND_TO_PORT": "23001", "SERVE_PORT": "8080"})
    assert config.port == 23001
    assert from_environment({"SAGEMAKER_BIND_TO_PORT": "23001"}, port="9").port == 9
    batch = from_environment({"SAGEMAKER_BATCH": "true", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "50"})
    assert (batch.max_body_mb, batch.request_timeout_seconds) == (50, 3540)
    assert batch.transform_payload_mb == 50
    for unlimited in ({}, {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}, {"SAGEMAKER_MAX_PAYLOAD_IN_MB": ""}):
        batch = from_environment({"SAGEMAKER_BATCH": "true"} | unlimited)
        assert (batch.max_body_mb, batch.transform_payload_mb) == (100, 6)
    assert from_environment({"SAGEMAKER_BATCH": "true", "SERVE_MAX_BODY_MB": "7"}).max_body_mb == 7


def test_every_wrong_setting_is_named_in_one_message():
    with pytest.raises(ConfigError) as caught:
        from_environment({"SERVE_MAX_BACH": "4", "SERVE_SLOTS": "many"})
    assert "did you mean max_batch?" in str(caught.value)
    assert "slots" in str(caught.value)


NUMBERS = [name for name, field in ServeConfig.model_fields.items() if field.annotation in (int, float)]


@pytest.mark.parametrize(("name", "value"), [*((name, "inf") for name in NUMBERS), ("max_body_mb", "1e308")])
def test_a_number_without_end_is_one_line_of_the_error(name: str, value: str):
    with pytest.raises(ConfigError, match=rf"1 setting cannot be used\n  - {name}: .* \(got '{value}'\)$"):
        from_environment({f"SERVE_{name.upper()}": value})
