import pytest

from tests.support.readings import reading


@pytest.fixture
def readings():
    return [
        *(reading("kennel openvino-fp32 (A)", rate, engine="openvino-fp32", pss_mb=400) for rate in (30, 31, 90)),
        reading("kennel openvino-fp32 (A')", 30, engine="openvino-fp32"),
        reading("kennel eager", 17),
        reading("byoc documented", 10, peer="byoc", start=5.0, pss_mb=1200),
        reading("litserve documented", 12, peer="litserve", start=8.0, pss_mb=1500),
        reading("byoc tuned eager", 16, peer="byoc", start=5.0, pss_mb=1300),
    ]
