from containers.serve.health import Health


def test_an_explanation_may_name_a_file_that_is_not_utf8():
    health = Health(1)
    health.explain(0, "ArtifactError: /models/caf\udce9: no such model directory")
    assert health.explanation(0) == r"ArtifactError: /models/caf\udce9: no such model directory"
