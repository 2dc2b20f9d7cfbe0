import json

import pytest

from benchmarks.serving.gpu import page, run


@pytest.fixture
def raw() -> dict:
    """Two rounds, as they come back from JSON: A answers 4,000 a second, all others less."""

    def window(side: str, concurrency: int, number: int) -> dict:
        rate = (4000 if side == "A" else 3600) + 100 * number
        return {
            "side": side, "concurrency": concurrency, "round": number, "rate": rate, "p50_ms": 3.0 if side == "A" else 4.5,
            "p99_ms": 9.0, "failures": 0, "batch": 5.5, "engine_busy": 0.8, "model_cpu": 0.9, "cpu_ms": 2.0,
            "generator_busy": 0.3 if concurrency == 1 else 0.6, "generators_cpu_ms": 0.1, "batches": {"8": 100, "+Inf": 2},
        }  # fmt: skip

    by_batch = {str(batch): {"photos_per_second": 100 * batch, "ms": 2.0} for batch in run.BATCHES}
    return json.loads(
        json.dumps(
            {
                "where": "# Serving on a GPU\n\nsome GPU",
                "windows": [window(name, c, number) for number in range(2) for c, name in run._order(number)],
                "forward": [by_batch, by_batch],
                "decode": [9000.0, 9200.0],
                "pipeline": [{"8": 5000.0, "64": 8100.0}] * 2,
                "copies": {b: {"gather": 0.1, "pageable": 0.2, "gather_kept": 0.05, "pinned": 0.04} for b in run.BATCHES},
                "startup_seconds": {"A": 6.0, "A'": 7.5},
                "gpu_decode": {"photos_per_second": 3000.0, "decode_only": 3500.0, "agreement": 1.0, "worst_dp": 0.01},
            }
        )
    )


def test_the_page_compares_medians_with_the_limit_and_the_twins_with_each_other(raw):
    text = page.text(raw)
    assert "| A | 64 | 4050 | 0.50 | 3.0/9.0 | 5.5 | 80% | 2.00 | 0.90 | 0 |" in text
    assert "Over the in-process limit in batches of 8: 0.81 at 16, 0.81 at 64, 0.81 at 128" in text
    assert "A–A (requests per second): 11.0% at 16, 11.0% at 128" in text
    assert "a lone request 3.00 and 4.50 ms; 4050 and 3650 req/s at 64" in text
    assert "the busiest worked 60% of the time" in text
    assert "Batches of A at 128, one round: 100 of up to 8, 2 of up to +Inf." in text
    assert "Decoding alone, on all cores: 9100 photos/s." in text
    assert "| 64 | 6400 | 2.00 | 0.200 (0.040) | 0.100 | 8100 |" in text
    assert "7.5 s at most" in text
    assert "3500 photos/s, 3000 with the resize; 100.0% of the answers agree" in text


def test_a_gpu_that_cannot_decode_is_said_so(raw):
    raw["gpu_decode"] = {"absent": "decode_jpegs_cuda: not compiled with nvJPEG support"}
    assert "not to be had: decode_jpegs_cuda" in page.text(raw)


def test_every_round_measures_each_side_once_per_concurrency_the_next_round_in_the_other_direction():
    first, second = run._order(0), run._order(1)
    assert len(set(first)) == len(first)
    assert list(reversed(first)) == list(second)
    assert {name for _, name in first} == set(run.SIDES)
