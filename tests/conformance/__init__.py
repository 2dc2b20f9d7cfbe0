"""Does an image keep SageMaker's container contract? `python -m tests.conformance IMAGE …`, for any image, not only ours.

It starts the image as SageMaker would, on the local Docker engine, and prints one line per rule: pass, fail or not tried,
why, and the page of AWS's documentation that the rule comes from. Rules that AWS does not write down are not checked.
"""
