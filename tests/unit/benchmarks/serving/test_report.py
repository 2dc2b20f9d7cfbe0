from benchmarks.serving import claims, report


def test_the_page_names_disturbance_and_absence(readings):
    readings[0].foreign = 0.4
    page = report.text(claims.rows(readings, {}), readings, {"bentoml": "no wheel"}, {}, "# Title")
    assert "**Disturbed**: in 1 of 8 readings" in page
    assert "A–A: openvino-fp32 3.3%" in page
    assert "Absent: bentoml: no wheel" in page
